"""A combination of the features that the user names, in place of those that the data would choose.

One feature is the score itself, with weight 1, or -1 where it is higher on pairs of label 0. Several are weighed by the
logistic regression that `sparse_fit` weighs its own by. All are pooled alike: of the poolings that are considered, by
the one whose score does best in cross-validation.
"""

from collections.abc import Sequence
from math import log

import numpy as np

from scopewatch.calibration.log_odds import platt
from scopewatch.calibration.sparse_fit import (
    Column,
    Combination,
    Features,
    Float32,
    Term,
    fit_combination,
    fit_values,
    values_of,
)
from scopewatch.calibration.wanted import Wanted
from scopewatch.errors import NoSuchFeature, Unsupported
from scopewatch.identity import FeatureKey
from scopewatch.statistics.folds import Folds
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Scores
from scopewatch.watch.indicators import Probability

_FEW, _RARE = 5, 0.01
"""A feature that fires in fewer pairs to fit than so many, or than this share of them, is called rare."""


def assert_in_range(features: Sequence[FeatureKey], d_sae: int) -> None:
    """Refuses features that the SAE does not have.

    Raises:
        NoSuchFeature: Names the first of them.
    """
    for feature in features:
        if feature.index >= d_sae:
            told = f"the SAE {feature.sae} has {d_sae:,} features, 0 to {d_sae - 1}"
            raise NoSuchFeature(f"--features: {feature}: {told}", feature.index)


def fitted(
    features: Features, labels: Bool, folds: Folds, wanted: Wanted, *, terms: int | None, share: float | None = None
) -> Combination:
    """The combination that is wanted: of the features that are named, or else of those that the data choose.

    Args:
        features: The pooled features of the pairs to fit, by the poolings that are considered.
        labels: The label of each of these pairs; both must occur.
        folds: The folds of the cross-validation.
        wanted: What is asked for.
        terms: How many features the data may choose; None has cross-validation choose the number.
        share: The share of label 1 among the pairs that these were drawn from; None for that of these.

    Raises:
        Unsupported: As `fit_combination` does; or a feature that is named fires in no pair, or has a weight that
            `--weights` forbids.
    """
    if not wanted.features:
        return fit_combination(features, labels, folds, terms=terms, weights=wanted.weights, share=share)
    heard = _heard(features, wanted.features, len(labels))
    if len(wanted.features) == 1:
        fits = [_alone(values[:, 0], name, labels, folds, share) for (name,), values in heard]
    else:
        everything = [range(len(wanted.features))] * (len(folds) + 1)
        fits = [
            fit_values(
                *(values, names, labels, folds),
                ranked=everything,
                terms=(len(names),),
                weights=wanted.weights,
                share=share,
            )
            for names, values in heard
        ]
    best = max(fits, key=lambda fit: fit.cv_auroc)
    _assert_allowed(best, wanted)
    return best


def chosen_remarks(
    combination: Combination, chosen: Sequence[FeatureKey], features: Features, labels: Bool
) -> list[str]:
    """Sentences that say how features that were named are pooled, and what is odd about them."""
    pooling = combination.terms[0].pooling
    values = values_of({pooling: features[pooling]}, [(pooling, key.index) for key in chosen])
    remarks = [f"Its features were named, not chosen by the data; they are pooled by {pooling}."]
    for key, column in zip(chosen, values.T, strict=True):
        if (weight := _weight(combination, key)) < 0:
            own = auroc(labels, column.astype(np.float64))
            remarks.append(f"{key} points the other way: its weight is {weight:g}, and its own AUROC {own:.3f}.")
        if (fires := int((column > 0).sum())) < max(_FEW, _RARE * len(labels)):
            remarks.append(f"{key} fires in only {fires} of {len(labels)} pairs to fit; its weight stands on them.")
    return remarks


def _heard(features: Features, chosen: Sequence[FeatureKey], n_pairs: int) -> list[tuple[list[Column], Float32]]:
    """The values of the features that are named, under each pooling under which all of them fire, with their columns.

    Raises:
        Unsupported: Under every pooling one of them is silent.
    """
    heard, silent = [], set(chosen)
    for pooling in features:
        columns = [(pooling, key.index) for key in chosen]
        values = values_of({pooling: features[pooling]}, columns)
        missing = {key for key, fires in zip(chosen, (values != 0).any(axis=0).tolist(), strict=True) if not fires}
        silent &= missing
        if not missing:
            heard.append((columns, values))
    if not heard:
        names = ", ".join(str(key) for key in chosen if key in silent)
        where = f"none of the {n_pairs} pairs to fit; leave it out, or give pairs on which it fires"
        raise Unsupported(f"--features: {names or 'together they'}: fires in {where}")
    return heard


def _alone(values: Float32, column: Column, labels: Bool, folds: Folds, share: float | None) -> Combination:
    """One feature, whose value is the score."""
    pooling, feature = column
    scores = values.astype(np.float64)
    sign = _direction(scores, labels)
    aurocs = tuple(auroc(labels[out], _direction(scores[fit], labels[fit]) * scores[out]) for fit, out in folds)
    return Combination(
        terms=(Term(feature, pooling, sign),),
        bias=0.0,
        strength=1.0,
        cv_auroc=float(np.mean(aurocs)),
        probability=_for_share(platt(sign * scores, labels), labels, share),
        fold_aurocs=aurocs,
    )


def _direction(scores: Scores, labels: Bool) -> float:
    """1 where the scores are higher on pairs of label 1, else -1."""
    return 1.0 if auroc(labels, scores) >= 0.5 else -1.0


def _for_share(fit: Probability, labels: Bool, share: float | None) -> Probability:
    """The probability among pairs with another share of label 1 than those that it was fitted on."""
    if share is None:
        return fit
    drawn = float(labels.mean())
    moved = fit.intercept + log(share / (1 - share)) - log(drawn / (1 - drawn))
    return Probability(slope=fit.slope, intercept=float(f"{moved:.6g}"))


def _assert_allowed(found: Combination, wanted: Wanted) -> None:
    """Refuses features that are higher where the label is 0, if weights may not be negative."""
    against = [key for key in wanted.features if _weight(found, key) <= 0]
    if against and wanted.weights == "nonnegative":
        names = ", ".join(map(str, against))
        raise Unsupported(
            f"--features: {names}: points the other way, and --weights nonnegative allows no negative weight; "
            "leave it out, or leave out --weights"
        )


def _weight(combination: Combination, key: FeatureKey) -> float:
    return next((term.weight for term in combination.terms if term.feature == key.index), 0.0)
