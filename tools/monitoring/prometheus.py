"""A real Prometheus for as long as it is needed, and what it answers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_START_S = 60


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs.

    Args:
        address: Its host and port.
    """

    address: str

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query; of a range selector, with all samples (`values`)."""
        when = {} if at_s is None else {"time": f"{at_s:.3f}"}
        return list(self._get("query", query=expression, **when)["result"])

    def query_range(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """The series of a query over time, each with `metric` and `values`."""
        times = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
        return list(self._get("query_range", query=expression, **times)["result"])

    def value(self, expression: str) -> float:
        """The value of the only series of a query; NaN where there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else float("nan")

    def firing(self) -> set[tuple[str, str]]:
        """Names of the alerts that fire, each with the indicator that it is about, or nothing."""
        alerts = [alert for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"]
        return {(alert["labels"]["alertname"], alert["labels"].get("indicator", "")) for alert in alerts}

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]


@contextmanager
def running(folder: Path, target: str, rules: list[Path], every_s: float) -> Iterator[Prometheus]:
    """Starts Prometheus on a free port, and stops it when the block is left.

    Args:
        folder: For its settings and its data.
        target: Host and port of the metrics that it scrapes.
        rules: Files of rules.
        every_s: Seconds between two scrapes, and between two evaluations of the rules.
    """
    program = shutil.which("prometheus")
    if not program:
        raise SystemExit("prometheus is not installed (Debian package prometheus); `make system-deps` installs it")
    settings = {
        "global": dict.fromkeys(
            ("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{round(every_s * 1000)}ms"
        ),
        "rule_files": [str(rule.resolve()) for rule in rules],
        "scrape_configs": [{"job_name": "scopewatch", "static_configs": [{"targets": [target]}]}],
    }
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    address = f"127.0.0.1:{_free_port()}"
    flags = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([program, *flags], stdout=log, stderr=log)
        try:
            _wait(process, address, folder / "prometheus.log")
            yield Prometheus(address)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise SystemExit(f"Prometheus did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
