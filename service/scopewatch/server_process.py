"""A server in a process of its own, for commands that show or measure one."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scopewatch.config import ENV_PREFIX
from scopewatch.errors import SetupError

_START_S = 900


@dataclass(frozen=True, slots=True)
class Child:
    """A running server."""

    process: "subprocess.Popen[bytes]"
    ready: Mapping[str, Any]
    """What it logged when it was ready: `grpc_address`, `metrics_address`, `start_s`, `start_parts_s` and more."""

    @property
    def address(self) -> str:
        return str(self.ready["grpc_address"])


@contextmanager
def running_server(settings: Mapping[str, object]) -> Iterator[Child]:
    """Starts `scopewatch serve` on free ports, and stops it on leaving.

    Args:
        settings: By name; all others are at their defaults, whatever the environment says.

    Raises:
        SetupError: It does not start; the message ends with what it logged.
    """
    fixed = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0", "log_format": "json"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    environment |= {ENV_PREFIX + name.upper(): _text(value) for name, value in {**fixed, **settings}.items()}
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "scopewatch", "serve"]
        process = subprocess.Popen(command, stderr=log, env=environment)  # noqa: S603 - ourselves
        try:
            yield Child(process, _ready(process, log.fileno()))
        finally:
            process.terminate()
            process.wait(timeout=60)


def _text(value: object) -> str:
    return os.pathsep.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _ready(process: "subprocess.Popen[bytes]", log: int) -> dict[str, Any]:
    """Waits for the line that a server logs when it is ready."""
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
