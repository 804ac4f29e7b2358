"""What it takes to say why: the time of an explanation, and what scoring loses beside one that is always being made.

    python bench/explaining.py            or        python bench/explaining.py --rounds 10 --pairs 400

A real server of the bundled reader on one core, its callers on the others. First explanations of new pairs of 500
tokens, one at a time: alone, with ablations, with the smallest deletion, with both. Then callers that score new pairs
in a closed loop, in turn alone, beside a client in a process of its own that explains new pairs all the time, and
beside one that wants ablations and deletions too; every round has all three, in another order, and a ratio is one
round's. Prints a table and writes `results/explaining.json`; exits with 1 where a goal is missed.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from beside_reader import pin
from scopewatch.client import Client
from scopewatch.config import Config
from scopewatch.server_process import RunningServer
from scopewatch.types import Pair
from subjects import lengths, pairs
from timed_calls import Calls, server, unary

OUT = Path(__file__).parent / "results" / "explaining.json"
MOST_S, LEAST_RATIO = 1.0, 0.95
"""The goals: the seconds of an explanation at most, and the share of its rate that scoring keeps at least."""
_TOKENS = 500
_TIMEOUT_S = 600.0
_GUESS = " It might be that this is perhaps likely, but we are not sure. "
WANTS: dict[str, dict[str, bool]] = {
    "explanation": {},
    "with ablations": {"ablate": True},
    "with deletion": {"delete": True},
    "with both": {"ablate": True, "delete": True},
}


@dataclass
class Found:
    """What was measured."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """How long each explanation took for its client, by what was wanted; the first of all is left out."""
    pairs_per_s: dict[str, list[float]] = field(default_factory=dict)
    """The rate of scoring in each round, by what went on beside it."""
    beside_s: dict[str, list[float]] = field(default_factory=dict)
    """How long each explanation took that was made beside scoring."""
    resident_mib: dict[str, int | None] = field(default_factory=dict)
    """The server's resident memory: before the first explanation, behind the last, and the most of all."""

    def ratios(self, beside: str) -> list[float]:
        """What scoring kept of its rate, round by round."""
        alone = self.pairs_per_s["alone"]
        return [rate / whole for rate, whole in zip(self.pairs_per_s[beside], alone, strict=True)]


def guess(salt: int) -> Pair:
    """A pair of about 500 tokens with a guess in the middle, which the bundled watchlist flags."""
    (pair,) = pairs([_TOKENS - 15], salt=salt)
    half = len(pair.response) // 2
    return Pair(pair.prompt, pair.response[:half].rstrip() + "." + _GUESS + pair.response[half:].lstrip())


def explain(client: Client, pair: Pair, wanted: str) -> float:
    """The seconds that an explanation takes; it has to be of a flagged pair, or less than all would be measured."""
    started = time.perf_counter()
    explanation = client.explain(prompt=pair.prompt, response=pair.response, **WANTS[wanted])
    seconds = time.perf_counter() - started
    if explanation.verdict != "flag":
        raise SystemExit("a pair is not flagged, so that nothing is taken out of it; its watchlist has changed")
    return seconds


def one_by_one(served: RunningServer, found: Found, repeats: int) -> None:
    """Explanations with nothing beside them."""
    with Client(served.address, timeout_s=_TIMEOUT_S) as client:
        client.score(prompt="so", response="it is")
        found.resident_mib["before"] = served.resident_mib
        explain(client, guess(-1), "with both")
        found.resident_mib["after the first"] = served.resident_mib
        for number in range(repeats):
            for place, wanted in enumerate(WANTS):
                seconds = explain(client, guess(10 * number + place), wanted)
                found.seconds.setdefault(wanted, []).append(seconds)


def explain_always(
    address: str, wanted: str, *, salt: int, begun: Event, ends: Event, took: "Queue[list[float]]"
) -> None:
    """Explains one new pair after the other until it is told to stop; a process of its own."""
    seconds: list[float] = []
    with Client(address, timeout_s=_TIMEOUT_S) as client:
        client.info()
        begun.set()
        while not ends.is_set():
            seconds.append(explain(client, guess(salt + len(seconds)), wanted))
    took.put(seconds)


def scored_beside(served: RunningServer, found: Found, beside: str, *, salt: int, count: int, callers: int) -> None:
    """One round of scoring, with a client beside it that explains, or with none."""
    calls = Calls()
    work = pairs(lengths(count, _TOKENS), salt=salt)
    if beside == "alone":
        unary(served, work, calls, cached=False, callers=callers)
    else:
        context = multiprocessing.get_context("spawn")
        begun, ends, took = context.Event(), context.Event(), context.Queue()
        events = {"salt": 1000 * salt, "begun": begun, "ends": ends, "took": took}
        other = context.Process(target=explain_always, args=(served.address, beside), kwargs=events)
        other.start()
        begun.wait(60)
        unary(served, work, calls, cached=False, callers=callers)
        ends.set()
        found.beside_s.setdefault(beside, []).extend(took.get())
        other.join()
    found.pairs_per_s.setdefault(beside, []).append(calls.pairs_per_s[0])


def measure(args: argparse.Namespace) -> Found:
    found = Found()
    with server(Config(torch_threads=1)) as served:
        first, *others = sorted(os.sched_getaffinity(0))
        pin(served.process.pid, {first})
        pin(os.getpid(), set(others) or {first})
        one_by_one(served, found, args.repeats)
        ways = ["alone", "explanation", "with both"]
        # Once for nobody: the first calls of a process take longer.
        unary(served, pairs(lengths(args.pairs, _TOKENS), salt=-2), Calls(), cached=False, callers=args.callers)
        for number in range(args.rounds):
            for beside in random.Random(number).sample(ways, len(ways)):
                salt = 3 * number + ways.index(beside) + 100
                scored_beside(served, found, beside, salt=salt, count=args.pairs, callers=args.callers)
        found.resident_mib["after all"] = served.resident_mib
        found.resident_mib["most"] = served.peak_resident_mib
    return found


def report(found: Found) -> dict[str, Any]:
    """What was measured, with what it comes to."""
    ratios = {beside: found.ratios(beside) for beside in found.pairs_per_s if beside != "alone"}
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "median_seconds": {wanted: round(statistics.median(took), 3) for wanted, took in found.seconds.items()},
        "median_pairs_per_s": {way: round(statistics.median(rates), 1) for way, rates in found.pairs_per_s.items()},
        "kept": {beside: round(statistics.median(each), 3) for beside, each in ratios.items()},
        "kept_by_round": {beside: [round(ratio, 3) for ratio in each] for beside, each in ratios.items()},
        "goals": {"seconds": MOST_S, "kept": LEAST_RATIO},
        **asdict(found),
    }


def show(found: Found, said: dict[str, Any]) -> None:
    print(f"{'seconds of an explanation':28}{'median':>9}{'least':>9}{'most':>9}{'n':>5}")
    for wanted, took in found.seconds.items():
        print(f"{wanted:28}{statistics.median(took):9.2f}{min(took):9.2f}{max(took):9.2f}{len(took):5}")
    print(f"\n{'scoring beside':28}{'pairs/s':>9}{'kept':>9}{'least':>9}{'most':>9}{'explanations':>14}")
    for way, rate in said["median_pairs_per_s"].items():
        each = found.ratios(way)
        made = len(found.beside_s.get(way, []))
        print(f"{way:28}{rate:9.1f}{statistics.median(each):9.3f}{min(each):9.3f}{max(each):9.3f}{made:14}")
    print("\nresident memory of the server, MiB: " + ", ".join(f"{when} {n}" for when, n in found.resident_mib.items()))


def missed(said: dict[str, Any], goals: Sequence[str] = ("explanation",)) -> bool:
    """Whether a goal is missed; ablations and deletions are asked for, and have none for their time."""
    slow = any(said["median_seconds"][wanted] > MOST_S for wanted in goals)
    return slow or any(kept < LEAST_RATIO for kept in said["kept"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="explanations of each kind (default: 7)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of scoring (default: 7)")
    parser.add_argument("--pairs", type=int, default=400, help="new pairs that are scored in a round (default: 400)")
    parser.add_argument("--callers", type=int, default=16, help="callers that score at once (default: 16)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the numbers go (default: {OUT.name})")
    args = parser.parse_args()
    found = measure(args)
    said = report(found)
    args.out.write_text(json.dumps(said, indent=1) + "\n")
    show(found, said)
    raise SystemExit(missed(said))


if __name__ == "__main__":
    main()
