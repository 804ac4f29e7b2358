"""Tells an engine that fails on everything from pairs that no engine could read."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from scopewatch.errors import EngineDied

log = logging.getLogger(__name__)


class Vitality:
    """Has the engine read a text of the service's own when batch after batch fails; if that fails, it is sick.

    Args:
        probe: Has the engine read a text that is known to be good; raises where it cannot.
        on_health: Told False when the engine turns sick and True when it works again.
        failures: The number of batches in a row, all of whose pairs failed, after which the engine is probed.
        pause_s: Seconds between two probes of a sick engine.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        on_health: Callable[[bool], Awaitable[None]],
        *,
        failures: int = 3,
        pause_s: float = 2.0,
    ) -> None:
        self._probe = probe
        self._on_health = on_health
        self._limit = failures
        self._pause_s = pause_s
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None

    def batch_ended(self, failed: bool) -> None:
        """Counts a batch.

        Args:
            failed: Whether the engine failed on all its pairs.
        """
        self._failures = self._failures + 1 if failed else 0
        if self._failures >= self._limit and not self._probing:
            self._probing = asyncio.create_task(self._examine(), name="probe")
            self._probing.add_done_callback(self._examined)

    async def close(self) -> None:
        """Probes no more."""
        if self._probing:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    async def _examine(self) -> None:
        failure = await self._failure()
        if not failure:
            return
        log.error("the engine fails on every text", exc_info=failure)
        await self._on_health(False)
        while failure:
            await asyncio.sleep(self._pause_s)
            failure = await self._failure()
        log.info("the engine works again")
        await self._on_health(True)

    async def _failure(self) -> Exception | None:
        try:
            await self._probe()
        except EngineDied:
            raise
        except Exception as failure:
            return failure
        return None

    def _examined(self, probing: asyncio.Task[None]) -> None:
        self._probing, self._failures = None, 0
        if not probing.cancelled() and (error := probing.exception()) and not isinstance(error, EngineDied):
            log.error("the engine was not examined to the end", exc_info=error)
