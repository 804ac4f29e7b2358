"""What 300 benign pairs of one's own traffic make of a threshold that comes from elsewhere, flat and by length.

    python bench/benign.py ../shared/data --work-dir build/transfer --out docs/transfer.md

For each couple of sets of one kind the features that were calibrated on one score the other, as in `bench/transfer.py`,
whose work folder it shares. 300 benign pairs of the other, one of each group (or half of the groups, where there are
fewer than 600), set the threshold as `calibrate --benign` does; the rates are those of all pairs of the other groups.
Means of five draws.

home      the threshold as it was calibrated, by the benign pairs of its own set
flat      one threshold for all lengths, set by the drawn pairs
kept      the slope by length that was fitted at home, if there is one; its height is set by the drawn pairs
anew      the slope is fitted on half of the drawn pairs, and its height set by the other half
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from page import write_between
from scopewatch.calibration.calibrate import Found, calibrate
from scopewatch.calibration.thresholds import added_by_length, benign_threshold
from scopewatch.errors import ScopewatchError
from scopewatch.pairs.labelled import groups_of, labels_of
from scopewatch.statistics.by_length import fit_by_length
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.watch.indicators import ByLength
from transfer import BENIGN, BOUND, DRAWS, Rates, Where, add_arguments, pairs_of, pooled_of, sets_by_kind

WAYS = ("home", "flat", "kept", "anew")


@dataclass(frozen=True)
class Scored:
    """The pairs of a set as the features of another score them."""

    labels: Bool
    groups: Sequence[str]
    scores: Scores
    n_tokens: Rows

    def rates(self, rows: Rows, value: float, by_length: ByLength | None) -> Rates:
        """The rates of these rows at a threshold, which may go by length."""
        flagged = (self.scores > value + added_by_length(by_length, self.n_tokens))[rows]
        labels = self.labels[rows]
        return Rates(float(flagged[~labels].mean()), float(flagged[labels].mean()))

    def height(self, rows: Rows, by_length: ByLength | None) -> float:
        """The threshold that these benign rows set."""
        residual = self.scores[rows] - added_by_length(by_length, self.n_tokens[rows])
        return benign_threshold(residual, [self.groups[row] for row in rows], BOUND).value

    def slope(self, rows: Rows) -> ByLength | None:
        """How the threshold goes by length, by these benign rows."""
        groups = [self.groups[row] for row in rows]
        return fit_by_length(self.scores[rows], self.n_tokens[rows], groups, BOUND.max_fpr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args()
    where = Where.of(args)
    head = ["calibrated on", "measured on", "benign pairs", "slope at home", *(f"{way} FPR / TPR" for way in WAYS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    with threadpool_limits(1):
        for files in sets_by_kind(args).values():
            for train in files:
                lines += rows_of(train, [test for test in files if test != train], where)
    if args.out:
        write_between(args.out, f"bench/benign.py --name {args.name}", "\n".join(lines))


def rows_of(train: Path, tests: Sequence[Path], where: Where) -> list[str]:
    """The lines of a set that calibrates; none where it gives no indicator."""
    try:
        home = where.home(train)
        wanted = replace(where.wanted, by_length=True)
        found = calibrate(pairs_of(home, where.most), pooled_of(home, where), wanted)
    except ScopewatchError as why:
        print(f"{train.stem}: {why}", flush=True)
        return []
    lines = [row_of(train, test, found, where) for test in tests]
    print("\n".join(lines), flush=True)
    return lines


def row_of(train: Path, test: Path, found: Found, where: Where) -> str:
    """One line of the table."""
    pairs, pooled = pairs_of((test,), where.most), pooled_of((test,), where)
    assert found.combination is not None
    scores = found.combination.scores({pooling: pooled.features(pooling) for pooling in pooled.poolings})
    scored = Scored(labels_of(pairs), groups_of(pairs), scores, pooled.tokens.astype(np.intp))
    benign_groups = {group for group, label in zip(scored.groups, scored.labels, strict=True) if not label}
    n = min(BENIGN, len(benign_groups) // 2)
    draws = [list(drawn(scored, found, n, np.random.default_rng(seed))) for seed in range(DRAWS)]
    means = np.mean([[(rates.fpr, rates.tpr) for rates in draw] for draw in draws], axis=0)
    home = found.evidence.by_length
    cells = [train.stem, test.stem, str(n), f"{home.slope:+.3g}" if home else "none"]
    return "| " + " | ".join([*cells, *(str(Rates(*way)) for way in means)]) + " |"


def drawn(scored: Scored, found: Found, n: int, rng: np.random.Generator) -> Iterator[Rates]:
    """The rates of each way to set the threshold, for one draw of benign pairs."""
    benign = rng.permutation(np.flatnonzero(~scored.labels))
    _, first = np.unique(np.array(scored.groups, dtype=object)[benign], return_index=True)
    own = benign[np.sort(first)][:n]
    theirs = {scored.groups[row] for row in own}
    rest = np.array([row for row, group in enumerate(scored.groups) if group not in theirs])
    home, half = found.evidence.by_length, n // 2
    anew = scored.slope(own[:half])
    yield scored.rates(rest, found.evidence.threshold.value, home)
    yield scored.rates(rest, scored.height(own, None), None)
    yield scored.rates(rest, scored.height(own, home), home)
    yield scored.rates(rest, scored.height(own[half:], anew), anew)


if __name__ == "__main__":
    main()
