"""A server under a steady mixed load: does its memory grow, do its descriptors?"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from scipy import stats

from attacks.watch import Process
from scenarios.callers import new_texts, outcome, raw_stubs
from scenarios.checks import Case, at_most, none_of
from scopewatch.v1 import monitor_pb2 as pb
from servers import ServerProcess, health

_EVERY_S = 0.5
_WARM_UP = 0.4
"""The share of the time after which growth counts. In it callers make no pause and texts are of all lengths: the
caches, small here, are full then, and so is what the kernels keep for each shape of a batch."""
_BLOCKS = 10
"""Samples beside each other are alike; what is fitted are means of so many stretches."""
_GROWTH_MIB = 16.0
"""What the resident size may gain from the first to the last fifth of the time that counts, in MiB."""
_SETTINGS = ("--cache-bytes", str(4 << 20), "--prefix-cache-bytes", str(8 << 20))
_PAUSE_S = 0.02


def soak(scale: float, seconds: float = 120.0) -> list[Case]:
    """Runs for so many seconds times the scale."""
    return [asyncio.run(soaked(max(5.0, seconds * scale)))]


async def soaked(seconds: float) -> Case:
    """Scores new texts, known ones and batches, and cancels some, while samples are taken."""
    outcomes, samples, over = Counter[str](), list[dict[str, int]](), asyncio.Event()
    with ServerProcess(*_SETTINGS) as server:
        process = Process(server.process.pid)
        async with raw_stubs(server.grpc_address, 4) as stubs:
            texts = new_texts(40)
            warm = asyncio.Event()
            asking = [asyncio.create_task(_ask(stub, texts, outcomes, warm, over)) for stub in stubs * 2]
            asyncio.get_running_loop().call_later(_WARM_UP * seconds, warm.set)
            for _ in range(round(seconds / _EVERY_S)):
                await asyncio.sleep(_EVERY_S)
                process.take()
                samples.append(process.last)
            alive = await health(server.grpc_address, "") == "SERVING"
            over.set()
            await asyncio.gather(*asking)
        code = server.stop()
    return judged(samples, outcomes, alive=alive, code=code)


def judged(samples: list[dict[str, int]], outcomes: Counter[str], *, alive: bool, code: int) -> Case:
    """Holds what was sampled to the bounds."""
    counted = samples[int(_WARM_UP * len(samples)) :]
    memory = np.array([sample["resident_mib"] for sample in counted], float)
    fifth = max(1, len(memory) // 5)
    descriptors = np.array([sample["descriptors"] for sample in counted])
    threads = np.array([sample["threads"] for sample in counted])
    slope, half = slope_per_hour(memory)
    failed = sum(
        count
        for name, count in outcomes.items()
        if name not in {"OK", "cancelled", "RESOURCE_EXHAUSTED with push-back"}
    )
    checks = [
        at_most("RSS growth MiB", round(float(memory[-fifth:].mean() - memory[:fifth].mean()), 2), _GROWTH_MIB),
        at_most("RSS MiB per hour, lower end of its 95 % interval", round(slope - half, 1), 0),
        at_most("descriptors, most less least", int(np.ptp(descriptors)), 2),
        at_most("threads, most less least", int(np.ptp(threads)), 2),
        none_of("failed calls", failed),
        none_of("liveness lost", not alive),
        none_of("exit code", code),
    ]
    numbers = {
        "rss_mib_per_hour": round(slope, 1),
        "rss_mib_per_hour_half_interval": round(half, 1),
        "rss_mib": [int(memory[0]), int(memory.max()), int(memory[-1])],
        "outcomes": dict(outcomes),
    }
    return Case(f"mixed load for {len(samples) * _EVERY_S:g} s", checks, numbers)


def slope_per_hour(values: np.ndarray) -> tuple[float, float]:
    """The slope of samples taken every half second, per hour, and half its 95 % interval."""
    blocks = [block.mean() for block in np.array_split(values, min(_BLOCKS, len(values)))]
    hours = np.arange(len(blocks)) * (len(values) / len(blocks)) * _EVERY_S / 3600
    line = stats.linregress(hours, blocks)
    return float(line.slope), float(stats.t.ppf(0.975, len(blocks) - 2) * line.stderr)


async def _ask(
    stub: Any, texts: Iterator[str], outcomes: Counter[str], warm: asyncio.Event, over: asyncio.Event
) -> None:
    """One caller: new texts, texts that come again, batches, and calls that are given up."""
    dice = random.Random(7)
    for turn in itertools.count():
        if over.is_set():
            return
        again = f"{turn % 50}: it may come again"
        if turn % 4 == 0:
            requests = [pb.ScoreRequest(response=text) for text in [*_cut(itertools.islice(texts, 3), dice), again]]
            call = stub.BatchScore(pb.BatchScoreRequest(requests=requests), timeout=60)
        else:
            call = stub.Score(pb.ScoreRequest(response=again if turn % 4 == 1 else next(_cut(texts, dice))), timeout=60)
        if turn % 10 == 9:
            await asyncio.sleep(dice.uniform(0, 0.02))
            call.cancel()
        try:
            await call
            outcomes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            outcomes[outcome(error)] += 1
        except asyncio.CancelledError:
            outcomes["cancelled"] += 1
        await asyncio.sleep(_PAUSE_S if warm.is_set() else 0)


def _cut(texts: Iterator[str], dice: random.Random) -> Iterator[str]:
    """Texts, each cut to some length."""
    return (text[: dice.randint(8, len(text))] for text in texts)
