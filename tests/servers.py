"""Servers for tests: in a process of their own, or whole in the test's event loop, with a gate before the engine."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families

import scopewatch.app.server
from scopewatch.app.load import Loaded
from scopewatch.app.server import Server
from scopewatch.config import Config
from scopewatch.types import EncodedBatch
from scopewatch.v1 import monitor_pb2_grpc

NO_RETRIES = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

_OF_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "ftp_proxy")
DEAD_PROXIES = dict.fromkeys((*_OF_PROXIES, *map(str.upper, _OF_PROXIES)), "http://127.0.0.1:1")
"""Every variable by which some library is led to a proxy, here one that is not there."""
NO_EXEMPTIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")
"""Variables that exempt addresses from proxies."""


def metric(address: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels, as the metrics endpoint shows them."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def violations(error: grpc.RpcError) -> dict[str, str]:
    """The fields that an INVALID_ARGUMENT names, with what it says of each."""
    status = rpc_status.from_call(error)
    found = error_details_pb2.BadRequest()
    assert any(detail.Unpack(found) for detail in status.details)
    return {violation.field: violation.description for violation in found.field_violations}


@asynccontextmanager
async def direct(address: str) -> AsyncIterator[monitor_pb2_grpc.MonitorServiceStub]:
    """A stub on a channel that never retries, so that no failure is hidden."""
    async with grpc.aio.insecure_channel(address, options=NO_RETRIES) as channel:
        yield monitor_pb2_grpc.MonitorServiceStub(channel)


async def health(address: str, service: str) -> str:
    """What the health service says of a service: SERVING, NOT_SERVING."""
    async with grpc.aio.insecure_channel(address, options=NO_RETRIES) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


async def eventually(condition: Callable[[], object], message: str, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline_s, message
        await asyncio.sleep(0.02)


class ServerProcess:
    """`scopewatch serve`, or a script that calls it, in a process of its own; its log is kept.

    Args:
        flags: Arguments that follow `serve` and the free ports on the command line.
        script: A script that runs instead of `-m scopewatch`.
        environment: Variables added to those of this process, from which SCOPEWATCH_ ones are taken out.
    """

    def __init__(self, *flags: str, script: Path | None = None, **environment: str) -> None:
        program = [str(script)] if script else ["-m", "scopewatch"]
        ports = ["--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SCOPEWATCH_")}
        self.process = subprocess.Popen(
            [sys.executable, *program, "serve", *ports, *flags],
            stderr=subprocess.PIPE,
            text=True,
            env=inherited | environment,
        )
        self.log: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line)

    def events(self, name: str) -> list[dict[str, object]]:
        """The log lines of one event so far."""
        parsed = [json.loads(line) for line in self.log if line.startswith("{")]
        return [line for line in parsed if line["event"] == name]

    def wait_for(self, name: str, timeout_s: float = 200.0) -> dict[str, object]:
        """Waits for the first log line of an event; its fields."""
        deadline_s = time.monotonic() + timeout_s
        while not self.events(name):
            over = self.process.poll() is not None or time.monotonic() > deadline_s
            assert not over, f"no event {name!r}:\n{''.join(self.log)}"
            time.sleep(0.02)
        return self.events(name)[0]

    @property
    def grpc_address(self) -> str:
        return str(self.wait_for("serving")["grpc_address"])

    @property
    def metrics_address(self) -> str:
        return str(self.wait_for("serving")["metrics_address"])

    def metric(self, name: str, **labels: str) -> float:
        return metric(self.metrics_address, name, **labels)

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code, once the process has left and its whole log is read."""
        code = self.process.wait(timeout=timeout_s)
        self._reading.join()
        assert self.process.stderr
        self.process.stderr.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves no process behind when a test failed."""
        if self.process.poll() is None:
            self.process.kill()
            self.wait()

    def stop(self) -> int:
        """Ends the process as Kubernetes would; the exit code."""
        self.process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.wait()
            raise


class Gate:
    """Stands before the real engine of servers that are started later, and lets batches pass or holds them.

    Args:
        monkeypatch: Puts the real engine back at the end of the test.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        self._open.set()
        self.batches: list[list[list[int]]] = []
        """The token ids of every batch that reached the engine, held ones included."""
        real = scopewatch.app.load.load

        def load(config: Config) -> Loaded:
            loaded = real(config)
            runner = loaded.engine.runner

            def gated(batch: Sequence[np.ndarray]) -> EncodedBatch:
                self.batches.append([ids.tolist() for ids in batch])
                self._open.wait()
                return runner(batch)

            loaded.engine.runner = gated
            return loaded

        monkeypatch.setattr(scopewatch.app.server, "load", load)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


@dataclass(frozen=True)
class LocalServer:
    """A whole server in the test's event loop."""

    grpc_address: str
    metrics_address: str
    watch_address: str = ""

    def metric(self, name: str, **labels: str) -> float:
        return metric(self.metrics_address, name, **labels)


def config(*watchlists: Path, **settings: object) -> Config:
    """Settings of a server on free ports."""
    free = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
    return Config.model_validate({"watchlist": watchlists, **free, **settings})


@asynccontextmanager
async def serving(settings: Config, gate: Gate | None = None) -> AsyncIterator[LocalServer]:
    """Serves until the block is left; then stops as on SIGTERM, with the gate open, and is expected to exit with 0."""
    ready: asyncio.Future[LocalServer] = asyncio.get_running_loop().create_future()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "serving":
                watch = getattr(record, "watch_address", "")
                ready.set_result(LocalServer(record.grpc_address, record.metrics_address, watch))

    log, listener = logging.getLogger("scopewatch.app.server"), Listener()
    level = log.level
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    server = Server(settings)
    running = asyncio.create_task(server.run())
    try:
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        yield ready.result() if ready.done() else await running
    finally:
        if gate:
            gate.open()
        # First, since a server that could not start raises here: nobody may listen to those of later tests.
        log.removeHandler(listener)
        log.setLevel(level)
        server.stop()
        code = await running
    assert code == 0
