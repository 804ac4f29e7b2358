"""Scores learnt on labelled items: sparse SAE scores, and the baselines that they have to beat."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pooling import PooledSet, Pooling

Scores = NDArray[np.float64]
Scorer = Callable[[PooledSet], Scores]

HEDGE_WORDS = re.compile(
    r"\b(may|might|could|would|possibly|possible|perhaps|maybe|probably|probable|likely|unlikely|suggests?|suggested|suggesting|"
    r"appears?|appeared|seems?|seemed|indicates?|believe|believed|think|thought|guess|suppose|assume|apparently|potentially|potential|"
    r"presumably|roughly|approximately|about|around|almost|somewhat|sometimes|often|usually|generally|unclear|uncertain|unsure|"
    r"not sure|tend|tends|can|hypothesi[sz]e|speculate|estimate|estimated|expect|hope)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Term:
    """One feature under one pooling, with its weight on the raw pooled activation."""

    feature: int
    pooling: Pooling
    weight: float


@dataclass(frozen=True)
class SparseScore:
    """score = bias + sum of weight * pooled activation."""

    terms: tuple[Term, ...]
    bias: float

    def __call__(self, pooled: PooledSet) -> Scores:
        """(items,)"""
        total = np.full(len(pooled.items), self.bias)
        for pooling in {term.pooling for term in self.terms}:
            weights = np.zeros(pooled.features[pooling].shape[1])
            for term in self.terms:
                if term.pooling == pooling:
                    weights[term.feature] += term.weight
            total += pooled.features[pooling] @ weights
        return total


@dataclass(frozen=True)
class SparseFit:
    """How a sparse score is fitted: L1 strength to choose terms, how many at most, L2 strength to weigh them."""

    poolings: tuple[Pooling, ...]
    terms: int = 60
    l1: float = 0.05
    l2: float = 0.05
    least_share: float = 0.004

    def __call__(self, pooled: PooledSet, weights: Scores) -> SparseScore:
        """Fit on `pooled` with item weights. Columns are divided by their deviation; the division is folded away."""
        columns = pooled.columns(self.poolings)
        scale = _column_scale(columns, self.least_share)
        scaled = csr_matrix(columns @ diags(scale))
        first = LogisticRegression(l1_ratio=1.0, C=self.l1, solver="liblinear", max_iter=300, random_state=0)
        first.fit(scaled, pooled.labels, sample_weight=weights)
        strength = np.abs(first.coef_[0])
        chosen = np.argsort(-strength)[: min(self.terms, int((strength > 0).sum()))]
        second = LogisticRegression(C=self.l2, max_iter=2000)
        second.fit(scaled[:, chosen], pooled.labels, sample_weight=weights)
        width = pooled.features[self.poolings[0]].shape[1]
        terms = tuple(
            Term(int(c % width), self.poolings[c // width], float(w * scale[c]))
            for c, w in zip(chosen, second.coef_[0], strict=True)
        )
        return SparseScore(terms, float(second.intercept_[0]))


def _column_scale(columns: csr_matrix, least_share: float) -> Scores:
    """1 / standard deviation by column; 0 (never chosen) for features active in fewer than `least_share` of the items."""
    n = columns.shape[0]
    mean = np.asarray(columns.mean(axis=0)).ravel()
    square = np.asarray(columns.multiply(columns).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    share = np.bincount(columns.indices, minlength=columns.shape[1]) / n
    return np.where((share >= least_share) & (deviation > 1e-6), 1 / np.maximum(deviation, 1e-6), 0.0)


def hedge_words(pooled: PooledSet) -> Scores:
    """Hedge words in the response, counted."""
    return np.array([float(len(HEDGE_WORDS.findall(item.response))) for item in pooled.items])


def length(pooled: PooledSet) -> Scores:
    """Response length in characters."""
    return np.array([float(len(item.response)) for item in pooled.items])


def fit_bag_of_words(pooled: PooledSet, weights: Scores) -> Scorer:
    """TF-IDF of 1-2-grams of the response, logistic regression."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    x = vectorizer.fit_transform([item.response for item in pooled.items])
    model = LogisticRegression(C=5.0, max_iter=2000).fit(x, pooled.labels, sample_weight=weights)
    return lambda other: model.decision_function(vectorizer.transform([item.response for item in other.items]))


def fit_dense(pooled: PooledSet, weights: Scores, strengths: Sequence[float] = (0.0003, 0.003, 0.03)) -> Scorer:
    """Logistic regression on standardised mean- and max-pooled residuals; strength by three-fold AUROC over groups."""
    mean, deviation = pooled.dense.mean(axis=0), pooled.dense.std(axis=0) + 1e-6
    x, y = (pooled.dense - mean) / deviation, pooled.labels
    folds = fold_of(pooled, 3)

    def cross_auroc(strength: float) -> float:
        scores = np.zeros(len(y))
        for fold in range(3):
            out = folds == fold
            scores[out] = _logistic(x[~out], y[~out], weights[~out], strength).decision_function(x[out])
        return float(roc_auc_score(y, scores, sample_weight=weights))

    model = _logistic(x, y, weights, max(strengths, key=cross_auroc))
    return lambda other: model.decision_function((other.dense - mean) / deviation)


def _logistic(x: NDArray[np.float32], y: NDArray[np.int64], weights: Scores, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(x, y, sample_weight=weights)


def fold_of(pooled: PooledSet, folds: int = 5) -> NDArray[np.int64]:
    """Fold of every item, by its group's hash."""
    from corpus import fraction

    return np.array([int(folds * fraction(item.group, "scopewatch-fold")) for item in pooled.items])


def best_single_feature(pooled: PooledSet, weights: Scores) -> tuple[int, Pooling, float]:
    """The feature and pooling with the highest AUROC on `pooled` (either sign): id, pooling, sign."""
    best = (0, next(iter(pooled.features)), 1.0, 0.0)
    for pooling, matrix in pooled.features.items():
        positive = weights * pooled.labels
        gap = np.abs(
            (matrix.T @ positive) / positive.sum() - (matrix.T @ (weights - positive)) / (weights - positive).sum()
        )
        columns = matrix.tocsc()
        for feature in np.argsort(-gap * _column_scale(matrix, 0.01))[:60]:
            value = roc_auc_score(pooled.labels, columns[:, [int(feature)]].toarray().ravel(), sample_weight=weights)
            if abs(value - 0.5) > best[3]:
                best = (int(feature), pooling, 1.0 if value > 0.5 else -1.0, abs(value - 0.5))
    return best[0], best[1], best[2]


def auroc_interval(
    labels: NDArray[np.int64], scores: Scores, groups: Sequence[str], rounds: int = 400, seed: int = 0
) -> tuple[float, float, float]:
    """AUROC and its 95 % interval, by a bootstrap over groups."""
    value = float(roc_auc_score(labels, scores))
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(member == g) for g in range(len(names))]
    generator = np.random.default_rng(seed)
    values = []
    while len(values) < rounds:
        picked = np.concatenate([rows[g] for g in generator.integers(len(rows), size=len(rows))])
        if 0 < labels[picked].sum() < len(picked):
            values.append(roc_auc_score(labels[picked], scores[picked]))
    low, high = np.quantile(values, (0.025, 0.975))
    return value, float(low), float(high)
