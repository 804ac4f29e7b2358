"""Turns at the engine for explanations: strictly behind what is scored, and never without end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from scopewatch.engine.looks import Steps
from scopewatch.errors import EngineDied

T = TypeVar("T")

RESTS = 19
"""For how many times as long as a step took the engine is left to pairs while some are scored: it gets a twentieth."""
_QUIET = RESTS / 2
"""For how many times as long as a step took nobody may have asked for the engine before the next one goes at once. Who
asks again after a longer pause finds a step that has half of its time left, on average: a twentieth again."""

_LOOK_S = 0.001
"""The shortest wait for a turn."""


class Run(Protocol):
    """Runs a job on the engine's thread: `Worker.run`."""

    def __call__(self, job: Callable[[], T], /) -> Awaitable[T]: ...


class _Ended(NamedTuple, Generic[T]):
    """The result of work whose last step is done."""

    result: T


class Turns:
    """Gives the engine to steps of explanations, one at a time.

    Where nobody scores, step follows step. While pairs are scored, steps take at most a twentieth of the engine's time,
    so that explanations end under any load, and scoring keeps its rate but for that.

    Args:
        run: Runs a job on the engine's thread.
        quiet_s: For how many seconds no pair has been scored; 0 while one waits or is read.
        clock: Seconds, monotonic.
    """

    def __init__(self, run: Run, quiet_s: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._quiet_s = quiet_s
        self._clock = clock
        self._last_s, self._ended_s = 0.0, -inf

    async def turn(self) -> None:
        """Waits until a step may go."""
        while (wait_s := self._wait_s()) > 0:  # noqa: ASYNC110 - what it waits for is that nothing happens
            await asyncio.sleep(max(wait_s, _LOOK_S))

    def took(self, seconds: float) -> None:
        """Notes that a step ended now, which had the engine for so many seconds."""
        if seconds:
            self._last_s, self._ended_s = seconds, self._clock()

    async def run(self, work: Callable[[], T]) -> T:
        """Waits for its turn, and for what some work returns, which is done as one step on the engine's thread.

        Raises:
            EngineDied: The engine is dead, or dies while this waits.
        """
        await self.turn()
        return await self._run(partial(self._timed, work))

    async def drive(self, steps: Steps[T]) -> T:
        """Waits for the result of work that is done step by step; between two of them, whoever scores has the engine.

        Args:
            steps: The work. It is closed on the engine's thread if this is cancelled.

        Raises:
            EngineDied: The engine is dead, or dies while this waits.
        """
        try:
            while (ended := await self.run(partial(_step, steps))) is None:
                pass
        except BaseException:
            # A step may run still, and this comes behind it.
            with suppress(EngineDied):
                await asyncio.shield(self._run(steps.close))
            raise
        return ended.result

    def _wait_s(self) -> float:
        """The seconds until nobody has asked for long enough, or the engine was left to others for long enough."""
        to_quiet_s = _QUIET * self._last_s - self._quiet_s()
        to_rested_s = self._ended_s + RESTS * self._last_s - self._clock()
        return min(to_quiet_s, to_rested_s)

    def _timed(self, work: Callable[[], T]) -> T:
        started_s = self._clock()
        try:
            return work()
        finally:
            self.took(self._clock() - started_s)


def _step(steps: Steps[T]) -> _Ended[T] | None:
    """Takes one step; the result once there is none left."""
    try:
        next(steps)
    except StopIteration as end:
        result: Any = end.value
        return _Ended(result)
    return None
