"""Does the bound hold on real scores? Benign pairs of a data file, parted at random 200 times.

    python bench/bound.py DATA.jsonl --indicator bias [--watchlist FILE]

Each time one pair of each benign group is drawn, so that pairs are exchangeable. Two things are compared with the
bound that `threshold_for` states:

split     The pairs are parted in two halves at random; a threshold is set on one, and the share of the other that it
          flags is the realised rate. That half is a sample itself, so that its share exceeds a bound that holds
          somewhat more often than 5 %: with k permitted above the threshold of n, the number flagged of m others is
          beta-binomial (m, k+1, n-k) without ties, and stochastically smaller with them.
redrawn   The pairs of the file are taken for the whole population, so that the realised rate has no noise of its own,
          and as many as there are in a half are drawn from them with replacement. Here the theory is 5 %.

`theory` is how many violations that gives on average, `allowed` the 99.9 % quantile of their number.
`plain` is how often a plain quantile on the same draws lets more than `max_fpr` pass. All this is about pairs like
those the threshold was set on; of other traffic it says nothing.
"""

import argparse
import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from scopewatch.app.spine import offline
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.errors import TooLittleData
from scopewatch.pairs.data_files import Reading, read_pairs
from scopewatch.pairs.labelled import groups_of, labels_of
from scopewatch.pairs.scored import score_pairs
from scopewatch.statistics.bounds import one_per_group, threshold_for
from scopewatch.statistics.scores import Scores

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Draw:
    """Benign scores to set a threshold on, and those whose flagged share is the realised rate."""

    setting: Scores
    realised: Scores


def benign_scores(data: Path, indicator: str, watchlist: Path) -> tuple[Scores, list[str]]:
    """Scores of the pairs of label 0 as the service gives them, and their groups."""
    pairs = read_pairs(data).pairs
    benign = [pair for pair, label in zip(pairs, labels_of(pairs), strict=True) if not label]

    async def run() -> Scores:
        async with offline(Config(watchlist=(watchlist,))) as monitor:
            scored = await score_pairs(benign, [indicator], "", monitor.score, reading=Reading(strict=True))
            return scored.by_indicator[indicator].scores

    return asyncio.run(run()), groups_of(benign)


def split(scores: Scores, groups: list[str], resamplings: int) -> Iterator[Draw]:
    for seed in range(resamplings):
        shuffled = np.random.default_rng(seed).permutation(scores[one_per_group(groups, seed)])
        yield Draw(shuffled[: len(shuffled) // 2], shuffled[len(shuffled) // 2 :])


def redrawn(scores: Scores, groups: list[str], resamplings: int) -> Iterator[Draw]:
    for seed in range(resamplings):
        population = scores[one_per_group(groups, seed)]
        yield Draw(np.random.default_rng(seed).choice(population, len(population) // 2), population)


def split_theory(n: int, m: int, fpr_upper: float, max_fpr: float) -> float:
    """Chance that more than the bound of m others lie above the threshold, without ties."""
    allowed = next(k for k in range(n - 1, -1, -1) if stats.beta.ppf(CONFIDENCE, k + 1, n - k) <= max_fpr)
    return float(stats.betabinom.sf(np.floor(fpr_upper * m), m, allowed + 1, n - allowed))


def row(name: str, draws: list[Draw], max_fpr: float) -> str:
    found = [threshold_for(draw.setting, max_fpr, CONFIDENCE) for draw in draws]
    rates = [(draw.realised > threshold.value).mean() for draw, threshold in zip(draws, found, strict=True)]
    violations = sum(rate > threshold.fpr_upper for rate, threshold in zip(rates, found, strict=True))
    plain = sum((draw.realised > np.quantile(draw.setting, 1 - max_fpr)).mean() > max_fpr for draw in draws)
    n, m, bound = found[0].n, len(draws[0].realised), found[0].fpr_upper
    theory = split_theory(n, m, bound, max_fpr) if name == "split" else 1 - CONFIDENCE
    allowed = int(stats.binom.ppf(0.999, len(draws), theory))
    return (
        f"{name:8} {max_fpr:7.3f} {n:5} {m:5} {bound:7.4f} {np.mean(rates):9.4f} {violations:10} "
        f"{theory * len(draws):7.1f} {allowed:8} {plain:6} {'holds' if violations <= allowed else 'BROKEN'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL with prompt, response and label")
    parser.add_argument("--indicator", required=True, help="name of the indicator")
    parser.add_argument("--watchlist", type=Path, default=BUNDLED_WATCHLIST)
    parser.add_argument("--max-fpr", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1])
    parser.add_argument("--resamplings", type=int, default=200)
    args = parser.parse_args()
    scores, groups = benign_scores(args.data, args.indicator, args.watchlist)
    print(
        f"{args.data.stem}, {args.indicator}: {len(scores)} benign pairs of {len(set(groups))} groups, "
        f"{len(set(scores.tolist()))} different scores; {args.resamplings} resamplings"
    )
    print("         max_fpr     n     m   bound mean rate violations  theory  allowed  plain")
    for name, draw in (("split", split), ("redrawn", redrawn)):
        draws = list(draw(scores, groups, args.resamplings))
        for max_fpr in args.max_fpr:
            try:
                print(row(name, draws, max_fpr))
            except TooLittleData as problem:
                print(f"{name:8} {max_fpr:7.3f} {problem}")


if __name__ == "__main__":
    main()
