"""The running spine: builds the parts, hands each what it needs of others, replaces watchlists, closes everything."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from scopewatch.app.caching import cache_of
from scopewatch.app.canaries.comparing import check_covers
from scopewatch.app.canaries.hearing import Hearing
from scopewatch.app.canaries.judging import Canaries, recorded_canaries
from scopewatch.app.canaries.watching import CanaryWatch
from scopewatch.app.dated import dated
from scopewatch.app.explaining import Explanations, explanations
from scopewatch.app.load import Loaded, load
from scopewatch.app.records import Records
from scopewatch.app.reload import Reloader, WatchlistFiles
from scopewatch.app.replacing import Replacing
from scopewatch.app.tokenising import Tokenising
from scopewatch.app.warm_up import probe, warm_up
from scopewatch.app.watchlists import describe, watchlist_set
from scopewatch.config import Config
from scopewatch.engine.worker import Worker
from scopewatch.errors import EngineDied, NotReady, ScopewatchError
from scopewatch.events import PairFailed
from scopewatch.explain.turns import Turns
from scopewatch.explanation import Explanation, Wants
from scopewatch.files import expanded
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher
from scopewatch.pipeline.cached_value import CachedValues
from scopewatch.pipeline.expected import Expected
from scopewatch.pipeline.judgements import Judgements
from scopewatch.pipeline.monitor import Monitor
from scopewatch.pipeline.pace import Pace
from scopewatch.pipeline.shadows import Shadows
from scopewatch.pipeline.stages import Judged
from scopewatch.pipeline.vitality import Vitality
from scopewatch.pipeline.watchlist_set import Reloaded, WatchlistSet
from scopewatch.sources import TODAY
from scopewatch.types import Caller, ScoreJob
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.watchlist import Watchlist

log = logging.getLogger(__name__)

_CLOSE_S = 1.0
"""What a batch gets that still runs when the last call has left, and then its thread."""
_STALLED = 10
"""How many times as long as it should a batch may take, and `stall_s` more, before the engine is given up."""


async def _nobody_asks(part: str, well: bool) -> None:
    """Whom a command tells that its engine works or not."""


class Spine:
    """The running parts, as doors and commands see them; made by `running_spine`."""

    def __init__(
        self,
        monitor: Monitor,
        *,
        replacing: Replacing,
        canaries: Canaries,
        canary_watch: CanaryWatch,
        explanations: Explanations,
        metrics: Metrics,
        config: Config,
        records: Records,
    ) -> None:
        self._monitor = monitor
        self._canaries = canaries
        self._canary_watch = canary_watch
        self._explanations = explanations
        self._records = records
        self._config = config
        self._replacing = replacing
        self._follows_clock = self.watchlists.sources[0].reader.date == TODAY
        canary_file = (expanded(config.canaries),) if config.canaries else ()
        files = WatchlistFiles(config.watchlist, config.shadow, canary_file)
        self._reloader = Reloader(
            files,
            lambda: self.watchlists,
            self.replace_watchlists,
            metrics.reloads,
            records.told,
            asked=records.asked,
            done=canary_watch.again,
        )

    @property
    def hearing(self) -> Hearing:
        """What has watchlists judge canary pairs, for whoever records or checks them."""
        return self._canaries.hearing

    @property
    def watchlists(self) -> WatchlistSet:
        """The watchlists that the next call is judged by, and what they run on."""
        return self._monitor.watchlists

    async def score(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        """Scores jobs; each succeeds or fails alone, in the order given."""
        if self._follows_clock:
            jobs = [dated(job) for job in jobs]
        return await self._monitor.score(jobs)

    def tell_failed(self, failed: Sequence[PairFailed]) -> None:
        """Tells whoever listens that pairs got an error on their way to be scored."""
        self._monitor.tell_failed(failed)

    async def read(self, job: ScoreJob) -> Judged:
        """Reads and judges one pair as `score` does, with all that it was judged by; nobody is told of it.

        Raises:
            ScopewatchError: The pair cannot be scored.
        """
        return await self._monitor.read(dated(job) if self._follows_clock else job)

    async def explain(self, job: ScoreJob, wants: Wants) -> Explanation:
        """Tells why a pair gets its verdict, when the engine has time for it.

        Raises:
            ScopewatchError: As of `Explainer.explain`; NotReady also where it cannot be recorded.
        """
        return await self._explanations.explain(dated(job) if self._follows_clock else job, wants)

    def kept_pair(self, request_id: str, caller: Caller) -> ScoreJob:
        """The pair that was scored under this id, from the texts that are kept; of several the last one. Blocks.

        Raises:
            NotKept: There is none, or it is another tenant's.
            NotReady: It cannot be recorded that they are asked for.
        """
        return self._records.kept_pair(request_id, caller)

    async def reload_watchlists(self, caller: str) -> Reloaded:
        """Reads the watchlist files again, and judges by what they say from now on.

        Args:
            caller: The name of who asks.

        Raises:
            SetupError: Names every mistake; nothing has changed.
            EngineError: The engine failed on what was loaded; nothing has changed.
            NotReady: The service is shutting down.
        """
        return await self._reloader.reload(caller)

    async def watch_canaries(self) -> None:
        """Judges the canary pairs, if there are any, and goes on doing so; pairs are refused while they deviate.

        Raises:
            DataError: The canary file is not in order, or is for other watchlists.
            EngineDied: The engine is dead.
        """
        recorded = await asyncio.to_thread(recorded_canaries, self._config, self.watchlists.sources)
        if recorded:
            check_covers(recorded, self.watchlists)
        await self._canary_watch.begin(recorded)

    def follow_files(self, hung_up: asyncio.Event) -> None:
        """Reloads from now on whenever a watchlist file changed, if settings say so, or the event is set, by SIGHUP."""
        self._reloader.follow(self._config.watch_files_s, hung_up)

    async def close(self) -> None:
        """Stops reloading, and judging canaries; calls are still answered."""
        await self._reloader.close()
        await self._canary_watch.close()

    async def replace_watchlists(
        self, watchlists: Sequence[Watchlist], shadows: Sequence[Watchlist] = ()
    ) -> WatchlistSet:
        """Takes other watchlists in place of all that are loaded, as `Replacing.replace` says."""
        return await self._replacing.replace(watchlists, shadows)


@asynccontextmanager
async def running_spine(
    loaded: Loaded,
    config: Config,
    metrics: Metrics,
    *,
    on_death: Callable[[EngineDied], None] = lambda _: None,
    on_health: Callable[[str, bool], Awaitable[None]] = _nobody_asks,
    records: Records = Records((), None),  # noqa: B008 - immutable
) -> AsyncIterator[Spine]:
    """The spine, warmed up, with its engine thread, batcher and cache; everything is closed on leaving.

    Args:
        loaded: From `load`.
        config: Settings.
        metrics: Where everything is counted.
        on_death: Called from another thread when the engine dies, or hangs, which is the same.
        on_health: Told False of a part, `engine` or `canaries`, when it is found ill, and True when it is well again.
        records: Where it is written down what happens.
    """
    # First, since a bad Redis URL raises and nothing is open yet.
    cache = cache_of(config, metrics)
    engine = loaded.engine
    pace = Pace()
    worker = Worker(
        engine.runner, on_death, longest_s=lambda tokens: config.stall_s + _STALLED * pace.at_most_s(tokens)
    )
    vitality = Vitality(lambda: probe(worker, engine), partial(on_health, "engine"))
    tokenisers = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
    secret = config.cache_secret.get_secret_value().encode()
    shadows = Shadows(config.shadow_share, secret, metrics.shadows)
    batcher = Batcher(
        worker.encode,
        max_batch_tokens=engine.max_batch_tokens,
        max_queue_tokens=config.max_queue_tokens,
        metrics=metrics,
        pace=pace,
        batch_ended=vitality.batch_ended,
    )
    spine = None
    try:
        watchlists = watchlist_set(loaded.watchlists, engine.identity, loaded.labels, shadows=loaded.shadows, version=1)
        describe(metrics, watchlists)
        records.told("load_watchlists", "ok", caller="start", version=watchlists.version, watchlists=watchlists.digests)
        await warm_up(worker, engine, pace)
        monitor = Monitor(
            tokenise=Tokenising(engine.tokeniser.readings, tokenisers),
            submit=batcher.submit,
            expected=Expected(batcher.refuse_late),
            cache=cache,
            values=CachedValues(engine.identity.reader, secret),
            watchlists=watchlists,
            metrics=metrics,
            max_evidence=config.max_evidence,
            judgements=Judgements(config.cache_bytes // 2) if config.cache_bytes else None,
            shadows=shadows,
            listeners=[metrics.pairs_scored, *records.listeners],
            failure_listeners=records.failure_listeners,
        )
        turns = Turns(partial(worker.run, tokens=engine.max_tokens), lambda: batcher.quiet_s)
        canaries = Canaries(Hearing(engine, worker, tokenisers, turns))

        async def canaries_judged(well: bool) -> None:
            monitor.refuse(None if well else NotReady("the reader does not score canary pairs as recorded"))
            await on_health("canaries", well)

        canary_watch = CanaryWatch(
            lambda recorded: canaries.judge(recorded, lambda: monitor.watchlists),
            canaries_judged,
            metrics.canaries,
            config.canary_s,
        )
        spine = Spine(
            monitor,
            replacing=Replacing(
                monitor, engine, worker, canaries=canaries, canary_watch=canary_watch, metrics=metrics, config=config
            ),
            canaries=canaries,
            canary_watch=canary_watch,
            explanations=explanations(
                engine, worker, monitor, batcher, config=config, metrics=metrics, records=records
            ),
            metrics=metrics,
            config=config,
            records=records,
        )
        yield spine
    finally:
        if spine:
            await spine.close()
        await vitality.close()
        await batcher.close(_CLOSE_S)
        await cache.close()
        worker.stop(_CLOSE_S)
        shadows.close()
        tokenisers.shutdown(wait=False)


@asynccontextmanager
async def offline(config: Config, loaded: Loaded | None = None) -> AsyncIterator[Spine]:
    """The same spine without a door, for commands that read files; no shadow judges there.

    Args:
        config: Settings.
        loaded: What is loaded already, if anything is.
    """
    if loaded is None:
        loaded = await asyncio.to_thread(load, config.model_copy(update={"shadow": ()}))
    async with running_spine(loaded, config, Metrics()) as spine:
        yield spine
