"""Builds the parts of the spine, hands each what it needs of the others, replaces watchlists, and closes everything."""

import asyncio
import logging
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

import scopewatch
from scopewatch.app.load import Loaded, check_watchlists, labels_of, load
from scopewatch.config import Config
from scopewatch.engine.worker import Worker
from scopewatch.errors import EngineDied, EngineError, InvalidRequest, ScopewatchError, WatchlistError
from scopewatch.events import PairsScored
from scopewatch.identity import EngineIdentity, FeatureKey
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher
from scopewatch.pipeline.cache import Cache, LocalCache, RedisCache
from scopewatch.pipeline.cached_value import CachedValues
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.judgements import Judgements
from scopewatch.pipeline.monitor import Monitor
from scopewatch.pipeline.pace import Pace
from scopewatch.pipeline.redis_client import redis_client
from scopewatch.pipeline.vitality import Vitality
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.sources import TODAY, today
from scopewatch.types import Cleaning, EncodedBatch, Pair, ScoreJob, TokenisedPair
from scopewatch.verdicts import Label, ScoredPair
from scopewatch.watch.watchlist import Watchlist

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine

log = logging.getLogger(__name__)

_SHORT_TOKENS = 64
_STALLED = 10
"""How many times as long as it should a batch may take, and `stall_s` more, before the engine is given up."""


async def _nobody_asks(works: bool) -> None:
    """Whom a command tells that its engine works or not."""


class Spine:
    """The running parts, as doors and commands see them; made by `running_spine`."""

    def __init__(self, monitor: Monitor, engine: "Engine", worker: Worker, metrics: Metrics, config: Config) -> None:
        self._monitor = monitor
        self._engine = engine
        self._worker = worker
        self._metrics = metrics
        self._config = config
        self._replacing = asyncio.Lock()
        self._follows_clock = self.watchlists.sources[0].reader.date == TODAY

    @property
    def watchlists(self) -> WatchlistSet:
        """The watchlists that the next call is judged by, and what they run on."""
        return self._monitor.watchlists

    async def score(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        """Scores jobs; each succeeds or fails alone, in the order given."""
        if self._follows_clock:
            day = today()
            jobs = [_dated(job, day) for job in jobs]
        return await self._monitor.score(jobs)

    async def replace_watchlists(self, watchlists: Sequence[Watchlist]) -> None:
        """Takes other watchlists in place of all that are loaded, while calls run.

        Calls that began before are judged by the watchlists they began with. Of features that are new only their own
        columns are loaded; what the cache holds serves every watchlist whose features it covers.

        Args:
            watchlists: The watchlists from now on, at least one; they name the reader that runs.

        Raises:
            SetupError: One of them cannot run here; nothing has changed.
        """
        from scopewatch.engine.choices import choices, united

        if not watchlists:
            raise WatchlistError("a service needs at least one watchlist; name one")
        async with self._replacing:
            before = self.watchlists
            reader, wanted = choices(watchlists)
            running, held = choices(before.sources)
            if reader != running:
                raise WatchlistError(
                    f"{watchlists[0].where('reader')}: another reader runs; restart the service to change it"
                )
            head = any(watchlist.reads_head for watchlist in watchlists)
            # Until the calls that began before are answered, the engine computes what either set reads.
            both = await asyncio.to_thread(self._engine.prepare, united(held, wanted), head=head or before.engine.head)
            check_watchlists(watchlists, both.identity, strict=self._config.strict_cards)
            labels = await asyncio.to_thread(labels_of, self._config, both.identity)
            await self._worker.run(lambda: self._engine.install(both))
            exact = await asyncio.to_thread(self._engine.prepare, wanted, head=head)
            after = watchlist_set(watchlists, exact.identity, labels, version=before.version + 1)
            self._metrics.describe(after.engine, after.sources, versions())
            await self._monitor.replace(after)
            await self._worker.run(lambda: self._engine.install(exact))
            log.info("watchlists replaced", extra={"version": after.version, "watchlists": list(after.by_name)})


@asynccontextmanager
async def running_spine(
    loaded: Loaded,
    config: Config,
    metrics: Metrics,
    *,
    on_death: Callable[[EngineDied], None] = lambda _: None,
    on_health: Callable[[bool], Awaitable[None]] = _nobody_asks,
    listeners: Sequence[PairsScored] = (),
) -> AsyncIterator[Spine]:
    """The spine, warmed up, with its engine thread, batcher and cache; everything is closed on leaving.

    Args:
        loaded: From `load`.
        config: Settings.
        metrics: Where everything is counted.
        on_death: Called from another thread when the engine dies, or hangs, which is the same.
        on_health: Told False when the engine begins to fail on every text, and True when it works again.
        listeners: Are told of every pair that is scored, after the metrics.
    """
    # First, since a bad Redis URL raises and nothing is open yet.
    cache = _cache(config, metrics)
    engine = loaded.engine
    pace = Pace()
    worker = Worker(
        engine.runner, on_death, longest_s=lambda tokens: config.stall_s + _STALLED * pace.at_most_s(tokens)
    )
    vitality = Vitality(lambda: _probe(worker, engine), on_health)
    tokenisers = ThreadPoolExecutor(1, thread_name_prefix="tokenise")

    async def tokenise(
        pairs: Sequence[Pair], cleanings: Sequence[Cleaning]
    ) -> list[tuple[TokenisedPair, ...] | InvalidRequest]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(tokenisers, engine.tokeniser.readings, pairs, cleanings)

    batcher = Batcher(
        worker.encode,
        max_batch_tokens=engine.max_batch_tokens,
        max_queue_tokens=config.max_queue_tokens,
        metrics=metrics,
        pace=pace,
        batch_ended=vitality.batch_ended,
    )
    try:
        watchlists = watchlist_set(loaded.watchlists, engine.identity, loaded.labels, version=1)
        metrics.describe(watchlists.engine, watchlists.sources, versions())
        await _warm_up(worker, engine, pace)
        monitor = Monitor(
            tokenise=tokenise,
            submit=batcher.submit,
            cache=cache,
            values=CachedValues(engine.identity.reader, config.cache_secret.get_secret_value().encode()),
            watchlists=watchlists,
            metrics=metrics,
            max_evidence=config.max_evidence,
            judgements=Judgements(config.cache_bytes // 2) if config.cache_bytes else None,
            listeners=[metrics.pairs_scored, *listeners],
        )
        yield Spine(monitor, engine, worker, metrics, config)
    finally:
        await vitality.close()
        await batcher.close()
        await cache.close()
        worker.stop()
        tokenisers.shutdown(wait=False)


@asynccontextmanager
async def offline(config: Config, loaded: Loaded | None = None) -> AsyncIterator[Spine]:
    """The same spine without a door, for commands that read files.

    Args:
        config: Settings.
        loaded: What is loaded already, if anything is.
    """
    if loaded is None:
        loaded = await asyncio.to_thread(load, config)
    async with running_spine(loaded, config, Metrics()) as spine:
        yield spine


def watchlist_set(
    watchlists: Sequence[Watchlist],
    engine: EngineIdentity,
    labels: Mapping[FeatureKey, Label],
    *,
    version: int,
) -> WatchlistSet:
    """Binds watchlists to an engine that watches all their features."""
    compiled = [compile_watchlist(one, engine, labels, one.card_problems(engine)) for one in watchlists]
    return WatchlistSet(version, engine, {one.source.name: one for one in compiled})


def _dated(job: ScoreJob, day: str) -> ScoreJob:
    """The job with the day that its caller leaves to the clock, so that no judgement of another day is remembered."""
    inputs = job.pair.inputs
    return replace(job, pair=replace(job.pair, inputs=replace(inputs, date=inputs.date or day)))


def versions() -> dict[str, str]:
    """Versions of the program, of Python and of the libraries that decide what runs."""
    libraries = {name: version(name) for name in ("torch", "transformers", "grpcio")}
    return {"version": scopewatch.__version__, "python": platform.python_version(), **libraries}


def _cache(config: Config, metrics: Metrics) -> Cache:
    url = config.redis_url.get_secret_value()
    if not url:
        # The other half is for judgements.
        return LocalCache(config.cache_bytes - config.cache_bytes // 2, metrics)
    if not config.cache_secret.get_secret_value():
        log.warning(
            "cache_secret is empty: whoever reads this Redis can test which texts were scored, "
            "and whoever writes to it can forge values that clear a verdict"
        )
    client = redis_client(
        url,
        mode=config.redis_mode,
        sentinel_service=config.redis_sentinel_service,
        timeout_s=config.redis_timeout_s,
        password=config.redis_password.get_secret_value(),
    )
    return RedisCache(client, timeout_s=config.redis_timeout_s, ttl_s=config.cache_ttl_s, metrics=metrics)


async def _warm_up(worker: Worker, engine: "Engine", pace: Pace) -> None:
    """Runs the largest batch there can be, so that memory and kernels are settled before the first caller comes.

    On a CPU nothing is there to be settled, so one short text only shows that the engine runs.
    """
    on_cpu = engine.identity.reader.device == "cpu"
    tokens = min(engine.max_tokens, _SHORT_TOKENS) if on_cpu else engine.max_tokens
    count = 1 if on_cpu else max(1, engine.max_batch_tokens // tokens)
    # No two begin alike, nor as those that measured memory: what they shared would be read once.
    batch = [np.full(tokens, 10 + number, np.int32) for number in range(count)]
    # On a GPU of two lengths, since kernels are compiled again, once, for lengths that vary.
    for texts in [batch] if on_cpu else [batch, [np.full(max(1, tokens // 2), 9, np.int32)]]:
        began_s = time.monotonic()
        # Not as a batch: kernels take their time to compile.
        _check(await worker.run(partial(engine.runner, texts)), "warm-up")
        pace.warmed_up(sum(map(len, texts)), time.monotonic() - began_s)


async def _probe(worker: Worker, engine: "Engine") -> None:
    """Has the engine read a text that any reader can read, unlike those of the warm-up."""
    _check(await worker.encode([np.full(min(engine.max_tokens, _SHORT_TOKENS), 8, np.int32)]), "the probe")


def _check(encoded: EncodedBatch, what: str) -> None:
    for outcome in encoded.activations:
        if isinstance(outcome, Exception):
            raise EngineError(f"{what} failed: {outcome}; if memory ran out, lower max_batch_tokens")
