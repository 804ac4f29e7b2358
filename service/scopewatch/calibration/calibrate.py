"""From labelled pairs to an indicator of features, or a probe, with its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass

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
from scopewatch.calibration.sparse_fit import Combination, Features, fit_chosen, fit_combination, ranked
from scopewatch.calibration.split import Split, split
from scopewatch.calibration.wanted import Wanted
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.pairs.pooled import PooledPairs
from scopewatch.statistics.folds import grouped_folds, source_folds
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Scores

_CONTROLS = 9
"""How many times features are drawn at random."""


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
    features: Features
    features_out: Features
    dense: Dense
    dense_out: Dense

    @classmethod
    def of(cls, pairs: Sequence[LabelledPair], pooled: PooledPairs, parts: Split) -> "_Sides":
        labels = labels_of(pairs)
        every = {pooling: pooled.features(pooling) for pooling in pooled.poolings}
        return cls(
            labels=labels[parts.fit],
            labels_out=labels[parts.held_out],
            features={pooling: matrix[parts.fit] for pooling, matrix in every.items()},
            features_out={pooling: matrix[parts.held_out] for pooling, matrix in every.items()},
            dense=rows_of(pooled.dense, parts.fit),
            dense_out=rows_of(pooled.dense, parts.held_out),
        )


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
    sides = _Sides.of(pairs, pooled, parts)
    groups = [pairs[row].group for row in parts.fit]
    folds = grouped_folds(sides.labels, groups)
    if wanted.across_sources:
        folds = source_folds(sides.labels, [pairs[row].source for row in parts.fit], groups)
    combination = fit_combination(sides.features, sides.labels, folds, terms=wanted.terms, weights=wanted.weights)
    probe = dense_probe(sides.dense, sides.labels, groups)
    scores = {"sae_features": combination.scores(sides.features_out), "dense_probe": probe.scores(sides.dense_out)}
    is_probe = wanted.kind == "probe"
    own = scores.pop("dense_probe" if is_probe else "sae_features")

    def alternatives() -> dict[str, Scores]:
        return text_detectors(pairs, parts) | _simple_detectors(sides, len(combination.terms)) | scores

    fitted = probe if is_probe else combination
    remarks = (f"The dense probe reads activations by the pooling {probe.pooling}, which cross-validation chose.",)
    evidence = measure(pairs, parts, own, fitted=fitted, alternatives=alternatives, wanted=wanted, remarks=remarks)
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
    best = ranked(sides.features, sides.labels, most=1).names()
    return {
        "difference_of_means": difference_of_means(sides.dense, sides.labels).scores(sides.dense_out),
        "single_feature": fit_chosen(sides.features, best, sides.labels).scores(sides.features_out),
        "random_features": _random_features(sides, terms),
    }


def _random_features(sides: _Sides, count: int) -> Scores:
    """Scores by as many features drawn at random instead of chosen: of several draws, those of the median AUROC."""
    pooling = next(iter(sides.features))
    drawn = []
    for seed in range(_CONTROLS):
        columns = [(pooling, int(column)) for column in random_columns(sides.features[pooling], count, seed)]
        scores = fit_chosen(sides.features, columns, sides.labels).scores(sides.features_out)
        drawn.append((auroc(sides.labels_out, scores), seed, scores))
    median: Scores = sorted(drawn, key=lambda draw: draw[:2])[_CONTROLS // 2][2]
    return median
