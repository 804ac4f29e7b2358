"""What carries over: calibrated on one labelled set, measured on another of its kind, beside every simple detector.

    python bench/transfer.py ../shared/data --work-dir build/transfer --out docs/transfer.md
    python bench/transfer.py ../shared/data --reader DIR --sae DIR --hookpoint layers.15.resid_post --name smollm2 ...

For every ordered couple of sets that have the same `indicator`. It runs what `scopewatch calibrate` runs: one half of
the groups of a set fits all detectors, the other half sets the threshold; all of the other set is measured. Pairs are
read once, and found again in the work folder.
"""

import argparse
import json
import multiprocessing
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import permutations
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from page import write_between
from scopewatch.calibration.calibrate import Found, calibrate
from scopewatch.calibration.simple_detectors import rows_of, trained_on
from scopewatch.calibration.thresholds import benign_threshold
from scopewatch.calibration.wanted import Wanted
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.engine.dictionary import DictionaryEngine, build_dictionary
from scopewatch.errors import ScopewatchError
from scopewatch.pairs.data_files import read_pairs
from scopewatch.pairs.kept_poolings import pooling_named
from scopewatch.pairs.labelled import LabelledPair, fraction, groups_of, labels_of
from scopewatch.pairs.pooled import PooledPairs, encode_pairs
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.statistics.ranking import auroc, auroc_difference, auroc_interval
from scopewatch.statistics.scores import Bool, Interval, Scores
from scopewatch.types import Segment
from scopewatch.watch.watchlist import load_watchlist

BOUND = Wanted(max_fpr=0.05, held_out=0.5, force=True)
"""One threshold for all lengths; what a slope by length makes of it is in `bench/benign.py`."""
WORDS = {"speculation": "hedge_words"}
"""The detector of words that joins the features, by the kind of sets; for others a bag of words, fitted to the set."""
BASELINES = ("bag_of_words", "hedge_words", "dense_probe", "difference_of_means", "response_length")
LEAKY = frozenset({"hallu_medhallu", "med_unqualified_advice", "domain_medical", "domain_financial", "domain_legal"})
"""Sets in which form alone gives the label away: what carries over of them says nothing."""
BENIGN = 300
"""The benign pairs of the other set that set a threshold anew, and are not measured then."""
DRAWS = 5


@dataclass(frozen=True, slots=True)
class Where:
    """The reader and the SAE, and where what they make of pairs is kept."""

    reader: str
    sae: str
    hookpoint: str
    work_dir: Path
    most: int
    """The most pairs of a set."""
    beside: tuple[Path, ...]
    """Labelled files from which every calibration learns besides its set."""
    wanted: Wanted
    """How features are calibrated."""

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Where":
        """The one that the arguments of `add_arguments` name."""
        poolings = tuple(pooling_named(kind, "--poolings") for kind in args.poolings)
        wanted = replace(BOUND, poolings=poolings)
        return cls(args.reader, args.sae, args.hookpoint, args.work_dir, args.most, tuple(args.beside), wanted)

    def home(self, train: Path) -> tuple[Path, ...]:
        """All files that a calibration on a set learns from."""
        return (*self.beside, train)


@dataclass(frozen=True, slots=True)
class Rates:
    """The shares of the pairs of each label that are above a threshold."""

    fpr: float
    tpr: float

    def __str__(self) -> str:
        return f"{self.fpr:.3f} / {self.tpr:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each that read")
    args = parser.parse_args()
    where, kinds = Where.of(args), sets_by_kind(args)
    every = [*where.beside, *(file for files in kinds.values() for file in files)]
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for file in pool.map(partial(read_once, where=where), every):
            print(f"{file.stem}: read", flush=True)
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    with threadpool_limits(1):
        for kind, files in kinds.items():
            for train, test in permutations(files, 2):
                lines.append(row_of(train, test, WORDS.get(kind, "bag_of_words"), where))
                print(lines[-1], flush=True)
    if args.out:
        write_between(args.out, f"bench/transfer.py --name {args.name}", "\n".join(lines))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which sets are measured, with which reader and SAE, and which table is written."""
    parser.add_argument("data", type=Path, help="folder of labelled sets")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument(
        "--reader", default="", help="directory, or the name of a known reader; without it the bundled one"
    )
    parser.add_argument("--sae", default="", help="folder or file of its SAE")
    parser.add_argument("--hookpoint", default="", help="where the SAE reads")
    parser.add_argument("--name", default="bundled", help="of the table, as its marks on the page have it")
    parser.add_argument("--most", type=int, default=10**9, help="the most pairs of a set, the same ones every time")
    parser.add_argument(
        "--beside", type=Path, nargs="+", default=[], help="labelled files from which every calibration learns too"
    )
    parser.add_argument("--poolings", nargs="+", default=[], help="those of features that are considered; all")
    parser.add_argument("--indicators", default="", help="only sets of these, such as speculation,bias")
    parser.add_argument("--out", type=Path, help="Markdown file, in which the table between two marks is replaced")


def sets_by_kind(args: argparse.Namespace) -> dict[str, list[Path]]:
    """The files of the labelled sets that are asked for, by their `indicator`."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(args.data.glob("*.jsonl")):
        kind = json.loads(file.open(encoding="utf-8").readline())["indicator"]
        if file.stem not in LEAKY and kind in (args.indicators.split(",") if args.indicators else [kind]):
            kinds[kind].append(file)
    return kinds


def pairs_of(files: Sequence[Path], most: int) -> list[LabelledPair]:
    """The pairs of some sets; of too many of one those whose groups come first by a hash."""
    found: list[LabelledPair] = []
    for file in files:
        pairs = read_pairs(file).pairs
        chosen = sorted(range(len(pairs)), key=lambda i: (fraction(pairs[i].group, "scopewatch-transfer"), i))[:most]
        found += [pairs[i] for i in sorted(chosen)]
    return found


@cache
def dictionary_of(where: Where) -> DictionaryEngine:
    """The reader with its SAE; the bundled ones where none are named."""
    base = load_watchlist(BUNDLED_WATCHLIST)
    reader, sae = base.absolute(base.reader), base.absolute(base.saes["res"])
    if where.sae:
        reader, sae = ReaderSource.named(where.reader), SaeSource(path=where.sae, hookpoint=where.hookpoint)
    return build_dictionary(reader, sae, Config(torch_threads=1))


def pooled_of(files: Sequence[Path], where: Where) -> PooledPairs:
    """What the reader and the SAE make of some sets."""
    pairs, folder = pairs_of(files, where.most), where.work_dir
    return encode_pairs(pairs, dictionary_of(where), segment=Segment.RESPONSE, folder=folder)


def read_once(file: Path, where: Where) -> Path:
    """Reads a set, so that it is found in the work folder; returns its file."""
    pooled_of((file,), where)
    return file


@cache
def calibrated(train: Path, where: Where) -> Found | str:
    """The combination of features that a set gives; or in a sentence why there is none."""
    home = where.home(train)
    try:
        return calibrate(pairs_of(home, where.most), pooled_of(home, where), where.wanted)
    except ScopewatchError as why:
        return str(why).partition(":")[0]


def row_of(train: Path, test: Path, words: str, where: Where) -> str:
    """One line of the table; `words` names the detector that joins the features."""
    found = calibrated(train, where)
    if isinstance(found, str):
        return f"| {train.stem} | {test.stem} | nothing written: {found} |" + " |" * (HEAD.count("|") - 4)
    home = where.home(train)
    train_pairs, train_pooled = pairs_of(home, where.most), pooled_of(home, where)
    pairs, pooled = pairs_of((test,), where.most), pooled_of((test,), where)
    labels, groups, own = labels_of(pairs), groups_of(pairs), found.evidence
    sae = found.combination.scores({pooling: pooled.features(pooling) for pooling in pooled.poolings})
    fit = [train_pairs[row] for row in found.parts.fit]
    others = trained_on(fit, rows_of(train_pooled.dense, found.parts.fit), pairs, pooled.dense)
    both = standardised(sae, own.scores) + standardised(others[words], own.alternatives[words].scores)
    values = {"sae": auroc(labels, sae), "both": auroc(labels, both)}
    values |= {name: auroc(labels, others[name]) for name in BASELINES}
    best = max(values.values())

    def shown(name: str) -> str:
        return f"**{values[name]:.3f}**" if values[name] == best else f"{values[name]:.3f}"

    def between(interval: Interval, form: str) -> str:
        return f"{interval.low:{form}} to {interval.high:{form}}"

    over_words = auroc_difference(labels, both, others[words], groups)
    over_features = auroc_difference(labels, both, sae, groups)
    cells = [
        train.stem,
        test.stem,
        f"{shown('sae')} ({between(auroc_interval(labels, sae, groups), '.2f')})",
        f"{shown('both')} ({between(auroc_interval(labels, both, groups), '.2f')}), {words.replace('_', ' ')}",
        f"{over_words.value:+.3f} ({between(over_words, '+.3f')})",
        f"{over_features.value:+.3f} ({between(over_features, '+.3f')})",
        *(shown(name) for name in BASELINES),
        f"{own.auroc.value:.3f}",
        str(rates(labels, sae, own.threshold.value)),
        rates_by_own_traffic(labels, groups, sae),
        rates_by_own_traffic(labels, groups, both),
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| calibrated on | measured on | SAE combination (95 %) | features + words (95 %) | its lead over these words "
    "| over the features | " + " | ".join(name.replace("_", " ") for name in BASELINES) + " | SAE at home "
    "| FPR / TPR, threshold of home | the same, by 300 benign pairs | features + words, by these |"
)


def standardised(scores: Scores, like: Scores) -> Scores:
    """Scores in standard deviations from the mean of those that the calibrated set's held-out half has."""
    return (scores - like.mean()) / (like.std() or 1.0)


def rates(labels: Bool, scores: Scores, threshold: float) -> Rates:
    return Rates(float((scores[~labels] > threshold).mean()), float((scores[labels] > threshold).mean()))


def rates_by_own_traffic(labels: Bool, groups: list[str], scores: Scores) -> str:
    """The mean rates of several draws of benign pairs, each of which sets the threshold; the others are measured."""
    benign = np.flatnonzero(~labels)
    drawn = []
    for seed in range(DRAWS):
        own = np.random.default_rng(seed).permutation(benign)[: min(BENIGN, len(benign) // 2)]
        threshold = benign_threshold(scores[own], [groups[row] for row in own], BOUND).value
        rest = np.setdiff1d(np.arange(len(labels)), own)
        drawn.append(rates(labels[rest], scores[rest], threshold))
    return str(Rates(float(np.mean([each.fpr for each in drawn])), float(np.mean([each.tpr for each in drawn]))))


if __name__ == "__main__":
    main()
