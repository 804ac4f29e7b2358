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

import numpy as np

from scopewatch.calibration.wanted import Weights
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


Features = Mapping[Pooling, csr_array]
"""The pooled features, shape (n_pairs, d_sae), by the pooling."""
_Choice = tuple[int, float]
"""A number of terms and a strength."""
_Held = Sequence[tuple[Rows, Scores]]
"""For each fold, the rows that were left out and their scores by the fit on the others."""

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
    """The inverse of the penalty that was chosen."""
    cv_auroc: float
    """Mean AUROC of the folds left out."""
    probability: Probability
    """The map from the score, which is the log-odds already, by scores of pairs that the fold's fit did not see."""

    def scores(self, features: Features) -> Scores:
        """The scores of the pairs whose pooled features are given, shape (n_pairs,)."""
        total = np.full(next(iter(features.values())).shape[0], self.bias)
        for term in self.terms:
            total += term.weight * features[term.pooling][:, [term.feature]].toarray().ravel().astype(np.float64)
        return total


@dataclass(frozen=True, slots=True)
class _Columns:
    """Candidate columns, each of a pooling and a feature, in the order of their rank."""

    poolings: tuple[Pooling, ...]
    features: Rows

    def names(self) -> list[tuple[Pooling, int]]:
        return list(zip(self.poolings, self.features.tolist(), strict=True))

    def dense(self, features: Features) -> Scores:
        """The values of these columns, shape (n_pairs, n_candidates)."""
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
    """Fits a sparse combination.

    Args:
        features: The pooled features of the pairs to fit.
        labels: The label of each of these pairs; both must occur.
        folds: The folds of the cross-validation, from `grouped_folds` or `source_folds`.
        terms: The number of terms; None has cross-validation choose it.
        weights: Whether weights may be negative.

    Raises:
        Unsupported: No feature fires often enough, in a fold or in all pairs.
    """
    held = _cross_validated(features, labels, folds, (terms,) if terms else _TERMS, weights)
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


def _cross_validated(
    features: Features, labels: Bool, folds: Folds, grid: Sequence[int], weights: Weights
) -> dict[_Choice, list[tuple[Rows, Scores]]]:
    """The scores of the pairs that each fold leaves out, for every number of terms in the grid and every strength."""
    held: dict[_Choice, list[tuple[Rows, Scores]]] = {}
    for fit, left_out in folds:
        columns = ranked(_rows(features, fit), labels[fit], weights)
        x, x_out = columns.dense(_rows(features, fit)), columns.dense(_rows(features, left_out))
        for count, chosen in _supports(x, labels[fit], grid, weights).items():
            for strength in _STRENGTHS:
                # The penalty of a pair is that of the fit on all pairs, or fewer pairs would give scores closer to 0.
                weight, bias = _weigh(x[:, chosen], labels[fit], strength * len(labels) / len(fit), weights)
                held.setdefault((count, strength), []).append((left_out, x_out[:, chosen] @ weight + bias))
    return held


def fit_chosen(features: Features, columns: Sequence[tuple[Pooling, int]], labels: Bool) -> Combination:
    """A combination of the given columns, without any choosing: a control for one whose columns were chosen."""
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
        features: The pooled features of the pairs to fit.
        labels: The label of each of these pairs; both must occur.
        weights: Whether weights may be negative; if they may not, only columns above one half are ranked.
        most: The most columns that are kept.

    Raises:
        Unsupported: No column is left.
    """
    least = max(5, len(labels) // 100)
    found = [_gaps(matrix, labels, least) for matrix in features.values()]
    if weights != "nonnegative":
        found = [(np.abs(gap), kept) for gap, kept in found]
    gaps = np.concatenate([gap for gap, _ in found])
    poolings = [pooling for pooling, (gap, _) in zip(features, found, strict=True) for _ in gap]
    order = np.argsort(-gaps, kind="stable")[:most]
    order = order[gaps[order] > 0]
    if not len(order):
        which = " more often where the label is 1" if weights == "nonnegative" else ""
        raise Unsupported(f"no signal: no feature fires{which} in at least {least} of {len(labels)} pairs to fit")
    return _Columns(tuple(poolings[i] for i in order), np.concatenate([kept for _, kept in found])[order])


def _gaps(matrix: csr_array, labels: Bool, least: int) -> tuple[Scores, Rows]:
    """The AUROC less one half of the columns that fire in at least so many pairs, and the numbers of these columns."""
    kept = np.flatnonzero(np.bincount(matrix.indices, minlength=matrix.shape[1]) >= least)
    return column_aurocs(matrix[:, kept], labels) - 0.5, kept


def platt(scores: Scores, labels: Bool) -> Probability:
    """The logistic map from scores to probabilities (Platt 1999; a slight penalty in place of his smoothed targets).

    A score that runs the wrong way gets the flattest map there is.
    """
    spread = scores.std() or 1.0
    fitted = LogisticRegression(C=1e3).fit(scores[:, None] / spread, labels)
    slope = max(float(fitted.coef_[0, 0]) / spread, 1e-9)
    return Probability(slope=float(f"{slope:.6g}"), intercept=float(f"{fitted.intercept_[0]:.6g}"))


def _log_odds(held: _Held, scores: Scores, labels: Bool) -> tuple[float, float]:
    """The slope and intercept that make log-odds of the scores by the fit on all pairs.

    The slope is fitted on scores of pairs left out, with an intercept for each fold: where a fold is a source, the fit
    without it expects the others' share of positives. The intercept then makes the probabilities of all pairs average
    their share of positives.
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
    """For each count in the grid the columns of `x` that weigh most where the lasso's path first has as many."""
    scaled = x / _root_mean_square(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the path only has to give an order
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
    """Weights and bias for columns that are scaled to be fitted, put in the columns' own scale."""
    scale = _root_mean_square(x)
    if weights == "nonnegative":
        ridge = Ridge(alpha=1 / strength, positive=True).fit(x / scale, labels)
        return ridge.coef_ / scale, float(ridge.intercept_)
    model = LogisticRegression(C=strength, max_iter=2000).fit(x / scale, labels)
    return model.coef_[0] / scale, float(model.intercept_[0])


def _root_mean_square(x: Scores) -> Scores:
    scale = np.sqrt(np.square(x).mean(axis=0))
    return np.where(scale > 0, scale, 1.0)


def _fewest_that_will_do(held: Mapping[_Choice, _Held], labels: Bool) -> _Choice:
    """The fewest terms that are not worse than the best by more than the standard error of that difference.

    Every number of terms is taken with its best strength, and differences fold by fold, since folds differ more from
    each other than choices do.
    """
    folds = {
        choice: np.array([auroc(labels[rows], scores) for rows, scores in parts]) for choice, parts in held.items()
    }
    by_count: dict[int, _Choice] = {}
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
