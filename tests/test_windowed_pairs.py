"""Pairs that are read in several windows or readings, on their way through the spine."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from conftest import activations
from scopewatch.errors import EngineError, InvalidRequest, Overloaded
from scopewatch.identity import FeatureTable
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.judgements import Judgements
from scopewatch.pipeline.windows import encode_windows
from scopewatch.types import ANYONE, Caller, Cleaning, CoveredActivations, Pair, ScoreJob, TokenisedPair
from scopewatch.verdicts import ScoredPair
from spine import TABLE, VALUES, FakeReader, build_monitor, fire, read

PAIR = Pair("may I?", "yes, of course; why would you not?")
JOB = ScoreJob(PAIR, "", "id", include_evidence=True)


class Windowed(FakeReader):
    """A reader that reads every pair in windows of eight tokens, and cleaned ones backwards, too."""

    readings = 1
    reading = 0
    """How many windows are being read at this moment, and the most there were."""
    most = 0

    async def tokenise(
        self, pairs: Sequence[Pair], _cleanings: Sequence[Cleaning]
    ) -> list[tuple[TokenisedPair, ...] | InvalidRequest]:
        whole = [read(pair) for pair in pairs]
        cleaned = [read(replace(pair, response=pair.response[::-1])) for pair in pairs]
        both = zip(map(in_windows, whole), map(in_windows, cleaned), strict=True)
        return [each[: self.readings] for each in both]

    async def submit(self, ids: np.ndarray, deadline_s: float | None, ahead_tokens: int, caller: Caller) -> Encoded:
        self.reading += 1
        self.most = max(self.most, self.reading)
        await asyncio.sleep(0.001)
        self.reading -= 1
        return await super().submit(ids, deadline_s, ahead_tokens, caller)


def in_windows(tokens: TokenisedPair, size: int = 8) -> TokenisedPair:
    n = len(tokens.ids)
    return replace(tokens, window_tokens=tuple(min(size, n - start) for start in range(0, n, size)))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


async def test_windows_are_read_as_texts_of_their_own_and_judged_as_one(metrics: Metrics) -> None:
    """The engine gets every window, all at once; what fired is counted through, and the judgement is that of one text."""
    plain, windowed = FakeReader(), Windowed()

    (whole,) = await build_monitor(LocalCache(0, metrics), metrics, plain).score([JOB])
    (parted,) = await build_monitor(LocalCache(0, metrics), metrics, windowed).score([JOB])

    assert isinstance(whole, ScoredPair)
    assert isinstance(parted, ScoredPair)
    sizes = in_windows(read(PAIR)).window_tokens
    assert [sizes[0] - 1, len(sizes)] == [len(windowed.asked[0]), windowed.most]
    assert np.cumsum([0, *sizes[:-1]]).tolist() == windowed.ahead
    assert whole.indicators == parted.indicators
    assert (2 * whole.timings.forward_s) != parted.timings.forward_s == 0.5 * len(sizes)


async def test_a_pair_that_comes_again_is_read_from_the_cache(metrics: Metrics) -> None:
    """Its windows are one value under one key, which another cut of the same tokens does not have."""
    reader, cache = Windowed(), LocalCache(1 << 20, metrics)
    monitor = build_monitor(cache, metrics, reader)

    first, second = [(await monitor.score([JOB]))[0] for _ in range(2)]

    assert isinstance(first, ScoredPair)
    assert isinstance(second, ScoredPair)
    assert (False, True) == (first.cached, second.cached)
    assert first.indicators == second.indicators
    tokens = read(PAIR)
    cuts = [tokens, in_windows(tokens), in_windows(tokens, 9)]
    assert 3 == len({VALUES.key(cut, "") for cut in cuts})


@pytest.mark.parametrize("remember", [False, True])
async def test_both_readings_are_read_cached_and_judged(metrics: Metrics, remember: bool) -> None:
    """Of a pair that is read twice each reading has its own key; the higher score of the two is answered, and again."""
    once, twice = Windowed(), Windowed()
    twice.readings = 2
    judgements = Judgements(1 << 20) if remember else None
    monitor = build_monitor(LocalCache(1 << 20, metrics), metrics, twice, judgements=judgements)
    (alone,) = await build_monitor(LocalCache(0, metrics), metrics, once).score([JOB])

    first, second = [(await monitor.score([JOB]))[0] for _ in range(2)]

    assert isinstance(alone, ScoredPair)
    assert isinstance(first, ScoredPair)
    assert isinstance(second, ScoredPair)
    assert 2 * len(once.asked) == len(twice.asked)
    assert (False, True) == (first.cached, second.cached)
    assert first.indicators == second.indicators
    assert all(more.score >= less.score for more, less in zip(first.indicators, alone.indicators, strict=True))


async def test_one_reading_in_the_cache_spares_the_other_nothing(metrics: Metrics) -> None:
    """What is missing is read, what is there is not, and the answer is not called cached."""
    cache, reader = LocalCache(1 << 20, metrics), Windowed()
    await build_monitor(cache, metrics, reader).score([JOB])
    known = len(reader.asked)
    reader.readings = 2

    (found,) = await build_monitor(cache, metrics, reader).score([JOB])

    assert isinstance(found, ScoredPair)
    assert (False, 2 * known) == (found.cached, len(reader.asked))


async def test_a_window_that_fails_fails_the_pair(metrics: Metrics) -> None:
    """The engine's own error is the answer, and the other windows are not waited for."""
    reader = Windowed()
    (monitor,) = [build_monitor(LocalCache(0, metrics), metrics, reader)]
    third = "".join(map(chr, read(PAIR).ids[17:24]))
    reader.fails[third] = EngineError("no memory")

    (found,) = await monitor.score([JOB])

    assert "no memory" == str(found)


async def test_a_window_that_fails_ends_the_others_at_once() -> None:
    """Where a later window is refused, those before it are given up, and not read to the end for nothing."""
    given_up = asyncio.Event()

    async def submit(ids: np.ndarray, *_: object) -> Encoded:
        if len(ids) == 2:
            raise Overloaded("no time", retry_after_s=1)
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError

    windows = [np.arange(3, dtype=np.int32), np.arange(2, dtype=np.int32)]
    async with asyncio.timeout(30):
        with pytest.raises(Overloaded):
            await encode_windows(windows, submit, None, 0, ANYONE)
        await given_up.wait()


async def test_windows_of_two_sets_of_features_are_read_again() -> None:
    """Where the watched features change between two windows, the pair is read once more; its caller sees nothing of it."""
    later = FeatureTable(TABLE.features)
    tables = iter([TABLE, later, later, later])

    async def submit(ids: np.ndarray, *_: object) -> Encoded:
        return Encoded(CoveredActivations(activations(len(ids)), next(tables)), 0, 0, 0)

    encoded = await encode_windows([np.arange(3, dtype=np.int32)] * 2, submit, None, 0, ANYONE)
    assert encoded.covered.table is later
    assert next(tables, None) is None


async def test_what_fires_in_a_window_is_counted_from_the_pairs_first_token() -> None:
    """Token indices are those of the windows one behind the other."""
    windows = [np.arange(5, dtype=np.int32), np.arange(5, 9, dtype=np.int32)]

    async def submit(ids: np.ndarray, *_: object) -> Encoded:
        return Encoded(CoveredActivations(fire(ids), TABLE), 0, 0, 0)

    encoded = await encode_windows(windows, submit, None, 0, ANYONE)

    one = fire(np.arange(9, dtype=np.int32))
    found = encoded.covered.activations
    assert sorted(zip(one.token, one.column, one.value, strict=True)) == sorted(
        zip(found.token, found.column, found.value, strict=True)
    )
    assert 9 == found.n_tokens
