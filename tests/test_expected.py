"""Under overload pairs are refused before their tokens are made, as far as their length tells."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from scopewatch.errors import EngineError, InvalidRequest, Overloaded
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.expected import Expected
from scopewatch.pipeline.pace import Pace
from scopewatch.types import ANYONE, Caller, Cleaning, EncodedBatch, Pair, ScoreJob, TokenisedPair
from scopewatch.verdicts import ScoredPair
from spine import FakeReader, build_monitor


class Queue:
    """Takes pairs as long as all that comes before them, and they, are no more than so many tokens; remembers what it was asked."""

    def __init__(self, most_tokens: float) -> None:
        self.most_tokens = most_tokens
        self.asked: list[tuple[float, float]] = []

    def refuse_late(self, tokens: float, _deadline_s: float, _caller: Caller, ahead_tokens: float) -> None:
        self.asked.append((tokens, ahead_tokens))
        if tokens + ahead_tokens > self.most_tokens:
            raise Overloaded("late", retry_after_s=1.0)


def job(chars: int, deadline_s: float | None = 1.0) -> ScoreJob:
    return ScoreJob(Pair("", "x" * chars), "", "id", deadline_s=deadline_s)


def learned(queue: Queue, tokens_per_char: float = 0.5) -> Expected:
    """One that has seen a text."""
    expected = Expected(queue.refuse_late)
    expected.arrived(0, [(Pair("", "x" * 100), round(100 * tokens_per_char))])
    return expected


def test_tokens_are_guessed_from_the_texts_before() -> None:
    """A pair of as many characters is expected to have as many tokens; history, prompt and token ids count too."""
    queue = Queue(1e9)
    expected = learned(queue)
    expected.expect([job(40)])
    expected.expect([ScoreJob(Pair("p" * 10, "", response_token_ids=(1,) * 6), "", "id", deadline_s=1.0)])

    assert queue.asked == [(20.0, 0.0), (8.0, 20.0)]


def test_what_is_on_its_way_comes_before() -> None:
    """Pairs whose tokens are being made count as ahead of those that come, of other calls and of their own, until they arrived."""
    queue = Queue(50)
    expected = learned(queue)
    refusals, first = expected.expect([job(60), job(40), job(2)])
    assert [bool(refusal) for refusal in refusals] == [False, False, True]
    (refused,), nothing = expected.expect([job(2)])
    assert refused
    assert nothing == 0
    expected.arrived(first, [])
    assert expected.expect([job(100)])[0] == [None]


@pytest.mark.parametrize("deadline_s", [None, 1.0])
def test_nobody_is_refused_without_a_reason(deadline_s: float | None) -> None:
    """Before a text was seen, and without a deadline, there is nothing to go by."""
    expected = Expected(Queue(0).refuse_late) if deadline_s else learned(Queue(0))
    assert expected.expect([job(100, deadline_s)])[0] == [None]


async def test_a_refused_pair_costs_no_tokens(metrics: Metrics) -> None:
    """The tokeniser sees only pairs that were let in; the others of the call are answered, each in its place."""
    queue, seen = Queue(60), []

    class Reader(FakeReader):
        async def tokenise(
            self, pairs: Sequence[Pair], cleanings: Sequence[Cleaning]
        ) -> list[tuple[TokenisedPair, ...] | InvalidRequest]:
            seen.extend(pair.response for pair in pairs)
            return await super().tokenise(pairs, cleanings)  # type: ignore[return-value]

    reader = Reader()
    monitor = build_monitor(LocalCache(0, metrics), metrics, reader, expected=learned(queue, 1.0))
    outcomes = await monitor.score([job(50), job(40), job(5)])
    assert [type(outcome) for outcome in outcomes] == [ScoredPair, Overloaded, ScoredPair]
    assert seen == ["x" * 50, "x" * 5]
    # Nothing is expected any more: as much as before is let in.
    assert [type(outcome) for outcome in await monitor.score([job(50)])] == [ScoredPair]


async def test_a_tokeniser_that_fails_leaves_nothing_expected(metrics: Metrics) -> None:
    """What was expected of a call is forgotten when the call fails."""
    queue = Queue(60)

    class Reader(FakeReader):
        async def tokenise(self, *_: object) -> list[tuple[TokenisedPair, ...] | InvalidRequest]:
            raise EngineError("gone")

    monitor = build_monitor(LocalCache(0, metrics), metrics, Reader(), expected=(expected := learned(queue, 1.0)))
    for _ in range(3):
        with pytest.raises(EngineError):
            await monitor.score([job(50)])
    assert expected.expect([job(50)])[0] == [None]


async def test_the_batcher_foretells_for_pairs_that_are_not_there_yet(metrics: Metrics) -> None:
    """By its pace, a pair of so many tokens behind so many others is late or is not; what is in the queue counts with it."""
    pace = Pace()
    for tokens in (100, 200, 400):
        pace.learn(tokens, tokens / 1000)
    held = asyncio.Event()

    async def encode(batch: Sequence[np.ndarray], _wanted: object) -> EncodedBatch:
        await held.wait()
        return EncodedBatch([EngineError("unread") for _ in batch], 0.0, 0.0)

    now = [0.0]
    batcher = Batcher(
        encode, max_batch_tokens=400, max_queue_tokens=10_000, metrics=metrics, pace=pace, clock=lambda: now[0]
    )
    waiting = [asyncio.create_task(batcher.submit(np.arange(400, dtype=np.int32), 100.0)) for _ in range(2)]
    await asyncio.sleep(0.01)
    batcher.refuse_late(100, 2.0, ANYONE)
    with pytest.raises(Overloaded) as refused:
        batcher.refuse_late(100, 2.0, ANYONE, ahead_tokens=3000)
    with pytest.raises(Overloaded):
        batcher.refuse_late(100, 0.5, ANYONE)

    assert refused.value.retry_after_s > 0
    held.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    await batcher.close()
