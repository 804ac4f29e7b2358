"""What bfloat16 changes: the same pairs read in both precisions, their scores and verdicts compared.

    python bench/precision.py DATA.jsonl [--watchlist W.yaml] [--device cuda]

On a GPU bfloat16 is the default. On a CPU it is a choice, where the CPU has bfloat16 arithmetic.
"""

import argparse
import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scopewatch.app.spine import offline
from scopewatch.config import Config
from scopewatch.pairs.data_files import read_pairs
from scopewatch.types import Pair, ScoreJob
from scopewatch.verdicts import ScoredPair

_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Read:
    """All pairs in one precision."""

    scored: list[ScoredPair]
    seconds: float


async def read(pairs: list[Pair], config: Config) -> Read:
    scored: list[ScoredPair] = []
    async with offline(config) as monitor:
        started_s = time.perf_counter()
        for start in range(0, len(pairs), _AT_ONCE):
            jobs = [
                ScoreJob(pair, "", "", include_evidence=False, labels={}) for pair in pairs[start : start + _AT_ONCE]
            ]
            for outcome in await monitor.score(jobs):
                if not isinstance(outcome, ScoredPair):
                    raise outcome
                scored.append(outcome)
        return Read(scored, time.perf_counter() - started_s)


def compare(exact: Read, rounded: Read) -> dict[str, object]:
    """Per indicator: the share of flags that changed, and by how much scores moved, as shares of their spread."""
    indicators: dict[str, dict[str, float]] = {}
    for place, indicator in enumerate(exact.scored[0].indicators):
        both = np.array([[pair.indicators[place].score for pair in read.scored] for read in (exact, rounded)])
        flags = np.array([[pair.indicators[place].flagged for pair in read.scored] for read in (exact, rounded)])
        moved = np.abs(both[0] - both[1]) / (both[0].std() or 1.0)
        indicators[indicator.name] = {
            "changed_flags": float((flags[0] != flags[1]).mean()),
            "moved_median": float(np.median(moved)),
            "moved_p99": float(np.quantile(moved, 0.99)),
        }
    verdicts = [a.verdict != b.verdict for a, b in zip(exact.scored, rounded.scored, strict=True)]
    return {
        "pairs": len(verdicts),
        "changed_verdicts": float(np.mean(verdicts)),
        "speed": round(exact.seconds / rounded.seconds, 2),
        "indicators": indicators,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL with prompt, response and label")
    parser.add_argument("--watchlist", type=Path, nargs="+", help="default: the bundled one")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    pairs = [labelled.pair for labelled in read_pairs(args.data).pairs]
    settings = {"device": args.device} | ({"watchlist": tuple(args.watchlist)} if args.watchlist else {})
    exact, rounded = (asyncio.run(read(pairs, Config(**settings, dtype=dtype))) for dtype in ("float32", "bfloat16"))
    print(json.dumps(compare(exact, rounded), indent=2))


if __name__ == "__main__":
    main()
