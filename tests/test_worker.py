"""The worker: every batch and job answered, nobody left waiting when the engine dies."""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from conftest import activations, wait_until
from scopewatch.engine.worker import Batch, Run, Worker
from scopewatch.errors import DeadlineExpired, EngineDied
from scopewatch.identity import FeatureTable
from scopewatch.types import EncodedBatch


def batch(mark: int) -> Batch:
    return [np.array([mark], np.int32)]


NO_FEATURES = FeatureTable()


def answer_to(given: Batch) -> EncodedBatch:
    """A batch's answer; `reused_tokens` repeats the mark, to tell answers apart."""
    return EncodedBatch([], forward_s=0.0, encode_s=0.0, reused_tokens=int(given[0][0]), table=NO_FEATURES)


class Gate:
    """An engine that stops in every batch until it is let through, and then does what the mark asks."""

    def __init__(self, **outcomes: BaseException) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.seen: list[int] = []
        self._outcomes = {int(mark.removeprefix("mark_")): outcome for mark, outcome in outcomes.items()}

    def __call__(self, given: Batch) -> EncodedBatch:
        mark = int(given[0][0])
        self.seen.append(mark)
        self.entered.release()
        assert self.open.acquire(timeout=30)
        if mark in self._outcomes:
            raise self._outcomes[mark]
        return answer_to(given)

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


@pytest.fixture
def deaths() -> list[EngineDied]:
    return []


@pytest.fixture
def start(deaths: list[EngineDied]) -> Iterator[Callable[[Run], Worker]]:
    """Starts engine threads, and stops them when the test is over."""
    started: list[tuple[Worker, Run]] = []

    def _start(run: Run) -> Worker:
        thread = Worker(run, deaths.append)
        started.append((thread, run))
        return thread

    yield _start
    for thread, run in started:
        if isinstance(run, Gate):
            run.open.release(100)
        thread.stop()


async def stop_is_asked(engine: Worker) -> None:
    """Waits until `stop`, called on another thread, stands in the queue."""
    await asyncio.to_thread(wait_until, lambda: engine._inbox.qsize() == 1, "nobody asked to stop")


async def outcomes(*waiters: asyncio.Task[EncodedBatch]) -> list[Any]:
    """What each waiter got: its mark, or the class of its exception."""
    found = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), timeout=30)
    return [type(f) if isinstance(f, BaseException) else f.reused_tokens for f in found]


Start = Callable[[Run], Worker]


async def test_a_batch_is_answered(start: Start) -> None:
    """`encode` gives what the engine gives for this batch."""
    engine = start(answer_to)

    assert answer_to(batch(7)) == await engine.encode(batch(7))


async def test_batches_run_one_at_a_time_in_order(start: Start) -> None:
    """Batches wait for one another and run as they came; each gets its own answer."""
    gate = Gate()
    engine = start(gate)
    waiters = [asyncio.create_task(engine.encode(batch(mark))) for mark in (1, 2, 3)]
    await gate.wait_until_entered()
    running = list(gate.seen)
    gate.open.release(3)

    assert [1, 2, 3] == await outcomes(*waiters)
    assert ([1], [1, 2, 3]) == (running, gate.seen)


@pytest.mark.parametrize("failure", [ValueError("x"), RuntimeError("y"), MemoryError()], ids=lambda e: type(e).__name__)
async def test_an_ordinary_failure_fails_its_batch_alone(
    start: Start, deaths: list[EngineDied], failure: Exception
) -> None:
    """A batch the engine raises on gets that exception; the next one is answered and nobody dies."""
    gate = Gate(mark_1=failure)
    engine = start(gate)
    gate.open.release(2)
    waiters = [asyncio.create_task(engine.encode(batch(mark))) for mark in (1, 2)]

    assert [type(failure), 2] == await outcomes(*waiters)
    assert not deaths


FATAL = [EngineDied("the device failed"), SystemExit(3), KeyboardInterrupt()]


@pytest.mark.parametrize("failure", FATAL, ids=lambda e: type(e).__name__)
async def test_death_fails_every_waiter(start: Start, deaths: list[EngineDied], failure: BaseException) -> None:
    """When the engine dies the running batch and all queued ones get EngineDied, and `on_death` is called once."""
    gate = Gate(mark_1=failure)
    engine = start(gate)
    waiters = [asyncio.create_task(engine.encode(batch(mark))) for mark in (1, 2, 3)]
    await gate.wait_until_entered()
    gate.open.release()

    assert [EngineDied] * 3 == await outcomes(*waiters)
    engine.stop()
    assert 1 == len(deaths)
    assert ("the device failed" if isinstance(failure, EngineDied) else type(failure).__name__) in str(deaths[0])


async def test_encode_after_death_fails_at_once(start: Start, deaths: list[EngineDied]) -> None:
    """A dead engine takes no batch: `encode` raises why it died."""
    gate = Gate(mark_1=EngineDied("the device failed"))
    gate.open.release()
    engine = start(gate)
    with pytest.raises(EngineDied):
        await engine.encode(batch(1))
    engine.stop()

    with pytest.raises(EngineDied, match="the device failed"):
        await engine.encode(batch(2))

    assert ([1], 1) == (gate.seen, len(deaths))


async def test_a_departed_waiter_does_not_hinder_the_others_at_death(start: Start, deaths: list[EngineDied]) -> None:
    """A caller that gave up in the queue leaves no trap: the rest still learn of the death."""
    gate = Gate(mark_1=SystemExit())
    engine = start(gate)
    waiters = [asyncio.create_task(engine.encode(batch(mark))) for mark in (1, 2, 3)]
    await gate.wait_until_entered()
    waiters[1].cancel()
    await asyncio.sleep(0)
    gate.open.release()

    assert [EngineDied, asyncio.CancelledError, EngineDied] == await outcomes(*waiters)
    engine.stop()
    assert 1 == len(deaths)


async def test_a_departed_waiters_batch_is_not_run(start: Start) -> None:
    """A batch nobody waits for any more costs the engine nothing."""
    gate = Gate()
    engine = start(gate)
    waiters = [asyncio.create_task(engine.encode(batch(mark))) for mark in (1, 2, 3)]
    await gate.wait_until_entered()
    waiters[1].cancel()
    await asyncio.sleep(0)
    gate.open.release(3)
    await outcomes(*waiters)

    assert [1, 3] == gate.seen


async def test_a_caller_that_leaves_a_running_batch_harms_nobody(start: Start, deaths: list[EngineDied]) -> None:
    """A batch whose caller left while it ran is finished and forgotten; the next one is answered."""
    gate = Gate()
    engine = start(gate)
    left = asyncio.create_task(engine.encode(batch(1)))
    await gate.wait_until_entered()
    left.cancel()
    with contextlib.suppress(CancelledError, asyncio.CancelledError):
        await left
    gate.open.release(2)

    assert answer_to(batch(2)) == await asyncio.wait_for(engine.encode(batch(2)), timeout=30)
    assert not deaths


async def test_stop_lets_the_running_batch_finish(start: Start, deaths: list[EngineDied]) -> None:
    """`stop` returns when the running batch is answered, and it is no death."""
    gate = Gate()
    engine = start(gate)
    running = asyncio.create_task(engine.encode(batch(1)))
    await gate.wait_until_entered()
    stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
    await stop_is_asked(engine)
    waited = not stopping.done()
    gate.open.release()
    await stopping

    assert waited
    assert [1] == await outcomes(running)
    assert not deaths


async def test_encode_after_stop_fails_at_once(start: Start, deaths: list[EngineDied]) -> None:
    """A stopped engine takes no batch, and stopping twice is harmless."""
    engine = start(answer_to)
    engine.stop()
    engine.stop()

    with pytest.raises(EngineDied, match="stopped"):
        await engine.encode(batch(1))

    assert not deaths


async def test_a_batch_handed_over_while_stopping_is_answered(start: Start, deaths: list[EngineDied]) -> None:
    """Whoever comes between `stop` and the end is told, not left waiting, even beside one that left."""
    gate = Gate()
    engine = start(gate)
    running = asyncio.create_task(engine.encode(batch(1)))
    await gate.wait_until_entered()
    stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
    await stop_is_asked(engine)
    late = [asyncio.create_task(engine.encode(batch(mark))) for mark in (2, 3)]
    await asyncio.sleep(0)
    late[0].cancel()
    await asyncio.sleep(0)
    gate.open.release()
    await stopping

    assert [1, asyncio.CancelledError, EngineDied] == await outcomes(running, *late)
    assert not deaths


async def test_a_job_runs_on_the_engines_thread(start: Start) -> None:
    """`run` gives what the job returns, which runs where batches run."""
    threads: list[str] = []

    def encode(given: Batch) -> EncodedBatch:
        threads.append(threading.current_thread().name)
        return answer_to(given)

    engine = start(encode)
    await engine.encode(batch(1))

    assert [*threads, 6] == await engine.run(lambda: [threading.current_thread().name, 6])


async def test_jobs_and_batches_keep_the_order_they_came_in(start: Start) -> None:
    """A job between batches runs after those before it and before those after it."""
    gate = Gate()
    engine = start(gate)
    first = asyncio.create_task(engine.encode(batch(1)))
    await gate.wait_until_entered()
    job = asyncio.create_task(engine.run(lambda: gate.seen.append(20) or answer_to(batch(20))))
    last = asyncio.create_task(engine.encode(batch(3)))
    await asyncio.sleep(0)
    gate.open.release(2)

    assert [1, 20, 3] == await outcomes(first, job, last)
    assert [1, 20, 3] == gate.seen


async def test_a_failing_job_fails_its_caller_alone(start: Start, deaths: list[EngineDied]) -> None:
    """Whoever asked for a job hears what it raised; batches behind it are answered and nobody dies."""
    engine = start(answer_to)

    def job() -> None:
        raise KeyError("no such layer")

    with pytest.raises(KeyError, match="no such layer"):
        await engine.run(job)

    assert answer_to(batch(2)) == await engine.encode(batch(2))
    assert not deaths


@pytest.mark.parametrize("failure", FATAL, ids=lambda e: type(e).__name__)
async def test_death_in_a_job_answers_everybody(start: Start, deaths: list[EngineDied], failure: BaseException) -> None:
    """If the engine dies in a job, its caller, the jobs and the batches behind it all get EngineDied."""
    gate = Gate()
    engine = start(gate)

    def job() -> EncodedBatch:
        raise failure

    running = asyncio.create_task(engine.encode(batch(1)))
    await gate.wait_until_entered()
    waiters = [
        asyncio.create_task(waiting)
        for waiting in (engine.run(job), engine.encode(batch(3)), engine.run(lambda: answer_to(batch(4))))
    ]
    await asyncio.sleep(0)
    gate.open.release()

    assert [1, EngineDied, EngineDied, EngineDied] == await outcomes(running, *waiters)
    engine.stop()
    assert 1 == len(deaths)
    with pytest.raises(EngineDied):
        await engine.run(lambda: 5)


async def test_a_departed_callers_job_is_not_run(start: Start) -> None:
    """A job nobody waits for any more does not hold up the batches behind it."""
    gate = Gate()
    engine = start(gate)
    running = asyncio.create_task(engine.encode(batch(1)))
    await gate.wait_until_entered()
    left = asyncio.create_task(engine.run(lambda: gate.seen.append(20)))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    gate.open.release()
    await outcomes(running)

    assert 5 == await engine.run(lambda: 5)
    assert [1] == gate.seen


async def test_an_answered_job_is_forgotten(start: Start) -> None:
    """The thread keeps neither a job nor its result while it waits for the next one."""
    engine = start(answer_to)

    class Result:
        pass

    kept = weakref.ref(await engine.run(Result))

    await asyncio.to_thread(wait_until, lambda: kept() is None, "the result is still there")


class TestWanted:
    async def test_only_what_is_wanted_is_read(self, start: Start) -> None:
        """Just before a batch is read those whom nobody waits for are left out; each answer stays in its place."""
        texts = [np.array([mark], np.int32) for mark in range(4)]
        seen: list[list[int]] = []

        def run(given: Batch) -> EncodedBatch:
            seen.append([int(ids[0]) for ids in given])
            return EncodedBatch([activations(1, (0, 0, float(ids[0]) + 1)) for ids in given], 1.0, 2.0, 3, NO_FEATURES)

        found = await start(run).encode(texts, lambda place: place in (1, 3))

        marks = [type(one) if isinstance(one, Exception) else float(one.value[0]) for one in found.activations]
        assert (seen, marks) == ([[1, 3]], [DeadlineExpired, 2.0, DeadlineExpired, 4.0])
        assert (found.forward_s, found.encode_s, found.reused_tokens) == (1.0, 2.0, 3)
        assert found.table is NO_FEATURES

    async def test_a_batch_that_nobody_wants_is_not_read(self, start: Start) -> None:
        """The engine is not asked for nothing."""
        gate = Gate()

        found = await start(gate).encode([*batch(1), *batch(2)], lambda _: False)

        assert gate.seen == []
        assert [type(one) for one in found.activations] == [DeadlineExpired] * 2

    async def test_it_is_asked_when_the_batch_before_has_ended(self, start: Start) -> None:
        """Who leaves while another batch runs is known to have left."""
        gate, wanted = Gate(), [True]
        engine = start(gate)
        waiters = [asyncio.create_task(engine.encode(batch(mark), lambda _: wanted[0])) for mark in (1, 2)]
        await gate.wait_until_entered()
        wanted[0] = False
        gate.open.release()
        await asyncio.gather(*waiters)

        assert gate.seen == [1]


class TestWatchdog:
    """Over engines that stop in a batch and may never come back."""

    @pytest.fixture
    def watched(self, deaths: list[EngineDied]) -> Iterator[Callable[[Run], Worker]]:
        started: list[tuple[Worker, Gate]] = []

        def _start(gate: Gate) -> Worker:
            started.append((Worker(gate, deaths.append, longest_s=lambda tokens: 0.05 * tokens), gate))
            return started[-1][0]

        yield _start
        for worker, gate in started:
            gate.open.release(100)
            worker.stop()

    async def test_a_batch_that_hangs_is_a_death(
        self, watched: Start, deaths: list[EngineDied], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whoever waits is told, whoever comes is refused, `on_death` is called once, and the log says how large it was."""
        gate = Gate()
        engine = watched(gate)
        waiters = [asyncio.create_task(engine.encode(batch(mark))) for mark in (1, 2)]
        waiters.append(asyncio.create_task(engine.run(lambda: answer_to(batch(3)))))

        assert [EngineDied] * 3 == await outcomes(*waiters)
        with pytest.raises(EngineDied, match="hangs"):
            await engine.encode(batch(4))
        (record,) = [one for one in caplog.records if one.levelname == "CRITICAL"]
        assert (record.getMessage(), record.tokens) == ("the engine hangs", 1)
        await asyncio.to_thread(wait_until, lambda: deaths, "nobody was told")
        assert 1 == len(deaths)

    async def test_a_job_that_reads_hangs_no_longer_than_a_batch(
        self, watched: Start, deaths: list[EngineDied]
    ) -> None:
        """A job that says how many tokens it reads is the engine's death when it hangs; others may take any time."""
        go_on, engine = threading.Event(), watched(Gate())
        with pytest.raises(EngineDied, match="hangs"):
            await engine.run(lambda: go_on.wait(60), tokens=1)
        go_on.set()
        await asyncio.to_thread(wait_until, lambda: deaths, "nobody was told")

    @pytest.mark.parametrize("failure", [None, ValueError(), SystemExit()])
    async def test_an_engine_that_comes_back_from_the_dead_stays_dead(
        self,
        watched: Start,
        deaths: list[EngineDied],
        caplog: pytest.LogCaptureFixture,
        failure: BaseException | None,
    ) -> None:
        """A batch that ends after all, well or badly, is nobody's answer any more, and its thread ends."""
        gate = Gate(**({"mark_1": failure} if failure else {}))
        engine = watched(gate)
        await outcomes(asyncio.create_task(engine.encode(batch(1))))
        gate.open.release()
        engine._thread.join(30)

        assert not engine._thread.is_alive()
        assert 1 == len(deaths)
        died_again = [one.getMessage() for one in caplog.records].count("the engine died")
        assert died_again == isinstance(failure, SystemExit)
        with pytest.raises(EngineDied, match="hangs"):
            await engine.encode(batch(2))

    async def test_a_larger_batch_may_take_longer(self, watched: Start, deaths: list[EngineDied]) -> None:
        """The bound is that of the batch's own tokens."""
        gate = Gate()
        engine = watched(gate)
        large = asyncio.create_task(engine.encode([np.ones(10_000, np.int32)]))
        await gate.wait_until_entered()
        await asyncio.sleep(0.6)
        gate.open.release()

        assert [1] == await outcomes(large)
        assert not deaths

    async def test_other_jobs_take_the_time_they_need(self, watched: Start, deaths: list[EngineDied]) -> None:
        """A job that is no batch, such as compiling kernels, is not bounded."""
        engine, go_on = watched(Gate()), threading.Event()
        job = asyncio.create_task(engine.run(lambda: go_on.wait(30)))
        await asyncio.sleep(0.6)
        go_on.set()

        assert await job
        assert not deaths

    async def test_stop_leaves_behind_what_hangs(self, start: Start, deaths: list[EngineDied]) -> None:
        """`stop` returns after the time it is given, and whoever waits is told."""
        gate = Gate()
        engine = start(gate)
        waiters = [asyncio.create_task(engine.encode(batch(mark))) for mark in (1, 2)]
        await gate.wait_until_entered()
        await asyncio.to_thread(engine.stop, 0.01)

        assert [EngineDied] * 2 == await outcomes(*waiters)
        assert not deaths
