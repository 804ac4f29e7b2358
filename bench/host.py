"""What the host does for a pair and for a call, without the reader: `python bench/host.py --before FOLDER`.

Real servers (gRPC, tokenizer, cache, watchlist, metrics, log) whose engine takes no time, and a bare grpc.aio server
that answers messages of the same sizes: how many calls a second that makes is the ceiling of a process. All of them are
asked in turn, round by round, by this process, which sends bytes that were made before and does not read the replies'
insides. A process does 1 / (seconds of processor time per call) calls a second; what was reached beside this client,
on the same cores, stands next to it.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

import scopewatch
from scopewatch.client import pb, request
from scopewatch.server_process import running_server
from scopewatch.types import Pair
from subjects import lengths, pairs

_HERE = Path(__file__).parent
_SERVICE = pb.DESCRIPTOR.services_by_name["MonitorService"].full_name
_MOST_TOKENS = 1000
_SETTINGS = {"torch_threads": 1, "max_queue_tokens": 4_000_000}
ECHO = "grpc.aio alone"


@dataclass(frozen=True, slots=True)
class Way:
    """A way of calling."""

    name: str
    batch: int
    """The number of pairs in a call."""
    at_once: int
    """The number of calls in flight."""
    cached: bool

    @property
    def method(self) -> str:
        return "BatchScore" if self.batch > 1 else "Score"

    def bodies(self, wanted: Sequence[Pair]) -> list[bytes]:
        """The serialised requests for these pairs."""
        made = [request(prompt=pair.prompt, response=pair.response) for pair in wanted]
        if self.batch == 1:
            return [one.SerializeToString() for one in made]
        return [
            pb.BatchScoreRequest(requests=made[start : start + self.batch]).SerializeToString()
            for start in range(0, len(made), self.batch)
        ]

    def check(self, reply: bytes) -> None:
        """Stops the run unless every pair of a reply was scored, and came from where it was meant to."""
        if self.batch == 1:
            results = [pb.ScoreResponse.FromString(reply)]
        else:
            results = [one.response for one in pb.BatchScoreResponse.FromString(reply).results]
        if [(one.verdict > 0, one.cached) for one in results] != [(True, self.cached)] * len(results):
            raise SystemExit(f"{self.name}: a pair failed, or came from where it was not meant to")


WAYS = (
    Way("computed, BatchScore of 32", 32, 4, cached=False),
    Way("cached, BatchScore of 32", 32, 4, cached=True),
    Way("computed, Score", 1, 64, cached=False),
    Way("cached, Score", 1, 64, cached=True),
    Way("computed, Score, alone", 1, 1, cached=False),
)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds: the process's processor time, that of its event loop's thread, and the wall clock."""

    cpu: float
    loop: float
    wall: float

    @classmethod
    def now(cls, pid: int) -> "Clocks":
        loop_ns = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
        # The number that Linux gives another process's clock of processor time.
        return cls(time.clock_gettime((~pid << 3) | 2), loop_ns / 1e9, time.perf_counter())

    def since(self, before: "Clocks", calls: int) -> "Clocks":
        """What each of so many calls took."""
        return Clocks(*((getattr(self, n) - getattr(before, n)) / calls for n in self.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    name: str
    pid: int
    address: str


@contextmanager
def null_server(name: str, service: Path, *flags: str) -> Iterator[Served]:
    """A server with a null engine, of the code in a source root."""
    command = ["env", f"PYTHONPATH={service}", sys.executable, str(_HERE / "null_server.py"), *flags]
    with running_server(_SETTINGS, command) as running:
        yield Served(name, running.process.pid, running.address)


@contextmanager
def echo_server(score_bytes: int, batch_bytes: int) -> Iterator[Served]:
    """A grpc.aio server that does nothing but answer."""
    command = [sys.executable, str(_HERE / "echo_server.py"), str(score_bytes), str(batch_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield Served(ECHO, process.pid, f"127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


async def ask(served: Served, way: Way, bodies: Sequence[bytes]) -> tuple[list[bytes], list[float]]:
    """Sends all requests, so many at once; the replies, and how long each took, in seconds."""
    options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(served.address, options=options) as channel:
        call: Any = channel.unary_unary(f"/{_SERVICE}/{way.method}")
        await channel.channel_ready()
        left, replies, took_s = iter(bodies), [], []

        async def caller() -> None:
            for body in left:
                began_s = time.perf_counter()
                replies.append(await call(body, timeout=900))
                took_s.append(time.perf_counter() - began_s)

        await asyncio.gather(*(caller() for _ in range(way.at_once)))
    return replies, took_s


def measured(served: Served, way: Way, bodies: Sequence[bytes]) -> tuple[Clocks, float]:
    """What a call took, and the median of its latency in seconds."""
    before = Clocks.now(served.pid)
    replies, took_s = asyncio.run(ask(served, way, bodies))
    clocks = Clocks.now(served.pid).since(before, len(bodies))
    if served.name != ECHO:
        for reply in replies[::17]:
            way.check(reply)
    return clocks, statistics.median(took_s)


def reply_sizes(served: Served) -> tuple[int, int]:
    """The median size of a reply to `Score`, and to a batch; the server is warm behind this."""
    new = pairs(lengths(512, _MOST_TOKENS), salt=10**6)
    sizes = [
        int(statistics.median(map(len, asyncio.run(ask(served, way, way.bodies(new)))[0])))
        for way in (WAYS[3], WAYS[1])
    ]
    return sizes[0], sizes[1]


def rounds(servers: Sequence[Served], n_rounds: int, n_pairs: int) -> dict[str, dict[str, list[tuple[Clocks, float]]]]:
    """What every way of calling every server took, round by round."""
    took: dict[str, dict[str, list[tuple[Clocks, float]]]] = {
        way.name: {one.name: [] for one in servers} for way in WAYS
    }
    for number in range(n_rounds):
        for place, way in enumerate(WAYS):
            # What was computed by batches is asked for again, by batches and one by one.
            salt = len(WAYS) * number + (0 if way.cached else place)
            wanted = pairs(lengths(n_pairs, _MOST_TOKENS), salt=salt)[: 64 if way.at_once == 1 else None]
            bodies = way.bodies(wanted)
            for served in servers[:: 1 if number % 2 else -1]:
                took[way.name][served.name].append(measured(served, way, bodies))
    return took


def figures(took: Sequence[tuple[Clocks, float]], way: Way) -> dict[str, float]:
    """Medians over rounds."""
    cpu, loop, wall = (statistics.median(getattr(one, name) for one, _ in took) for name in ("cpu", "loop", "wall"))
    return {
        "cpu_us_per_call": round(1e6 * cpu, 1),
        "loop_us_per_call": round(1e6 * loop, 1),
        "cpu_us_per_pair": round(1e6 * cpu / way.batch, 1),
        "calls_per_cpu_s": round(1 / cpu),
        "pairs_per_cpu_s": round(way.batch / cpu),
        "pairs_per_s_beside_client": round(way.batch / wall),
        "p50_ms": round(1000 * statistics.median(p50 for _, p50 in took), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of other code, measured in the same run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=1024, help="pairs in a round (default: 1024)")
    parser.add_argument("--batch-ms", type=float, default=0.0, help="time of any batch of the engine (default: 0)")
    parser.add_argument("--tokens-per-s", type=float, default=float("inf"), help="tokens that it reads (default: inf)")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    args = parser.parse_args()
    flags = ("--batch-ms", str(args.batch_ms), "--tokens-per-s", str(args.tokens_per_s))
    trees = {"now": Path(scopewatch.__file__).parents[1]}
    if args.before:
        trees["before"] = args.before / "service"
    with ExitStack() as started:
        servers = [started.enter_context(null_server(name, tree, *flags)) for name, tree in trees.items()]
        sizes = [reply_sizes(one) for one in servers]
        servers.append(started.enter_context(echo_server(*sizes[0])))
        took = rounds(servers, args.rounds, args.pairs)
    table = {way.name: {name: figures(each, way) for name, each in took[way.name].items()} for way in WAYS}
    for way_name, row in table.items():
        for name, found in row.items():
            print(f"{way_name:28}{name:16}" + "".join(f"{key} {value:<9g} " for key, value in found.items()))
    if args.out:
        about = {"engine": {"batch_ms": args.batch_ms, "tokens_per_s": args.tokens_per_s}, "cores": os.cpu_count()}
        args.out.write_text(
            json.dumps(about | {"rounds": args.rounds, "ways": table}, indent=1).replace("Infinity", "null") + "\n"
        )


if __name__ == "__main__":
    main()
