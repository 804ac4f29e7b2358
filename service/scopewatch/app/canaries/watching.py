"""Judges the canary pairs at the start, again and again, and after each reload, and says whether what runs is well."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from scopewatch.app.canaries.comparing import Verdict
from scopewatch.errors import EngineDied, ScopewatchError
from scopewatch.metrics.canary_counts import CanaryCounts
from scopewatch.watch.canary_file import Recorded

log = logging.getLogger(__name__)

_AGAIN_S = 10.0
"""The longest pause before the pairs are judged again when they are not as recorded, or the reader failed on them."""
_MOST_SHOWN = 10
"""How many problems a line of the log names."""


class CanaryWatch:
    """Has the canary pairs judged, and tells when they begin and end to be as recorded.

    Args:
        judge: Judges the pairs of a file by what runs.
        on_health: Told whether what runs is well, whenever that has changed.
        counts: Counts the runs.
        every_s: Seconds between two runs; 0 to judge at the start and after reloads alone.
    """

    def __init__(
        self,
        judge: Callable[[Recorded], Awaitable[Verdict]],
        on_health: Callable[[bool], Awaitable[None]],
        counts: CanaryCounts,
        every_s: float,
    ) -> None:
        self._judge = judge
        self._on_health = on_health
        self._counts = counts
        self._every_s = every_s
        self._recorded: Recorded | None = None
        self._well = True
        self._failures = 0
        self._told: tuple[str, ...] | None = None
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self, recorded: Recorded | None) -> None:
        """Judges the pairs for the first time, and goes on doing so.

        Args:
            recorded: The pairs; None where there are none.

        Raises:
            EngineDied: The engine is dead.
        """
        self.take(recorded)
        # Before it is ready for the first time, one failure is enough.
        self._failures = 1
        await self._run()
        self._task = asyncio.create_task(self._follow(), name="canaries")

    def take(self, recorded: Recorded | None) -> None:
        """Judges by these pairs from now on, or by none."""
        self._recorded, self._told = recorded, None
        if not recorded:
            self._counts.hide()

    def again(self) -> None:
        """Judges the pairs soon, whatever the schedule says."""
        self._asked.set()

    async def close(self) -> None:
        """Judges no more."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        while True:
            trouble = not self._well or self._failures
            pause_s = min(self._every_s, _AGAIN_S) if trouble else self._every_s
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), pause_s or None)
            self._asked.clear()
            try:
                await self._run()
            except EngineDied:
                return

    async def _run(self) -> None:
        if not (recorded := self._recorded):
            await self._say(True)
            return
        try:
            verdict = await self._judge(recorded)
        except EngineDied:
            raise
        except ScopewatchError as error:
            # Of one failure in a row, memory that was short for a moment may be the reason.
            self._failures += 1
            ill = self._failures > 1
            log.error("the reader failed on a canary pair", extra={"problem": str(error)})  # noqa: TRY400 - it says all
            self._counts.failed(ill=ill)
            if ill:
                await self._say(False)
            return
        self._failures = 0
        self._counts.judged(verdict.ok, verdict.deviations)
        self._tell(recorded, verdict)
        self._told = verdict.problems
        await self._say(verdict.ok)

    async def _say(self, well: bool) -> None:
        if well != self._well:
            self._well = well
            await self._on_health(well)

    def _tell(self, recorded: Recorded, verdict: Verdict) -> None:
        """Writes it to the log, unless it is what was written there before."""
        if verdict.problems == self._told:
            return
        about = {
            "file": str(recorded.file),
            "pairs": len(recorded.document.pairs),
            "not_covered": verdict.not_covered,
        }
        if verdict.ok:
            off = {"scores_off": float(f"{verdict.scores:.2g}"), "activations_off": float(f"{verdict.activations:.2g}")}
            log.info("canaries are as recorded", extra=about | off)
            return
        shown = verdict.problems[:_MOST_SHOWN]
        more = {"more_problems": len(verdict.problems) - len(shown), "differs": verdict.differs}
        log.error("canaries deviate: not ready", extra=about | {"problems": shown} | more)
