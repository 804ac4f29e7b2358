"""Explanations behind scoring: a real batcher, turns, and an engine by a clock that only this test moves."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pytest

from conftest import activations
from scopewatch.engine.worker import Worker
from scopewatch.errors import EngineDied, EngineError
from scopewatch.explain.turns import Turns
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher
from scopewatch.types import Caller, EncodedBatch
from virtual_time import in_virtual_time

T = TypeVar("T")
TOKENS = 10
BATCH_S, STEP_S, UNTIL_S = 0.02, 0.03, 40.0
BEHIND = Caller("explain", behind=True)


@dataclass
class Engine:
    """Batches and jobs one after another, as they came; both take the time that they say."""

    at_work: asyncio.Lock = field(default_factory=asyncio.Lock)
    batches: int = 0
    step_s: float = 0.0
    """How long steps had the engine."""
    ends_s: list[float] = field(default_factory=list)
    """When each step ended."""
    _job_s: float = 0.0

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self._job_s

    async def encode(self, batch: Sequence[np.ndarray], _wanted: object) -> EncodedBatch:
        async with self.at_work:
            await asyncio.sleep(BATCH_S)
            self.batches += 1
            return EncodedBatch([activations(len(ids)) for ids in batch], BATCH_S, 0.0)

    async def run(self, job: Callable[[], T]) -> T:
        async with self.at_work:
            try:
                return job()
            finally:
                lasts_s, self._job_s = self._job_s, 0.0
                self.step_s += lasts_s
                await asyncio.sleep(lasts_s)
                self.ends_s.append(self.clock())

    def steps(self, count: int, seconds: float = STEP_S) -> Generator[None, None, str]:
        for _ in range(count):
            self._job_s = seconds
            yield
        return "done"


@asynccontextmanager
async def at_work() -> AsyncIterator[tuple[Engine, Batcher, Turns]]:
    engine = Engine()
    clock = asyncio.get_running_loop().time
    batcher = Batcher(
        engine.encode, max_batch_tokens=4 * TOKENS, max_queue_tokens=10_000, metrics=Metrics(), clock=clock
    )
    yield engine, batcher, Turns(engine.run, lambda: batcher.quiet_s, engine.clock)
    await batcher.close()


async def calling(batcher: Batcher, until_s: float, pause_s: float, caller: Caller = Caller()) -> int:  # noqa: B008
    """How many pairs somebody has scored who asks again a while after each answer."""
    answered, clock = 0, asyncio.get_running_loop().time
    while clock() < until_s:
        await batcher.submit(np.zeros(TOKENS, np.int32), caller=caller)
        answered += 1
        await asyncio.sleep(pause_s)
    return answered


@pytest.mark.parametrize("callers", [1, 2, 8])
@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.01, 0.1, 0.25, 0.3, 1.0])
def test_scoring_keeps_its_rate_and_explanations_end(callers: int, pause_s: float) -> None:
    """However busily others score, they lose no more than a twentieth to a stream of explanations, which goes on too."""

    async def answered(*, explaining: bool) -> tuple[int, float, int]:
        async with at_work() as (engine, batcher, turns):
            work = asyncio.create_task(turns.drive(engine.steps(1_000_000))) if explaining else None
            counts = await asyncio.gather(*(calling(batcher, UNTIL_S, pause_s) for _ in range(callers)))
            steps = len(engine.ends_s)
            if work:
                work.cancel()
            return sum(counts), engine.step_s, steps

    (alone, _, _), (beside, _, steps) = (
        in_virtual_time(answered(explaining=explaining)) for explaining in (False, True)
    )

    assert beside >= 0.945 * alone
    assert steps * STEP_S >= 0.045 * UNTIL_S


def test_under_load_a_step_waits_nineteen_times_as_long_as_the_last_one_took() -> None:
    """Where pairs always wait, the engine's time is shared 19 to 1, whatever the length of steps."""

    async def shares() -> list[float]:
        async with at_work() as (engine, batcher, turns):
            load = [asyncio.create_task(calling(batcher, 1e9, 0.0)) for _ in range(8)]
            found = []
            for seconds in (0.005, 0.03, 0.4):
                began_s, before_s = engine.clock(), engine.step_s
                await turns.drive(engine.steps(20, seconds))
                found.append((engine.step_s - before_s) / (engine.clock() - began_s))
            for task in load:
                task.cancel()
            return found

    assert all(0.04 <= share <= 0.053 for share in in_virtual_time(shares()))


def test_where_nobody_scores_step_follows_step() -> None:
    """An engine that nobody asked for a while is used without a pause; what explanations read themselves is nobody's asking."""

    async def spent_s() -> tuple[float, float]:
        async with at_work() as (engine, batcher, turns):
            await turns.drive(engine.steps(10))
            alone_s = engine.clock()
            await calling(batcher, engine.clock() + BATCH_S / 2, 0.0, BEHIND)
            await turns.drive(engine.steps(10))
            return alone_s, engine.clock() - alone_s

    alone_s, behind_its_own_s = in_virtual_time(spent_s())

    assert alone_s == pytest.approx(10 * STEP_S)
    assert behind_its_own_s == pytest.approx(BATCH_S + 10 * STEP_S)


def test_no_step_goes_while_a_pair_waits_or_is_read() -> None:
    """A step that is due soon after another leaves the engine to the pairs that are there, to the last of them."""

    async def ended_s() -> tuple[list[float], float]:
        async with at_work() as (engine, batcher, turns):
            await turns.drive(engine.steps(1))
            asked = [asyncio.create_task(batcher.submit(np.zeros(TOKENS, np.int32))) for _ in range(40)]
            await asyncio.sleep(0)
            explained = asyncio.create_task(turns.drive(engine.steps(1)))
            await asyncio.gather(*asked)
            scored_s = engine.clock()
            await explained
            return engine.ends_s, scored_s

    ends_s, scored_s = in_virtual_time(ended_s())

    assert [end_s for end_s in ends_s if STEP_S + 1e-9 < end_s <= scored_s] == []


class Noted:
    """Steps that note on which thread they run, and wait there for the test."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.running, self.go_on = threading.Event(), threading.Event()
        self.closed_on = ""

    def steps(self) -> Generator[None, None, int]:
        try:
            for number in range(3):
                self.threads.append(threading.current_thread().name)
                self.running.set()
                self.go_on.wait(30)
                if number == 2:
                    raise EngineError("it fails")
                yield
        finally:
            self.closed_on = threading.current_thread().name
        return 3


async def test_work_that_is_cancelled_is_closed_on_the_engines_thread() -> None:
    """Whoever leaves in the middle of a step leaves nothing open, and nobody closes steps that run."""
    worker, noted = Worker(lambda _: EncodedBatch([], 0, 0), lambda _: None), Noted()
    work = asyncio.create_task(Turns(worker.run, lambda: 1e9).drive(noted.steps()))
    await asyncio.to_thread(noted.running.wait, 30)
    work.cancel()
    await asyncio.sleep(0.01)
    assert (noted.closed_on, work.done()) == ("", False)
    noted.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert noted.threads == ["engine"]
    assert noted.closed_on == "engine"
    worker.stop()


async def test_what_a_step_raises_ends_the_work_and_nobody_elses() -> None:
    """An error of a step is the work's; the engine goes on, and a dead one is said to be dead."""
    worker, noted = Worker(lambda _: EncodedBatch([], 0, 0), lambda _: None), Noted()
    noted.go_on.set()
    turns = Turns(worker.run, lambda: 1e9)
    with pytest.raises(EngineError, match="it fails"):
        await turns.drive(noted.steps())
    assert await turns.run(lambda: 4) == 4
    assert (noted.threads, noted.closed_on) == (["engine"] * 3, "engine")
    worker.stop()
    with pytest.raises(EngineDied):
        await turns.drive(Noted().steps())
