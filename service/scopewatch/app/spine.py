"""Builds the parts of the spine, hands each what it needs of the others, and closes them."""

import asyncio
import logging
import platform
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry

import scopewatch
from scopewatch.app.load import Loaded, load
from scopewatch.config import Config
from scopewatch.engine.worker import Worker
from scopewatch.errors import EngineDied, EngineError, ScopewatchError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher
from scopewatch.pipeline.cache import Cache, LocalCache, RedisCache
from scopewatch.pipeline.cached_value import CacheKeys
from scopewatch.pipeline.judgements import Memory
from scopewatch.pipeline.monitor import Monitor, Render
from scopewatch.pipeline.redis_client import redis_client
from scopewatch.pipeline.scoring import compile_watchlist
from scopewatch.types import Pair, TokenisedPair

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine

log = logging.getLogger(__name__)

_CPU_WARM_UP_TOKENS = 64


@asynccontextmanager
async def monitoring(
    loaded: Loaded,
    config: Config,
    metrics: Metrics,
    on_death: Callable[[EngineDied], None] = lambda _: None,
    render: Render = lambda *_: b"",
) -> AsyncIterator[Monitor]:
    """The spine, warmed up, with its engine thread, batcher and cache; everything is closed on leaving.

    Args:
        loaded: From `load`.
        config: Settings.
        metrics: Where everything is counted.
        on_death: Called from another thread when the engine dies.
        render: Makes the bodies of replies, see `Monitor`.
    """
    identity = loaded.engine.identity
    # First, since a bad Redis URL raises and nothing is open yet.
    cache = _cache(config, metrics)
    engine = Worker(loaded.engine.runner, on_death)
    tokenisers = ThreadPoolExecutor(1, thread_name_prefix="tokenise")

    async def tokenise(pairs: Sequence[Pair]) -> list[TokenisedPair | ScopewatchError]:
        loop = asyncio.get_running_loop()
        return list(await loop.run_in_executor(tokenisers, loaded.engine.tokeniser.tokenise, pairs))

    batcher = Batcher(
        engine.encode,
        max_batch_tokens=loaded.engine.max_batch_tokens,
        max_queue_tokens=config.max_queue_tokens,
        metrics=metrics,
    )
    try:
        metrics.describe(identity, loaded.watchlists, _versions())
        await _warm_up(engine, loaded.engine)
        yield Monitor(
            tokenise=tokenise,
            submit=batcher.submit,
            cache=cache,
            keys=CacheKeys(identity, config.cache_secret.get_secret_value().encode()),
            watchlists={
                w.name: compile_watchlist(w, identity.features, loaded.labels, w.card_problems(identity))
                for w in loaded.watchlists
            },
            features=identity.features,
            metrics=metrics,
            max_evidence=config.max_evidence,
            memory=Memory(config.cache_bytes // 2) if config.cache_bytes else None,
            render=render,
        )
    finally:
        await batcher.close()
        await cache.close()
        engine.stop()
        tokenisers.shutdown(wait=False)


@asynccontextmanager
async def offline(config: Config, loaded: Loaded | None = None) -> AsyncIterator[Monitor]:
    """The same spine without a server, for commands that read files; of what is loaded already, if anything is."""
    if loaded is None:
        loaded = await asyncio.to_thread(load, config)
    async with monitoring(loaded, config, Metrics(CollectorRegistry())) as monitor:
        yield monitor


def _cache(config: Config, metrics: Metrics) -> Cache:
    url = config.redis_url.get_secret_value()
    if not url:
        # The other half is the memory's.
        return LocalCache(config.cache_bytes - config.cache_bytes // 2, metrics)
    if not config.cache_secret.get_secret_value():
        log.warning("cache_secret is empty: whoever reads this Redis can test which texts were scored")
    client = redis_client(
        url,
        mode=config.redis_mode,
        sentinel_service=config.redis_sentinel_service,
        timeout_s=config.redis_timeout_s,
    )
    return RedisCache(client, timeout_s=config.redis_timeout_s, ttl_s=config.cache_ttl_s, metrics=metrics)


async def _warm_up(thread: Worker, engine: "Engine") -> None:
    """Runs the largest batch there can be, so that memory and kernels are settled before the first caller comes.

    On a CPU nothing is there to be settled, so one short text only shows that the engine runs.
    """
    on_cpu = engine.identity.reader.device == "cpu"
    tokens = min(engine.max_tokens, _CPU_WARM_UP_TOKENS) if on_cpu else engine.max_tokens
    count = 1 if on_cpu else max(1, engine.max_batch_tokens // tokens)
    # No two begin alike, nor as those that measured memory: what they shared would be read once.
    batch = [np.full(tokens, 10 + number, np.int32) for number in range(count)]
    # On a GPU of two lengths, since kernels are compiled again, once, for lengths that vary.
    for texts in [batch] if on_cpu else [batch, [np.full(max(1, tokens // 2), 9, np.int32)]]:
        for outcome in (await thread.encode(texts)).activations:
            if isinstance(outcome, Exception):
                raise EngineError(f"warm-up failed: {outcome}; if memory ran out, lower max_batch_tokens")


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("torch", "transformers", "grpcio")}
    return {"version": scopewatch.__version__, "python": platform.python_version(), **libraries}
