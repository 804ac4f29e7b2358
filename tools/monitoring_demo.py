"""A real Prometheus watches a real server, first under its usual traffic, then under another domain's, until it alerts.

    make monitoring-demo        or        python tools/monitoring_demo.py [--hour-s 60] [--rate 12] [--page docs/monitoring.md]

The rules are those of deploy/monitoring with every duration scaled: what looks at an hour looks at `--hour-s` seconds.
Compares Prometheus' PSI with numpy's from the raw counters, and draws panels of the dashboards. Exits with 1 where
the alert fires too early or not at all, PSI differs by more than 1 %, or a pair is lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import numpy as np

from scopewatch.server_process import running_server
from scopewatch.v1 import monitor_pb2, monitor_pb2_grpc

ROOT = Path(__file__).parents[1]
for folder in ("tools/monitoring", "bench"):
    sys.path.insert(0, str(ROOT / folder))

import charts  # noqa: E402
import demo_texts  # noqa: E402
import prometheus  # noqa: E402
import scaled_rules  # noqa: E402

import page  # noqa: E402

WATCHED = ("ScopewatchIndicatorDrift", "speculation")
"""The alert that has to fire, and of which indicator: the usual texts are such as its threshold was measured on."""
PICTURES = {
    "overview": ["Pairs by verdict", "Pairs without a verdict", "Flagged in the last hour, by indicator", "Latency of Score",
                 "Calls by status", "Errors against objectives"],
    "drift": ["PSI of scores, one hour", "Pairs counted in the last hour", "PSI of features, the ten largest",
              "Features that fall silent, the ten largest", "Length, median", "Pairs that do not add up"],
    "indicator": ["Scores and thresholds", "Scores by bin, last hour", "Scores by bin, reference"],
    "service": ["Wait for the engine", "Stages, 95 %", "Tokens a second", "Size of batches", "Memory", "CPU"],
}  # fmt: skip
"""Which panels are drawn, by dashboard."""


class Traffic:
    """Calls of Score at a steady rate; one in fifty asks for a watchlist that does not exist, and one in fifty leaves.

    Args:
        address: Host and port of the server.
        rate: Calls a second.
    """

    def __init__(self, address: str, rate: float) -> None:
        self.texts: Iterator[str] = demo_texts.usual(0)
        self.sent = 0
        self.resting = False
        """Whether no call is sent for the moment."""
        self._pause_s = 1 / rate
        self._channel = grpc.insecure_channel(address)
        self._stub = monitor_pb2_grpc.MonitorServiceStub(self._channel)
        self._stopped = threading.Event()
        self._waiting: set[grpc.Future] = set()  # a call that nobody holds is cancelled
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        due_s = time.monotonic()
        while not self._stopped.wait(max(0.0, due_s - time.monotonic())):
            due_s += self._pause_s
            if self.resting:
                continue
            watchlist = "no-such-watchlist" if self.sent % 50 == 17 else ""
            request = monitor_pb2.ScoreRequest(response=next(self.texts), watchlist=watchlist)
            call = self._stub.Score.future(request, timeout=30)
            self._waiting = {call, *(one for one in self._waiting if not one.done())}
            if self.sent % 50 == 33:
                call.cancel()
            self.sent += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._channel.close()


@dataclass(frozen=True)
class Compared:
    """The PSI of an indicator by Prometheus' rules and by numpy, of the same samples."""

    phase: str
    indicator: str
    pairs: float
    by_rules: float
    by_numpy: float
    floor: float

    @property
    def difference(self) -> float:
        return abs(self.by_rules / self.by_numpy - 1)

    def __str__(self) -> str:
        psi = f"{self.by_rules:.4f} | {self.by_numpy:.4f} | {self.difference:.2%} | {self.floor:.4f}"
        return f"| {self.phase} | `{self.indicator}` | {self.pairs:,.0f} | {psi} |"


def compare(watching: prometheus.Prometheus, traffic: Traffic, phase: str, hour_s: float) -> list[Compared]:
    """Holds the recorded PSI of every indicator against numpy's, from the counters as they were scraped.

    The traffic rests meanwhile: what a scrape brings in while rules are evaluated is seen by the one and not the other.
    """
    traffic.resting = True
    time.sleep(hour_s / 10)
    recorded = watching.query("watchlist_indicator:scopewatch_indicator_psi:ratio1h")
    compared = [
        _compared(watching, phase, series["metric"]["indicator"], float(series["value"][0]), hour_s)
        for series in recorded
    ]
    traffic.resting = False
    return compared


def _compared(watching: prometheus.Prometheus, phase: str, indicator: str, at_s: float, hour_s: float) -> Compared:
    of = f'{{indicator="{indicator}"}}'
    at_s = float(
        watching.query(f"timestamp(watchlist_indicator:scopewatch_indicator_psi:ratio1h{of})", at_s)[0]["value"][1]
    )

    def one(metric: str) -> float:
        return float(watching.query(f"{metric}{of}", at_s)[0]["value"][1])

    counters = watching.query(f"scopewatch_indicator_bin_pairs_total{of}[{round(hour_s * 1000)}ms]", at_s)
    ratios = {
        s["metric"]["bin"]: float(s["value"][1])
        for s in watching.query(f"scopewatch_indicator_reference_ratio{of}", at_s)
    }
    moved = {s["metric"]["bin"]: float(s["values"][-1][1]) - float(s["values"][0][1]) for s in counters}
    now = np.array([moved[name] for name in ratios]) + 0.5
    then = np.array(list(ratios.values())) * one("scopewatch_reference_pairs") + 0.5
    p, q = now / now.sum(), then / then.sum()
    by_numpy = float(((p - q) * np.log(p / q)).sum())
    psi, floor = (one(f"watchlist_indicator:scopewatch_indicator_psi{part}:ratio1h") for part in ("", "_floor"))
    return Compared(phase, indicator, sum(moved.values()), psi, by_numpy, floor)


class Watch:
    """Follows the alerts of Prometheus and remembers when each began to fire.

    Args:
        watching: Whose alerts.
        start_s: From when seconds are counted, since 1970.
    """

    def __init__(self, watching: prometheus.Prometheus, start_s: float) -> None:
        self._watching = watching
        self._start_s = start_s
        self.began: dict[tuple[str, str], float] = {}

    def follow(self, seconds: float, until: tuple[str, str] | None = None) -> bool:
        """Looks every second, for so long or until an alert fires; whether it did."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s and until not in self.began:
            for alert in self._watching.firing() - set(self.began):
                self.began[alert] = time.time() - self._start_s
                print(f"  {self.began[alert]:5.0f} s  {' '.join(alert)} fires", flush=True)
            time.sleep(1)
        return until in self.began


@contextmanager
def everything(hour_s: float, rate: float) -> Iterator[tuple[prometheus.Prometheus, Traffic]]:
    """A server over the bundled reader, a Prometheus with the scaled rules that scrapes it, and traffic."""
    with tempfile.TemporaryDirectory() as made, running_server({}) as server:
        rules = scaled_rules.write(Path(made) / "rules", hour_s / 3600)
        with prometheus.running(Path(made), server.ready["metrics_address"], rules, hour_s / 30) as watching:
            time.sleep(hour_s / 15)  # a first scrape before the first pair, so that every counter is seen to begin at 0
            with Traffic(server.address, rate) as traffic:
                yield watching, traffic


def table(compared: list[Compared], watch: Watch, changed_s: float, lost: float, arguments: argparse.Namespace) -> str:
    """What was measured, as Markdown."""
    command = f"`python tools/monitoring_demo.py --hour-s {arguments.hour_s:g} --rate {arguments.rate:g}`"
    began = sorted(watch.began.items(), key=lambda row: row[1])
    lines = [
        f"{command}: an hour of the rules is {arguments.hour_s:g} s. Other texts came from {changed_s:.0f} s on.",
        "",
        '| texts | indicator | pairs in the "hour" | PSI by the rules | PSI by numpy | difference | noise floor |',
        "|---|---|---|---|---|---|---|",
        *map(str, compared),
        "",
        "| alert | of | fires after |",
        "|---|---|---|",
        *(f"| `{name}` | {indicator or '–'} | {at_s:.0f} s |" for (name, indicator), at_s in began),
        "",
        f"Largest number of pairs, at any scrape, that were neither scored nor failed nor on their way: {lost:g}.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hour-s", type=float, default=60.0, help="seconds that stand for an hour of the rules")
    parser.add_argument("--rate", type=float, default=12.0, help="calls a second; an hour needs 500 pairs")
    parser.add_argument("--images", type=Path, default=ROOT / "build" / "monitoring", help="folder of the pictures")
    parser.add_argument("--page", type=Path, help="page into which the measured numbers are written")
    arguments = parser.parse_args()
    hour_s = arguments.hour_s
    with everything(hour_s, arguments.rate) as (watching, traffic):
        watch = Watch(watching, start_s := time.time())
        print("usual texts", flush=True)
        too_early = watch.follow(2 * hour_s, until=WATCHED)
        compared = compare(watching, traffic, "usual", hour_s)
        print("another domain's texts", flush=True)
        traffic.texts = demo_texts.others(1)
        changed_s = time.time() - start_s
        fired = watch.follow(3 * hour_s, until=WATCHED)
        watch.follow(0.75 * hour_s)
        compared += compare(watching, traffic, "another domain's", hour_s)
        lost = watching.value(
            f"max(max_over_time(abs(instance_watchlist:scopewatch_pairs:residual)[{round(time.time() - start_s)}s:1s]))"
        )
        for board, titles in PICTURES.items():
            picture = arguments.images / f"monitoring-{board}.png"
            charts.draw(watching, board, titles, picture, start_s=start_s, end_s=time.time(), by=hour_s / 3600)
            print(picture)
    measured = table(compared, watch, changed_s, lost, arguments)
    print(measured)
    if arguments.page:
        page.write_between(arguments.page, "monitoring-demo", measured)
    close = all(one.difference < 0.01 for one in compared)
    return 0 if compared and close and fired and not too_early and lost == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
