"""What a pair costs beside the reader: processor time of the server and of this client, by way of calling.

    python bench/beside_reader.py            or        python bench/beside_reader.py --watchlist FILE --evidence

A real server on one core, this client on the others. Every round has new pairs, which are first computed in batches of
32, then asked for again in every way. Prints medians over rounds in microseconds, per pair and per call; `loop` is the
thread that everything but reading, tokenising and gRPC's own polling runs on.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scopewatch.client import AsyncClient, pb, request
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.server_process import RunningServer
from scopewatch.types import Pair
from subjects import lengths, pairs
from timed_calls import server

Ask = Callable[[AsyncClient, Sequence[Pair]], Awaitable[Sequence[pb.ScoreResponse]]]
_MOST_TOKENS = 2000


@dataclass(frozen=True, slots=True)
class Way:
    """A way of calling the server."""

    batch: int
    """The number of pairs in a `BatchScore` call; 0 for `Score`."""
    at_once: int
    """The number of calls in flight."""
    cached: bool = True

    def __str__(self) -> str:
        call = f"BatchScore of {self.batch}" if self.batch else "Score"
        return f"{call}, {self.at_once} at once, {'cached' if self.cached else 'computed'}"


COMPUTED = Way(32, 4, cached=False)
WAYS = (COMPUTED, Way(256, 4), Way(32, 4), Way(0, 64), Way(0, 1))


@dataclass(frozen=True, slots=True)
class Clocks:
    """Processor time that the server's event loop, the server and this client used so far, and the wall clock: in s."""

    loop: float
    server: float
    client: float
    wall: float

    @classmethod
    def now(cls, pid: int) -> "Clocks":
        loop_ns = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
        # The number that Linux gives another process's clock of processor time.
        whole_s = time.clock_gettime((~pid << 3) | 2)
        return cls(loop_ns / 1e9, whole_s, time.process_time(), time.perf_counter())


async def ask(client: AsyncClient, way: Way, wanted: Sequence[Pair], *, evidence: bool) -> list[pb.ScoreResponse]:
    """Sends all pairs this way, requests built and replies read as a backend would."""
    gate = asyncio.Semaphore(way.at_once)

    async def batch(own: Sequence[Pair]) -> list[pb.ScoreResponse]:
        async with gate:
            made = [request(prompt=pair.prompt, response=pair.response, include_evidence=evidence) for pair in own]
            return [reply for reply in await client.score_batch(made) if isinstance(reply, pb.ScoreResponse)]

    async def lone(pair: Pair) -> list[pb.ScoreResponse]:
        async with gate:
            return [await client.score(prompt=pair.prompt, response=pair.response, include_evidence=evidence)]

    if way.batch:
        parts = [batch(wanted[start : start + way.batch]) for start in range(0, len(wanted), way.batch)]
    else:
        parts = [lone(pair) for pair in wanted]
    return [reply for replies in await asyncio.gather(*parts) for reply in replies]


async def measure(served: RunningServer, args: argparse.Namespace) -> tuple[dict[Way, list[Clocks]], float]:
    """What each way took per pair, round by round; and which share of pairs was flagged."""
    took: dict[Way, list[Clocks]] = {way: [] for way in WAYS}
    flagged: list[bool] = []
    async with AsyncClient(served.address, timeout_s=900) as client:
        for number in range(args.rounds):
            new = pairs(lengths(args.pairs, _MOST_TOKENS), salt=number)
            for way in WAYS:
                wanted = new * (args.repeats if way.cached else 1)
                before = Clocks.now(served.process.pid)
                replies = await ask(client, way, wanted, evidence=args.evidence)
                after = Clocks.now(served.process.pid)
                if [way.cached] * len(wanted) != [reply.cached for reply in replies]:
                    raise SystemExit(f"{way}: some replies failed, or came from where they were not meant to")
                flagged += [reply.verdict == pb.VERDICT_FLAG for reply in replies]
                names = Clocks.__dataclass_fields__
                took[way].append(Clocks(*((getattr(after, n) - getattr(before, n)) / len(wanted) for n in names)))
    return took, statistics.mean(flagged)


def pin(pid: int, cores: set[int]) -> None:
    """Lets all threads of a process run only on these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watchlist", type=Path, default=BUNDLED_WATCHLIST)
    parser.add_argument("--evidence", action="store_true", help="ask for evidence")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=256, help="new pairs in a round (default: 256)")
    parser.add_argument("--repeats", type=int, default=8, help="times they are asked for again (default: 8)")
    args = parser.parse_args()
    config = Config(watchlist=(args.watchlist,), torch_threads=1)
    with server(config) as served:
        first, *others = sorted(os.sched_getaffinity(0))
        pin(served.process.pid, {first})
        pin(os.getpid(), set(others) or {first})
        took, flagged = asyncio.run(measure(served, args))
    print(f"{flagged:.0%} of pairs flagged, each of which is a line in the log")
    print(f"{'':36}{'loop':>8}{'server':>8}{'client':>8}{'pairs/s':>9}{'server us/call':>16}")
    for way, rounds in took.items():
        loop, whole, client, wall = (
            statistics.median(getattr(clocks, name) for clocks in rounds) for name in Clocks.__dataclass_fields__
        )
        each = "".join(f"{1e6 * seconds:8.1f}" for seconds in (loop, whole, client))
        print(f"{way!s:36}{each}{1 / wall:9.0f}{1e6 * whole * max(way.batch, 1):16.0f}")


if __name__ == "__main__":
    main()
