"""Calls that come when they come: a schedule fixed beforehand, kept whether or not the server answers.

Latencies are counted from the moment at which the schedule has a call, so a server that stalls is charged for every
call that should have come meanwhile. Raw stubs without retries: what the server answered is what is counted.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np

SCORE = "/scopewatch.v1.MonitorService/Score"
_PUSHBACK = "grpc-retry-pushback-ms"
_HEAD_START_S = 2.0
"""Time in which all processes of the generator import and connect, before the first call of the schedule."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent.

    Args:
        address: Host and port of the server.
        requests: Serialised request messages, sent in turn.
        rate_per_s: Calls a second, on average: the gaps are those of a Poisson process.
        seconds: Length of the schedule.
        deadline_s: Deadline of each call, counted from when it is sent.
        method: Full name of the method.
        metadata: Metadata of each call.
        channels: Connections of each process.
        processes: Processes that share the rate. One sends about 1,500 calls a second where it has a core.
        seed: Of the gaps; the same seed gives the same schedule.
    """

    address: str
    requests: Sequence[bytes]
    rate_per_s: float
    seconds: float
    deadline_s: float
    method: str = SCORE
    metadata: Sequence[tuple[str, str]] = ()
    channels: int = 4
    processes: int = 1
    seed: int = 0

    def schedule(self) -> np.ndarray:
        """When each call is due, in seconds from the start."""
        draws = int(self.rate_per_s * self.seconds * 2) + 100
        due_s = np.cumsum(np.random.default_rng(self.seed).exponential(1 / self.rate_per_s, draws))
        return due_s[due_s < self.seconds]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of each call; entry by entry the same call."""

    load: Load
    codes: np.ndarray
    """Names of the gRPC status codes."""
    due_s: np.ndarray
    lag_s: np.ndarray
    """How much later than due a call was sent: where it is large, the generator was too slow and not the server."""
    latency_s: np.ndarray
    """From due to answered."""
    pushback: np.ndarray
    """Whether the server said when, or that never, to try again."""

    def goodput_per_s(self, warm_up_s: float = 0.0) -> float:
        """Calls a second that were answered with OK between the end of the warm-up and the end of the schedule."""
        at = (self.due_s + self.latency_s)[self.codes == "OK"]
        return float(np.sum((at >= warm_up_s) & (at < self.load.seconds)) / (self.load.seconds - warm_up_s))

    def latency_ms(self, code: str, percent: float) -> float:
        """The latency that a share of the calls with a code does not exceed; NaN where there is none."""
        found = self.latency_s[self.codes == code]
        return 1000 * float(np.percentile(found, percent)) if found.size else float("nan")

    def summary(self, warm_up_s: float = 0.0) -> dict[str, Any]:
        """Counts, latencies by code and goodput, for a table or a JSON file."""
        by_code = {}
        for code in map(str, np.unique(self.codes)):
            chosen = self.codes == code
            by_code[code] = {
                "calls": int(chosen.sum()),
                "with_pushback": int(self.pushback[chosen].sum()),
                **{f"p{p}_ms": round(self.latency_ms(code, p), 1) for p in (50, 90, 99, 100)},
            }
        return {
            "rate_per_s": self.load.rate_per_s,
            "seconds": self.load.seconds,
            "deadline_s": self.load.deadline_s,
            "calls": len(self.codes),
            "goodput_per_s": round(self.goodput_per_s(warm_up_s), 2),
            "lag_p99_ms": round(1000 * float(np.percentile(self.lag_s, 99)), 1),
            "codes": by_code,
        }


def run_load(load: Load) -> Outcomes:
    """Sends the load and waits for every answer: the schedule's length and at most one deadline more."""
    start_at = time.time() + _HEAD_START_S if load.processes > 1 else None
    shares = [
        replace(load, rate_per_s=load.rate_per_s / load.processes, seed=load.seed + number)
        for number in range(load.processes)
    ]
    if load.processes == 1:
        parts = [_share(load, start_at)]
    else:
        with ProcessPoolExecutor(load.processes, multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(_share, shares, [start_at] * load.processes))
    codes, due_s, lag_s, latency_s, pushback = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Outcomes(load, codes, due_s, lag_s, latency_s, pushback)


def _share(load: Load, start_at: float | None) -> tuple[np.ndarray, ...]:
    return asyncio.run(_send(load, start_at))


async def _send(load: Load, start_at: float | None) -> tuple[np.ndarray, ...]:
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(load.address, options=options) for _ in range(load.channels)]
    methods = [channel.unary_unary(load.method) for channel in channels]
    await asyncio.wait_for(asyncio.gather(*(channel.channel_ready() for channel in channels)), 30)
    due_s = load.schedule()
    lag_s, latency_s = np.zeros(len(due_s)), np.zeros(len(due_s))
    codes, pushback = np.full(len(due_s), "UNSENT", dtype="<U24"), np.zeros(len(due_s), dtype=bool)
    # Processes agree on the wall clock's start; from there each counts by its own steady clock.
    start = time.perf_counter() + (start_at - time.time() if start_at else 0)

    async def call(number: int) -> None:
        lag_s[number] = time.perf_counter() - start - due_s[number]
        try:
            request = load.requests[number % len(load.requests)]
            await methods[number % len(methods)](request, timeout=load.deadline_s, metadata=tuple(load.metadata))
            codes[number] = "OK"
        except grpc.aio.AioRpcError as error:
            codes[number] = error.code().name
            pushback[number] = _PUSHBACK in dict(error.trailing_metadata() or ())
        latency_s[number] = time.perf_counter() - start - due_s[number]

    async with asyncio.TaskGroup() as calls:
        for number, due in enumerate(due_s):
            if (early_s := start + due - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            calls.create_task(call(number))
    await asyncio.gather(*(channel.close() for channel in channels))
    return codes, due_s, lag_s, latency_s, pushback
