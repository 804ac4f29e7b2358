"""The life of one process: start, serve, drain, stop."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

import scopewatch
from scopewatch.app.load import Loaded, load
from scopewatch.app.spine import monitoring
from scopewatch.config import Config
from scopewatch.doors.grpc.interceptors import MetricsInterceptor
from scopewatch.doors.grpc.replies import info_response, provenance, renderer
from scopewatch.doors.grpc.requests import Limits
from scopewatch.doors.grpc.service import SERVICE_NAME, MonitorService
from scopewatch.errors import ConfigError, EngineDied
from scopewatch.logs import Laps
from scopewatch.metrics import Metrics
from scopewatch.pipeline.monitor import Monitor
from scopewatch.v1 import monitor_pb2_grpc

log = logging.getLogger(__name__)

TRANSPORT_MAX_BYTES = 64 << 20
"""Hard limit of the transport; the configured one is lower and answers with the field's name."""
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


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
