"""Composition root and life cycle: builds every part once, serves, drains, stops."""

import asyncio
import gc
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIServer

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

import scopewatch
from scopewatch.config import Config
from scopewatch.engine.thread import EngineThread
from scopewatch.errors import ConfigError, EngineDied, EngineError, ScopewatchError, WatchlistError
from scopewatch.labels import open_labels
from scopewatch.logs import Laps
from scopewatch.metrics import Metrics
from scopewatch.pipeline.activations import CacheKeys
from scopewatch.pipeline.batcher import Batcher
from scopewatch.pipeline.cache import Cache, LocalCache, RedisCache
from scopewatch.pipeline.memory import Memory
from scopewatch.pipeline.monitor import Monitor, Render
from scopewatch.pipeline.redis_client import redis_client
from scopewatch.pipeline.scoring import compile_watchlist
from scopewatch.rpc.interceptors import MetricsInterceptor
from scopewatch.rpc.replies import info_response, provenance, renderer
from scopewatch.rpc.requests import Limits
from scopewatch.rpc.service import SERVICE_NAME, MonitorService
from scopewatch.types import EngineIdentity, FeatureKey, Label, Pair, TokenisedPair
from scopewatch.v1 import monitor_pb2_grpc
from scopewatch.watchlist import Watchlist, load_watchlist

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine

log = logging.getLogger(__name__)

TRANSPORT_MAX_BYTES = 64 << 20
"""Hard limit of the transport; the configured one is lower and answers with the field's name."""
_CPU_WARM_UP_TOKENS = 64
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True, slots=True)
class Loaded:
    """What takes long to build and needs no event loop."""

    watchlists: tuple[Watchlist, ...]
    engine: "Engine"
    labels: Mapping[FeatureKey, Label]
    """Of watched features, from the label index; empty without one."""
    parts_s: Mapping[str, float] = field(default_factory=dict)
    """What took how long to build, one after another."""


def load(config: Config, watchlists: Sequence[Watchlist] = ()) -> Loaded:
    """Reads watchlists, reader, SAEs and labels.

    Torch and transformers, which take seconds, are imported here, after what may be wrong and costs nothing to read.

    Args:
        config: Settings.
        watchlists: In place of the files it names.

    Raises:
        SetupError: Something of it is wrong.
    """
    laps = Laps()
    watchlists = tuple(watchlists) or tuple(load_watchlist(file) for file in config.watchlist)
    laps.end("watchlists")
    with open_labels(Path(config.labels)) if config.labels else nullcontext() as index:
        with _imported_for_good():
            from scopewatch.engine.build import build_engine, choices
        laps.end("imports")
        head = any(watchlist.reads_head for watchlist in watchlists)
        engine = build_engine(*choices(watchlists), config, laps, head=head)
        _check(watchlists, engine.identity, strict=config.strict_cards)
        labels = index.labels_of(engine.identity) if index else {}
        laps.end("labels")
        return Loaded(watchlists, engine, labels, laps.seconds)


def _check(watchlists: Sequence[Watchlist], identity: EngineIdentity, *, strict: bool) -> None:
    """What of watchlists can be known only once reader and SAEs are loaded."""
    told = []
    for watchlist in watchlists:
        watchlist.check_kinds(identity)
        problems = watchlist.card_problems(identity)
        for i, indicator in enumerate(watchlist.indicators):
            if indicator.name in problems:
                told.append(f"{watchlist.where('indicators', i, 'card')}: {problems[indicator.name]}")
    if strict and told:
        mend = "calibrate again, or switch strict_cards off to have a warning in every reply instead"
        raise WatchlistError("\n".join([*told, mend]))
    for problem in told:
        log.warning("a card does not speak for what runs", extra={"problem": problem})


@contextmanager
def _imported_for_good() -> Iterator[None]:
    """Keeps the garbage collector away from 660,000 objects that stay: from making them on, and ever after.

    Searching them takes a tenth of the imports, a third of what is built next, and 0.3 s now and then while serving.
    """
    if "scopewatch.engine.build" in sys.modules:
        yield
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


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
    engine = EngineThread(loaded.engine.runner, on_death)
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


async def _warm_up(thread: EngineThread, engine: "Engine") -> None:
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


def process_start_s() -> float:
    """When this process began, on the monotonic clock; where there is no /proc, by the CPU time it has used."""
    now_s = time.monotonic()
    try:
        # Field 22 counts clock ticks since boot; a name that may hold anything is field 2 (proc_pid_stat(5)).
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return now_s - time.process_time()
    return now_s - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


class Server:
    """One process: start, serve, drain. Build it inside the event loop it is to run on.

    Args:
        config: Settings.
        since_s: From when its start is timed, on the monotonic clock; by default, from now on.
    """

    def __init__(self, config: Config, *, since_s: float | None = None) -> None:
        self._config = config
        self._laps = Laps(since_s)
        self._metrics = Metrics(registry := CollectorRegistry(), max_feature_series=config.max_feature_series)
        self._registry = registry
        self._service = MonitorService(self._metrics)
        self._health = health.aio.HealthServicer()
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._death: EngineDied | None = None

    async def run(self) -> int:
        """Serves until a signal or the engine's death.

        Returns:
            Exit code: 0 after a signal, 1 when the engine died.

        Raises:
            SetupError: It cannot start.
        """
        self._laps.end("imports")
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        async with AsyncExitStack() as started:
            grpc_server, grpc_address = await self._start_grpc()
            started.push_async_callback(grpc_server.stop, 0)
            httpd, metrics_address = self._start_metrics()
            started.callback(httpd.server_close)
            started.callback(httpd.shutdown)
            self._laps.end("ports")
            loaded = await self._unless_stopped(load)
            if loaded is None:
                return 0
            self._laps.take(loaded.parts_s)
            identity = loaded.engine.identity
            made_by = {w.name: provenance(w, identity, scopewatch.__version__) for w in loaded.watchlists}
            spine = monitoring(loaded, self._config, self._metrics, self._engine_died, renderer(made_by))
            async with spine as monitor:
                await self._open(monitor, loaded)
                self._laps.end("warm_up")
                parts_s = self._laps.seconds
                self._metrics.started(parts_s)
                log.info(
                    "serving",
                    extra={
                        "grpc_address": grpc_address,
                        "metrics_address": metrics_address,
                        "max_batch_tokens": loaded.engine.max_batch_tokens,
                        "watchlists": [watchlist.name for watchlist in loaded.watchlists],
                        "start_s": round(sum(parts_s.values()), 2),
                        "start_parts_s": {part: round(seconds, 3) for part, seconds in parts_s.items()},
                    },
                )
                await self._stopping.wait()
                await self._drain(grpc_server)
        log.info("stopped")
        return 1 if self._death else 0

    async def _start_grpc(self) -> tuple[grpc.aio.Server, str]:
        server = grpc.aio.server(
            interceptors=[MetricsInterceptor(self._metrics)],
            options=[
                ("grpc.max_receive_message_length", TRANSPORT_MAX_BYTES),
                ("grpc.max_send_message_length", -1),
                # Two processes on one port is a mistake, not load balancing.
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        stubs: Any = monitor_pb2_grpc
        stubs.add_MonitorServiceServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        await self._health.set("", _SERVING)
        await self._health.set(SERVICE_NAME, _NOT_SERVING)
        if self._config.reflection:
            reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        host = self._config.grpc_address.rpartition(":")[0]
        try:
            port = server.add_insecure_port(self._config.grpc_address)
        except RuntimeError:
            await server.stop(0)
            raise ConfigError(f"grpc_address {self._config.grpc_address}: cannot be bound; is it in use?") from None
        await server.start()
        return server, f"{host}:{port}"

    def _start_metrics(self) -> tuple[WSGIServer, str]:
        host, _, port = self._config.metrics_address.rpartition(":")
        try:
            httpd, _ = start_http_server(int(port), addr=host.strip("[]"), registry=self._registry)
        except OSError as error:
            raise ConfigError(f"metrics_address {self._config.metrics_address}: {error.strerror or error}") from None
        return httpd, f"{host}:{httpd.server_port}"

    async def _unless_stopped(self, work: Callable[[Config], Loaded]) -> Loaded | None:
        """Runs blocking work on a daemon thread, which a signal during start-up can leave behind."""
        done: asyncio.Future[Loaded] = self._loop.create_future()

        def settle(result: Loaded | None, error: BaseException | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = work(self._config)
            except BaseException as problem:
                error = problem
            try:
                self._loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                log.debug("start-up was left behind")

        threading.Thread(target=run, name="load", daemon=True).start()
        stopping = asyncio.create_task(self._stopping.wait())
        waiting: list[asyncio.Future[Any]] = [done, stopping]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return await done if done.done() else None

    async def _open(self, monitor: Monitor, loaded: Loaded) -> None:
        identity = loaded.engine.identity
        limits = Limits.of(self._config, max_tokens=loaded.engine.max_tokens)
        self._service.open(
            monitor,
            limits=limits,
            info=info_response(identity, loaded.watchlists, limits, scopewatch.__version__),
        )
        await self._health.set(SERVICE_NAME, _SERVING)
        self._metrics.ready.set(1)

    async def _drain(self, grpc_server: grpc.aio.Server) -> None:
        """Not ready, then a pause in which balancers notice, then no new calls, then the running ones finish."""
        self._metrics.ready.set(0)
        # Liveness stays: Kubernetes would kill a draining pod that says it is dead.
        await self._health.set(SERVICE_NAME, _NOT_SERVING)
        if self._death:
            await grpc_server.stop(0.5)
            return
        log.info("draining", extra={"delay_s": self._config.drain_delay_s, "grace_s": self._config.drain_grace_s})
        await asyncio.sleep(self._config.drain_delay_s)
        self._service.close()
        await grpc_server.stop(self._config.drain_grace_s)

    def _engine_died(self, death: EngineDied) -> None:
        self._death = death
        self._loop.call_soon_threadsafe(self._stopping.set)
