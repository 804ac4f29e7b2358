"""Watchlist files read again while calls run: on SIGHUP, when a file changes, or when an administrator asks.

Requests that come while a reload runs wait for it, and one more serves them all.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scopewatch.app.file_watch import Look, WatchedFiles, look_of
from scopewatch.errors import NotReady, ScopewatchError, WatchlistError
from scopewatch.metrics.reload_counts import ReloadCounts
from scopewatch.pipeline.watchlist_set import Reloaded, WatchlistSet
from scopewatch.watch.watchlist import Watchlist, load_watchlist

log = logging.getLogger(__name__)

_ACTION = "reload_watchlists"
Replace = Callable[[Sequence[Watchlist], Sequence[Watchlist]], Awaitable[WatchlistSet]]


class Told(Protocol):
    """Is told who had what done, and what came of it: the audit log."""

    def __call__(self, action: str, outcome: str, /, *, caller: str = "", **detail: object) -> None: ...


def unasked(_action: str, _caller: str) -> None:
    """Where nobody has to know before."""


def nobody(_action: str, _outcome: str, /, *, caller: str = "", **_detail: object) -> None:
    """Where there is no audit log."""


@dataclass(frozen=True, slots=True)
class WatchlistFiles:
    """The files that settings name."""

    live: tuple[Path, ...]
    shadows: tuple[Path, ...]
    canaries: tuple[Path, ...] = ()


class Reloader:
    """Reads the watchlist files again, and has what they say take the place of what runs.

    Args:
        files: The files.
        running: Gives the watchlists that run.
        replace: Takes other watchlists and shadows in place of these, or raises and changes nothing.
        metrics: Counts what comes of reloads.
        told: Is told of every reload, by whom it was asked for.
        asked: Is asked before every reload, for each who wants it, and may refuse it by raising; it may block.
        done: Is told of every reload that did not fail.
    """

    def __init__(
        self,
        files: WatchlistFiles,
        running: Callable[[], WatchlistSet],
        replace: Replace,
        metrics: ReloadCounts,
        told: Told = nobody,
        *,
        asked: Callable[[str, str], None] = unasked,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self._files = files
        self._watched = WatchedFiles((*files.live, *files.shadows), files.canaries)
        self._running = running
        self._replace = replace
        self._metrics = metrics
        self._told = told
        self._asked = asked
        self._done = done
        self._turn = asyncio.Lock()
        self._callers: list[str] = []
        self._next: asyncio.Task[Reloaded] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._canaries = self._watched.plain()
        """What the canary file held when it was last taken."""
        self._tried: Look = look_of(running().all_sources) | self._canaries
        """What the files held when they were read last."""

    async def reload(self, caller: str) -> Reloaded:
        """Reads the files, and judges by what they say from now on.

        Args:
            caller: Who asks: `SIGHUP`, `file`, or the name of an administrator.

        Raises:
            SetupError: Names every mistake; nothing has changed.
            EngineError: The engine failed on what was loaded; nothing has changed.
            NotReady: The service is shutting down.
        """
        if self._closed:
            raise NotReady("the service is shutting down")
        self._callers.append(caller)
        if self._next is None:
            self._next = self._start(self._run())
        # A caller who leaves does not stop what others wait for, too.
        return await asyncio.shield(self._next)

    def follow(self, every_s: float, hung_up: asyncio.Event) -> None:
        """Reloads from now on whenever a signal came or a file changed, until this is closed.

        Args:
            every_s: Seconds between two looks at the files; 0 to look at none.
            hung_up: Is set by the signal.
        """
        self._start(self._follow_signal(hung_up))
        if every_s:
            self._start(self._follow_files(every_s))

    async def close(self) -> None:
        """Stops following, and a reload that runs; nothing is replaced any more."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Nobody may wait for it any more, and what it raises was logged.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _follow_signal(self, hung_up: asyncio.Event) -> None:
        while True:
            await hung_up.wait()
            hung_up.clear()
            with suppress(Exception):
                await self.reload("SIGHUP")

    async def _follow_files(self, every_s: float) -> None:
        before = self._tried
        while True:
            await asyncio.sleep(every_s)
            seen = await asyncio.to_thread(self._watched.look)
            # What differs from the look before may be half written.
            if seen != self._tried and seen == before:
                with suppress(Exception):
                    await self.reload("file")
            before = seen

    async def _run(self) -> Reloaded:
        async with self._turn:
            callers, self._callers, self._next = self._callers, [], None
            try:
                for caller in callers:
                    await asyncio.to_thread(self._asked, _ACTION, caller)
                self._tried = await asyncio.to_thread(self._watched.look)
                reloaded = await self._replace_by_files()
            except Exception as error:
                self._say_failed(callers, error)
                raise
            result = "ok" if reloaded.changed else "unchanged"
            self._metrics.reloaded(result)
            self._done()
            runs = reloaded.watchlists
            for caller in callers:
                self._told(_ACTION, result, caller=caller, version=runs.version, watchlists=runs.digests)
            return reloaded

    async def _replace_by_files(self) -> Reloaded:
        live, shadows = await asyncio.to_thread(lambda: _load(self._files))
        canaries = await asyncio.to_thread(self._watched.plain)
        running = self._running()
        same = [_digests(live), _digests(shadows)] == [_digests(running.sources), _digests(running.shadow_sources)]
        if same and canaries == self._canaries:
            return Reloaded(running, changed=False)
        replaced = await self._replace(live, shadows)
        self._canaries = canaries
        return Reloaded(replaced, changed=True)

    def _say_failed(self, callers: Sequence[str], error: Exception) -> None:
        self._metrics.reloaded("failed")
        ours = isinstance(error, ScopewatchError)
        problems = str(error).splitlines() if ours else [type(error).__name__]
        log.error(
            "watchlists were not replaced",
            extra={"callers": callers, "problems": problems},
            exc_info=None if ours else error,
        )
        for caller in callers:
            self._told(_ACTION, "failed", caller=caller, problems=problems)


def _load(files: WatchlistFiles) -> tuple[list[Watchlist], list[Watchlist]]:
    """The watchlists and the shadows that files hold.

    Raises:
        WatchlistError: Names the mistakes of all files.
    """
    mistakes: list[str] = []

    def load(file: Path) -> list[Watchlist]:
        try:
            return [load_watchlist(file)]
        except WatchlistError as error:
            mistakes.append(str(error))
            return []

    live, shadows = ([one for file in some for one in load(file)] for some in (files.live, files.shadows))
    if mistakes:
        raise WatchlistError("\n".join(mistakes))
    return live, shadows


def _digests(watchlists: Sequence[Watchlist]) -> list[str]:
    return [watchlist.digest for watchlist in watchlists]
