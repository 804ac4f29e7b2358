"""Five times the calls that a server can answer, with short deadlines: what is answered, and how soon the rest is told.

The peak is measured by callers who come one after another, before and after each overload; after it beside a process
that takes as much of the CPU as the sender of the overload did, which on a machine of few cores the server lacks.
"""

import asyncio
import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attacks.watch import watch
from load import Load, Outcomes, run_load
from scenarios.callers import new_texts, raw_stubs, scored
from scenarios.checks import Case, at_least, at_most
from scopewatch.v1 import monitor_pb2 as pb
from servers import ServerProcess

TIMES = 5
_WORDS = 160
_CALLERS = 64
_WARM_UP_S = 5.0
_SPIN = """
import sys, time
share = float(sys.argv[1])
while True:
    until = time.process_time() + 0.02 * share
    while time.process_time() < until: pass
    time.sleep(0.02 * (1 - share))
"""


def overload(scale: float, watchlist: str = "") -> list[Case]:
    """Finds the peak, then sends five times as much, with deadlines of 2 s and of 5 s.

    Args:
        scale: The length of it, as a share of the full one.
        watchlist: Whose reader and indicators are loaded; empty for the bundled ones.
    """
    seconds = max(3.0, 30 * scale)
    texts = new_texts(_WORDS)
    cases = []
    flags = ("--watchlist", watchlist) if watchlist else ()
    with ServerProcess("--cache-bytes", "0", *flags) as server:
        before_per_s = asyncio.run(peak(server.grpc_address, texts, seconds / 2))
        for deadline_s in (2.0, 5.0):
            numbers = overloaded(server, texts, TIMES * before_per_s, seconds, deadline_s)
            with spinning(min(0.95, numbers["sender_cpu_share"])):
                after_per_s = asyncio.run(peak(server.grpc_address, texts, seconds / 2))
            cases.append(judged(numbers, before_per_s, after_per_s))
            before_per_s = after_per_s
        server.stop()
    return cases


async def peak(address: str, texts: Iterator[str], seconds: float) -> float:
    """Pairs a second that are computed for callers who come one after another, after a warm-up of a third."""
    answered, began_s = 0, time.monotonic()
    counted_from_s, until_s = began_s + seconds / 3, began_s + seconds
    async with raw_stubs(address) as (stub,):

        async def call() -> None:
            nonlocal answered
            while time.monotonic() < until_s:
                told = await scored(stub, next(texts))
                answered += told == "OK" and counted_from_s < time.monotonic() < until_s

        await asyncio.gather(*(call() for _ in range(_CALLERS)))
    return answered / (until_s - counted_from_s)


def overloaded(
    server: ServerProcess, texts: Iterator[str], rate_per_s: float, seconds: float, deadline_s: float
) -> dict[str, Any]:
    """Sends calls on a schedule that is kept whether or not any is answered; what came of them."""
    warm_up_s = min(_WARM_UP_S, seconds / 3)
    calls = int(1.2 * rate_per_s * seconds)
    requests = [pb.ScoreRequest(response=text).SerializeToString() for text in itertools.islice(texts, calls)]
    load = Load(server.grpc_address, requests, rate_per_s, seconds, deadline_s)
    unwanted = server.metric("scopewatch_unwanted_pairs_total")
    busy_s, began_s = _cpu_s(), time.monotonic()
    with watch(server.process.pid, server.grpc_address) as seen:
        outcomes = run_load(load)
    share = (_cpu_s() - busy_s) / (time.monotonic() - began_s)
    return {
        **outcomes.summary(warm_up_s),
        "refused_p99_ms": _refused_ms(outcomes),
        "late_calls": int((outcomes.codes == "DEADLINE_EXCEEDED").sum()),
        "answered": int((outcomes.codes == "OK").sum()),
        "unwanted_pairs": server.metric("scopewatch_unwanted_pairs_total") - unwanted,
        "sender_cpu_share": round(share, 2),
        "liveness": seen["liveness"],
        "resident_mib": seen["resident_mib"],
    }


def judged(numbers: dict[str, Any], before_per_s: float, after_per_s: float) -> Case:
    """Holds an overload to its bounds, its goodput to the mean of the peaks before and after it."""
    peaks = {"peak_before_per_s": round(before_per_s, 1), "peak_after_per_s": round(after_per_s, 1)}
    peak_per_s = (before_per_s + after_per_s) / 2
    of_peak = numbers["goodput_per_s"] / peak_per_s if peak_per_s else float("nan")
    checks = [
        at_least("goodput as a share of the peak", round(of_peak, 3), 0.9),
        at_most("refusals p99 ms", numbers["refused_p99_ms"], 50),
        at_most(
            "pairs computed for who had left, share",
            round(numbers["unwanted_pairs"] / max(1, numbers["answered"]), 4),
            0.01,
        ),
        at_most("liveness silent s", numbers["liveness"]["longest_silence_s"], 1.0),
    ]
    return Case(f"{TIMES} times the peak, deadlines {numbers['deadline_s']:g} s", checks, peaks | numbers)


def _refused_ms(outcomes: Outcomes) -> float:
    return round(outcomes.latency_ms("RESOURCE_EXHAUSTED", 99), 1)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def spinning(share: float) -> Iterator[None]:
    """A process beside that takes this share of a core."""
    process = subprocess.Popen([sys.executable, "-c", _SPIN, str(share)])
    try:
        yield
    finally:
        process.kill()
        process.wait()
