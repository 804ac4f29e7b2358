"""Rank tests of many sparse columns at once; a value that is not stored counts as 0, as a silent feature does."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import DataError
from scopewatch.statistics.scores import Bool, Interval, Rows, Scores, check_probabilities

try:
    from scipy import stats
    from scipy.sparse import csc_array
    from scipy.special import ndtr
except ImportError:
    raise DataError("contrast needs SciPy: pip install 'scopewatch[calibration]'") from None

_WEIGHTS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class RankTests:
    """The results of one test for each of m columns, in arrays of shape (m,)."""

    effect: Scores
    """How far and to which side the column differs, in the measure of the test that was made."""
    p: Scores
    """The two-sided p value; 1 for a column of zeros."""


def mann_whitney(features: csc_array, in_b: Bool) -> RankTests:
    """Whether rows of B have higher values than rows of A: Mann-Whitney U with correction for ties and continuity.

    p by the normal approximation (Lehmann, Nonparametrics, 1975, section 1.3). `effect` is U / (n_a n_b): the
    probability that a row of B has a higher value than one of A, ties counted half, so 0.5 where nothing differs.

    Args:
        features: The values of n rows in m columns, all of them above 0 where they are stored.
        in_b: Whether each row is one of B, shape (n,); both kinds must occur.
    """
    n, n_b = len(in_b), int(in_b.sum())
    n_a = n - n_b
    column, rank, ties = _ranked(features)
    stored = np.diff(features.indptr)
    zeros = n - stored
    zeros_b = n_b - _sums(column, in_b[features.indices], len(stored))
    rank_sum = _sums(column, (rank + zeros[column]) * in_b[features.indices], len(stored)) + zeros_b * (zeros + 1) / 2
    u = rank_sum - n_b * (n_b + 1) / 2
    ties += zeros.astype(float) ** 3 - zeros
    deviation = np.sqrt(np.maximum(n_a * n_b / 12 * (n + 1 - ties / (n * (n - 1))), 0))
    return RankTests(u / (n_a * n_b), _two_sided(np.abs(u - n_a * n_b / 2) - 0.5, deviation))


def signed_rank(differences: csc_array) -> RankTests:
    """Whether differences lean to one side: Wilcoxon's signed-rank test, zeros left out, corrected for ties.

    p by the normal approximation (Lehmann, Nonparametrics, 1975, section 3.2). `effect` is the matched-pairs
    rank-biserial correlation: the share of the rank sum that is of positive differences less that of negative ones.

    Args:
        differences: The differences of n rows in m columns; none that is stored is 0.
    """
    column, rank, ties = _ranked(abs(differences))
    stored = np.diff(differences.indptr).astype(float)
    positive = _sums(column, rank * (differences.data > 0), len(stored))
    total = stored * (stored + 1) / 2
    deviation = np.sqrt(total * (2 * stored + 1) / 12 - ties / 48)
    effect = 2 * positive / np.maximum(total, 1) - (total > 0)
    return RankTests(effect, _two_sided(np.abs(positive - total / 2), deviation))


def rank_biserial_interval(
    differences: Scores, *, confidence: float = 0.95, resamplings: int = 1000, seed: int = 0
) -> Interval:
    """The matched-pairs rank-biserial correlation with a percentile bootstrap over its rows; 0 where nothing differs.

    Where all go one way every draw does too, and a bootstrap would claim certainty: the interval then leaves room for
    the share of the other way that as many differences can miss, 1 - (half of 1 - confidence)^(1/n).

    Args:
        differences: One difference of each group, shape (n,).
        confidence: The share of such intervals that are to hold the true correlation.
        resamplings: How many times the rows are drawn.
        seed: The same seed draws the same rows.
    """
    n = len(differences)
    tail = (1 - confidence) / 2
    ranking = _Ranking.of(differences)
    if not len(ranking.order):
        return Interval(0.0, 0.0, 0.0)
    generator = np.random.default_rng(seed)
    rows = max(1, _WEIGHTS_AT_ONCE // n)
    draws = []
    for first in range(0, resamplings, rows):
        r = min(rows, resamplings - first)
        drawn = generator.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
        draws.append(ranking.correlations(np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n)))
    low, high = np.quantile(np.concatenate(draws), (tail, 1 - tail)).tolist()
    value = float(ranking.correlations(np.ones((1, n), np.intp))[0])
    if abs(value) == 1:
        unseen = 1 - tail ** (1 / len(ranking.order))
        return Interval(value, max(-1.0, value - 2 * unseen), min(1.0, value + 2 * unseen))
    return Interval(value, low, high)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Differences that are not 0, in the order of their size, ready to be weighed by how often each was drawn."""

    order: Rows
    """Rows of the differences, ascending by size."""
    positive: Bool
    """Whether each, in that order, is above 0."""
    starts: Rows
    """Where runs of equal size begin in that order."""

    @classmethod
    def of(cls, differences: Scores) -> Self:
        order = np.argsort(np.abs(differences))
        order = order[differences[order] != 0]
        sizes = np.abs(differences[order])
        return cls(order, differences[order] > 0, np.flatnonzero(np.diff(sizes, prepend=-1)))

    def correlations(self, weights: Rows) -> Scores:
        """The rank-biserial correlation of each resampling, shape (r,).

        Args:
            weights: How often each of the n differences is in each of the r resamplings, shape (r, n).
        """
        drawn = weights[:, self.order]
        tied = np.add.reduceat(drawn, self.starts, axis=1)
        midrank = np.cumsum(tied, axis=1) - (tied - 1) / 2
        tied_positive = np.add.reduceat(drawn * self.positive, self.starts, axis=1)
        count = tied.sum(axis=1)
        return np.asarray(4 * (tied_positive * midrank).sum(axis=1) / np.maximum(count * (count + 1), 1) - (count > 0))


def benjamini_hochberg(p: Scores) -> Scores:
    """The q values of several tests: rejecting all whose q is at most some rate keeps the false discovery rate there.

    Holds for tests that are independent or depend on each other positively (Benjamini and Yekutieli 2001).

    Raises:
        DataError: A p value is outside [0, 1], or there is none.
    """
    check_probabilities(p)
    return np.asarray(stats.false_discovery_control(p))


def _ranked(features: csc_array) -> tuple[Rows, Scores, Scores]:
    """Each stored value's column and its midrank in that column; each column's sum of t^3 - t over runs of t ties."""
    m = features.shape[1]
    column = np.repeat(np.arange(m), np.diff(features.indptr))
    order = np.lexsort((features.data, column))
    value = features.data[order]
    # The order is by column first, so that every value stays among those of its column.
    starts = np.flatnonzero((np.diff(value, prepend=-1) != 0) | (np.diff(column, prepend=-1) != 0))
    tied = np.diff(starts, append=len(value))
    rank = np.empty(len(value))
    rank[order] = np.repeat(starts - features.indptr[column[starts]] + (tied + 1) / 2, tied)
    return column, rank, _sums(column[starts], tied.astype(float) ** 3 - tied, m)


def _sums(column: Rows, values: NDArray[np.generic], m: int) -> Scores:
    """The sum of the values of each of m columns, `column` being that of each value."""
    return np.bincount(column, values, minlength=m).astype(np.float64)


def _two_sided(distance: Scores, deviation: Scores) -> Scores:
    """The p values of statistics that far from their means, by the normal approximation; 1 where none can differ."""
    z = np.divide(distance, deviation, out=np.zeros_like(distance), where=deviation > 0)
    return np.asarray(np.minimum(2 * ndtr(-z), 1))
