"""The life of one process: start, serve, drain, stop."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from scopewatch.app.load import Loaded, load
from scopewatch.app.spine import running_spine
from scopewatch.config import Config
from scopewatch.doors.door import Door
from scopewatch.doors.grpc.listener import GrpcDoor
from scopewatch.doors.limits import Limits
from scopewatch.errors import EngineDied
from scopewatch.logs import Laps, log_verdicts
from scopewatch.metrics import Metrics

log = logging.getLogger(__name__)

_DEAD_GRACE_S = 0.5
"""What running calls get when the engine is dead: time to be told so."""


def process_start_s() -> float:
    """When this process began, on the monotonic clock; where there is no /proc, by the CPU time it has used."""
    try:
        # Field 22 counts clock ticks since boot; a name that may hold anything is field 2 (proc_pid_stat(5)).
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return time.monotonic() - time.process_time()
    # The clocks are read one right after the other: what passes between them would move the beginning.
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return ticks / os.sysconf("SC_CLK_TCK") - since_boot_s


class Server:
    """One process: start, serve, drain. Build it inside the event loop it is to run on.

    Args:
        config: Settings.
        since_s: From when its start is timed, on the monotonic clock; by default, from now on.
    """

    def __init__(self, config: Config, *, since_s: float | None = None) -> None:
        self._config = config
        self._laps = Laps(since_s)
        self._metrics = Metrics(max_feature_series=config.max_feature_series)
        self._door: Door = GrpcDoor(config.grpc_address, serve_reflection=config.reflection, metrics=self._metrics)
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
            self._loop.add_signal_handler(number, self.stop)
        async with AsyncExitStack() as started:
            started.push_async_callback(self._door.close, 0)
            addresses = {"grpc_address": await self._door.listen()}
            httpd, addresses["metrics_address"] = self._metrics.serve(self._config.metrics_address)
            started.callback(httpd.server_close)
            started.callback(httpd.shutdown)
            self._laps.end("ports")
            loaded = await self._unless_stopped(load)
            if loaded is None:
                return 0
            self._laps.take(loaded.parts_s)
            spine = await started.enter_async_context(
                running_spine(
                    loaded,
                    self._config,
                    self._metrics,
                    on_death=self._engine_died,
                    listeners=[partial(log_verdicts, pass_share=self._config.log_pass_share)],
                )
            )
            await self._door.open(spine, Limits.of(self._config, max_tokens=loaded.engine.max_tokens))
            self._metrics.ready.set(1)
            self._laps.end("warm_up")
            self._say_serving(loaded, addresses)
            await self._stopping.wait()
            await self._drain()
        log.info("stopped")
        return 1 if self._death else 0

    def stop(self) -> None:
        """Drains and ends, as on SIGTERM; `run` returns when that is done. Call it on the server's event loop."""
        self._stopping.set()

    def _say_serving(self, loaded: Loaded, addresses: dict[str, str]) -> None:
        parts_s = self._laps.seconds
        self._metrics.started(parts_s)
        log.info(
            "serving",
            extra={
                **addresses,
                "max_batch_tokens": loaded.engine.max_batch_tokens,
                "watchlists": [watchlist.name for watchlist in loaded.watchlists],
                "start_s": round(sum(parts_s.values()), 2),
                "start_parts_s": {part: round(seconds, 3) for part, seconds in parts_s.items()},
            },
        )

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

    async def _drain(self) -> None:
        """Not ready, then a pause in which balancers notice, then no new calls, then the running ones finish."""
        self._metrics.ready.set(0)
        await self._door.drain()
        if self._death:
            await self._door.close(_DEAD_GRACE_S)
            return
        log.info("draining", extra={"delay_s": self._config.drain_delay_s, "grace_s": self._config.drain_grace_s})
        await asyncio.sleep(self._config.drain_delay_s)
        await self._door.close(self._config.drain_grace_s)

    def _engine_died(self, death: EngineDied) -> None:
        self._death = death
        self._loop.call_soon_threadsafe(self.stop)
