"""How fast the bundled service answers here, as ratios measured side by side in one run.

    make bench

Starts a real server on the bundled reader and compares, in turn, over the same pairs: one call at a time, 64
callers at once, and batches of 32, first computed, then from the cache. Medians of `ROUNDS` rounds; prints a table
and writes `bench/results/<device>.json`.
"""

import asyncio
import json
import platform
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from scopewatch.client import AsyncClient, request
from scopewatch.demo.tour import running_server

ROUNDS = 5
PAIRS = 256
_SENTENCES = (
    "The valve closes when the pressure falls.",
    "It may be that the sensor was wet, though nobody checked.",
    "Insulin lets cells take up glucose from the blood.",
    "The committee met in May and approved the plan.",
)


def make_pairs(salt: str) -> list[dict[str, str]]:
    """Pairs of 20 to 300 tokens; the salt makes them new to the cache."""
    return [
        {"prompt": f"Question {salt} {i}?", "response": " ".join(_SENTENCES[(i + j) % 4] for j in range(1 + i % 24))}
        for i in range(PAIRS)
    ]


async def one_at_a_time(client: AsyncClient, pairs: list[dict[str, str]]) -> list[float]:
    latencies = []
    for pair in pairs:
        started = time.perf_counter()
        await client.score(**pair)
        latencies.append(time.perf_counter() - started)
    return latencies


async def callers(client: AsyncClient, pairs: list[dict[str, str]]) -> list[float]:
    gate = asyncio.Semaphore(64)
    latencies = []

    async def call(pair: dict[str, str]) -> None:
        async with gate:
            started = time.perf_counter()
            await client.score(**pair)
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(call(pair) for pair in pairs))
    return latencies


async def batches(client: AsyncClient, pairs: list[dict[str, str]]) -> list[float]:
    latencies = []
    for first in range(0, len(pairs), 32):
        started = time.perf_counter()
        await client.score_batch([request(**pair) for pair in pairs[first : first + 32]])
        latencies.append(time.perf_counter() - started)
    return latencies


Way = Callable[[AsyncClient, list[dict[str, str]]], Awaitable[list[float]]]


async def measure(address: str) -> dict[str, dict[str, float]]:
    ways: dict[str, Way] = {"unary_1": one_at_a_time, "unary_64": callers, "batch_32": batches}
    rates: dict[str, list[float]] = {}
    latencies: dict[str, list[float]] = {}
    async with AsyncClient(address, timeout_s=120) as client:
        for number in range(ROUNDS):
            for name, way in ways.items():
                pairs = make_pairs(f"{name}-{number}")
                for state in ("computed", "cached"):
                    started = time.perf_counter()
                    times = await way(client, pairs)
                    rates.setdefault(f"{name}_{state}", []).append(PAIRS / (time.perf_counter() - started))
                    latencies.setdefault(f"{name}_{state}", []).extend(times)
    return {
        name: {
            "pairs_per_s": round(statistics.median(values), 1),
            "p50_ms": round(1000 * statistics.median(latencies[name]), 2),
            "p99_ms": round(1000 * statistics.quantiles(latencies[name], n=100)[98], 2),
        }
        for name, values in rates.items()
    }


def main() -> None:
    with running_server() as addresses:
        rows = asyncio.run(measure(addresses["grpc_address"]))
    base = rows["unary_1_computed"]["pairs_per_s"]
    print(f"{'way':20}{'pairs/s':>10}{'ratio':>8}{'p50 ms':>9}{'p99 ms':>9}")
    for name, row in rows.items():
        row["ratio_vs_unary_1_computed"] = round(row["pairs_per_s"] / base, 2)
        print(
            f"{name:20}{row['pairs_per_s']:10.1f}{row['ratio_vs_unary_1_computed']:8.2f}"
            f"{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}"
        )
    server_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"server's largest resident size: {server_mib:.0f} MiB")
    result = {"machine": platform.machine(), "ways": rows, "server_rss_mib": round(server_mib)}
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "cpu.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
