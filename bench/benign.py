"""What 300 benign pairs of one's own traffic make of a threshold that comes from elsewhere.

    python bench/transfer.py ../shared/data --work-dir build/transfer     # calibrates every set
    python bench/benign.py ../shared/data --work-dir build/transfer --out docs/transfer.md

For each couple of sets of one kind, the indicator that was calibrated on one scores the other. 300 benign pairs of the
other, one of each group (or half of the groups, where there are fewer than 600), set its threshold as `calibrate
--benign` does; false-positive and true-positive rates are those of all pairs of the other groups. Means of five draws.

home      the threshold as it was calibrated, by the benign pairs of its own set
flat      one threshold for all lengths, set by the drawn pairs
kept      the slope by length that was fitted at home, its height set by the drawn pairs
anew      the slope fitted on half of the drawn pairs, its height set by the other half
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from scopewatch.calibration.thresholds import added_by_length, benign_threshold
from scopewatch.calibration.wanted import Wanted
from scopewatch.config import Config
from scopewatch.engine.dictionary import build_dictionary
from scopewatch.pairs.data_files import read_pairs
from scopewatch.pairs.labelled import LabelledPair, groups_of, labels_of
from scopewatch.pairs.pooled import encode_pairs
from scopewatch.statistics.by_length import fit_by_length
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.watch.indicators import ByLength, Indicator
from scopewatch.watch.watchlist import load_watchlist
from transfer import LEAKY, MAX_FPR

N_BENIGN = 300
DRAWS = 5
WAYS = ("home", "flat", "kept", "anew")
WANTED = Wanted(max_fpr=MAX_FPR)


@dataclass(frozen=True)
class Scored:
    """The pairs of a set as an indicator scores them."""

    labels: Bool
    groups: Sequence[str]
    scores: Scores
    n_tokens: Rows

    def rates(self, rows: Rows, thresholds: Scores) -> tuple[float, float]:
        """The false-positive and the true-positive rate of these rows, given the threshold of every pair."""
        flagged, labels = (self.scores > thresholds)[rows], self.labels[rows]
        return float(flagged[~labels].mean()), float(flagged[labels].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of labelled sets")
    parser.add_argument("--work-dir", type=Path, required=True, help="where bench/transfer.py left its watchlists")
    parser.add_argument("--pooled", type=Path, default=Path("~/.cache/scopewatch/calibration").expanduser())
    parser.add_argument("--out", type=Path, help="Markdown file, in which the table between two marks is replaced")
    args = parser.parse_args()
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(args.data.glob("*.jsonl")):
        if file.stem not in LEAKY:
            kinds[json.loads(file.open(encoding="utf-8").readline())["indicator"]].append(file)
    rows = []
    for files in kinds.values():
        for train, test in permutations(files, 2):
            watchlist = args.work_dir / f"{train.stem}.yaml"
            if watchlist.exists():
                rows.append(row_of(train, test, watchlist, args.pooled))
                print(rows[-1], flush=True)
    if args.out:
        between = "<!-- bench/benign.py writes from here -->", "<!-- to here: benign -->"
        text = args.out.read_text(encoding="utf-8")
        before, after = text.split(between[0])[0], text.split(between[1])[1]
        args.out.write_text(before + "\n\n".join([between[0], table(rows), between[1]]) + after, encoding="utf-8")


def row_of(train: Path, test: Path, watchlist: Path, pooled: Path) -> str:
    """One line of the table."""
    indicator = load_watchlist(watchlist).indicators[0]
    scored = score(test, watchlist, indicator, pooled)
    draws = [list(rates_of(scored, indicator, np.random.default_rng(seed))) for seed in range(DRAWS)]
    means = np.mean(draws, axis=0)
    cells = [f"{fpr:.3f} | {tpr:.3f}" for fpr, tpr in means]
    return "| " + " | ".join([train.stem, test.stem, f"{n_drawn(scored)}", *cells]) + " |"


def n_drawn(scored: Scored) -> int:
    groups = {group for group, label in zip(scored.groups, scored.labels, strict=True) if not label}
    return min(N_BENIGN, len(groups) // 2)


def score(test: Path, watchlist: Path, indicator: Indicator, folder: Path) -> Scored:
    """A set as an indicator of features scores it, by the pooled features that `calibrate` keeps."""
    whole = load_watchlist(watchlist)
    sae = whole.absolute(whole.saes[indicator.features[0].key.sae])
    dictionary = build_dictionary(whole.absolute(whole.reader), sae, Config())
    pairs: list[LabelledPair] = read_pairs(test).pairs
    pooled = encode_pairs(pairs, dictionary, segment=indicator.read_segment, folder=folder)
    scores = np.full(len(pairs), indicator.bias)
    for term in indicator.features:
        column = pooled.features(term.pooling or indicator.pooling)[:, [term.key.index]]
        scores += term.weight * column.toarray().ravel().astype(np.float64)
    return Scored(labels_of(pairs), groups_of(pairs), scores, pooled.tokens.astype(np.intp))


def rates_of(scored: Scored, indicator: Indicator, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """The rates of each way to set the threshold, for one draw."""
    benign = rng.permutation(np.flatnonzero(~scored.labels))
    _, first = np.unique(np.array(scored.groups, dtype=object)[benign], return_index=True)
    drawn = benign[np.sort(first)][: n_drawn(scored)]
    theirs = {scored.groups[row] for row in drawn}
    others = np.array([row for row, group in enumerate(scored.groups) if group not in theirs])

    def thresholds(value: float, by_length: ByLength | None) -> Scores:
        return value + added_by_length(by_length, scored.n_tokens)

    def height(rows: Rows, by_length: ByLength | None) -> float:
        residual = scored.scores[rows] - added_by_length(by_length, scored.n_tokens[rows])
        return benign_threshold(residual, [scored.groups[row] for row in rows], WANTED).value

    home, half = indicator.threshold_by_length, len(drawn) // 2
    fit, rest = drawn[:half], drawn[half:]
    anew = fit_by_length(scored.scores[fit], scored.n_tokens[fit], [scored.groups[row] for row in fit], MAX_FPR)
    yield scored.rates(others, thresholds(indicator.threshold, home))
    yield scored.rates(others, thresholds(height(drawn, None), None))
    yield scored.rates(others, thresholds(height(drawn, home), home))
    yield scored.rates(others, thresholds(height(rest, anew), anew))


def table(rows: list[str]) -> str:
    head = [
        "calibrated on",
        "measured on",
        "benign pairs",
        *(f"{way} {rate}" for way in WAYS for rate in ("FPR", "TPR")),
    ]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])


if __name__ == "__main__":
    main()
