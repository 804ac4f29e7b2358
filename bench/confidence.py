"""How well the reader's own expectations tell wrong answers from right ones, beside every simple detector.

    python bench/confidence.py ../shared/data --watchlist parts.yaml --work-dir build/confidence

The watchlist names the reader, and holds the indicators that stand beside the reader's signals in the combination. Of
each set at most `--pairs` are drawn, of as many groups as there are; half of the groups teach the combination and
the detectors that learn, the other half measures all of them. `build/confidence/SET.jsonl` has what was drawn,
for `scopewatch calibrate --combine`, which does the same and writes a watchlist. What was read is not read again.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from page import write_between
from scopewatch.calibration.combination import fit_weights, logistic_weights, term, with_signals
from scopewatch.calibration.request import score_all
from scopewatch.calibration.simple_detectors import Dense, rows_of, trained_on
from scopewatch.calibration.split import split
from scopewatch.config import load_config
from scopewatch.engine.dictionary import build_dictionary
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import Reading, read_pairs
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.pairs.pooled import encode_pairs
from scopewatch.statistics.ranking import auroc_difference, auroc_interval
from scopewatch.statistics.scores import Bool, Interval, Scores
from scopewatch.types import Segment
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.terms import SIGNALS
from scopewatch.watch.watchlist import Watchlist, load_watchlist

SETS = (
    "truth_statements",
    "hallu_truthfulqa",
    "hallu_halueval_general",
    "hallu_begin_wow",
    "hallu_medhallu",
    "med_unqualified_advice",
)
LEAKY = frozenset({"hallu_medhallu", "med_unqualified_advice"})
"""Sets in which form alone gives the label away."""
BASELINES = ("bag_of_words", "dense_probe", "difference_of_means", "hedge_words", "response_length")
COMBINATION = "combination"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of labelled sets")
    parser.add_argument("--watchlist", type=Path, required=True, help="the reader, an SAE and the other indicators")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=500, help="how many pairs of each set are drawn at most")
    parser.add_argument("--out", type=Path, help="Markdown file, in which the table between two marks is replaced")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    base = load_watchlist(args.watchlist)
    found = {}
    for name in SETS:
        pairs = drawn(args.data / f"{name}.jsonl", args.pairs, args.work_dir)
        found[name] = Measured.of(pairs, base, args.work_dir)
        print(table({name: found[name]}), flush=True)
    if args.out:
        write_between(args.out, "bench/confidence.py", table(found))


def drawn(file: Path, most: int, folder: Path) -> list[LabelledPair]:
    """At most so many pairs of a set: one of each group, then a second of each, and so on."""
    rows = [line for line in file.read_text(encoding="utf-8").split("\n") if line]
    random.Random(0).shuffle(rows)
    seen: Counter[str] = Counter()
    ranked = []
    for line in rows:
        group = json.loads(line)["group"]
        ranked.append((seen[group], line))
        seen[group] += 1
    out = folder / file.name
    out.write_text("".join(f"{line}\n" for _, line in sorted(ranked, key=lambda row: row[0])[:most]), encoding="utf-8")
    return join_copies(read_pairs(out), "response").pairs


@dataclass(frozen=True)
class Measured:
    """What the held-out pairs of one set say of every detector."""

    n: int
    n_positive: int
    n_groups: int
    aurocs: Mapping[str, Interval]
    lead: Interval
    """AUROC of the combination less that of a bag of words."""

    @classmethod
    def of(cls, pairs: Sequence[LabelledPair], base: Watchlist, folder: Path) -> "Measured":
        parts = own_signals(pairs, base)
        dense = dense_activations(pairs, base, folder)
        rows = split(pairs, 0.5, np.ones(len(pairs), bool))
        labels = labels_of(pairs)
        fit, out = ([pairs[row] for row in side] for side in (rows.fit, rows.held_out))
        held = {name: scores[rows.held_out] for name, scores in parts.items()}
        taught = {name: scores[rows.fit] for name, scores in parts.items()}
        weighed = fit_weights(taught, labels[rows.fit], [pair.group for pair in fit], logistic_weights)
        combined = weighed.scores(held)
        simple = trained_on(fit, rows_of(dense, rows.fit), out, rows_of(dense, rows.held_out))
        # What is expected is the other way round: low log-probability is to speak for label 1, as high entropy is.
        toward = {name: -scores if name.endswith("logprob") else scores for name, scores in held.items()}
        detectors = {COMBINATION: combined} | toward | {name: simple[name] for name in BASELINES}
        groups = [pair.group for pair in out]
        truth: Bool = labels[rows.held_out]
        return cls(
            n=len(out),
            n_positive=int(truth.sum()),
            n_groups=len(set(groups)),
            aurocs={name: auroc_interval(truth, scores, groups) for name, scores in detectors.items()},
            lead=auroc_difference(truth, combined, simple["bag_of_words"], groups),
        )


def own_signals(pairs: Sequence[LabelledPair], base: Watchlist) -> dict[str, Scores]:
    """The scores of pairs by the watchlist's indicators and the reader's signals, from the online scorer."""
    names = [*(one.name for one in base.indicators if one.kind != "combination"), *SIGNALS]
    draft = Indicator(name=COMBINATION, kind="combination", combines=[term(name, 1.0) for name in names], threshold=0.0)
    ran = score_all(pairs, names, with_signals(base, names, draft), load_config(), Reading(strict=True))
    return {name: one.scores for name, one in ran.scored.by_indicator.items()}


def dense_activations(pairs: Sequence[LabelledPair], base: Watchlist, folder: Path) -> Dense:
    """The reader's activations on pairs, where the first SAE of the watchlist reads."""
    sae = base.absolute(next(iter(base.saes.values())))
    dictionary = build_dictionary(base.absolute(base.reader), sae, load_config())
    return encode_pairs(pairs, dictionary, segment=Segment.RESPONSE, folder=folder, poolings=()).dense


def table(found: Mapping[str, Measured]) -> str:
    """A row for every detector, a column for every set."""
    head = ["AUROC (95 %)", *(f"{name}{' (leaky)' if name in LEAKY else ''}" for name in found)]
    sizes = [f"{one.n:,} ({one.n_positive:,}), {one.n_groups:,}" for one in found.values()]
    rows = [["held-out pairs (label 1), groups", *sizes]]
    names = next(iter(found.values())).aurocs
    rows += [[f"`{name}`", *(shown(one.aurocs[name]) for one in found.values())] for name in names]
    rows.append(["combination less bag of words", *(shown(one.lead, "+") for one in found.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def shown(value: Interval, sign: str = "") -> str:
    return f"{value.value:{sign}.2f} ({value.low:{sign}.2f} to {value.high:{sign}.2f})"


if __name__ == "__main__":
    main()
