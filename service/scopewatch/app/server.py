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

from scopewatch.app.canaries.judging import recorded_canaries
from scopewatch.app.load import Loaded, load
from scopewatch.app.readiness import Readiness
from scopewatch.app.records import records
from scopewatch.app.spine import running_spine
from scopewatch.app.tracing import tracing_of
from scopewatch.config import Config
from scopewatch.doors.auth import Roles
from scopewatch.doors.door import Door
from scopewatch.doors.grpc.listener import GrpcDoor
from scopewatch.doors.http.metrics_port import MetricsPort
from scopewatch.doors.http.scrapers import may_read
from scopewatch.doors.http.watch_port import WatchPort
from scopewatch.doors.limits import Limits
from scopewatch.doors.tls import Certificates
from scopewatch.errors import EngineDied
from scopewatch.logs import Laps
from scopewatch.metrics import Metrics
from scopewatch.report.watch_page import WatchPages

log = logging.getLogger(__name__)

_DEAD_GRACE_S = 0.5
"""What running calls get when the engine is dead: time to be told so."""
_CLOSING_S = 10.0
"""What the parts get to close after the last call; then the process ends, whatever still runs in it."""

_LAST_SPANS_S = 3.0
"""What the collector of traces has for the last spans."""


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


def _unforeseen(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs an exception that nobody waited for; by default its message, which may quote a caller, would be logged."""
    log.error("unforeseen: %s", context["message"], exc_info=context.get("exception"))


class Server:
    """One process: start, serve, drain. Build it inside the event loop it is to run on.

    Args:
        config: Settings.
        since_s: From when its start is timed, on the monotonic clock; by default, from now on.
        leave: Ends the process at once with an exit code: at a second signal, and when stopping takes too long.

    Raises:
        ConfigError: The files of a certificate, or the role file, are not in order, or what makes traces is not
            installed.
    """

    def __init__(
        self, config: Config, *, since_s: float | None = None, leave: Callable[[int], None] = os._exit
    ) -> None:
        self._config = config
        self._leave = leave
        self._laps = Laps(since_s)
        self._metrics = Metrics(max_feature_series=config.max_feature_series)
        self._certificates = Certificates.of(config, metrics=self._metrics)
        self._roles = Roles.load(Path(config.roles) if config.roles else None, round_scores=config.round_scores)
        self._tracing = tracing_of(config, self._metrics)
        self._door: Door = GrpcDoor(config, self._metrics, self._roles, self._certificates, self._tracing)
        self._readiness = Readiness(self._door, self._metrics)
        self._metrics_port = MetricsPort(
            config.metrics_address,
            metrics=self._metrics,
            certificates=self._certificates,
            authorise=partial(may_read, self._roles),
        )
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._death: EngineDied | None = None
        # A thread, since the loop may be what hangs.
        self._patience = threading.Timer(
            config.drain_delay_s + config.drain_grace_s + _CLOSING_S, self._end_of_patience
        )
        self._patience.daemon = True

    async def run(self) -> int:
        """Serves until a signal or the engine's death.

        Returns:
            Exit code: 0 after a signal, 1 when the engine died.

        Raises:
            SetupError: It cannot start.
        """
        self._laps.end("imports")
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._loop.set_exception_handler(_unforeseen)
        hung_up = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGHUP, hung_up.set)
        async with AsyncExitStack() as started:
            started.callback(self._patience.cancel)
            if self._tracing:
                started.push_async_callback(asyncio.to_thread, self._tracing.close, _LAST_SPANS_S)
            started.push_async_callback(self._door.close, 0)
            started.push_async_callback(self._metrics_port.close)
            written = await started.enter_async_context(records(self._config, self._tracing))
            following = asyncio.create_task(written.follow_roles(self._roles, self._config.watch_files_s))
            started.callback(following.cancel)
            addresses = await self._door.listen()
            addresses["metrics_address"] = await self._metrics_port.listen()
            watch = WatchPort(
                self._config.watch_address,
                flags=written.flags,
                roles=self._roles,
                pages=WatchPages(),
                tracing=self._tracing,
            )
            started.push_async_callback(watch.close)
            addresses |= await watch.listen()
            if self._config.in_the_clear:
                told = {name: addresses[name] for name in self._config.in_the_clear}
                log.warning("insecure: whoever is on the network reads and changes what callers send", extra=told)
            if self._certificates:
                await started.enter_async_context(self._certificates.watched(self._config.watch_files_s))
            self._laps.end("ports")
            # A file that is not in order is told of before the reader is loaded.
            await asyncio.to_thread(recorded_canaries, self._config, ())
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
                    on_health=self._readiness.examined,
                    records=written,
                )
            )
            watch.open(spine)
            # Before the spine, which it asks, is closed.
            started.push_async_callback(watch.close)
            await spine.watch_canaries()
            await self._readiness.open(spine, Limits.of(self._config, max_tokens=loaded.engine.max_tokens))
            self._laps.end("warm_up")
            self._say_serving(loaded, addresses)
            spine.follow_files(hung_up)
            await self._stopping.wait()
            await self._drain()
        log.info("stopped")
        return self._code

    def stop(self) -> None:
        """Drains and ends, as on SIGTERM; `run` returns when that is done. Call it on the server's event loop."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._patience.start()

    @property
    def _code(self) -> int:
        return 1 if self._death else 0

    def _signalled(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            log.warning("a second signal: ending at once", extra={"signal": number.name})
            self._leave(128 + number)
        self.stop()

    def _end_of_patience(self) -> None:
        log.critical("something does not end: leaving it behind")
        self._leave(self._code)

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
        await self._readiness.drain()
        if self._death:
            await self._door.close(_DEAD_GRACE_S)
            return
        log.info("draining", extra={"delay_s": self._config.drain_delay_s, "grace_s": self._config.drain_grace_s})
        await asyncio.sleep(self._config.drain_delay_s)
        await self._door.close(self._config.drain_grace_s)

    def _engine_died(self, death: EngineDied) -> None:
        self._death = death
        self._loop.call_soon_threadsafe(self.stop)
