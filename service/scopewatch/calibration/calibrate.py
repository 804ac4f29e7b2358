"""From labelled pairs to an indicator of features, or a probe, with its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass

from scopewatch.calibration import simple_detectors as company
from scopewatch.calibration.evidence import BAG_OF_WORDS, Evidence, Split, Wanted, measure, split
from scopewatch.calibration.sparse_fit import (
    Combination,
    Features,
    fit_chosen,
    fit_combination,
    ranked,
)
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.pairs.pooled import PooledPairs
from scopewatch.statistics.folds import grouped_folds, source_folds
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Scores

_CONTROLS = 9


@dataclass(frozen=True, slots=True)
class Found:
    """A calibrated detector of residuals or of features, and its evidence."""

    evidence: Evidence
    parts: Split
    combination: Combination | None
    probe: company.Probe | None


def calibrate(pairs: Sequence[LabelledPair], pooled: PooledPairs, wanted: Wanted) -> Found:
    """Fits a sparse combination or a dense probe and measures it beside the alternatives.

    Args:
        pairs: Labelled.
        pooled: What the reader and the SAE make of them.
        wanted: Of kind `features` or `probe`.

    Raises:
        TooLittleData: Not enough for the parts, or, without `force`, for the bound.
        Unsupported: There is no signal, or, without `force`, none beyond a bag of words.
    """
    parts = split(pairs, wanted.held_out, pooled.tokens > 0)
    labels, groups = labels_of(pairs)[parts.fit], [pairs[row].group for row in parts.fit]
    every = {pooling: pooled.features(pooling) for pooling in pooled.poolings}
    fit = {pooling: matrix[parts.fit] for pooling, matrix in every.items()}
    out = {pooling: matrix[parts.held_out] for pooling, matrix in every.items()}
    del every
    folds = grouped_folds(labels, groups)
    if wanted.across_sources:
        folds = source_folds(labels, [pairs[row].source for row in parts.fit], groups)
    combination = fit_combination(fit, labels, folds, terms=wanted.terms, weights=wanted.weights)
    x, x_out = pooled.dense_mean[parts.fit], pooled.dense_mean[parts.held_out]
    probe = company.dense_probe(x, labels, groups)
    own = {"sae_features": combination.scores(out), "dense_probe": probe.scores(x_out)}

    def others() -> dict[str, Scores]:
        best = ranked(fit, labels, most=1).names()
        return text_company(pairs, parts) | {
            "difference_of_means": company.difference_of_means(x, labels).scores(x_out),
            "single_feature": fit_chosen(fit, best, labels).scores(out),
            "random_features": _random_features(
                fit, out, labels, labels_of(pairs)[parts.held_out], len(combination.terms)
            ),
            **own,
        }

    if wanted.kind == "probe":
        scores = own.pop("dense_probe")
        return Found(measure(pairs, parts, scores, fitted=probe, others=others, wanted=wanted), parts, None, probe)
    scores = own.pop("sae_features")
    evidence = measure(pairs, parts, scores, fitted=combination, others=others, wanted=wanted)
    return Found(evidence, parts, combination, None)


def text_company(pairs: Sequence[LabelledPair], parts: Split) -> dict[str, Scores]:
    """Detectors that see the text alone: their scores of the held-out pairs."""
    fit, out = ([pairs[row] for row in rows] for rows in (parts.fit, parts.held_out))
    return {
        BAG_OF_WORDS: company.bag_of_words(fit, out),
        "response_length": company.response_length(out),
        "hedge_words": company.hedge_words(out),
    }


def _random_features(fit: Features, out: Features, fit_labels: Bool, labels: Bool, count: int) -> Scores:
    """Scores of as many features drawn at random instead of chosen: of several draws, the one with the median AUROC."""
    pooling = next(iter(fit))
    drawn = []
    for seed in range(_CONTROLS):
        columns = company.random_columns(fit[pooling], count, seed)
        scores = fit_chosen(fit, [(pooling, int(column)) for column in columns], fit_labels).scores(out)
        drawn.append((auroc(labels, scores), seed, scores))
    return sorted(drawn, key=lambda draw: draw[:2])[_CONTROLS // 2][2]
