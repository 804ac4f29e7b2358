"""A server in a process of its own, for commands that show or measure one."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scopewatch.config import server_environment
from scopewatch.errors import SetupError

_SERVE = (sys.executable, "-m", "scopewatch", "serve")
_START_S = 900
"""The longest that a server may take to be ready."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is ready to answer."""

    process: "subprocess.Popen[bytes]"
    ready: Mapping[str, Any]
    """Fields of the line that it logged when it was ready: `grpc_address`, `metrics_address`, `start_s`,
    `start_parts_s` and more.
    """

    @property
    def address(self) -> str:
        """Host and port for gRPC."""
        return str(self.ready["grpc_address"])

    @property
    def resident_mib(self) -> int | None:
        """The resident size of the process now; None where there is no /proc."""
        return self._status_mib("VmRSS")

    @property
    def peak_resident_mib(self) -> int | None:
        """The largest resident size of the process so far; None where there is no /proc."""
        return self._status_mib("VmHWM")

    def _status_mib(self, field: str) -> int | None:
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return None
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) >> 10


@contextmanager
def running_server(settings: Mapping[str, object], command: Sequence[str] = _SERVE) -> Iterator[RunningServer]:
    """Starts `scopewatch serve` on free ports, and stops it when the block is left.

    Args:
        settings: Settings of the server, by name; all others are at their defaults, whatever this process's environment
            says.
        command: The program that serves; it reads its settings from the environment, as `scopewatch serve` does.

    Raises:
        SetupError: The server does not start; the message ends with what it logged.
    """
    fixed = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0", "log_format": "json"}
    environment = server_environment({**fixed, **settings})
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stderr=log, env=environment)  # noqa: S603 - ourselves
        try:
            yield RunningServer(process, _ready(process, log.fileno()))
        finally:
            process.terminate()
            process.wait(timeout=60)


def _ready(process: "subprocess.Popen[bytes]", log: int) -> dict[str, Any]:
    """Waits for the line that a server logs when it is ready, in the file descriptor `log`; its fields."""
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        ended = process.poll() is not None
        lines = os.pread(log, 1 << 20, 0).decode(errors="replace").splitlines(keepends=True)
        for line in lines:
            if line.startswith("{") and line.endswith("}\n") and (event := json.loads(line))["event"] == "serving":
                return dict(event)
        if ended:
            raise SetupError("the server did not start:\n" + "".join(lines[-20:]))
        time.sleep(0.02)
    raise SetupError(f"the server was not ready after {_START_S} s")
