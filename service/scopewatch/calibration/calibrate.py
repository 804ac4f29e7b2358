"""From labelled pairs to an indicator of features, or a probe, with its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scopewatch.calibration.chosen_features import chosen_remarks, fitted
from scopewatch.calibration.evidence import BAG_OF_WORDS, HeldOutEvidence, measure
from scopewatch.calibration.simple_detectors import (
    Dense,
    Probe,
    bag_of_words,
    dense_probe,
    difference_of_means,
    hedge_words,
    random_columns,
    response_length,
    rows_of,
)
from scopewatch.calibration.sparse_fit import (
    Combination,
    Features,
    best_column,
    fit_chosen,
    scores_of,
)
from scopewatch.calibration.split import Split, split
from scopewatch.calibration.thresholds import Lengths
from scopewatch.calibration.wanted import Wanted
from scopewatch.pairs.labelled import LabelledPair, groups_of, labels_of
from scopewatch.pairs.pooled import PooledPairs, StoredFeatures
from scopewatch.statistics.folds import grouped_folds, source_folds
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.watch.poolings import Pooling

_CONTROLS = 9
"""How many times features are drawn at random."""
_MOST_DRAWN = 10_000
"""Pairs of a label by which features are chosen and weighed: an AUROC is off by .004 then, and more cost memory."""
_AT_ONCE = 10_000
"""Held-out pairs whose features are in memory together."""


@dataclass(frozen=True, slots=True)
class Found:
    """A calibrated combination of features, or a calibrated probe, and its evidence."""

    evidence: HeldOutEvidence
    parts: Split
    combination: Combination | None
    probe: Probe | None


@dataclass(frozen=True, slots=True)
class _Sides:
    """What is known of the fitted and of the held-out pairs."""

    labels: Bool
    labels_out: Bool
    drawn: Rows
    """The fitted pairs, counted among them, by which features are chosen and weighed: all, but of very many."""
    features: Features
    """The features of the pairs drawn."""
    features_out: Sequence[Features]
    """The features of the held-out pairs, some thousand pairs at a time."""
    dense: Dense
    dense_out: Dense

    @classmethod
    def of(
        cls, pairs: Sequence[LabelledPair], pooled: PooledPairs, parts: Split, poolings: Sequence[Pooling]
    ) -> "_Sides":
        labels = labels_of(pairs)
        drawn = _drawn(labels[parts.fit])
        return cls(
            labels=labels[parts.fit],
            labels_out=labels[parts.held_out],
            drawn=drawn,
            features=StoredFeatures(pooled, parts.fit[drawn], poolings),
            features_out=[
                StoredFeatures(pooled, rows, poolings)
                for rows in np.split(parts.held_out, range(_AT_ONCE, len(parts.held_out), _AT_ONCE))
            ],
            dense=rows_of(pooled.dense, parts.fit),
            dense_out=rows_of(pooled.dense, parts.held_out),
        )

    def scores_out(self, combinations: Sequence[Combination]) -> list[Scores]:
        """The scores of the held-out pairs by each combination."""
        parts = [scores_of(combinations, features) for features in self.features_out]
        return [np.concatenate(scores) for scores in zip(*parts, strict=True)]


def _drawn(labels: Bool) -> Rows:
    """The rows, ascending, of at most so many pairs of either label, drawn at random."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    return np.sort(np.concatenate([shuffled[labels[shuffled] == label][:_MOST_DRAWN] for label in (False, True)]))


def calibrate(pairs: Sequence[LabelledPair], pooled: PooledPairs, wanted: Wanted) -> Found:
    """Fits a sparse combination of features and a dense probe, and measures the wanted one beside the alternatives.

    Args:
        pairs: Labelled pairs.
        pooled: What the reader and the SAE make of these pairs.
        wanted: What is asked for, of kind `features` or `probe`.

    Raises:
        TooLittleData: There are too few pairs for the parts, or, without `force`, for the bound.
        Unsupported: There is no signal, or, without `force`, none beyond a bag of words.
    """
    parts = split(pairs, wanted.held_out, pooled.tokens > 0)
    sides = _Sides.of(pairs, pooled, parts, wanted.poolings)
    drawn = [pairs[row] for row in parts.fit[sides.drawn]]
    labels, groups, sources = labels_of(drawn), groups_of(drawn), [pair.source for pair in drawn]
    folds = source_folds(labels, sources, groups) if wanted.across_sources else grouped_folds(labels, groups)
    combination = fitted(sides.features, labels, folds, wanted, terms=wanted.terms, share=float(sides.labels.mean()))
    probe = dense_probe(sides.dense, sides.labels, [pairs[row].group for row in parts.fit])
    scores = {"sae_features": sides.scores_out([combination])[0], "dense_probe": probe.scores(sides.dense_out)}
    is_probe = wanted.kind == "probe"
    own = scores.pop("dense_probe" if is_probe else "sae_features")

    def alternatives() -> dict[str, Scores]:
        return text_detectors(pairs, parts) | _simple_detectors(sides, len(combination.terms)) | scores

    detector = probe if is_probe else combination
    remarks = [f"The dense probe reads activations by the pooling {probe.pooling}, which cross-validation chose."]
    if wanted.features:
        remarks += chosen_remarks(combination, wanted.features, sides.features, labels)
    if wanted.across_sources:
        each = (
            f"{sources[out[0]]} {value:.3f}" for (_, out), value in zip(folds, combination.fold_aurocs, strict=True)
        )
        remarks.append(f"The features' AUROC on each source by a fit on the others: {', '.join(each)}.")
    fit_scores = probe.scores(sides.dense) if is_probe else combination.scores(sides.features)
    evidence = measure(
        *(pairs, parts, own),
        fitted=detector,
        alternatives=alternatives,
        wanted=wanted,
        remarks=tuple(remarks),
        lengths=Lengths(fit_scores, pooled.tokens.astype(np.intp)),
    )
    return Found(evidence, parts, None if is_probe else combination, probe if is_probe else None)


def text_detectors(pairs: Sequence[LabelledPair], parts: Split) -> dict[str, Scores]:
    """The held-out pairs' scores by detectors that see the text alone."""
    fit, out = ([pairs[row] for row in rows] for rows in (parts.fit, parts.held_out))
    return {
        BAG_OF_WORDS: bag_of_words(fit, out),
        "response_length": response_length(out),
        "hedge_words": hedge_words(out),
    }


def _simple_detectors(sides: _Sides, terms: int) -> dict[str, Scores]:
    """The held-out pairs' scores by what is simpler than choosing and weighing so many features."""
    labels = sides.labels[sides.drawn]
    single = fit_chosen(sides.features, [best_column(sides.features, labels)], labels)
    single_scores, *drawn = sides.scores_out([single, *_random_features(sides.features, labels, terms)])
    by_auroc = sorted(range(_CONTROLS), key=lambda seed: auroc(sides.labels_out, drawn[seed]))
    return {
        "difference_of_means": difference_of_means(sides.dense, sides.labels).scores(sides.dense_out),
        "single_feature": single_scores,
        "random_features": drawn[by_auroc[_CONTROLS // 2]],
    }


def _random_features(features: Features, labels: Bool, count: int) -> list[Combination]:
    """Combinations of as many features drawn at random instead of chosen, all under the first pooling."""
    pooling, matrix = next(iter(features.items()))
    draws = (random_columns(matrix, count, seed) for seed in range(_CONTROLS))
    return [fit_chosen({pooling: matrix}, [(pooling, int(column)) for column in columns], labels) for columns in draws]
