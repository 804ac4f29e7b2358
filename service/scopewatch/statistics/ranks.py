"""Rank tests of many sparse columns at once; what is not stored counts as 0, as a silent feature does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import DataError
from scopewatch.statistics.detection import Bool, Interval, Scores, auroc_interval

try:
    from scipy.sparse import csc_array, csr_array, vstack
    from scipy.special import ndtr
except ImportError:
    raise DataError("contrast needs SciPy: pip install 'scopewatch[calibration]'") from None

ROUNDING = 1e-3
"""Share of an activation by which it may differ between two texts that it has nothing to do with: the same tokens are
not computed to the last digit alike in another batch."""
LEAST = 10
"""Groups of the smaller corpus in which a feature would fire if there were no difference, or of paired corpora groups
in which it moves; those below are not tested, since the normal approximation is too kind to them."""
_WEIGHTS_AT_ONCE = 1 << 21

Side = Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class RankTests:
    """One test per column; arrays of shape (m,)."""

    effect: Scores
    p: Scores
    """Two-sided; 1 for a column of zeros."""


def mann_whitney(features: csc_array, in_b: Bool) -> RankTests:
    """Whether rows of B have higher values than rows of A: Mann-Whitney U with correction for ties and continuity.

    p by the normal approximation (Lehmann, Nonparametrics, 1975, section 1.3). `effect` is U / (n_a n_b): the
    probability that a row of B has a higher value than one of A, ties counted half, so 0.5 where nothing differs.

    Args:
        features: Shape (n, m), values above 0.
        in_b: Shape (n,), of both kinds.
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
        differences: Shape (n, m), no stored value 0.
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
        differences: Shape (n,), one of each group.
        confidence: Of the interval.
        resamplings: How many.
        seed: Fixes them.
    """
    n = len(differences)
    order = np.argsort(np.abs(differences))
    order = order[differences[order] != 0]
    if not len(order):
        return Interval(0.0, 0.0, 0.0)
    positive = differences[order] > 0
    starts = np.flatnonzero(np.diff(np.abs(differences[order]), prepend=-1))

    def effects(weights: NDArray[np.intp]) -> Scores:
        """Of each row of weights (r, n): how often each difference is drawn."""
        drawn = weights[:, order]
        tied = np.add.reduceat(drawn, starts, axis=1)
        midrank = np.cumsum(tied, axis=1) - (tied - 1) / 2
        tied_positive = np.add.reduceat(drawn * positive, starts, axis=1)
        count = tied.sum(axis=1)
        return np.asarray(4 * (tied_positive * midrank).sum(axis=1) / np.maximum(count * (count + 1), 1) - (count > 0))

    generator = np.random.default_rng(seed)
    rows = max(1, _WEIGHTS_AT_ONCE // n)
    draws = []
    for first in range(0, resamplings, rows):
        r = min(rows, resamplings - first)
        drawn = generator.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
        draws.append(effects(np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(draws), (tail, 1 - tail)).tolist()
    value = float(effects(np.ones((1, n), np.intp))[0])
    if abs(value) == 1:
        unseen = 1 - tail ** (1 / len(order))
        return Interval(value, max(-1.0, value - 2 * unseen), min(1.0, value + 2 * unseen))
    return Interval(value, low, high)


def group_means(rows: csr_array, group: NDArray[np.intp]) -> csc_array:
    """Mean of the rows of each group, shape (groups, m); `group` numbers them from 0, shape (n,)."""
    n = len(group)
    # In float64 sums of some float32 are exact, so that equal values have equal means and tie.
    total = csr_array((np.ones(n), (group, np.arange(n)))) @ rows.astype(np.float64)
    means = (csr_array((1 / np.bincount(group), (np.arange(total.shape[0]),) * 2)) @ total).tocsc()
    means.eliminate_zeros()
    return means


def moved(before: csr_array, after: csr_array) -> csr_array:
    """`after` less `before`, 0 where they differ by no more than `ROUNDING` of the larger; values at least 0."""
    differences = (after - before).tocsr()
    differences = differences.multiply(abs(differences) > ROUNDING * after.maximum(before)).tocsr()
    differences.eliminate_zeros()
    return differences


@dataclass(frozen=True, slots=True)
class Independent:
    """Rows of two corpora, compared group by group: pairs of one group are alike, and would count as too many."""

    in_b: Bool
    group: NDArray[np.intp]
    """Of each row; a group that is in both corpora is one in each."""
    group_in_b: Bool
    names: Sequence[str]
    """Of each group."""

    effect: ClassVar[Literal["auroc"]] = "auroc"
    middle: ClassVar[float] = 0.5

    @classmethod
    def of(cls, a: Sequence[str], b: Sequence[str]) -> Self:
        keys = np.array([*(f"a{name}" for name in a), *(f"b{name}" for name in b)], object)
        named, group = np.unique(keys, return_inverse=True)
        in_b = np.array([name[0] == "b" for name in named])
        return cls(np.arange(len(keys)) >= len(a), group, in_b, [name[1:] for name in named])

    def groups(self, features: csr_array) -> csc_array:
        return group_means(features, self.group)

    def testable(self, groups: csc_array) -> Bool:
        n = len(self.group_in_b)
        smaller = min(self.group_in_b.sum(), n - self.group_in_b.sum())
        return np.asarray(np.diff(groups.indptr) * smaller / n >= LEAST)

    def test(self, groups: csc_array) -> RankTests:
        return mann_whitney(groups, self.group_in_b)

    def interval(self, column: Scores) -> Interval:
        return auroc_interval(self.group_in_b, column, self.names)

    def pull(self, column: Scores, side: Side) -> Scores:
        return np.where(self.in_b == (side == "b"), column, 0.0)


@dataclass(frozen=True, slots=True)
class Paired:
    """The rows of A, and below them, in the same order, their partners of B; compared group by group of A."""

    group: NDArray[np.intp]
    """Of each row of A."""

    effect: ClassVar[Literal["rank_biserial"]] = "rank_biserial"
    middle: ClassVar[float] = 0.0

    @classmethod
    def of(cls, a: Sequence[str]) -> Self:
        return cls(np.unique(np.array(a, object), return_inverse=True)[1])

    def groups(self, features: csr_array) -> csc_array:
        n = len(self.group)
        return group_means(moved(features[:n], features[n:]), self.group)

    def testable(self, groups: csc_array) -> Bool:
        return np.asarray(np.diff(groups.indptr) >= LEAST)

    def test(self, groups: csc_array) -> RankTests:
        return signed_rank(groups)

    def interval(self, column: Scores) -> Interval:
        return rank_biserial_interval(column)

    def pull(self, column: Scores, side: Side) -> Scores:
        before, after = np.split(column, 2)
        nothing = np.zeros_like(before)
        return np.concatenate([nothing, after - before] if side == "b" else [before - after, nothing])


Design = Independent | Paired


def one_column(values: Scores) -> csr_array:
    """Shape (n, 1)."""
    return csr_array(values[:, None])


def stacked(parts: Sequence[csr_array]) -> csr_array:
    """The rows of several, one after the other."""
    return vstack(parts, format="csr")


def _ranked(features: csc_array) -> tuple[NDArray[np.intp], Scores, Scores]:
    """Of each stored value its column, and its midrank in it; of each column the sum of t^3 - t over runs of t ties."""
    m = features.shape[1]
    column = np.repeat(np.arange(m), np.diff(features.indptr))
    order = np.lexsort((features.data, column))
    value = features.data[order]
    # Columns stay where they are.
    starts = np.flatnonzero((np.diff(value, prepend=-1) != 0) | (np.diff(column, prepend=-1) != 0))
    tied = np.diff(starts, append=len(value))
    rank = np.empty(len(value))
    rank[order] = np.repeat(starts - features.indptr[column[starts]] + (tied + 1) / 2, tied)
    return column, rank, _sums(column[starts], tied.astype(float) ** 3 - tied, m)


def _sums(column: NDArray[np.intp], values: NDArray[np.generic], m: int) -> Scores:
    return np.bincount(column, values, minlength=m).astype(np.float64)


def _two_sided(distance: Scores, deviation: Scores) -> Scores:
    z = np.divide(distance, deviation, out=np.zeros_like(distance), where=deviation > 0)
    return np.asarray(np.minimum(2 * ndtr(-z), 1))
