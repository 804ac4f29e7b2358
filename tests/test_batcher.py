"""The batcher over an engine that a test holds in its hand: real asyncio, no device, no timer."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from conftest import activations
from scopewatch.errors import DeadlineExpired, EngineDied, EngineError, NotReady, Overloaded, ScopewatchError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher, Encoded, Wanted
from scopewatch.pipeline.pace import Pace
from scopewatch.types import ANYONE, Activations, Caller, EncodedBatch

Build = Callable[..., Batcher]


def pair(name: int, tokens: int) -> np.ndarray:
    """Token ids of a pair that can be told from any other."""
    return np.full(tokens, name, np.int32)


def fire(ids: np.ndarray) -> Activations:
    """What an engine would find: a value that only these ids have."""
    return activations(len(ids), (len(ids) - 1, 0, float(ids[0]) + 0.5))


def belongs(encoded: Encoded, ids: np.ndarray) -> bool:
    found = encoded.covered.activations
    return (found.n_tokens, found.value.tolist()) == (len(ids), [float(ids[0]) + 0.5])


@dataclass
class Call:
    """One batch in the engine, which the test answers."""

    batch: list[np.ndarray]
    answer: asyncio.Future[EncodedBatch]
    wanted: Wanted

    @property
    def names(self) -> list[int]:
        return [int(ids[0]) for ids in self.batch]

    def finish_wanted(self) -> None:
        """Answers as a worker does that asks just before each text."""
        self.finish(
            *(fire(ids) if self.wanted(place) else EngineError("unread") for place, ids in enumerate(self.batch))
        )

    def finish(self, *outcomes: Activations | Exception) -> None:
        found = list(outcomes) or [fire(ids) for ids in self.batch]
        self.answer.set_result(EncodedBatch(found, 0.5, 0.25, sum(map(len, self.batch))))


@dataclass
class HeldEngine:
    calls: list[Call] = field(default_factory=list)

    async def __call__(self, batch: Sequence[np.ndarray], wanted: Wanted) -> EncodedBatch:
        self.calls.append(Call(list(batch), asyncio.get_running_loop().create_future(), wanted))
        return await self.calls[-1].answer

    def finish_all(self) -> None:
        for call in self.calls:
            if not call.answer.done():
                call.finish()

    @property
    def batches(self) -> list[list[int]]:
        """Names of the pairs of every batch so far."""
        return [call.names for call in self.calls]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    """Lets everything that can go on without the engine go on."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def build(engine: HeldEngine, metrics: Metrics, clock: Clock) -> AsyncIterator[Build]:
    """Builds batchers of ten tokens a batch and a hundred in the queue, and closes them."""
    built: list[Batcher] = []

    def build(encode: Any = engine, **changes: Any) -> Batcher:
        settings = {"max_batch_tokens": 10, "max_queue_tokens": 100, "metrics": metrics, "clock": clock} | changes
        built.append(Batcher(encode, **settings))
        return built[-1]

    yield build
    closing = [asyncio.create_task(batcher.close()) for batcher in built]
    while not all(task.done() for task in closing):
        engine.finish_all()
        await settle()


@pytest.fixture
async def batcher(build: Build) -> Batcher:
    return build()


@pytest.fixture
def queue_tokens(registry: CollectorRegistry) -> Callable[[], float | None]:
    return lambda: registry.get_sample_value("scopewatch_queue_tokens")


async def at_once(submitted: Coroutine[Any, Any, Encoded]) -> Encoded:
    """What a submission gives or raises without the engine; nobody waits for it longer."""
    task = asyncio.create_task(submitted)
    await settle()
    task.cancel()
    return await task


def submit(
    batcher: Batcher,
    name: int,
    tokens: int,
    deadline_s: float | None = None,
    *,
    ahead_tokens: int = 0,
    caller: Caller = ANYONE,
) -> asyncio.Task[Encoded]:
    return asyncio.create_task(batcher.submit(pair(name, tokens), deadline_s, ahead_tokens, caller))


def submit_call(batcher: Batcher, names: range, tokens: int) -> list[asyncio.Task[Encoded]]:
    """Pairs of one call, which wait behind each other."""
    return [submit(batcher, name, tokens, ahead_tokens=tokens * place) for place, name in enumerate(names)]


class TestBatches:
    async def test_a_pair_starts_at_once_when_the_engine_is_idle(self, batcher: Batcher, engine: HeldEngine) -> None:
        """An idle engine waits for no company: a single small pair is a batch."""
        submit(batcher, 1, 3)
        await settle()
        assert engine.batches == [[1]]

    async def test_pairs_that_come_together_go_together(self, batcher: Batcher, engine: HeldEngine) -> None:
        """What is there when the engine is free is one batch."""
        tasks = [submit(batcher, name, 3) for name in (1, 2, 3)]
        await settle()
        assert engine.batches == [[1, 2, 3]]
        engine.calls[0].finish()
        encoded = await asyncio.gather(*tasks)
        assert [belongs(found, pair(name, 3)) for name, found in enumerate(encoded, 1)] == [True] * 3

    @pytest.mark.parametrize(
        ("batch_s", "token_s", "batches"),
        [
            pytest.param(0.0, 0.01, [[1, 2], [3, 4]], id="two halves of 40 ms"),
            pytest.param(0.0, 0.001, [[1, 2, 3, 4]], id="4 ms are not worth it"),
            pytest.param(0.5, 0.01, [[1, 2, 3, 4]], id="each batch costs much beside its tokens"),
        ],
    )
    async def test_all_who_stand_before_an_idle_engine_are_read_in_two_halves_where_that_costs_little(
        self, build: Build, engine: HeldEngine, batch_s: float, token_s: float, batches: list[list[int]]
    ) -> None:
        """One half is answered while the other is read: else all callers would wait for the engine, and it for them."""
        pace = Pace()
        for tokens in (2, 5, 10):
            pace.learn(tokens, batch_s + tokens * token_s)
        batcher = build(pace=pace)
        tasks = [submit(batcher, name, 2) for name in (1, 2, 3, 4)]
        await settle()
        engine.calls[0].finish()
        await settle()
        engine.finish_all()
        await asyncio.gather(*tasks)
        assert engine.batches == batches

    async def test_the_next_batch_is_with_the_engine_before_anybody_of_the_last_is_answered(
        self, batcher: Batcher, engine: HeldEngine
    ) -> None:
        """To judge and to answer a batch takes the event loop a while, in which the engine shall not stand idle."""
        first = submit(batcher, 1, 3)
        await settle()
        submit(batcher, 2, 3)
        await settle()
        seen: list[list[list[int]]] = []
        first.add_done_callback(lambda _: seen.append(engine.batches))
        engine.calls[0].finish()
        await settle()
        assert seen == [[[1], [2]]]

    async def test_what_waited_for_the_engine_goes_in_order_of_arrival(
        self, batcher: Batcher, engine: HeldEngine
    ) -> None:
        """Batches are cut from the queue in order, each as full as the budget of ten tokens allows."""
        submit(batcher, 0, 1)
        await settle()
        for name, tokens in enumerate([4, 4, 4, 10, 1, 2, 3, 4, 5], 1):
            submit(batcher, name, tokens)
            await settle()
        while len(engine.calls) < 6 and (open_calls := [call for call in engine.calls if not call.answer.done()]):
            open_calls[0].finish()
            await settle()
        assert engine.batches == [[0], [1, 2], [3], [4], [5, 6, 7, 8], [9]]

    async def test_a_lone_pair_does_not_wait_for_a_large_call(self, batcher: Batcher, engine: HeldEngine) -> None:
        """A pair that comes while a call of many pairs is worked on goes into the next batch that is cut."""
        submit_call(batcher, range(100, 118), 5)
        await settle()
        lone = submit(batcher, 1, 5)
        await settle()
        while not lone.done():
            engine.finish_all()
            await settle()
        before = [
            name for call in engine.calls[: [1 in names for names in engine.batches].index(True)] for name in call.names
        ]
        assert before == list(range(100, 104))

    async def test_a_stream_of_lone_pairs_does_not_hold_up_a_large_call(self, build: Build, engine: HeldEngine) -> None:
        """However many others keep coming, a call is done when as much was computed as it and those before it need."""
        batcher = build(max_queue_tokens=10_000)
        call = submit_call(batcher, range(100, 120), 5)
        for name in range(1, 400):
            submit(batcher, name, 5)
            await settle()
            if name % 2:
                engine.finish_all()
                await settle()
            if all(task.done() for task in call):
                break
        computed = sum(len(batch) for batch in engine.batches)
        assert all(task.done() for task in call)
        assert computed <= 2 * 20 + 4

    async def test_no_batch_is_larger_than_the_budget(self, build: Build, engine: HeldEngine) -> None:
        """However lengths fall, a batch holds at most the budget, or a single longer pair."""
        dice = random.Random(1)
        batcher = build(max_queue_tokens=10_000)
        tasks = [submit(batcher, name, dice.choice([1, 2, 3, 5, 9, 10, 25])) for name in range(200)]
        while not all(task.done() for task in tasks):
            await settle()
            engine.finish_all()
        sizes = [(len(call.batch), sum(map(len, call.batch))) for call in engine.calls]
        assert [size for size in sizes if size[1] > 10 and size[0] > 1] == []
        assert [name for call in engine.calls for name in call.names] == list(range(200))

    async def test_a_pair_longer_than_a_batch_goes_alone(self, batcher: Batcher, engine: HeldEngine) -> None:
        """A pair above the budget is not stuck and takes nobody with it."""
        submit(batcher, 0, 1)
        await settle()
        tasks = [submit(batcher, 1, 4), submit(batcher, 2, 25), submit(batcher, 3, 4)]
        for number in range(4):
            await settle()
            engine.calls[number].finish()
        await settle()
        assert engine.batches == [[0], [1], [2], [3]]
        assert [task.done() for task in tasks] == [True] * 3

    async def test_a_second_batch_is_handed_over_only_when_full(self, batcher: Batcher, engine: HeldEngine) -> None:
        """While one batch runs, the next is prepared as soon as it is full, and a third is not."""
        submit(batcher, 1, 3)
        await settle()
        submit(batcher, 2, 9)
        await settle()
        assert engine.batches == [[1]]
        submit(batcher, 3, 1)
        await settle()
        assert engine.batches == [[1], [2, 3]]
        submit(batcher, 4, 10)
        submit(batcher, 5, 10)
        await settle()
        assert engine.batches == [[1], [2, 3]]
        engine.calls[0].finish()
        await settle()
        assert engine.batches == [[1], [2, 3], [4]]

    async def test_a_part_filled_batch_starts_when_the_engine_is_free(
        self, batcher: Batcher, engine: HeldEngine
    ) -> None:
        """Nobody waits for a batch to fill up: the end of the running one is enough."""
        submit(batcher, 1, 3)
        await settle()
        last = submit(batcher, 2, 1)
        engine.calls[0].finish()
        await settle()
        assert engine.batches == [[1], [2]]
        engine.calls[1].finish()
        assert belongs(await last, pair(2, 1))

    async def test_nobody_waits_on_a_timer(
        self, batcher: Batcher, engine: HeldEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No part of a pair's way through the queue asks the event loop to wake it later."""
        timers: list[object] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "call_at", lambda *args, **_: timers.append(args))
        tasks = [submit(batcher, name, 7) for name in range(5)]
        for number in range(5):
            await settle()
            engine.calls[number].finish()
        await settle()
        assert [task.done() for task in tasks] == [True] * 5
        assert timers == []

    async def test_a_pair_learns_what_it_cost(self, batcher: Batcher, engine: HeldEngine, clock: Clock) -> None:
        """The answer says how long the pair waited and how long its batch took."""
        submit(batcher, 1, 3)
        await settle()
        waiting = submit(batcher, 2, 3)
        await settle()
        clock.now += 4.0
        engine.calls[0].finish()
        await settle()
        clock.now += 1.0
        engine.calls[1].finish()
        encoded = await waiting
        assert (encoded.queue_s, encoded.forward_s, encoded.encode_s) == (4.0, 0.5, 0.25)


class TestDeparted:
    async def test_a_cancelled_pair_never_reaches_the_engine(
        self, batcher: Batcher, engine: HeldEngine, registry: CollectorRegistry
    ) -> None:
        """Who stops waiting costs no device time, and is counted."""
        submit(batcher, 0, 1)
        await settle()
        tasks = [submit(batcher, name, 2) for name in (1, 2, 3)]
        await settle()
        tasks[1].cancel()
        await settle()
        engine.calls[0].finish()
        await settle()
        assert engine.batches == [[0], [1, 3]]
        assert registry.get_sample_value("scopewatch_queue_dropped_pairs_total", {"reason": "cancelled"}) == 1

    async def test_a_cancelled_pair_frees_its_place_at_once(
        self, batcher: Batcher, engine: HeldEngine, queue_tokens: Callable[[], float]
    ) -> None:
        """A queue full of callers who left takes new ones, though the engine is still busy."""
        submit(batcher, 0, 10)
        await settle()
        submit(batcher, 1, 10)
        await settle()
        gone = [submit(batcher, name, 10) for name in range(2, 12)]
        await settle()
        assert queue_tokens() == 100
        for task in gone:
            task.cancel()
        await settle()
        assert queue_tokens() == 0
        new = submit(batcher, 20, 10)
        await settle()
        assert not new.done()
        for number in range(3):
            engine.calls[number].finish()
            await settle()
        assert engine.batches == [[0], [1], [20]]
        assert belongs(await new, pair(20, 10))

    async def test_callers_who_left_do_not_fill_a_batch(self, batcher: Batcher, engine: HeldEngine) -> None:
        """A second batch is handed over early when those who still wait fill it, not when those who left would."""
        submit(batcher, 0, 1)
        await settle()
        gone = submit(batcher, 1, 9)
        await settle()
        gone.cancel()
        await settle()
        submit(batcher, 2, 5)
        await settle()
        assert engine.batches == [[0]]

    async def test_an_expired_pair_never_reaches_the_engine(
        self, batcher: Batcher, engine: HeldEngine, clock: Clock, registry: CollectorRegistry
    ) -> None:
        """A pair whose deadline passed while it waited is told so, and the engine never sees it."""
        submit(batcher, 0, 1)
        await settle()
        late, timely, endless = submit(batcher, 1, 2, 105.0), submit(batcher, 2, 2, 120.0), submit(batcher, 3, 2)
        await settle()
        clock.now = 105.0
        engine.calls[0].finish()
        await settle()
        engine.calls[1].finish()
        assert engine.batches == [[0], [2, 3]]
        with pytest.raises(DeadlineExpired):
            await late
        assert belongs(await timely, pair(2, 2))
        assert belongs(await endless, pair(3, 2))
        assert registry.get_sample_value("scopewatch_queue_dropped_pairs_total", {"reason": "deadline"}) == 1

    async def test_an_expired_pair_frees_its_place(
        self, batcher: Batcher, engine: HeldEngine, clock: Clock, queue_tokens: Callable[[], float]
    ) -> None:
        """Expired pairs make room for those behind them."""
        submit(batcher, 0, 1)
        await settle()
        late = [submit(batcher, name, 2, 101.0) for name in range(1, 4)]
        submit(batcher, 9, 3)
        await settle()
        clock.now = 102.0
        engine.calls[0].finish()
        await settle()
        assert (engine.batches[-1], queue_tokens()) == ([9], 0)
        assert [type(task.exception()) for task in late] == [DeadlineExpired] * 3

    async def test_a_pair_that_is_cancelled_in_the_engine_harms_nobody(
        self, batcher: Batcher, engine: HeldEngine
    ) -> None:
        """Whoever leaves while the batch runs leaves the others their answers."""
        tasks = [submit(batcher, name, 2) for name in (1, 2, 3)]
        await settle()
        tasks[1].cancel()
        await settle()
        engine.calls[0].finish()
        assert belongs(await tasks[0], pair(1, 2))
        assert belongs(await tasks[2], pair(3, 2))

    @pytest.mark.parametrize("reason", ["cancelled", "deadline"])
    async def test_who_left_a_batch_that_was_handed_over_early_is_not_read(
        self, batcher: Batcher, engine: HeldEngine, clock: Clock, registry: CollectorRegistry, reason: str
    ) -> None:
        """The engine is told just before it reads whom nobody waits for; the others get their own activations."""
        submit(batcher, 0, 4)
        await settle()
        clock.now += 0.5
        engine.calls[0].finish()
        submit(batcher, 0, 1)
        await settle()
        tasks = [submit(batcher, 1, 3, 105.0), submit(batcher, 2, 3, 103.0), submit(batcher, 3, 4)]
        await settle()
        assert engine.batches == [[0], [0], [1, 2, 3]]
        clock.now = 104.0
        if reason == "cancelled":
            tasks[1].cancel()
            await settle()
        engine.calls[1].finish()
        engine.calls[2].finish_wanted()
        await asyncio.wait(tasks)
        assert belongs(tasks[0].result(), pair(1, 3))
        assert belongs(tasks[2].result(), pair(3, 4))
        assert tasks[1].cancelled() or isinstance(tasks[1].exception(), EngineError)
        await settle()
        assert registry.get_sample_value("scopewatch_queue_dropped_pairs_total", {"reason": reason}) == 1
        assert registry.get_sample_value("scopewatch_batch_tokens_sum") == 12
        assert registry.get_sample_value("scopewatch_unwanted_pairs_total") == 0

    async def test_what_was_read_for_nobody_is_counted(
        self, batcher: Batcher, engine: HeldEngine, clock: Clock, registry: CollectorRegistry
    ) -> None:
        """Pairs whose callers left, or whose deadline passed, while the engine was at them are a metric."""
        tasks = [submit(batcher, 1, 2), submit(batcher, 2, 2, 105.0), submit(batcher, 3, 2, 999.0)]
        await settle()
        tasks[0].cancel()
        clock.now = 106.0
        await settle()
        engine.calls[0].finish()
        await settle()
        assert registry.get_sample_value("scopewatch_unwanted_pairs_total") == 2


class TestDeadlines:
    """Over an engine that was measured to take a second for each token."""

    @pytest.fixture
    async def measured(self, build: Build, engine: HeldEngine, clock: Clock) -> Batcher:
        batcher = build(max_batch_tokens=20)
        for tokens in (5, 10, 15) * 20:
            submit(batcher, 0, tokens)
            await settle()
            clock.now += tokens
            engine.calls[-1].finish()
            await settle()
        engine.calls.clear()
        return batcher

    async def test_a_pair_for_which_there_is_no_time_is_refused_at_once(
        self, measured: Batcher, engine: HeldEngine, clock: Clock
    ) -> None:
        """Behind ten seconds of work a pair with a deadline in eleven is told so at once, and when to come back."""
        held = submit(measured, 1, 10)
        await settle()
        with pytest.raises(Overloaded, match="before its deadline") as caught:
            await at_once(measured.submit(pair(2, 2), clock.now + 11.0))
        assert 0.05 <= caught.value.retry_after_s < 10
        timely = submit(measured, 3, 2, clock.now + 30.0)
        await settle()
        assert not timely.done()
        held.cancel()

    async def test_the_queue_ahead_is_counted_too(self, measured: Batcher, engine: HeldEngine, clock: Clock) -> None:
        """What waits ahead of a pair takes its time; what waits behind it, in a large call, takes none."""
        submit(measured, 1, 10)
        await settle()
        ahead = [submit(measured, name, 5) for name in (2, 3, 4)]
        await settle()
        with pytest.raises(Overloaded):
            await at_once(measured.submit(pair(9, 2), clock.now + 30.0))
        for task in ahead:
            task.cancel()
        await settle()
        for name in (5, 6, 7):
            submit(measured, name, 5, ahead_tokens=10)
        await settle()
        timely = submit(measured, 8, 2, clock.now + 30.0)
        await settle()
        assert not timely.done()

    async def test_before_any_batch_was_measured_nobody_is_refused(self, batcher: Batcher, clock: Clock) -> None:
        """An engine of which nothing is known is given a try."""
        task = submit(batcher, 1, 10, clock.now + 1e-6)
        await settle()
        assert not task.done()

    async def test_a_deadline_that_has_passed_is_said_at_once(self, batcher: Batcher, clock: Clock) -> None:
        """Nobody waits for the engine to be told that it is too late."""
        submit(batcher, 0, 1)
        await settle()
        with pytest.raises(DeadlineExpired):
            await at_once(batcher.submit(pair(1, 1), clock.now))

    async def test_a_batch_does_not_grow_beyond_its_members_deadlines(
        self, measured: Batcher, engine: HeldEngine, clock: Clock
    ) -> None:
        """Whoever has time waits for the next batch rather than make another late."""
        submit(measured, 1, 1)
        await settle()
        for name, deadline_s in ((2, clock.now + 15.0), (3, None), (4, None)):
            submit(measured, name, 8, deadline_s)
        await settle()
        clock.now += 1.0
        engine.calls[0].finish()
        await settle()
        clock.now += 8.0
        engine.calls[1].finish()
        await settle()
        assert engine.batches == [[1], [2], [3, 4]]

    async def test_a_batch_with_a_deadline_does_not_grow_into_the_unknown(
        self, batcher: Batcher, engine: HeldEngine, clock: Clock
    ) -> None:
        """Where somebody is in a hurry a batch is at most four times as large as any that was measured."""
        submit(batcher, 0, 2)
        await settle()
        clock.now += 0.1
        engine.calls[0].finish()
        await settle()
        submit(batcher, 0, 1)
        await settle()
        for name in (1, 2, 3):
            submit(batcher, name, 3, clock.now + 100.0)
        await settle()
        engine.calls[1].finish()
        await settle()
        assert engine.batches == [[0], [0], [1, 2]]

    async def test_what_cannot_end_in_time_is_not_begun(
        self, measured: Batcher, engine: HeldEngine, clock: Clock
    ) -> None:
        """A pair whose batch would end too late is told when the batch is made up, and costs the engine nothing."""
        submit(measured, 1, 1)
        await settle()
        tasks = [submit(measured, 2, 8, clock.now + 20.0), submit(measured, 3, 8)]
        await settle()
        clock.now += 15.0
        engine.calls[0].finish()
        await settle()
        assert engine.batches == [[1], [3]]
        assert isinstance(tasks[0].exception(), DeadlineExpired)

    async def test_an_idle_engine_is_tried_again_after_a_while(
        self, measured: Batcher, engine: HeldEngine, clock: Clock
    ) -> None:
        """A pace that nothing confirms does not keep callers out for ever: one of them is read, and the pace known."""
        with pytest.raises(Overloaded):
            await at_once(measured.submit(pair(1, 10), clock.now + 2.0))
        clock.now += 60.0
        tried = submit(measured, 2, 10, clock.now + 2.0)
        await settle()
        with pytest.raises(Overloaded):
            await at_once(measured.submit(pair(3, 10), clock.now + 2.0))
        engine.calls[0].finish()
        assert belongs(await tried, pair(2, 10))


class TestCallers:
    async def test_callers_take_turns(self, batcher: Batcher, engine: HeldEngine) -> None:
        """A caller with one pair does not wait for all of another's that came before."""
        submit(batcher, 0, 10)
        await settle()
        submit(batcher, 1, 10)
        await settle()
        for name in (2, 3, 4, 5):
            submit(batcher, name, 5, caller=Caller("many"))
        submit(batcher, 9, 5, caller=Caller("one"))
        await settle()
        engine.finish_all()
        await settle()
        assert engine.batches[2] == [2, 9]

    async def test_a_full_queue_has_room_for_who_has_less_than_its_share(
        self, batcher: Batcher, engine: HeldEngine, registry: CollectorRegistry, queue_tokens: Callable[[], float]
    ) -> None:
        """The last pair of the caller that filled the queue is refused in favour of another caller's first."""
        submit(batcher, 0, 10)
        submit(batcher, 1, 10)
        await settle()
        waiting = [submit(batcher, name, 10, caller=Caller("greedy")) for name in range(2, 12)]
        await settle()
        submit(batcher, 20, 10, caller=Caller("modest"))
        await settle()
        assert [task.done() for task in waiting] == [False] * 9 + [True]
        assert isinstance(waiting[-1].exception(), Overloaded)
        assert queue_tokens() == 100
        assert registry.get_sample_value("scopewatch_queue_dropped_pairs_total", {"reason": "displaced"}) == 1
        with pytest.raises(Overloaded):
            await batcher.submit(pair(30, 10), caller=Caller("greedy"))


class TestFullQueue:
    async def test_a_full_queue_refuses_and_says_when_to_come_back(
        self, batcher: Batcher, engine: HeldEngine, queue_tokens: Callable[[], float]
    ) -> None:
        """Beyond its bound the queue takes nobody, answers at once, and names a time above zero."""
        submit(batcher, 0, 10)
        await settle()
        submit(batcher, 1, 10)
        await settle()
        waiting = [submit(batcher, name, 20) for name in range(2, 7)]
        await settle()
        with pytest.raises(Overloaded) as caught:
            await batcher.submit(pair(9, 1))
        assert caught.value.retry_after_s > 0
        assert queue_tokens() == 100
        assert [task.done() for task in waiting] == [False] * 5

    async def test_the_estimate_follows_the_engines_speed(
        self, batcher: Batcher, engine: HeldEngine, clock: Clock
    ) -> None:
        """A slower engine, a longer wait: half the queue at the speed of the batches so far."""
        estimates = []
        for seconds in (1.0, 9.0):
            first = submit(batcher, 0, 10)
            await settle()
            clock.now += seconds
            engine.calls[-1].finish()
            await first
            held = [submit(batcher, 0, 10), submit(batcher, 0, 10)]
            await settle()
            held += [submit(batcher, name, 10) for name in range(10)]
            await settle()
            with pytest.raises(Overloaded) as caught:
                await batcher.submit(pair(9, 1))
            estimates.append(caught.value.retry_after_s)
            for task in held[2:]:
                task.cancel()
            for call in engine.calls:
                if not call.answer.done():
                    clock.now += seconds
                    call.finish()
            await asyncio.gather(*held, return_exceptions=True)
        assert estimates[0] == pytest.approx(0.5 * 100 / 10)
        assert estimates[1] > estimates[0]

    async def test_a_pair_larger_than_the_whole_queue_is_taken_when_it_is_empty(
        self, batcher: Batcher, engine: HeldEngine
    ) -> None:
        """A pair that could never fit is not refused for ever."""
        submit(batcher, 1, 150)
        await settle()
        assert engine.batches == [[1]]


class TestFailures:
    @pytest.mark.parametrize(
        ("failure", "expected", "message"),
        [
            pytest.param(EngineError("out of memory"), EngineError, "out of memory", id="of ours"),
            pytest.param(RuntimeError("secret text"), EngineError, "the reader failed", id="of a library"),
        ],
    )
    async def test_a_failing_batch_answers_everyone_in_it_and_nobody_else(
        self, batcher: Batcher, engine: HeldEngine, failure: Exception, expected: type, message: str
    ) -> None:
        """Everybody in the batch gets the error, without a library's words, and the next batch runs."""
        tasks = [submit(batcher, name, 3) for name in (1, 2)]
        await settle()
        engine.calls[0].answer.set_exception(failure)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [(type(outcome), str(outcome)) for outcome in outcomes] == [(expected, message)] * 2
        after = submit(batcher, 3, 3)
        await settle()
        engine.calls[1].finish()
        assert belongs(await after, pair(3, 3))

    @pytest.mark.parametrize("count", [0, 1, 3])
    async def test_a_wrong_number_of_answers_is_an_error(
        self, batcher: Batcher, engine: HeldEngine, count: int
    ) -> None:
        """Answers that cannot be matched to pairs are given to none of them."""
        tasks = [submit(batcher, name, 3) for name in (1, 2)]
        await settle()
        engine.calls[0].answer.set_result(EncodedBatch([fire(pair(1, 3))] * count, 0, 0, 6))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == [f"the engine answered {count} of 2 pairs"] * 2
        assert [type(outcome) for outcome in outcomes] == [EngineError] * 2

    async def test_a_failure_on_one_pair_is_its_own(self, batcher: Batcher, engine: HeldEngine) -> None:
        """A pair the engine fails on alone gets its error, its neighbours their activations."""
        tasks = [submit(batcher, name, 3) for name in (1, 2, 3)]
        await settle()
        engine.calls[0].finish(fire(pair(1, 3)), EngineError("not this one"), fire(pair(3, 3)))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert belongs(outcomes[0], pair(1, 3))
        assert (type(outcomes[1]), str(outcomes[1])) == (EngineError, "not this one")
        assert belongs(outcomes[2], pair(3, 3))

    async def test_a_dead_engine_fails_all_who_wait_and_all_who_come(
        self, batcher: Batcher, engine: HeldEngine, queue_tokens: Callable[[], float]
    ) -> None:
        """When the engine dies, the running, the queued and the later are told; nobody waits for ever."""
        running = submit(batcher, 1, 3)
        await settle()
        queued = [submit(batcher, name, 3) for name in (2, 3, 4)]
        await settle()
        engine.calls[0].answer.set_exception(EngineDied("gone"))
        outcomes = await asyncio.gather(running, *queued, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [EngineDied] * 4
        with pytest.raises(EngineDied):
            await batcher.submit(pair(5, 1))
        assert (len(engine.calls), queue_tokens()) == (1, 0)

    async def test_closing_answers_everybody(
        self, batcher: Batcher, engine: HeldEngine, queue_tokens: Callable[[], float]
    ) -> None:
        """On closing, the running batch is finished, the queued and the later are refused."""
        running = submit(batcher, 1, 3)
        await settle()
        queued = [submit(batcher, name, 3) for name in (2, 3)]
        await settle()
        closing = asyncio.create_task(batcher.close())
        await settle()
        assert [type(task.exception()) for task in queued] == [NotReady] * 2
        assert (running.done(), closing.done()) == (False, False)
        engine.calls[0].finish()
        await closing
        assert belongs(await running, pair(1, 3))
        with pytest.raises(NotReady):
            await batcher.submit(pair(4, 1))
        assert queue_tokens() == 0

    async def test_closing_does_not_wait_for_ever(self, batcher: Batcher, engine: HeldEngine) -> None:
        """An engine that hangs holds up closing for the time that is given, and its callers are told."""
        running = submit(batcher, 1, 3)
        await settle()
        async with asyncio.timeout(30):
            await batcher.close(timeout_s=0.01)
            with pytest.raises(NotReady):
                await running

    async def test_who_listens_is_told_of_batches_that_failed_whole(self, build: Build, engine: HeldEngine) -> None:
        """Every batch that was read is told of: whether the engine failed on all its pairs."""
        told: list[bool] = []
        batcher = build(batch_ended=told.append)
        endings = (
            lambda call: call.finish(),
            lambda call: call.finish(fire(pair(1, 3)), EngineError("one")),
            lambda call: call.finish(EngineError("one"), EngineError("two")),
            lambda call: call.answer.set_exception(RuntimeError()),
        )
        for ending in endings:
            tasks = [submit(batcher, 1, 3), submit(batcher, 2, 3)]
            await settle()
            ending(engine.calls[-1])
            await asyncio.gather(*tasks, return_exceptions=True)
        assert told == [False, False, True, True]


async def test_every_answer_is_its_own_and_nothing_is_left_behind(
    build: Build, registry: CollectorRegistry, queue_tokens: Callable[[], float]
) -> None:
    """Thousands of pairs with random cancellations, deadlines and failures: each gets its own answer or a reason."""
    dice = random.Random(3)
    seen: list[int] = []

    async def encode(batch: Sequence[np.ndarray], _wanted: Wanted) -> EncodedBatch:
        assert sum(map(len, batch)) <= 64 or len(batch) == 1
        seen.extend(int(ids[0]) for ids in batch)
        for _ in range(dice.randrange(20)):
            await asyncio.sleep(0)
        if dice.random() < 0.03:
            raise RuntimeError
        found = [EngineError("one") if dice.random() < 0.02 else fire(ids) for ids in batch]
        return EncodedBatch(found, 0, 0, 64)

    batcher = build(encode, max_batch_tokens=64, max_queue_tokens=256, clock=asyncio.get_running_loop().time)
    outcomes: dict[str, int] = {}
    came: list[int] = []

    async def caller(number: int) -> None:
        came.append(number)
        ids = pair(number, dice.randint(1, 40))
        deadline_s = asyncio.get_running_loop().time() + dice.choice([-1, 1000, 1000])
        try:
            encoded = await batcher.submit(ids, deadline_s)
        except ScopewatchError as error:
            outcomes[error.reason] = outcomes.get(error.reason, 0) + 1
        else:
            kind = "own" if belongs(encoded, ids) else "FOREIGN"
            outcomes[kind] = outcomes.get(kind, 0) + 1

    tasks = []
    for number in range(4000):
        tasks.append(asyncio.create_task(caller(number)))
        if dice.random() < 0.3:
            dice.choice(tasks[-30:]).cancel()
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(isinstance(result, asyncio.CancelledError) for result in results)

    assert set(outcomes) == {"own", "overloaded", "deadline_expired", "engine_error"}
    assert sum(outcomes.values()) + cancelled == 4000
    assert len(seen) == len(set(seen))
    assert queue_tokens() == 0
    # Whoever came was turned away, dropped from the queue, or went through the engine: once.
    dropped = [
        registry.get_sample_value("scopewatch_queue_dropped_pairs_total", {"reason": reason})
        for reason in ("deadline", "cancelled")
    ]
    assert len(came) == len(seen) + sum(dropped) + outcomes["overloaded"]
    assert min(dropped) > 0
