"""All watchlists that run together: one version of them, which is replaced as a whole."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from scopewatch.errors import FieldViolation, UnknownWatchlist
from scopewatch.identity import EngineIdentity
from scopewatch.metrics import UNKNOWN
from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.watch.watchlist import Watchlist


@dataclass(frozen=True, slots=True)
class WatchlistSet:
    """The watchlists of a process and what they run on."""

    version: int
    """Counted from 1, one more with every replacement."""
    engine: EngineIdentity
    """The reader and the SAEs, with every watched feature."""
    by_name: Mapping[str, CompiledWatchlist]
    """The first is the default."""
    shadows: tuple[CompiledWatchlist, ...] = ()
    """Watchlists that judge a share of the pairs beside, for metrics alone; no caller can name them."""

    @property
    def sources(self) -> list[Watchlist]:
        """The watchlists as their files say."""
        return [watchlist.source for watchlist in self.by_name.values()]

    @property
    def all_compiled(self) -> list[CompiledWatchlist]:
        """The watchlists and the shadows."""
        return [*self.by_name.values(), *self.shadows]

    @property
    def shadow_sources(self) -> list[Watchlist]:
        """The shadows as their files say."""
        return [watchlist.source for watchlist in self.shadows]

    @property
    def all_sources(self) -> list[Watchlist]:
        """The watchlists and the shadows as their files say."""
        return self.sources + self.shadow_sources

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of the file of each watchlist and each shadow, by its name."""
        return {watchlist.name: watchlist.digest for watchlist in self.all_sources}

    def named(self, name: str) -> CompiledWatchlist:
        """The watchlist of this name; the default one for an empty name.

        Raises:
            UnknownWatchlist: There is none.
        """
        watchlist = self.by_name.get(name) if name else next(iter(self.by_name.values()))
        if watchlist is None:
            known = ", ".join(self.by_name)
            raise UnknownWatchlist(
                FieldViolation("watchlist", f"no watchlist of this name is loaded; there are: {known}")
            )
        return watchlist

    def known_as(self, name: str) -> str:
        """What metrics call the watchlist of this name; the same for all names of which there is no watchlist."""
        found = name if name in self.by_name else UNKNOWN
        return found if name else next(iter(self.by_name))


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the watchlist files again."""

    watchlists: WatchlistSet
    """The watchlists that the next call is judged by."""
    changed: bool
    """Whether the files were others than those that ran."""


class RunningSet:
    """A version of the watchlists, and how many calls began with it and are not answered yet.

    Args:
        watchlists: The version.
    """

    def __init__(self, watchlists: WatchlistSet) -> None:
        self.watchlists = watchlists
        self._calls = 0
        self._answered = asyncio.Event()

    def begin(self) -> None:
        """Counts a call that is judged by these watchlists."""
        self._calls += 1

    def end(self) -> None:
        """Counts such a call as answered."""
        self._calls -= 1
        if not self._calls:
            self._answered.set()

    async def answered(self) -> None:
        """Waits until every call is answered that began with these watchlists; none may begin any more."""
        if self._calls:
            self._answered.clear()
            await self._answered.wait()
