"""Small passes are replayed from graphs: what Python decides is frozen, and the numbers stay those of the pass."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface

from families import FAMILIES, HIDDEN, save_weights
from frozen import FrozenRecorder, Launches
from scopewatch.engine.build import graphs_of
from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.engine.graph_lengths import lengths_up_to
from scopewatch.engine.graphs import Graphs, Served, assert_alive
from scopewatch.engine.layout import Inputs
from scopewatch.engine.passes import Tap
from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.errors import ConfigError, EngineDied
from scopewatch.identity import FeatureTable
from scopewatch.metrics import Metrics
from scopewatch.reader import loading as reader_module
from scopewatch.reader.attention import Packed
from scopewatch.reader.fused.fusing import fuse
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.packed_tiles import PackedTiles
from scopewatch.reader.packing import AttentionKind, Packing, Room
from scopewatch.reader.tiles import Form
from scopewatch.sae.encoder import Contest, Encoder
from scopewatch.types import EncodedBatch
from test_prefixes import a_reader, assert_equal, row_lengths, text

WIDTH = 16
MOST = 256


class Stepping(PackedTiles):
    """The attention for GPUs, in rows that are filled up as graphs fill them: then both multiply the same shapes."""

    name = "tiles_in_steps"
    multiple = 64


def tiled_reader(
    directory: Path, monkeypatch: pytest.MonkeyPatch, kind: type[PackedTiles] = Stepping, *, head: bool = False
) -> Reader:
    """A reader on the CPU that runs the attention for GPUs."""

    def register(_device: torch.device, _shapes: object) -> AttentionKind:
        attention = kind(Form(2, 64, 4, 2), otherwise=Packed())
        AttentionInterface.register(attention.name, attention)
        return attention

    with monkeypatch.context() as patched:
        patched.setattr(reader_module, "register_attention", register)
        return load_reader(directory, name="r", revision="", deepest_layer=2, device="cpu", dtype="float32", head=head)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield tiled_reader(save_weights("gemma2", tmp_path_factory.mktemp("tiled")), monkeypatch)


def an_encoder(seed: int, **changes: object) -> Encoder:
    columns = np.random.default_rng(seed).normal(size=(HIDDEN, WIDTH)).astype(np.float32)
    return Encoder(
        "none", columns, np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32), np.arange(WIDTH), **changes
    )  # type: ignore[arg-type]


PLAIN = [PlacedEncoder(Hookpoint(1), an_encoder(1)), PlacedEncoder(Hookpoint(2, "mlp_out"), an_encoder(2))]
CONTEST = PlacedEncoder(Hookpoint(0), an_encoder(3, contest=Contest(WIDTH, 4)))
BOUNDED = PlacedEncoder(Hookpoint(2), an_encoder(4, max_norm_multiple=1.1))

BATCHES = [
    [text((1, 100))],
    [text((2, 128))],
    [text((3, 30)), text((4, 1)), text((5, 90))],
    [text((seed, 12)) for seed in range(6, 12)],
    [text((20, 256))],
]


def a_graphed(reader: Reader, encoders: list[PlacedEncoder], recorder: FrozenRecorder, most: int = MOST) -> Runner:
    graphs = Graphs(reader, recorder, most)
    runner = Runner(reader, encoders, row_tokens=2048, graphs=graphs)
    graphs.record_all()
    return runner


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def assert_same(expected: EncodedBatch, found: EncodedBatch) -> None:
    """Bit for bit."""
    for one, other in zip(expected.activations, found.activations, strict=True):
        assert not isinstance(one, Exception), one
        assert not isinstance(other, Exception), other
        assert len(one.value)
        assert [a.tobytes() for a in (one.token, one.column, one.value)] == [
            a.tobytes() for a in (other.token, other.column, other.value)
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replay_gives_what_the_pass_gives(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every family and bucket, texts other than those of the recording give the bits that the pass gives of them."""
    reader = tiled_reader(save_weights(family, tmp_path), monkeypatch)
    recorder = FrozenRecorder()
    plain, graphed = Runner(reader, PLAIN, row_tokens=2048), a_graphed(reader, PLAIN, recorder)
    recorded = recorder.replays

    for batch in BATCHES:
        found = graphed(batch)
        assert_same(plain(batch), found)
        assert (-(-sum(map(len, batch)) // 64) * 64,) == found.graph_tokens
    assert recorder.replays - recorded == len(BATCHES)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama", "qwen2"])
def test_a_replay_of_fused_layers_gives_what_the_pass_gives(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is where layers run in few kernels."""
    monkeypatch.setattr(reader_module, "pack_linears", lambda *_: None)
    reader = tiled_reader(save_weights(family, tmp_path), monkeypatch)
    assert fuse(reader.model, reader.family)
    plain, graphed = Runner(reader, PLAIN, row_tokens=2048), a_graphed(reader, PLAIN, FrozenRecorder(), 128)

    for batch in BATCHES[:3]:
        found = graphed(batch)
        assert_same(plain(batch), found)
        assert (128,) == found.graph_tokens


def test_a_replay_is_one_launch(tiled: Reader) -> None:
    """Of a lone pair five launches are left: its inputs, the graph, two for the order of the columns, the result."""
    plain, graphed = Runner(tiled, PLAIN, row_tokens=2048), a_graphed(tiled, PLAIN, FrozenRecorder())
    with Launches() as as_it_comes:
        plain(BATCHES[0])
    with Launches() as beside_the_graph:
        graphed(BATCHES[0])

    assert len(as_it_comes.names) > 100
    # What follows the columns is searched on the host: of so few numbers a GPU's are copied as they are.
    searched = ["aten.ne.Scalar", "aten.index.Tensor"]
    assert beside_the_graph.names == ["aten.copy_.default", "aten.cat.default", "aten.index.Tensor", *searched]


@pytest.mark.parametrize(
    "encoders", [[CONTEST], [BOUNDED], [CONTEST, *PLAIN, BOUNDED]], ids=["contest", "bound", "all"]
)
def test_encoders_that_ask_for_numbers_run_behind_the_graph(tiled: Reader, encoders: list[PlacedEncoder]) -> None:
    """Encoders with a contest, or a bound that needs each text's median, give what they give without a graph."""
    plain, graphed = Runner(tiled, encoders, row_tokens=2048), a_graphed(tiled, encoders, FrozenRecorder(), 128)

    for batch in BATCHES[:3]:
        found = graphed(batch)
        assert_same(plain(batch), found)
        assert (128,) == found.graph_tokens


def test_the_head_runs_behind_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the reader's own predictions are watched, all layers are in the graph, and they come out the same."""
    reader = tiled_reader(save_weights("gemma3_text", tmp_path), monkeypatch, head=True)
    plain, graphed = Runner(reader, PLAIN, row_tokens=2048), a_graphed(reader, PLAIN, FrozenRecorder(), 128)

    for batch in BATCHES[:3]:
        found = graphed(batch)
        assert_same(plain(batch), found)
        assert (128,) == found.graph_tokens
        assert {2 * WIDTH, 2 * WIDTH + 1} <= set(found.activations[0].column)  # type: ignore[union-attr]


def test_what_fills_a_row_up_leaks_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the token that fills up makes the reader overflow, no text of the row hears of it."""
    reader = tiled_reader(save_weights("llama", tmp_path), monkeypatch)
    graphed = a_graphed(reader, PLAIN, FrozenRecorder(), 128)
    expected = [graphed(batch) for batch in BATCHES[:3]]
    reader.model.get_input_embeddings().weight.data[0] = torch.nan

    for batch, before in zip(BATCHES, expected, strict=False):
        found = graphed(batch)
        assert_same(before, found)
        assert (128,) == found.graph_tokens


def test_rows_that_do_not_fit_run_as_they_come(tiled: Reader) -> None:
    """A row longer than the longest graph, and one of more texts than there is room for, run without one."""
    recorder = FrozenRecorder()
    plain, graphed = Runner(tiled, PLAIN, row_tokens=2048), a_graphed(tiled, PLAIN, recorder, 128)
    before = recorder.replays

    for batch in (BATCHES[4], [text((seed, 2)) for seed in range(30)]):
        found = graphed(batch)
        assert_same(plain(batch), found)
        assert () == found.graph_tokens
    assert before == recorder.replays


def test_edits_and_explanations_replay_nothing(tiled: Reader) -> None:
    """A pass with an edit sees it, and a runner aside takes no graph."""
    recorder = FrozenRecorder()
    plain, graphed = Runner(tiled, PLAIN, row_tokens=2048), a_graphed(tiled, PLAIN, recorder, 128)
    ids, before = BATCHES[0][0], recorder.replays
    edits = {Hookpoint(0): torch.neg}

    for found, expected in (
        (graphed.alone(ids, edits), plain.alone(ids, edits)),
        (graphed.aside(FeatureTable()).alone(ids), plain.alone(ids)),
        (graphed.plainly([ids]).activations[0], plain.alone(ids)),
    ):
        assert_same(EncodedBatch([expected], 0, 0), EncodedBatch([found], 0, 0))
    assert before == recorder.replays


def test_blocks_are_kept_by_passes_that_are_not_replayed(tiled: Reader) -> None:
    """A beginning that is met again is kept; what goes on behind it is replayed, and gives what it gave."""
    recorder = FrozenRecorder()
    graphs = Graphs(tiled, recorder, 256)
    plain = Runner(tiled, PLAIN, row_tokens=2048)
    graphed = Runner(tiled, PLAIN, row_tokens=2048, prefix_bytes=64 << 20, graphs=graphs)
    graphs.record_all()
    texts = [text((1, 150), (seed, 40)) for seed in range(40, 45)]
    found = [graphed([ids]) for ids in texts]

    assert [(192,), (), (64,), (64,), (64,)] == [one.graph_tokens for one in found]
    assert [0, 0, 128, 128, 128] == [one.reused_tokens for one in found]
    for ids, one in zip(texts, found, strict=True):
        assert_equal(plain([ids]), one)


class Unfit(Stepping):
    """An attention of which Python decides something that is no input: how loud the logits are, by the texts."""

    name = "unfit_tiles"
    loudness = 1.0

    def plan(self, packing: Packing, room: Room | None) -> dict[str, NDArray[Any]] | None:
        self.loudness = 1.0 / len(packing.texts)
        return super().plan(packing, room)

    def __call__(self, *arguments: Any, scaling: float, **named: Any) -> tuple[torch.Tensor, None]:
        return super().__call__(*arguments, scaling=scaling * self.loudness, **named)


def test_a_graph_that_gives_other_numbers_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was decided in Python and differs for other texts is found before anybody is answered by it."""
    reader = tiled_reader(save_weights("llama", tmp_path), monkeypatch, kind=Unfit)
    plain, graphed = Runner(reader, PLAIN, row_tokens=2048), a_graphed(reader, PLAIN, FrozenRecorder(), 128)

    assert [
        f"passes of {length} tokens are not replayed: the graph gives other numbers than the pass"
        for length in (128, 64)
    ] == warnings_of(caplog)
    assert_same(plain(BATCHES[2]), found := graphed(BATCHES[2]))
    assert () == found.graph_tokens


def test_an_attention_without_room_has_no_graphs(tmp_path: Path) -> None:
    """On a reader whose attention depends on the texts nothing is recorded, and nothing is said."""
    recorder = FrozenRecorder()
    graphs = Graphs(a_reader(save_weights("llama", tmp_path)), recorder, 256)
    graphs.watch(Served({Hookpoint(1): HookpointEncoder([an_encoder(1)])}))
    graphs.record_all()

    assert (0, 0, True) == (graphs.most_tokens, recorder.recordings, graphs.complete)


@pytest.mark.parametrize(
    ("tap", "said"),
    [
        (lambda x: x if x.any() else -x, "operation not permitted while a pass is recorded: is_nonzero"),
        (lambda x: x + torch.from_numpy(np.ones(1)), "an array of the host while a pass is recorded"),
    ],
    ids=["waits", "takes from the host"],
)
def test_what_a_gpu_could_not_record_is_left_out(
    tiled: Reader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tap: Tap, said: str
) -> None:
    """A tap that asks for a number, or takes one of the host's, is told of in one warning, and rows run as they come."""
    graphs = Graphs(tiled, FrozenRecorder(), 64)
    encoder = HookpointEncoder([an_encoder(1)])
    monkeypatch.setattr(encoder, "forward", tap)
    graphs.watch(Served({Hookpoint(0): encoder}))
    graphs.record_all()

    assert (0, ()) == (graphs.most_tokens, graphs.lengths)
    assert [f"passes of 64 tokens are not replayed: RuntimeError: {said}"] == warnings_of(caplog)


def test_a_recording_that_fails_leaves_the_others(tiled: Reader, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, on one line; rows of that length are replayed by the next longer graph, and it is not tried again."""
    recorder = FrozenRecorder(fails_at={1})
    plain, graphed = Runner(tiled, PLAIN, row_tokens=2048), a_graphed(tiled, PLAIN, recorder)

    assert ["passes of 192 tokens are not replayed: RuntimeError: out of memory and more"] == warnings_of(caplog)
    # Once for each set of features, and where a pool may be left without a graph.
    assert 3 == recorder.restarts
    found = graphed([text((1, 180))])
    assert (256,) == found.graph_tokens
    assert_equal(plain([text((1, 180))]), found)
    graphed.watch(PLAIN, FeatureTable())
    while graphed._graphs.record_next():
        pass
    assert (64, 128, 256) == graphed._graphs.lengths
    assert 7 == recorder.recordings


def test_a_device_that_is_lost_while_recording_is_the_engine_s_death(
    tiled: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed recording the device is asked whether it still works."""

    def lost(_device: torch.device) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(EngineDied, match=r"^the device failed: CUDA error: an illegal memory access$"):
        assert_alive(torch.device("cuda"))
    assert_alive(torch.device("cpu"))


def test_recording_ends_when_its_time_is_up(tiled: Reader, caplog: pytest.LogCaptureFixture) -> None:
    """No graph is begun after the time; rows that have none of their own take the next longer one."""
    now_s = iter(range(0, 1000, 10))
    graphs = Graphs(tiled, FrozenRecorder(), MOST)
    graphs.watch(Served({PLAIN[0].hookpoint: HookpointEncoder([PLAIN[0].encoder])}))
    graphs.record_all(within_s=25, now_s=lambda: next(now_s))

    assert (192, 256) == graphs.lengths
    assert ["there was no time for graphs of passes of 128, 64 tokens"] == warnings_of(caplog)
    assert graphs.complete


def test_recording_ends_where_memory_does(tiled: Reader, caplog: pytest.LogCaptureFixture) -> None:
    """Graphs take a tenth of the free memory at most; what they hold and do not use is no batch's."""
    recorder = FrozenRecorder(free_bytes=1000, takes_bytes=40, idles_bytes=30)
    graphed = a_graphed(tiled, PLAIN, recorder)

    assert (192, 256) == graphed._graphs.lengths
    assert 60 == graphed._graphs.idle_bytes
    said = "graphs would take more than 10% of the free memory"
    assert [f"passes of {length} tokens are not replayed: {said}" for length in (128, 64)] == warnings_of(caplog)


def test_what_is_watched_anew_is_recorded_anew(tiled: Reader) -> None:
    """From a change on no old graph is replayed; batches run as they come until theirs is recorded again."""
    recorder = FrozenRecorder()
    others = [PlacedEncoder(Hookpoint(0), an_encoder(9)), PLAIN[1]]
    graphs = Graphs(tiled, recorder, 128)
    graphed = Runner(tiled, PLAIN, row_tokens=2048, graphs=graphs)
    graphs.record_all()
    expected = Runner(tiled, others, row_tokens=2048)(BATCHES[0])
    graphed.watch(others, FeatureTable())
    found = []
    for _ in range(3):
        found.append(graphed(BATCHES[0]))
        graphs.record_next()

    assert [(), (128,), (128,)] == [one.graph_tokens for one in found]
    for one in found:
        assert_same(expected, one)
    assert graphs.complete


def test_a_row_is_as_long_without_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a pass that is not replayed is filled up as its graph is, so that products have the same shapes either way:
    what is scored before a reload and after it, or explained, must be the same.
    """
    reader = tiled_reader(save_weights("llama", tmp_path), monkeypatch, PackedTiles)
    graphed = a_graphed(reader, PLAIN, FrozenRecorder(), 128)
    replayed = graphed(BATCHES[0])
    graphed.watch(PLAIN, FeatureTable())
    lengths = row_lengths(reader)
    as_it_comes = graphed(BATCHES[0])

    assert [(128,), ()] == [replayed.graph_tokens, as_it_comes.graph_tokens]
    assert [128] == lengths
    assert_same(replayed, as_it_comes)
    graphed([text((1, 130))])
    graphed.aside(FeatureTable()).alone(BATCHES[0][0])
    assert [144, 128] == lengths[1:]


def test_words_alone_record_nothing(tiled: Reader) -> None:
    """Where nothing of the reader is watched there are no graphs."""
    graphs = Graphs(tiled, recorder := FrozenRecorder(), 128)
    Runner(tiled, [], row_tokens=2048, graphs=graphs)
    graphs.record_all()

    assert (0, ()) == (recorder.recordings, graphs.lengths)


@pytest.mark.parametrize(
    ("most", "multiple", "lengths"),
    [
        (2048, 16, [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]),
        (512, 128, [128, 256, 384, 512]),
        (1000, 16, [64, 96, 128, 192, 256, 384, 512, 768, 1008]),
        (40, 16, [48]),
        (0, 16, []),
    ],
)
def test_lengths_of_rows_that_have_a_graph(most: int, multiple: int, lengths: list[int]) -> None:
    """Each is a multiple of what the attention takes, and at most half as long again as the one before."""
    assert lengths == lengths_up_to(most, multiple)


def test_encode_time_is_a_share_of_the_replay(tiled: Reader) -> None:
    """Of a replayed pass the encoders' time is told as the share that they took of the pass before it was recorded."""
    graphed = a_graphed(tiled, PLAIN, FrozenRecorder(), 128)
    graphs = graphed._graphs._graphs
    measured = graphs[128].encode_share
    told = {}
    for share in (0.0, 0.5, 1.0):
        graphs[128] = replace(graphs[128], encode_share=share)
        found = graphed(BATCHES[0])
        told[share] = found.encode_s / (found.encode_s + found.forward_s)

    assert 0 < measured < 1
    assert 0 == told[0] < told[0.5] <= 0.5
    assert told[0.5] < told[1] < 1


def test_a_cpu_has_no_graphs(tiled: Reader) -> None:
    """By default a CPU replays nothing; where it is asked to, the setting is named."""
    assert graphs_of(tiled, -1) is None
    assert graphs_of(tiled, 0) is None
    with pytest.raises(
        ConfigError, match=r"^graph_tokens 64: only a GPU replays passes, and the reader runs on a cpu$"
    ):
        graphs_of(tiled, 64)


def test_arrays_lie_side_by_side_in_one_buffer() -> None:
    """Inputs of several types are filled in one copy, aligned as a device likes them; others are refused."""
    first = {"a": np.arange(5), "b": np.arange(6, dtype=np.int32).reshape(3, 2), "c": np.zeros(0, np.int32)}
    inputs = Inputs(first, torch.device("cpu"))
    other = {name: array * 3 + 1 for name, array in first.items()}
    inputs.fill(other)

    for name, tensor in inputs.tensors.items():
        np.testing.assert_array_equal(other[name], tensor.numpy())
        assert 0 == (tensor.data_ptr() - inputs.tensors["a"].data_ptr()) % 64
    for wrong in ({**other, "a": np.arange(4)}, {"a": other["a"]}, {**other, "b": np.zeros((3, 2), np.float32)}):
        with pytest.raises(ValueError, match="not those that the buffer was laid out for"):
            inputs.fill(wrong)


def test_replays_are_counted() -> None:
    """The metrics say how many passes of which length were replayed."""
    metrics = Metrics()
    metrics.batch_encoded(3, 200, 0, (64, 128, 64))
    page = metrics.page("text/plain").body.decode()

    assert 'scopewatch_graph_passes_total{bucket="64"} 2.0' in page
    assert 'scopewatch_graph_passes_total{bucket="128"} 1.0' in page
