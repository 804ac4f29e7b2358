"""Other watchlists in the place of those that run, while calls are judged."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from scopewatch.app.canaries.judging import Canaries, recorded_canaries
from scopewatch.app.canaries.watching import CanaryWatch
from scopewatch.app.load import check_watchlists, labels_of
from scopewatch.app.watchlists import describe, watchlist_set
from scopewatch.config import Config
from scopewatch.engine.worker import Worker
from scopewatch.errors import WatchlistError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.monitor import Monitor
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.watch.watchlist import Watchlist

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine
    from scopewatch.engine.watching import Watching

log = logging.getLogger(__name__)


class Replacing:
    """Replaces the watchlists of a running spine.

    Args:
        monitor: Judges by them.
        engine: Watches what they read.
        worker: Where the engine runs.
        canaries: Compares those that run with those that are to take their place.
        canary_watch: Judges canaries from then on by what was recorded for them.
        metrics: Says what runs.
        config: Settings.
    """

    def __init__(
        self,
        monitor: Monitor,
        engine: "Engine",
        worker: Worker,
        *,
        canaries: Canaries,
        canary_watch: CanaryWatch,
        metrics: Metrics,
        config: Config,
    ) -> None:
        self._monitor = monitor
        self._engine = engine
        self._worker = worker
        self._canaries = canaries
        self._canary_watch = canary_watch
        self._metrics = metrics
        self._config = config
        self._one_at_a_time = asyncio.Lock()

    async def replace(self, watchlists: Sequence[Watchlist], shadows: Sequence[Watchlist] = ()) -> WatchlistSet:
        """Takes other watchlists in place of all that are loaded, while calls run.

        Calls that began before are judged by the watchlists they began with. Of features that are new only their own
        columns are loaded; what the cache holds serves every watchlist whose features it covers. Before one set takes
        the other's place, both judge the canary pairs.

        Args:
            watchlists: The watchlists from now on, at least one; they name the reader that runs.
            shadows: The shadow watchlists from now on; none has the name of another or of a watchlist.

        Returns:
            The watchlists that the next call is judged by.

        Raises:
            SetupError: One of them cannot run here; nothing has changed.
            EngineError: The engine fails on what was loaded; nothing has changed.
        """
        from scopewatch.engine.choices import choices, united

        if not watchlists:
            raise WatchlistError("a service needs at least one watchlist; name one")
        together = [*watchlists, *shadows]
        async with self._one_at_a_time, self._graphs_again():
            before, watching = self._monitor.watchlists, self._engine.watching
            reader, wanted = choices(together)
            running, held = choices(before.all_sources)
            if reader != running:
                raise WatchlistError(
                    f"{watchlists[0].where('reader')}: another reader runs; restart the service to change it"
                )
            head = any(watchlist.reads_head for watchlist in together)
            # Until the calls that began before are answered, the engine computes what either set reads.
            both = await asyncio.to_thread(self._engine.prepare, united(held, wanted), head=head or before.engine.head)
            check_watchlists(together, both.identity, strict=self._config.strict_cards)
            labels = await asyncio.to_thread(labels_of, self._config, both.identity)
            recorded = await asyncio.to_thread(recorded_canaries, self._config, watchlists)
            told = await self._canaries.of_running(before, watching, recorded)
            try:
                await self._install(both)
                exact = await asyncio.to_thread(self._engine.prepare, wanted, head=head)
                after = watchlist_set(watchlists, exact.identity, labels, shadows=shadows, version=before.version + 1)
                await self._canaries.compare(told, after, exact, recorded)
            except Exception:
                await self._install(watching)
                raise
            describe(self._metrics, after)
            await self._monitor.replace(after)
            await self._install(exact)
            self._canary_watch.take(recorded)
            log.info("watchlists replaced", extra={"version": after.version, "watchlists": after.digests})
            return after

    @asynccontextmanager
    async def _graphs_again(self) -> AsyncIterator[None]:
        """Records small passes as they are afterwards, one at a time: a batch waits for one recording at most."""
        try:
            yield
        finally:
            graphs = self._engine.graphs
            while graphs and not graphs.complete:
                await self._worker.run(graphs.record_next)

    async def _install(self, watching: "Watching") -> None:
        await self._worker.run(lambda: self._engine.install(watching))
