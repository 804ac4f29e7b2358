"""What tracing costs a pair, where it is off and where it is on, beside the code before there was any.

    git worktree add /tmp/before COMMIT
    python bench/tracing.py --before /tmp/before/service [--out bench/results/tracing.json]

Servers over the bundled reader answer the same calls in turn, round by round, in one run: `before` (the package in
that folder), `off` (no collector), `unsampled` (a collector, and no call that is traced) and `sampled` (every call is
traced, and its spans are sent to a collector in this process). Three kinds of calls: `remembered`, a pair that was
judged before and passes, which is the least that a pair costs; `flagged`, one that was judged before and has a line
in the log; and `read`, pairs that are new. What counts is the processor time of the server a pair, since other work
on the machine moves it least; each variant is compared with `before` within each round. `off again` is a second
server that is as `off`: how far apart the two are is how far the measurement can be trusted.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc

from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc

SERVICE = Path(__file__).parents[1] / "service"
_IN_FLIGHT = 8
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CALLS = {"remembered": 1500, "flagged": 1500, "read": 300}
"""Calls of a round."""
RESPONSES = {
    "remembered": "It is Monday.",
    "flagged": "It may rain, perhaps.",
    "read": "It is Monday the {number} of {seed}.",
}


@dataclass
class Variant:
    """A server, and the processor time and the wall time that its pairs took, in microseconds, round by round."""

    process: "subprocess.Popen[str]"
    address: str
    cpu_us: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in CALLS})
    wall_us: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in CALLS})

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@contextmanager
def collector() -> Iterator[str]:
    """Takes spans and drops them."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextmanager
def serving(folder: Path, settings: Mapping[str, str]) -> Iterator[Variant]:
    """A server of the package in a folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCOPEWATCH_")}
    flags = {"grpc-address": "127.0.0.1:0", "metrics-address": "127.0.0.1:0", "torch-threads": "1", **settings}
    command = [sys.executable, "-m", "scopewatch", "serve", *(f"--{name}={value}" for name, value in flags.items())]
    process = subprocess.Popen(
        command, env=environment | {"PYTHONPATH": str(folder)}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    for line in process.stderr:
        if (said := json.loads(line))["event"] == "serving":
            break
    else:
        raise SystemExit(f"the server in {folder} did not start")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield Variant(process, said["grpc_address"])
    process.terminate()
    process.wait()


async def measure(variant: Variant, kind: str, seed: int) -> None:
    """One round of one kind of calls."""
    numbers = iter(range(CALLS[kind]))

    def request(number: int) -> pb.ScoreRequest:
        text = RESPONSES[kind].format(number=number, seed=seed)
        return pb.ScoreRequest(request_id="bench", prompt="What now?", response=text)

    async def caller(stub: monitor_pb2_grpc.MonitorServiceStub) -> None:
        for number in numbers:
            await stub.Score(request(number), timeout=60)

    async with grpc.aio.insecure_channel(variant.address) as channel:
        stub = monitor_pb2_grpc.MonitorServiceStub(channel)
        await stub.Score(request(-1), timeout=60)
        cpu_s, wall_s = variant.cpu_s(), time.monotonic()
        await asyncio.gather(*(caller(stub) for _ in range(_IN_FLIGHT)))
        variant.wall_us[kind].append(1e6 * (time.monotonic() - wall_s) / CALLS[kind])
        variant.cpu_us[kind].append(1e6 * (variant.cpu_s() - cpu_s) / CALLS[kind])


def summary(variants: Mapping[str, Variant], kind: str) -> dict[str, dict[str, float]]:
    """Of each variant the median cost of a pair, and what it is more than `before`'s in the same round."""
    base = variants["before"].cpu_us[kind]
    told = {}
    for name, one in variants.items():
        more = sorted(cost - before for cost, before in zip(one.cpu_us[kind], base, strict=True))
        told[name] = {
            "cpu_us_per_pair": round(statistics.median(one.cpu_us[kind]), 1),
            "wall_us_per_pair": round(statistics.median(one.wall_us[kind]), 1),
            "more_than_before_us": round(statistics.median(more), 1),
            "quartiles_us": [round(more[len(more) // 4], 1), round(more[-1 - len(more) // 4], 1)],
        }
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with ExitStack() as stack:
        url = stack.enter_context(collector())
        settings = {
            "off": {},
            "off again": {},
            "unsampled": {"otlp-endpoint": url, "trace-share": "0"},
            "sampled": {"otlp-endpoint": url, "trace-share": "1"},
        }
        variants = {"before": stack.enter_context(serving(args.before, {}))}
        variants |= {name: stack.enter_context(serving(SERVICE, own)) for name, own in settings.items()}
        for number in range(args.rounds + 1):
            # Whoever is first pays for what is cold; the first round warms up.
            order = list(variants.values())
            for variant in order[number % len(order) :] + order[: number % len(order)]:
                for kind in CALLS:
                    asyncio.run(measure(variant, kind, number))
        for variant in variants.values():
            for costs in (*variant.cpu_us.values(), *variant.wall_us.values()):
                del costs[0]
        result = {
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
            "rounds": args.rounds,
            "calls_per_round": CALLS,
            **{kind: summary(variants, kind) for kind in CALLS},
        }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
