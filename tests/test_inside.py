"""Looking into the reader that serves: whole dictionaries equal dense computations, and scoring is left as it was."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from conftest import D_SAE, HIDDEN, House, sae_arrays, save_sae
from families import FAMILIES, LAYERS, save_weights
from released import RELEASES, Released
from scopewatch.acceptance.reconstruction import InputAndTarget, measure_reconstruction
from scopewatch.app.load import load
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.engine import opened, whole, whole_look
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.engine.encoder import median_norms
from scopewatch.engine.heard import Heard, hear
from scopewatch.engine.inside import Inside
from scopewatch.engine.looks import Looked, Looks, Steps, T
from scopewatch.engine.passes import Passes, untouched
from scopewatch.engine.strongest import Strongest
from scopewatch.engine.whole import WholeDictionary
from scopewatch.engine.whole_look import WholeLook
from scopewatch.errors import EngineError
from scopewatch.identity import FeatureKey
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.prefixes import BLOCK, Reading
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import write_pack, write_probe
from scopewatch.sae.watched import load_watched
from scopewatch.sources import FoundSae, ReaderSource, SaeSource
from scopewatch.types import Activations, Coverage, CoveredActivations, Pair, Segment, TokenisedPair, Turn
from test_dictionary import save_saelens
from test_head import expected
from test_passes import hooks
from test_watching import assert_same

Dense = NDArray[np.float64]
PAIR = Pair(
    "what is the answer to this question? " * 3,
    "Insulin lowers blood sugar, perhaps. " * 4,
    (Turn("user", "weather?"), Turn("assistant", "sunny, not sure")),
)


def done(steps: Steps[T]) -> T:
    """What work in steps comes to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def an_engine(house: House, saes: dict[str, Path], *, features: tuple[int, ...] = (3, 7), **settings: Any) -> Engine:
    choices = [SaeChoice(name, SaeSource(path=str(path)), dict.fromkeys(features, "")) for name, path in saes.items()]
    return build_engine(ReaderSource(path=str(house.reader)), choices, Config(**settings))


def tokens_of(engine: Engine, pair: Pair = PAIR) -> TokenisedPair:
    (tokens,) = engine.tokeniser.tokenise([pair])
    assert isinstance(tokens, TokenisedPair)
    return tokens


def dense(covered: CoveredActivations | Activations, columns: int) -> NDArray[np.float32]:
    read = covered.activations if isinstance(covered, CoveredActivations) else covered
    table = np.zeros((read.n_tokens, columns), np.float32)
    table[read.token, read.column] = read.value
    return table


def residual(house: House, tokens: TokenisedPair, layer: int) -> Dense:
    """A layer's output on all tokens, window by window, from transformers' own model."""
    model = AutoModelForCausalLM.from_pretrained(house.reader, attn_implementation="eager", dtype=torch.float32)
    caught: list[torch.Tensor] = []
    model.model.layers[layer].register_forward_hook(lambda *call: caught.append(call[2].detach()[0]))
    for window in tokens.windows:
        model(torch.from_numpy(window.astype(np.int64))[None])
    return torch.cat(caught).double().numpy()


def jumprelu(x: Dense, file: Path) -> tuple[Dense, Dense]:
    """Activations and reconstruction in float64, from the file."""
    a = {name: array.astype(np.float64) for name, array in np.load(file).items()}
    pre = x @ a["W_enc"] + a["b_enc"]
    f = pre * (pre > a["threshold"])
    return f, f @ a["W_dec"] + a["b_dec"]


def strongest(f: Dense, k: int) -> tuple[NDArray[np.intp], Dense]:
    """By value, then by index, the first k of each row that are above 0; -1 and 0 where there are fewer."""
    order = np.argsort(-f, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(f, order, axis=1)
    return np.where(values > 0, order, -1), values


def assert_looked(
    looked: Looked, f: Dense, y: Dense, made: Dense | None, segments: NDArray[np.int8], *, top: int
) -> None:
    """All that was told of a dictionary is what dense activations, targets and reconstructions say."""
    texts = segments != Segment.TEMPLATE
    features, values = strongest(np.where(texts[:, None], f, 0), top)
    np.testing.assert_array_equal(features, looked.feature)
    np.testing.assert_allclose(looked.value, values, rtol=1e-4, atol=1e-5)
    assert looked.l0 == pytest.approx((f[texts] != 0).sum(axis=1).mean())
    assert [Segment(s) for s in np.unique(segments[texts])] == [of.segment for of in looked.segments]
    for of in looked.segments:
        here = segments == of.segment
        (best,), (peaks,) = strongest(f[here].max(axis=0)[None], top)
        assert best[best >= 0].tolist() == of.feature.tolist()
        np.testing.assert_allclose(of.peak, peaks[best >= 0], rtol=1e-4)
        np.testing.assert_allclose(of.mean, f[here][:, of.feature].mean(axis=0), rtol=1e-4)
        assert (f[here][:, of.feature] != 0).sum(axis=0).tolist() == of.tokens.tolist()
        if made is not None:
            assert looked.unexplained is not None
            above = ((y - made)[here] ** 2).sum(axis=1)
            below = ((y[here] - y[here].mean(axis=0)) ** 2).sum(axis=1)
            np.testing.assert_allclose(looked.unexplained[here], above / below, rtol=1e-3)
            assert looked.shares[of.segment] == pytest.approx(above.sum() / below.sum(), rel=1e-4)
    if made is not None and looked.unexplained is not None:
        assert not looked.unexplained[~texts].any()


def test_the_whole_dictionary_is_the_dense_computation(house: House) -> None:
    """Top features, l0 and what is unexplained of both SAEs are numpy's, in float64, on transformers' activations."""
    engine = an_engine(house, {"late": house.saes["late"], "mid": house.saes["mid"]})
    tokens = tokens_of(engine)
    looked = done(Inside(engine).look(tokens, 5))

    assert ["late", "mid"] == [one.sae for one in looked]
    for one, layer in zip(looked, (2, 1), strict=True):
        x = residual(house, tokens, layer)
        f, made = jumprelu(x, house.saes[one.sae])
        assert ("", D_SAE, f"layers.{layer}.resid_post") == (one.problem, one.d_sae, one.hookpoint)
        assert 5 < one.l0
        assert_looked(one, f, x, made, tokens.segments, top=5)


@pytest.fixture
def tiny_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of 64 features, read from the files for every pair, and tiles of a few tokens."""
    monkeypatch.setattr(whole, "_KEPT_BYTES", 0)
    monkeypatch.setattr(whole, "_SLAB_ELEMENTS", 1)
    monkeypatch.setattr(whole_look, "_TILE_ELEMENTS", {"cpu": 200})


@pytest.mark.usefixtures("tiny_steps")
def test_however_it_is_cut_it_is_the_same(house: House, tmp_path: Path) -> None:
    """Slabs from files and tiles of a few tokens give what the dictionary in memory gives, over windows, too."""
    wide = save_sae(tmp_path, 1, **sae_arrays(5, d_sae=300))
    engine = an_engine(house, {"mid": wide}, max_tokens=64, max_windows=4)
    tokens = tokens_of(engine, replace(PAIR, response=PAIR.response * 6))
    steps, (looked,) = counted(Inside(engine).look(tokens, 7))

    assert 3 <= len(tokens.windows)
    assert steps > 100
    x = residual(house, tokens, 1)
    f, made = jumprelu(x, wide)
    assert_looked(looked, f, x, made, tokens.segments, top=7)


def counted(steps: Steps[T]) -> tuple[int, T]:
    """The number of steps that work took, and what it came to."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value
        count += 1


# Every architecture.


def a_pair(*segments: int) -> TokenisedPair:
    """Tokens of these segments."""
    none, n = np.zeros(len(segments), np.int32), len(segments)
    return TokenisedPair(none, np.array(segments, np.int8), none, none, none, Coverage(n, n, 0, 0))


def looked_at(dictionary: WholeDictionary, x: torch.Tensor, y: torch.Tensor, segments: list[int], top: int) -> Looked:
    """What a dictionary makes of activations, given where it writes."""
    found = ({dictionary.writes: y} if dictionary.writes else {}) | {dictionary.reads: x}
    heard = Heard(found, {place: median_norms(a, []) for place, a in found.items()})
    with torch.inference_mode():
        return done(WholeLook("sae", dictionary, a_pair(*segments), heard, top).steps())


@pytest.fixture(scope="module")
def reader(house: House) -> Reader:
    return load_reader(house.reader, name="r", revision="", deepest_layer=0, device="cpu", dtype="float32")


SEGMENTS = [0, 0, *[1] * 9, 0, *[2] * 20, *[3] * 8, 0]


@pytest.mark.usefixtures("tiny_steps")
@pytest.mark.parametrize("write", RELEASES.values(), ids=RELEASES)
def test_every_released_layout_is_looked_at_as_its_publisher_computes(
    reader: Reader, tmp_path: Path, write: Callable[[Path], Released], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Top features and what is unexplained are those of the publisher's library: contests, gates, norms, skips and all."""
    theirs = write(tmp_path)
    sae = open_sae(theirs.found)
    elsewhere = sae.hookpoint_out not in {"", sae.hookpoint}
    monkeypatch.setattr(whole, "width", lambda *_: sae.d_out)
    random = torch.Generator().manual_seed(7)
    x = 1.0 + 2.5 * torch.randn(len(SEGMENTS), sae.d_in, generator=random)
    y = torch.randn(len(SEGMENTS), sae.d_out, generator=random)
    f = theirs.encode(x.double()).numpy()
    told = sae.W_dec is not None and ("transcoder" not in sae.architecture or elsewhere)
    made = theirs.reconstruct(x.double()).numpy() if theirs.reconstruct and told else None

    dictionary = WholeDictionary(sae, Hookpoint(0), reader)
    looked = looked_at(dictionary, x, y, SEGMENTS, 6)

    assert told == (not looked.problem)
    target = (y if elsewhere else x).double().numpy()
    assert_looked(looked, f, target, made, np.array(SEGMENTS, np.int8), top=6)


@pytest.mark.parametrize("top", [0, 4, 100])
def test_of_equal_ones_the_first_is_told(top: int, reader: Reader, tmp_path: Path) -> None:
    """Where features are equally strong, in a contest and in the top, it is the one with the lower index, to the bit."""
    rng = np.random.default_rng(0)
    file = tmp_path / "SAE-Res-m-W1K-L0_6" / "layer3.sae.pt"
    file.parent.mkdir()
    shapes = {"W_enc": (200, 32), "W_dec": (32, 200), "b_enc": (200,), "b_dec": (32,)}
    torch.save({name: torch.from_numpy(rng.integers(-1, 2, s).astype(np.float32)) for name, s in shapes.items()}, file)
    sae = open_sae(FoundSae(file))
    assert sae.b_enc
    x = torch.from_numpy(rng.integers(-1, 2, (len(SEGMENTS), 32)).astype(np.float32))
    pre = x.double().numpy() @ sae.W_enc.read().astype(np.float64) + sae.b_enc.read()
    f = np.zeros_like(pre)
    winners, _ = strongest(pre, 6)
    np.put_along_axis(f, winners, np.take_along_axis(pre, winners, axis=1), axis=1)
    least = np.sort(pre, axis=1)[:, ::-1]

    looked = looked_at(WholeDictionary(sae, Hookpoint(0), reader), x, x, SEGMENTS, top)

    assert 10 < ((least[:, 5] == least[:, 6]) & (least[:, 6] > 0)).sum()
    assert (len(SEGMENTS), min(top, 200)) == looked.feature.shape == looked.value.shape
    texts = np.array(SEGMENTS) > 0
    features, values = strongest(np.where(texts[:, None], f, 0), min(top, 200))
    np.testing.assert_array_equal(features, looked.feature)
    np.testing.assert_array_equal(values, looked.value)


@pytest.mark.usefixtures("tiny_steps")
def test_loud_tokens_are_told_by_the_whole_text(reader: Reader, house: House) -> None:
    """Where an SAE bounds norms nothing fires on what is loud beside the whole pair, though a tile holds few tokens."""
    sae = replace(open_sae(house.saes["mid"]), max_norm_multiple=3.0)
    x = torch.randn(len(SEGMENTS), HIDDEN, generator=torch.Generator().manual_seed(1))
    x[12:16] *= 50
    f, made = jumprelu(x.double().numpy(), house.saes["mid"])
    f[12:16], made[12:16] = 0, np.load(house.saes["mid"])["b_dec"]

    looked = looked_at(WholeDictionary(sae, Hookpoint(0), reader), x, x, SEGMENTS, 4)

    assert_looked(looked, f, x.double().numpy(), made, np.array(SEGMENTS, np.int8), top=4)


@pytest.mark.parametrize("first", [0, 1000])
def test_columns_in_any_pieces_have_the_same_strongest(first: int) -> None:
    """Values that come in pieces, some equal, some 0 and fewer than are wanted, are sorted as all at once."""
    values = np.random.default_rng(2).integers(-2, 5, (9, 40)).astype(np.float32)
    values[3] = 0
    columns, expected = strongest(values.astype(np.float64), 12)
    kept = Strongest(9, 12, torch.device("cpu"))
    for start, stop in ((0, 1), (1, 17), (17, 40)):
        for rows in (slice(0, 4), slice(4, 9)):
            kept.add(torch.from_numpy(values[rows, start:stop]), first + start, rows)

    np.testing.assert_array_equal(np.where(columns < 0, -1, columns + first), kept.columns.numpy())
    np.testing.assert_array_equal(np.maximum(expected, 0), kept.values.numpy())
    held = kept.holds(first + 5, 20, slice(2, 9)).numpy()
    np.testing.assert_array_equal([[c in row for c in range(5, 25)] for row in columns[2:]], held)


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "gated"])
def test_watched_features_have_the_values_that_score_gives(kind: str, house: House, tmp_path: Path) -> None:
    """Of every watched feature the whole dictionary tells on each token of the texts what the serving runner gives."""
    path = save_sae(tmp_path, 1) if kind == "jumprelu" else save_saelens(tmp_path / kind, kind, **TOPK.get(kind, {}))
    engine = an_engine(house, {"sae": path}, features=tuple(range(D_SAE)), max_tokens=64, max_windows=4)
    tokens = tokens_of(engine)
    (looked,) = done(Inside(engine).look(tokens, D_SAE + 2))

    runs = engine.runner(tokens.windows).activations
    scored = np.concatenate([dense(one, D_SAE) for one in runs if isinstance(one, Activations)])
    told = np.zeros((len(tokens.ids), looked.d_sae))
    token, place = np.nonzero(looked.feature >= 0)
    told[token, looked.feature[token, place]] = looked.value[token, place]
    texts = tokens.segments > 0
    assert "" == looked.problem
    assert (scored != 0).any()
    np.testing.assert_allclose(told[texts][:, :D_SAE], scored[texts], rtol=1e-4, atol=1e-5)


TOPK = {"topk": {"k": 5}}


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "gated"])
def test_the_share_is_the_fvu_of_sae_verify(kind: str, house: House, tmp_path: Path) -> None:
    """What is unexplained of a segment is what `sae verify` calls FVU, on the same activations."""
    path = save_sae(tmp_path, 1) if kind == "jumprelu" else save_saelens(tmp_path / kind, kind, **TOPK.get(kind, {}))
    engine = an_engine(house, {"sae": path})
    tokens = tokens_of(engine)
    (looked,) = done(Inside(engine).look(tokens, 1))

    here = torch.from_numpy(residual(house, tokens, 1)[tokens.segments == Segment.RESPONSE]).float()
    (measured,) = measure_reconstruction(open_sae(path), [InputAndTarget(here, here)], tmp_path)
    assert looked.shares[Segment.RESPONSE] == pytest.approx(measured.fvu, rel=1e-4)


def test_a_transcoder_is_held_against_where_it_writes(house: House, tmp_path: Path) -> None:
    """What a transcoder leaves unexplained is of the MLP's output, not of what the transcoder reads."""
    engine = build_engine(ReaderSource(path=str(house.reader)), [transcoder(tmp_path)], Config())
    tokens = tokens_of(engine)
    (looked,) = done(Inside(engine).look(tokens, 3))
    taken = dict.fromkeys((Hookpoint(1, "mlp_in"), Hookpoint(1, "mlp_out")))
    heard = done(hear(engine.reader, tokens, taken))
    x, y = (heard.activations[place].double().numpy() for place in taken)

    f, made = jumprelu(x, Path(engine.watching.saes[0].source.path))
    assert ("", "layers.1.mlp_in") == (looked.problem, looked.hookpoint)
    assert_looked(looked, f, y, made, tokens.segments, top=3)


def transcoder(folder: Path) -> SaeChoice:
    """A transcoder of Gemma Scope's at layer 1, read behind the norm's gain."""
    file = folder / "gemma-scope-2b-pt-transcoders/layer_1/width_64/average_l0_20/params.npz"
    file.parent.mkdir(parents=True)
    np.savez_compressed(file, **sae_arrays(6))
    return SaeChoice("tc", SaeSource(path=str(file), hookpoint="layers.1.mlp_in"), {2: "", 5: ""})


# What cannot be told.


def test_what_has_no_whole_dictionary_says_so(house: House, tmp_path: Path) -> None:
    """Probes, packs, files that are gone or others by now, and decoders of NaN have a problem each; others are told."""
    probe, part, gone, other = (tmp_path / f"{name}.safetensors" for name in ("probe", "part", "gone", "other"))
    write_probe(probe, np.ones(HIDDEN, np.float32), np.zeros(1, np.float32), hookpoint="layers.1.resid_post")
    write_pack(load_watched(house.saes["mid"], [0, 3]), part)
    del gone, other
    nan = sae_arrays(4)
    nan["W_dec"][9] = np.nan
    files = {
        "a-probe": probe,
        "b-part": part,
        "c-gone": save_sae(tmp_path / "gone", 1, seed=8),
        "d-other": save_sae(tmp_path / "other", 1, seed=8),
        "e-nan": save_sae(tmp_path / "nan", 1, **nan),
        "f-right": house.saes["mid"],
    }
    engine = an_engine(house, files, features=(0,), pack_dir="")
    files["c-gone"].unlink()
    save_sae(tmp_path / "other", 1, seed=9)
    tokens = tokens_of(engine)

    looked = done(Inside(engine).look(tokens, 3))

    for one, problem in zip(looked, PROBLEMS, strict=True):
        assert problem in one.problem, one.problem
        assert bool(problem) == (one.unexplained is None)
    for one in looked[:4]:
        assert (len(tokens.ids), 0) == one.feature.shape
        assert ((), {}) == (one.segments, one.shares)
    assert 3 == looked[4].feature.shape[1]
    assert 0 < looked[4].l0


PROBLEMS = [
    "a probe has no dictionary",
    "part.safetensors: a watch pack holds a part of an SAE",
    "params.npz: no such file",
    "params.npz: has changed since its features were loaded",
    "params.npz: its decoder holds NaN or infinity",
    "",
]


def test_a_transcoder_deeper_than_the_reader_says_so(house: House, tmp_path: Path) -> None:
    """Where an SAE writes to a layer that is not loaded, its features are told and what it explains is not."""
    file = save_saelens(tmp_path / "tc", "gated", metadata=WRITES_DEEPER)
    engine = an_engine(house, {"tc": file})
    (looked,) = done(Inside(engine).look(tokens_of(engine), 3))

    assert "since it writes elsewhere than it reads: hookpoint layers.3" in looked.problem
    assert "hookpoint layers.3.resid_post: the reader is loaded down to layer 1" in looked.problem
    assert (None, {}) == (looked.unexplained, looked.shares)
    assert (looked.feature >= 0).any()


WRITES_DEEPER = {
    "hook_name": "blocks.1.hook_resid_post",
    "hook_name_out": "blocks.3.hook_resid_post",
    "sae_lens_version": "6.1",
}


def test_an_overflow_is_no_silence(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations that are not finite fail the look, and the reading; the next pair is looked at again."""
    engine = an_engine(house, house.saes)
    inside, tokens = Inside(engine), tokens_of(engine)
    handle = engine.reader.layers[0].register_forward_hook(lambda _m, _i, output: output * torch.inf)
    with pytest.raises(EngineError, match="overflowed or are NaN"):
        done(inside.look(tokens, 3))
    with pytest.raises(EngineError, match="overflowed or are NaN"):
        inside.read(tokens)
    handle.remove()

    assert ["", ""] == [one.problem for one in done(inside.look(tokens, 3))]


def test_a_pair_without_text_is_told(house: House) -> None:
    """Of a pair of which no token counts nothing fires, and nothing divides by 0; nor for a segment of one token."""
    engine = an_engine(house, house.saes)
    inside = Inside(engine)
    empty = replace(tokens_of(engine), segments=np.zeros(len(tokens_of(engine).ids), np.int8))
    single = replace(empty, segments=np.eye(1, len(empty.ids), 5, dtype=np.int8)[0])

    for one in done(inside.look(empty, 3)):
        assert (0.0, (), {}, "") == (one.l0, one.segments, one.shares, one.problem)
        assert (one.feature == -1).all()
    for one in done(inside.look(single, 3)):
        assert one.unexplained is not None
        assert [1.0, 1.0] == [one.unexplained.sum(), one.unexplained[5]]
        assert {} == one.shares


# Memory, files and what is left behind.


class Largest(TorchDispatchMode):
    """The most elements of a tensor that an operation gives."""

    elements = 0

    def __torch_dispatch__(self, function: Any, _types: object, given: Any = (), named: Any = None) -> Any:
        result = function(*given, **(named or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return result


@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
def test_no_array_of_tokens_by_features_ever_exists(
    kind: str, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However wide the dictionary and long the pair, a look holds a tile of both, and slabs of the one."""
    monkeypatch.setattr(whole, "_KEPT_BYTES", 0)
    monkeypatch.setattr(whole, "_SLAB_ELEMENTS", 1 << 13)
    monkeypatch.setattr(whole_look, "_TILE_ELEMENTS", {"cpu": 1 << 14})
    arrays = {name: torch.from_numpy(array) for name, array in sae_arrays(5, d_sae=4096).items()}
    file = tmp_path / "SAE-Res-m-W1K-L0_6" / "layer1.sae.pt"
    file.parent.mkdir()
    if kind == "topk":
        torch.save(
            {n: arrays[n].T if n.startswith("W") else arrays[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec")}, file
        )
    else:
        file = save_sae(tmp_path, 1, **sae_arrays(5, d_sae=4096))
    engine = an_engine(house, {"sae": file}, max_tokens=400)
    tokens = tokens_of(engine, replace(PAIR, response=PAIR.response * 8))
    engine.runner([tokens.ids])
    inside = Inside(engine)

    with Largest() as largest:
        (looked,) = done(inside.look(tokens, 8))

    assert ("", 4096) == (looked.problem, looked.d_sae)
    assert len(tokens.ids) * 4096 > 1_000_000
    assert largest.elements < 100_000


def test_looking_and_removing_leave_nothing_behind(house: House) -> None:
    """Scoring is the same to the bit before and after, whatever was looked at, taken out, or given up half way."""
    engine = an_engine(house, house.saes, explain_whole=True, prefix_cache_bytes=1 << 20)
    inside, tokens = Inside(engine), tokens_of(engine)
    same = [np.arange(10, 10 + 2 * BLOCK, dtype=np.int32)] * 2
    engine.runner(same)
    before, kept, idle = engine.runner([tokens.ids]), engine.runner.kept_bytes, hooks(engine.reader)
    assert kept > 0

    done(inside.look(tokens, 3))
    inside.read(tokens)
    for seed in (None, 1):
        done(inside.remove(tokens, [FeatureKey("mid", 3), FeatureKey("late", 7)], seed=seed))
    for steps in (inside.look(tokens, 3), inside.remove(tokens, [FeatureKey("mid", 7)])):
        next(steps)
        steps.close()

    assert (kept, idle) == (engine.runner.kept_bytes, hooks(engine.reader))
    assert LAYERS == engine.reader.model.config.num_hidden_layers
    assert_same(before, engine.runner([tokens.ids]))


def test_dictionaries_are_opened_once_and_forgotten_with_what_is_watched(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second look opens nothing; what is no longer watched is forgotten, with its uncompressed copy."""
    monkeypatch.setattr(whole.tempfile, "tempdir", str(tmp_path))
    names: list[str] = []
    original = opened.open_dictionary
    monkeypatch.setattr(opened, "open_dictionary", lambda sae, *more: names.append(sae.name) or original(sae, *more))
    engine = an_engine(house, house.saes)
    inside, tokens = Inside(engine), tokens_of(engine)
    done(inside.look(tokens, 3))
    done(inside.look(tokens, 3))
    assert ["late", "mid"] == sorted(names)
    assert 2 == len(list(tmp_path.iterdir()))

    mid = SaeChoice("mid", SaeSource(path=str(house.saes["mid"])), {3: ""})
    engine.install(engine.prepare([mid], head=False))
    (looked,) = done(inside.look(tokens, 3))
    gc.collect()

    assert ("mid", 2) == (looked.sae, len(names))
    assert 1 == len(list(tmp_path.iterdir()))

    another = SaeChoice("mid", SaeSource(path=str(house.saes["late"])), {3: ""})
    engine.install(engine.prepare([another], head=False))
    (looked,) = done(inside.look(tokens, 3))
    assert ("layers.2.resid_post", 3) == (looked.hookpoint, len(names))


# Reading, and the reader loaded whole.


@pytest.mark.parametrize("windows", [1, 4])
def test_a_reading_is_what_is_scored_and_what_the_reader_expected(windows: int, house: House) -> None:
    """Watched features as the serving runner gives them, and transformers' predictions, though nobody watches those."""
    engine = an_engine(
        house, house.saes, explain_whole=True, max_tokens=256 if windows == 1 else 64, max_windows=windows
    )
    inside, tokens = Inside(engine), tokens_of(engine, replace(PAIR, response=PAIR.response * 4))
    assert isinstance(as_looks(inside), Inside)
    covered = inside.read(tokens)
    model = AutoModelForCausalLM.from_pretrained(house.reader, attn_implementation="eager", dtype=torch.float32)

    runs = [one for one in engine.runner(tokens.windows).activations if isinstance(one, Activations)]
    told = dense(covered, 6)
    assert (windows > 1, True) == (len(tokens.windows) > 1, inside.has_head)
    np.testing.assert_allclose(told[:, :4], np.concatenate([dense(one, 4) for one in runs]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told[:, 4:], np.concatenate([expected(model, w) for w in tokens.windows]), atol=1e-4)
    assert covered.table is inside.read(tokens).table
    assert engine.identity.feature_ids == covered.table.features[:-2]
    with_head = replace(engine.identity, head=True)
    assert with_head.feature_ids == covered.table.features


def as_looks(inside: Looks) -> Looks:
    """What mypy checks `Inside` by."""
    return inside


def test_without_its_head_a_reading_has_what_is_watched(house: House) -> None:
    """A reader that is not loaded whole tells no predictions."""
    engine = an_engine(house, house.saes)
    inside = Inside(engine)
    covered = inside.read(tokens_of(engine))

    assert not inside.has_head
    assert engine.watching.table is covered.table


def test_a_reading_follows_what_is_watched(house: House) -> None:
    """When other features are watched they are read, the predictions behind them, whether those are watched or not."""
    engine = an_engine(house, house.saes, explain_whole=True)
    inside, tokens = Inside(engine), tokens_of(engine)
    inside.read(tokens)
    for head in (True, False):
        mid = SaeChoice("mid", SaeSource(path=str(house.saes["mid"])), {3: "", 9: "", 11: ""})
        engine.install(engine.prepare([mid], head=head))
        covered = inside.read(tokens)
        (alone,) = engine.runner([tokens.ids]).activations
        assert 5 == len(covered.table.features)
        assert (engine.watching.table is covered.table) == head
        np.testing.assert_array_equal(dense(alone, 5)[:, :3], dense(covered, 5)[:, :3])
        assert head == dense(alone, 5)[:, 3:].any()
        assert dense(covered, 5)[:, 3:].any()


def test_a_reader_loaded_whole_scores_as_one_that_is_not(house: House) -> None:
    """To the bit, down to the deepest watched layer and no further, beginnings kept, and under the same identity."""
    plain, loaded = (
        an_engine(house, house.saes, explain_whole=how, prefix_cache_bytes=1 << 20) for how in (False, True)
    )
    passes: list[str] = []
    for number, layer in enumerate(loaded.reader.layers):
        layer.register_forward_hook(lambda *_, number=number: passes.append(f"layer {number}"))
    texts = [np.arange(10, 10 + 2 * BLOCK + n, dtype=np.int32) for n in (0, 5, 9)]

    for _ in range(3):
        one, other = plain.runner(texts), loaded.runner(texts)
        assert_same(one, other)
    assert {"layer 0", "layer 1", "layer 2"} == set(passes)
    assert 0 < one.reused_tokens == other.reused_tokens
    assert plain.identity.feature_ids == loaded.identity.feature_ids
    without = replace(loaded.identity.reader, layer_digests=plain.identity.reader.layer_digests)
    assert plain.identity.reader == without


def test_cards_do_not_warn_of_a_reader_loaded_whole() -> None:
    """The bundled watchlist, with strict cards, loads either way."""
    settings = {"watchlist": (BUNDLED_WATCHLIST,), "strict_cards": True}
    loaded = load(Config(explain_whole=True, **settings))

    assert {} == loaded.watchlists[0].card_problems(loaded.engine.identity)
    assert loaded.engine.reader.head is not None
    assert loaded.engine.identity.reader.digest == load(Config(**settings)).engine.identity.reader.digest


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_runs_deeper_than_it_must(family: str, tmp_path: Path) -> None:
    """In every family a pass ends behind its deepest tap, or with the last layer where that is asked for."""
    directory = save_weights(family, tmp_path)
    reader = load_reader(directory, name="r", revision="", deepest_layer=0, device="cpu", dtype="float32", head=True)
    ran: list[int] = []
    for number, layer in enumerate(reader.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    reading = [Reading(np.arange(3, 30, dtype=np.int32), ())]
    deep = {}
    with torch.inference_mode():
        for depth in (0, 1, LAYERS - 1):
            for whole_pass in (False, True):
                ran.clear()
                row = Passes(reader).read(reading, {Hookpoint(depth): untouched}, whole=whole_pass)
                assert list(range(LAYERS if whole_pass else depth + 1)) == ran
                deep[depth, whole_pass] = row.tapped[Hookpoint(depth)]
        ran.clear()
        Passes(reader).read(reading, {Hookpoint(-1, "embed"): untouched})
    assert [] == ran
    for depth in (0, 1, LAYERS - 1):
        torch.testing.assert_close(deep[depth, False], deep[depth, True], rtol=0, atol=0)
