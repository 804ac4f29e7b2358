"""A sparse combination of pooled features that tells positive from negative pairs.

Every feature under every pooling is ranked by its AUROC; of the best, the lasso's path picks k that say different
things, and a logistic regression (or, for weights that may not be negative, a non-negative ridge regression) weighs
them. k and the shrinkage are chosen by cross-validation that never parts a group and repeats the ranking in each fold:
the fewest terms within one standard error of the best (Hastie, Tibshirani and Friedman, The Elements of Statistical
Learning, 7.10).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scopewatch.errors import DataError, Unsupported
from scopewatch.statistics.folds import Folds
from scopewatch.statistics.ranking import auroc, column_aurocs
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.watch.indicators import Pooling, Probability

try:
    from scipy.optimize import brentq
    from scipy.sparse import csr_array
    from scipy.special import expit
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge, lasso_path
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None


Weights = Literal["free", "nonnegative"]
Features = Mapping[Pooling, csr_array]
"""Each of shape (n_pairs, d_sae), by pooling."""

_TERMS = (1, 2, 4, 8, 16, 32, 64, 128)
_STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse of the penalty, for columns whose mean square is 1."""
_CANDIDATES = 600


@dataclass(frozen=True, slots=True)
class Term:
    """One weighted feature."""

    feature: int
    pooling: Pooling
    weight: float


@dataclass(frozen=True, slots=True)
class Combination:
    """An indicator's score, `bias + sum(weight * pooled)`: the log-odds that the label is 1."""

    terms: tuple[Term, ...]
    bias: float
    strength: float
    """Inverse of the penalty that was chosen."""
    cv_auroc: float
    """Mean AUROC of the folds left out."""
    probability: Probability
    """Of the score, which is the log-odds by scores of pairs that the fold's fit did not see."""

    def scores(self, features: Features) -> Scores:
        """Shape (n_pairs,)."""
        total = np.full(next(iter(features.values())).shape[0], self.bias)
        for term in self.terms:
            total += term.weight * features[term.pooling][:, [term.feature]].toarray().ravel().astype(np.float64)
        return total


@dataclass(frozen=True, slots=True)
class _Columns:
    """Candidate columns, `poolings` and `features` of each, in the order of rank."""

    poolings: tuple[Pooling, ...]
    features: Rows

    def names(self) -> list[tuple[Pooling, int]]:
        return list(zip(self.poolings, self.features.tolist(), strict=True))

    def dense(self, features: Features) -> Scores:
        """Shape (n_pairs, n_candidates)."""
        columns = np.zeros((next(iter(features.values())).shape[0], len(self.features)))
        for pooling in set(self.poolings):
            mine = np.array([other == pooling for other in self.poolings])
            columns[:, mine] = features[pooling][:, self.features[mine]].toarray()
        return columns


def fit_combination(
    features: Features,
    labels: Bool,
    folds: Folds,
    *,
    terms: int | None = None,
    weights: Weights = "free",
) -> Combination:
    """Fits one.

    Args:
        features: Pooled features of the pairs to fit.
        labels: Theirs, both present.
        folds: Of the cross-validation, from `grouped_folds` or `source_folds`.
        terms: How many; None chooses.
        weights: Whether they may be negative.

    Raises:
        Unsupported: No feature fires often enough, in a fold or in all.
    """
    grid = (terms,) if terms else _TERMS
    held: dict[tuple[int, float], list[tuple[Rows, Scores]]] = {}
    for fit, left_out in folds:
        columns = ranked(_rows(features, fit), labels[fit], weights)
        x, x_out = columns.dense(_rows(features, fit)), columns.dense(_rows(features, left_out))
        for count, chosen in _supports(x, labels[fit], grid, weights).items():
            for strength in _STRENGTHS:
                # The penalty of each pair is that of the fit on all, or fewer pairs would give scores closer to 0.
                weight, bias = _weigh(x[:, chosen], labels[fit], strength * len(labels) / len(fit), weights)
                held.setdefault((count, strength), []).append((left_out, x_out[:, chosen] @ weight + bias))
    count, strength = _fewest_that_will_do(held, labels)
    columns = ranked(features, labels, weights)
    x = columns.dense(features)
    chosen = _supports(x, labels, (count,), weights)[count]
    weight, bias = _weigh(x[:, chosen], labels, strength, weights)
    order = np.argsort(-np.abs(weight) * x[:, chosen].std(axis=0), kind="stable")
    folds_scores = held[count, strength]
    slope, intercept = _log_odds(folds_scores, x[:, chosen] @ weight + bias, labels)
    weight, bias = weight * slope, bias * slope + intercept
    return Combination(
        terms=tuple(
            Term(int(columns.features[chosen[i]]), columns.poolings[chosen[i]], float(f"{weight[i]:.6g}"))
            for i in order
            if weight[i]
        ),
        bias=float(f"{bias:.6g}"),
        strength=strength,
        cv_auroc=float(np.mean([auroc(labels[rows], scores) for rows, scores in folds_scores])),
        probability=Probability(slope=1.0, intercept=0.0),
    )


def fit_chosen(features: Features, columns: Sequence[tuple[Pooling, int]], labels: Bool) -> Combination:
    """A combination of given columns, without any choosing: for controls."""
    chosen = _Columns(tuple(pooling for pooling, _ in columns), np.array([feature for _, feature in columns], np.intp))
    weight, bias = _weigh(chosen.dense(features), labels, 1.0, "free")
    found = zip(columns, weight, strict=True)
    return Combination(
        terms=tuple(Term(feature, pooling, float(value)) for (pooling, feature), value in found),
        bias=bias,
        strength=1.0,
        cv_auroc=float("nan"),
        probability=Probability(slope=1.0, intercept=0.0),
    )


def ranked(features: Features, labels: Bool, weights: Weights = "free", most: int = _CANDIDATES) -> _Columns:
    """The columns with the AUROC furthest from one half, best first; those that fire in too few pairs are left out.

    Args:
        features: Pooled features.
        labels: Both present.
        weights: For `nonnegative`, only columns above one half.
        most: How many.

    Raises:
        Unsupported: None is left.
    """
    least = max(5, len(labels) // 100)
    found: list[tuple[Scores, Rows]] = []
    for matrix in features.values():
        firing = np.bincount(matrix.indices, minlength=matrix.shape[1])
        kept = np.flatnonzero(firing >= least)
        gap = column_aurocs(matrix[:, kept], labels) - 0.5
        found.append((gap if weights == "nonnegative" else np.abs(gap), kept))
    gaps = np.concatenate([gap for gap, _ in found])
    poolings = [pooling for pooling, (gap, _) in zip(features, found, strict=True) for _ in gap]
    order = np.argsort(-gaps, kind="stable")[:most]
    order = order[gaps[order] > 0]
    if not len(order):
        which = " more often where the label is 1" if weights == "nonnegative" else ""
        raise Unsupported(f"no signal: no feature fires{which} in at least {least} of {len(labels)} pairs to fit")
    return _Columns(tuple(poolings[i] for i in order), np.concatenate([kept for _, kept in found])[order])


def platt(scores: Scores, labels: Bool) -> Probability:
    """Logistic map from scores to probabilities (Platt 1999; a slight penalty in place of his smoothed targets).

    A score that runs the wrong way gets the flattest map there is.
    """
    spread = scores.std() or 1.0
    fitted = LogisticRegression(C=1e3).fit(scores[:, None] / spread, labels)
    slope = max(float(fitted.coef_[0, 0]) / spread, 1e-9)
    return Probability(slope=float(f"{slope:.6g}"), intercept=float(f"{fitted.intercept_[0]:.6g}"))


def _log_odds(held: Sequence[tuple[Rows, Scores]], scores: Scores, labels: Bool) -> tuple[float, float]:
    """Slope and intercept that make log-odds of the scores of the fit on all.

    The slope is of scores of pairs left out, with an intercept for each fold: where a fold is a source, the fit without
    it expects the others' share of positives. The intercept then gives the share of positives in all.
    """
    rows, left_out = (np.concatenate(parts) for parts in zip(*held, strict=True))
    fold = np.repeat(np.eye(len(held)), [len(part) for part, _ in held], axis=0)
    spread = left_out.std() or 1.0
    fitted = LogisticRegression(C=1e3).fit(np.column_stack([left_out / spread, fold]), labels[rows])
    slope = max(float(fitted.coef_[0, 0]) / spread, 1e-9)
    far = 50 + float(np.abs(slope * scores).max())
    return slope, float(brentq(lambda intercept: expit(slope * scores + intercept).mean() - labels.mean(), -far, far))


def _rows(features: Features, rows: Rows) -> dict[Pooling, csr_array]:
    return {pooling: matrix[rows] for pooling, matrix in features.items()}


def _supports(x: Scores, labels: Bool, grid: Sequence[int], weights: Weights) -> dict[int, Rows]:
    """For each wanted count, columns of `x`: those that weigh most where the lasso's path first has as many."""
    scaled = x / _root_mean_square(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is wanted of the path is an order
        _, path, _ = lasso_path(
            scaled - scaled.mean(axis=0),
            labels - labels.mean(),
            eps=1e-2,
            alphas=40,
            positive=weights == "nonnegative",
            max_iter=200,
            tol=1e-3,
        )
    sizes = (path != 0).sum(axis=0)
    found = {}
    for count in grid:
        enough = np.flatnonzero(sizes >= count)
        coefficients = path[:, enough[0] if len(enough) else -1]
        order = np.argsort(-np.abs(coefficients), kind="stable")[:count]
        chosen = order[coefficients[order] != 0]
        found[count] = chosen if len(chosen) else order[:1]
    return found


def _weigh(x: Scores, labels: Bool, strength: float, weights: Weights) -> tuple[Scores, float]:
    """Weights and bias for the columns as they are."""
    scale = _root_mean_square(x)
    if weights == "nonnegative":
        ridge = Ridge(alpha=1 / strength, positive=True).fit(x / scale, labels)
        return ridge.coef_ / scale, float(ridge.intercept_)
    model = LogisticRegression(C=strength, max_iter=2000).fit(x / scale, labels)
    return model.coef_[0] / scale, float(model.intercept_[0])


def _root_mean_square(x: Scores) -> Scores:
    scale = np.sqrt(np.square(x).mean(axis=0))
    return np.where(scale > 0, scale, 1.0)


def _fewest_that_will_do(
    held: Mapping[tuple[int, float], Sequence[tuple[Rows, Scores]]], labels: Bool
) -> tuple[int, float]:
    """The fewest terms that are not worse than the best by more than the standard error of that difference.

    Of every number of terms, with its best shrinkage; differences are taken fold by fold, since folds differ more from
    each other than choices do.
    """
    folds = {
        choice: np.array([auroc(labels[rows], scores) for rows, scores in parts]) for choice, parts in held.items()
    }
    by_count: dict[int, tuple[int, float]] = {}
    for choice, values in folds.items():
        best = by_count.setdefault(choice[0], choice)
        if values.mean() > folds[best].mean():
            by_count[choice[0]] = choice
    best = max(by_count.values(), key=lambda choice: float(folds[choice].mean()))
    for _, choice in sorted(by_count.items()):
        behind = folds[best] - folds[choice]
        if behind.mean() <= behind.std(ddof=1) / np.sqrt(len(behind)):
            return choice
    return best
