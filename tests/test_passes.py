"""Several engines on one reader: each sees its own passes only, and nothing of a pass outlives it."""

import gc
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from conftest import D_SAE, HIDDEN, House
from scopewatch.config import Config
from scopewatch.engine.dictionary import DictionaryEngine, SegmentActivations, open_whole
from scopewatch.engine.passes import Passes, halved, in_rows
from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.engine.worker import Worker
from scopewatch.errors import EngineDied, SaeError
from scopewatch.reader.hookpoints import Hookpoint, width
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.prefixes import Reading
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sae.open import open_sae
from scopewatch.sources import SaeSource
from scopewatch.types import Activations, Pair, Segment, TokenIds, TokenisedPair

CPU = torch.device("cpu")
PAIRS = [Pair("hello", "world, it may rain"), Pair("what is the answer? " * 4, "Insulin lowers blood sugar. " * 5)]


def a_reader(house: House, deepest_layer: int = 2) -> Reader:
    return load_reader(house.reader, name="r", revision="", deepest_layer=deepest_layer, device="cpu", dtype="float32")


@dataclass(frozen=True)
class Shared:
    """A runner that watches two layers and a dictionary engine on one of them, all on one reader."""

    reader: Reader
    runner: Runner
    dictionary: DictionaryEngine
    pairs: list[TokenisedPair]

    def serve(self) -> list[Activations | Exception]:
        return self.runner([pair.ids for pair in self.pairs]).activations

    def explain(self) -> list[SegmentActivations]:
        found = list(self.dictionary.encode(self.pairs, Segment.RESPONSE))
        assert all(isinstance(one, SegmentActivations) for one in found)
        return found


def a_dictionary(house: House, reader: Reader) -> DictionaryEngine:
    whole = open_whole(SaeSource(path=str(house.saes["mid"])), Config())
    return DictionaryEngine(reader, Tokeniser(house.reader, max_tokens=512), whole, max_tokens=512)


@pytest.fixture
def shared(house: House) -> Shared:
    reader = a_reader(house)
    placed = [
        PlacedEncoder(Hookpoint(layer), open_sae(house.saes[name]).encoder(range(D_SAE)))
        for layer, name in ((1, "mid"), (2, "late"))
    ]
    dictionary = a_dictionary(house, reader)
    pairs = dictionary.tokeniser.tokenise(PAIRS)
    assert all(isinstance(pair, TokenisedPair) for pair in pairs)
    return Shared(reader, Runner(reader, placed, row_tokens=4096), dictionary, pairs)


def assert_equal(one: Sequence[Activations | Exception], other: Sequence[Activations | Exception]) -> None:
    for a, b in zip(one, other, strict=True):
        assert isinstance(a, Activations)
        assert isinstance(b, Activations)
        for name in ("token", "column", "value"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def hooks(reader: Reader) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in reader.model.modules())


def test_a_served_batch_leaves_nothing_with_a_dictionary_on_the_same_reader(shared: Shared) -> None:
    """However many batches the service runs, no residual stays alive for the dictionary, nor a tap between passes."""
    seen: list[weakref.ref[torch.Tensor]] = []
    shared.reader.layers[1].register_forward_hook(lambda _module, _inputs, output: seen.append(weakref.ref(output)))
    idle = hooks(shared.reader)
    gc.disable()
    try:
        for _ in range(5):
            shared.serve()
        alive = [ref() for ref in seen]
    finally:
        gc.enable()

    assert [None] * 5 == alive
    assert idle == hooks(shared.reader)


def test_a_dictionary_is_right_while_its_reader_serves(house: House, shared: Shared) -> None:
    """Between served batches the dictionary finds what it finds on a reader of its own, and the batches what they do."""
    alone = a_dictionary(house, a_reader(house, deepest_layer=1))
    expected = list(alone.encode(shared.pairs, Segment.RESPONSE))
    served = shared.serve()

    for _ in range(2):
        for one, other in zip(expected, shared.explain(), strict=True):
            assert isinstance(one, SegmentActivations)
            assert_equal([one.fired], [other.fired])
            np.testing.assert_array_equal(one.residual, other.residual)
        assert_equal(served, shared.serve())


async def test_a_dictionary_runs_as_a_job_between_batches(shared: Shared) -> None:
    """On the worker of the service, whole dictionaries and batches take turns and give what each gives alone."""
    served, explained = shared.serve(), shared.explain()
    worker = Worker(shared.runner, lambda _: None)
    try:
        ids = [pair.ids for pair in shared.pairs]
        assert_equal(served, (await worker.encode(ids)).activations)
        again = await worker.run(shared.explain)
        assert_equal(served, (await worker.encode(ids)).activations)
    finally:
        worker.stop()

    assert_equal([one.fired for one in explained], [one.fired for one in again])


def test_a_dictionary_does_not_pay_for_what_is_served(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pass of the dictionary no watched column is multiplied."""
    encoded: list[str] = []
    monkeypatch.setattr("scopewatch.engine.encoder._Part.forward", lambda *_: encoded.append("columns"))

    residuals = list(shared.dictionary.encode(shared.pairs, Segment.RESPONSE, features=False))

    assert len(PAIRS) == len(residuals)
    assert not encoded


def test_a_dictionary_needs_a_reader_that_is_deep_enough(house: House) -> None:
    """A dictionary deeper than the layers that are loaded is refused when it is built, by its file."""
    whole = open_whole(SaeSource(path=str(house.saes["late"])), Config())

    with pytest.raises(SaeError, match=r"params\.npz: hookpoint layers\.2\.resid_post: .*down to layer 1"):
        DictionaryEngine(a_reader(house, 1), Tokeniser(house.reader, max_tokens=64), whole, max_tokens=64)


def test_a_pass_that_fails_lets_go_of_its_taps(shared: Shared) -> None:
    """Taps of a pass are gone when it has failed, whether in the reader or in a tap itself."""
    passes = Passes(shared.reader)
    idle = hooks(shared.reader)

    def stumble(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("stumbled")

    with torch.inference_mode(), pytest.raises(ValueError, match="stumbled"):
        passes.read([Reading(np.array([2, 7], np.int32), ())], {Hookpoint(0): torch.relu, Hookpoint(1): stumble})
    with pytest.raises(SaeError, match="down to layer 2"):
        passes.read([Reading(np.array([2, 7], np.int32), ())], {Hookpoint(0): torch.relu, Hookpoint(3): torch.relu})

    assert idle == hooks(shared.reader)


def test_a_width_is_measured_while_batches_run(shared: Shared) -> None:
    """Another thread that asks for a hookpoint's width neither disturbs batches nor is told their numbers."""
    served, differing, widths = shared.serve(), [], []

    def serve() -> None:
        for _ in range(20):
            differing.extend(
                a for a, b in zip(served, shared.serve(), strict=True) if a.value.tobytes() != b.value.tobytes()
            )

    thread = threading.Thread(target=serve)
    thread.start()
    while thread.is_alive():
        widths.append(width(shared.reader, Hookpoint(1)))
    thread.join()

    assert not differing
    assert {HIDDEN} == set(widths)


@pytest.mark.parametrize(
    ("lengths", "most", "rows"),
    [
        ([], 5, []),
        ([9], 5, [[9]]),
        ([2, 3, 1], 5, [[2, 3], [1]]),
        ([9, 1, 1, 9], 5, [[9], [1, 1], [9]]),
        ([5, 5], 10, [[5, 5]]),
    ],
)
def test_rows_are_neighbours_that_fit(lengths: list[int], most: int, rows: list[list[int]]) -> None:
    """Texts keep their order, a row has at most so many tokens, and a longer text has a row of its own."""
    assert rows == [list(row) for row in in_rows(lengths, lambda length: length, most)]


def test_halving_answers_every_text() -> None:
    """However many texts fail, each of the others gets its result, and all results stand in order."""
    tried: list[list[int]] = []

    def run(batch: Sequence[int]) -> list[str]:
        tried.append(list(batch))
        if any(text < 0 for text in batch):
            raise ValueError(f"cannot read {min(batch)}")
        return [str(text) for text in batch]

    found = halved(run, [1, -2, 3, 4, -5], lambda text, error: f"{text}: {type(error).__name__}", CPU)

    assert ["1", "-2: ValueError", "3", "4", "-5: ValueError"] == found
    assert [[1, -2, 3, 4, -5], [1, -2], [1], [-2], [3, 4, -5], [3], [4, -5], [4], [-5]] == tried


def test_halving_ends_where_the_device_is_lost() -> None:
    """After an accelerator error nothing is tried again."""
    tried: list[Sequence[TokenIds]] = []

    def run(batch: Sequence[TokenIds]) -> list[None]:
        tried.append(batch)
        raise torch.AcceleratorError("CUDA error: launch failure\nmore")

    with pytest.raises(EngineDied, match=r"^the device failed: CUDA error: launch failure$"):
        halved(run, [np.array([1], np.int32)] * 4, lambda *_: None, CPU)

    assert 1 == len(tried)
