"""A sparse combination of pooled features that tells positive from negative pairs.

Every feature under every pooling is ranked by its AUROC, and a logistic regression with an L2 penalty (or, for weights
that may not be negative, a non-negative ridge regression) weighs the k best, both labels counting alike. k and the
penalty are those that do best in cross-validation, which never parts a group and repeats the ranking in each fold; the
single best feature is one of the choices. Many features with small weights carry over to other data better than few
that seem to say different things (docs/decisions/0018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
from numpy.typing import NDArray

from scopewatch.calibration.log_odds import log_odds
from scopewatch.calibration.wanted import Weights
from scopewatch.errors import DataError, Unsupported
from scopewatch.statistics.folds import Folds
from scopewatch.statistics.ranking import auroc, column_aurocs
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.watch.indicators import Probability
from scopewatch.watch.poolings import Pooling

try:
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression, Ridge
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None

Float32 = NDArray[np.float32]
Features = Mapping[Pooling, csr_array]
"""The pooled features, shape (n_pairs, d_sae), by the pooling; each may be read from disk whenever it is asked for."""
Column = tuple[Pooling, int]
"""A pooling and a feature."""
_Choice = tuple[int, float]
"""A number of terms and a strength."""

_TERMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_STRENGTHS = (0.0003, 0.003, 0.03, 0.3)
"""Inverse of the penalty, for columns whose standard deviation is 1."""


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
    fold_aurocs: tuple[float, ...] = ()
    """AUROC of each fold left out."""

    def values(self, features: Features) -> Scores:
        """The value of each term on the pairs whose pooled features are given, shape (n_pairs, n_terms)."""
        columns = [features[term.pooling][:, [term.feature]].toarray().ravel() for term in self.terms]
        return np.column_stack(columns).astype(np.float64)

    def scores(self, features: Features) -> Scores:
        """The scores of the pairs whose pooled features are given, shape (n_pairs,)."""
        return scores_of([self], features)[0]


def scores_of(combinations: Sequence[Combination], features: Features) -> list[Scores]:
    """The scores of n pairs by each combination, shape (n_pairs,), given their pooled features, each asked for once."""
    total = np.array([[combination.bias for combination in combinations]])
    for pooling, matrix in features.items():
        weights = np.zeros((matrix.shape[1], len(combinations)))
        for number, combination in enumerate(combinations):
            mine = [term for term in combination.terms if term.pooling == pooling]
            weights[[term.feature for term in mine], number] = [term.weight for term in mine]
        total = total + matrix @ weights
    return list(total.T)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns, each of a pooling and a feature, in the order of their rank."""

    poolings: tuple[Pooling, ...]
    features: Rows

    def names(self) -> list[Column]:
        return list(zip(self.poolings, self.features.tolist(), strict=True))


def fit_combination(
    features: Features,
    labels: Bool,
    folds: Folds,
    *,
    terms: int | None = None,
    weights: Weights = "free",
    share: float | None = None,
) -> Combination:
    """Fits a sparse combination.

    Args:
        features: The pooled features of the pairs to fit.
        labels: The label of each of these pairs; both must occur.
        folds: The folds of the cross-validation, from `grouped_folds` or `source_folds`.
        terms: The number of terms; None has cross-validation choose it.
        weights: Whether weights may be negative.
        share: The share of label 1 among the pairs that these were drawn from; None for that of these.

    Raises:
        Unsupported: No feature fires often enough, or none tells the labels apart, in a fold or in all pairs.
    """
    grid = (terms,) if terms else _TERMS
    parts = [fit for fit, _ in folds] + [np.arange(len(labels))]
    *in_folds, columns = (part.names() for part in _ranked_in(features, labels, parts, weights, max(grid)))
    places = {name: place for place, name in enumerate(dict.fromkeys(chain(*in_folds, columns)))}
    ranked = [[places[name] for name in names] for names in (*in_folds, columns)]
    values = values_of(features, list(places))
    return fit_values(values, list(places), labels, folds, ranked=ranked, terms=grid, weights=weights, share=share)


def fit_values(
    values: Float32,
    names: Sequence[Column],
    labels: Bool,
    folds: Folds,
    *,
    ranked: Sequence[Sequence[int]],
    terms: Sequence[int],
    weights: Weights = "free",
    share: float | None = None,
) -> Combination:
    """Weighs columns of values; cross-validation chooses how many of them, and the penalty.

    Args:
        values: The values of the columns on the pairs to fit, shape (n_pairs, n_columns).
        names: The pooling and the feature of each column.
        labels: The label of each of these pairs; both must occur.
        folds: The folds of the cross-validation.
        ranked: For each fold, and then for all pairs, the numbers of columns, best first.
        terms: The numbers of terms of which one is chosen.
        weights: Whether weights may be negative.
        share: As of `fit_combination`.
    """
    held: dict[_Choice, list[tuple[Rows, Scores]]] = {}
    for (fit, left_out), columns in zip(folds, ranked[:-1], strict=True):
        x = values[:, columns]
        for count, strength in product(terms, _STRENGTHS):
            # The penalty of a pair is that of the fit on all pairs, or fewer pairs would give scores closer to 0.
            weight, bias = _weigh(x[fit, :count], labels[fit], strength * len(labels) / len(fit), weights)
            held.setdefault((count, strength), []).append((left_out, x[left_out, :count] @ weight + bias))
    aurocs = {choice: tuple(auroc(labels[rows], scores) for rows, scores in parts) for choice, parts in held.items()}
    count, strength = max(aurocs, key=lambda choice: float(np.mean(aurocs[choice])))
    columns = ranked[-1][:count]
    x = values[:, columns]
    weight, bias = _weigh(x, labels, strength, weights)
    slope, intercept = log_odds(held[count, strength], x @ weight + bias, labels, share or float(labels.mean()))
    weight, bias = weight * slope, bias * slope + intercept
    order = np.argsort(-np.abs(weight) * x.std(axis=0), kind="stable")
    return Combination(
        terms=tuple(_term(names[columns[i]], float(weight[i])) for i in order if weight[i]),
        bias=float(f"{bias:.6g}"),
        strength=strength,
        cv_auroc=float(np.mean(aurocs[count, strength])),
        probability=Probability(slope=1.0, intercept=0.0),
        fold_aurocs=aurocs[count, strength],
    )


def _term(column: Column, weight: float) -> Term:
    pooling, feature = column
    return Term(feature, pooling, float(f"{weight:.6g}"))


def fit_chosen(features: Features, columns: Sequence[Column], labels: Bool) -> Combination:
    """A combination of the given columns, without any choosing: a control for one whose columns were chosen."""
    weight, bias = _weigh(values_of(features, columns), labels, 1.0, "free")
    found = zip(columns, weight, strict=True)
    return Combination(
        terms=tuple(Term(feature, pooling, float(value)) for (pooling, feature), value in found),
        bias=bias,
        strength=1.0,
        cv_auroc=float("nan"),
        probability=Probability(slope=1.0, intercept=0.0),
    )


def best_column(features: Features, labels: Bool) -> Column:
    """The pooling and the feature with the AUROC furthest from one half.

    Raises:
        Unsupported: As `fit_combination` does.
    """
    return _ranked_in(features, labels, [np.arange(len(labels))], "free", 1)[0].names()[0]


def _ranked_in(features: Features, labels: Bool, parts: Sequence[Rows], weights: Weights, most: int) -> list[_Columns]:
    """In each part of the pairs, the columns with the AUROC furthest from one half, best first.

    Columns that fire in too few pairs of the part are left out. Each pooling is asked for once.

    Args:
        features: The pooled features of the pairs to fit.
        labels: The label of each of these pairs; both must occur.
        parts: The rows of each part.
        weights: Whether weights may be negative; if they may not, only columns above one half are ranked.
        most: The most columns that are kept.

    Raises:
        Unsupported: No column is left.
    """
    found: list[list[tuple[Scores, Rows]]] = [[] for _ in parts]
    for matrix in features.values():
        for part, rows in zip(found, parts, strict=True):
            gaps, columns = _gaps(matrix[rows], labels[rows], _least(rows))
            gaps = gaps if weights == "nonnegative" else np.abs(gaps)
            best = np.argsort(-gaps, kind="stable")[:most]
            part.append((gaps[best], columns[best]))
    poolings = list(features)
    return [_best(poolings, part, rows, weights, most) for part, rows in zip(found, parts, strict=True)]


def _best(
    poolings: Sequence[Pooling], found: Sequence[tuple[Scores, Rows]], part: Rows, weights: Weights, most: int
) -> _Columns:
    """The best columns of all poolings, given the gaps and the features of each pooling's best."""
    gaps, columns = (np.concatenate(both) for both in zip(*found, strict=True))
    of = np.repeat(np.arange(len(poolings)), [len(gap) for gap, _ in found])
    order = np.argsort(-gaps, kind="stable")[:most]
    order = order[gaps[order] > 0]
    if not len(columns):
        raise Unsupported(f"no signal: no feature fires in at least {_least(part)} of {len(part)} pairs to fit")
    if not len(order):
        way = "is higher" if weights == "nonnegative" else "tells the labels apart,"
        raise Unsupported(f"no signal: of {len(columns)} features and poolings none {way} on {len(part)} pairs to fit")
    return _Columns(tuple(poolings[i] for i in of[order]), columns[order])


def _least(part: Rows) -> int:
    """In how many of the part's pairs a column has to fire."""
    return max(5, len(part) // 100)


def _gaps(matrix: csr_array, labels: Bool, least: int) -> tuple[Scores, Rows]:
    """The AUROC less one half of the columns that fire in at least so many pairs, and the numbers of these columns."""
    kept = np.flatnonzero(np.bincount(matrix.indices, minlength=matrix.shape[1]) >= least)
    return column_aurocs(matrix[:, kept], labels) - 0.5, kept


def values_of(features: Features, columns: Sequence[Column]) -> Float32:
    """The values of columns, shape (n_pairs, n_columns). Each pooling is asked for once."""
    found: list[Float32] = []
    places: list[int] = []
    for pooling, matrix in features.items():
        mine = [place for place, (of, _) in enumerate(columns) if of == pooling]
        found.append(matrix[:, [columns[place][1] for place in mine]].toarray())
        places += mine
    return np.concatenate(found, axis=1)[:, np.argsort(places)]


def _weigh(x: Float32, labels: Bool, strength: float, weights: Weights) -> tuple[Scores, float]:
    """Weights and bias of columns that are standardised to be fitted, put in the columns' own scale.

    Both labels count alike, whichever is rarer.
    """
    mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 0, spread, 1.0)
    scaled = (x - mean) / spread
    if weights == "nonnegative":
        share = labels.mean()
        balance = np.where(labels, 0.5 / share, 0.5 / (1 - share))
        model = Ridge(alpha=1 / strength, positive=True).fit(scaled, labels, sample_weight=balance)
        weight, bias = model.coef_ / spread, float(model.intercept_)
    else:
        model = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced").fit(scaled, labels)
        weight, bias = model.coef_[0] / spread, float(model.intercept_[0])
    return weight, float(bias - weight @ mean)
