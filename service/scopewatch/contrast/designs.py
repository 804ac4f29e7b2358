"""How two corpora are compared: independent of each other or pair by pair, and always group by group.

Pairs of one group are alike, and counted one by one they would count as too many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from scopewatch.errors import DataError
from scopewatch.statistics.rank_tests import RankTests, mann_whitney, rank_biserial_interval, signed_rank
from scopewatch.statistics.ranking import auroc_interval
from scopewatch.statistics.scores import Bool, Interval, Rows, Scores

try:
    from scipy.sparse import csc_array, csr_array, vstack
except ImportError:
    raise DataError("contrast needs SciPy: pip install 'scopewatch[calibration]'") from None

ROUNDING = 1e-3
"""Share of an activation by which it may differ between two texts that it has nothing to do with: the same tokens are
not computed to the last digit alike in another batch."""
LEAST = 10
"""Groups of the smaller corpus in which a feature would fire if there were no difference, or of paired corpora groups
in which it moves; those below are not tested, since the normal approximation is too kind to them."""

Side = Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class Independent:
    """The rows of A and, below them, those of B, where no pair of one belongs to a pair of the other."""

    in_b: Bool
    """Whether each row is one of B."""
    group: Rows
    """The number of each row's group; a group that is in both corpora is one in each."""
    group_in_b: Bool
    """Whether each group is one of B."""
    names: Sequence[str]
    """The name of each group."""

    effect: ClassVar[Literal["auroc"]] = "auroc"
    """What is reported of a feature: the probability that a group of B has the higher mean."""
    middle: ClassVar[float] = 0.5
    """The effect where nothing differs."""

    @classmethod
    def of(cls, a: Sequence[str], b: Sequence[str]) -> Self:
        """The design of corpora whose pairs have these groups."""
        keys = np.array([*(f"a{name}" for name in a), *(f"b{name}" for name in b)], object)
        named, group = np.unique(keys, return_inverse=True)
        in_b = np.array([name[0] == "b" for name in named])
        return cls(np.arange(len(keys)) >= len(a), group, in_b, [name[1:] for name in named])

    def groups(self, features: csr_array) -> csc_array:
        """The mean of each feature over each group, shape (n_groups, d_sae)."""
        return group_means(features, self.group)

    def testable(self, groups: csc_array) -> Bool:
        """Which features fire in enough groups to be tested, shape (d_sae,)."""
        n = len(self.group_in_b)
        smaller = min(self.group_in_b.sum(), n - self.group_in_b.sum())
        return np.asarray(np.diff(groups.indptr) * smaller / n >= LEAST)

    def test(self, groups: csc_array) -> RankTests:
        """Whether the features differ, given what `groups` makes of them."""
        return mann_whitney(groups, self.group_in_b)

    def interval(self, column: Scores) -> Interval:
        """The effect of one feature with its interval, given its column of what `groups` makes."""
        return auroc_interval(self.group_in_b, column, self.names)

    def pull(self, column: Scores, side: Side) -> Scores:
        """How much each row makes one feature higher on that side, given its value in each row."""
        return np.where(self.in_b == (side == "b"), column, 0.0)


@dataclass(frozen=True, slots=True)
class Paired:
    """The rows of A and, below them in the same order, their partners of B; compared group by group of A."""

    group: Rows
    """The number of each row's group, for the rows of A."""

    effect: ClassVar[Literal["rank_biserial"]] = "rank_biserial"
    """What is reported of a feature: the rank-biserial correlation of the differences."""
    middle: ClassVar[float] = 0.0
    """The effect where nothing differs."""

    @classmethod
    def of(cls, a: Sequence[str]) -> Self:
        """The design of corpora where the pairs of A have these groups."""
        return cls(np.unique(np.array(a, object), return_inverse=True)[1])

    def groups(self, features: csr_array) -> csc_array:
        """The mean rise of each feature from A to B over each group, shape (n_groups, d_sae)."""
        n = len(self.group)
        return group_means(moved(features[:n], features[n:]), self.group)

    def testable(self, groups: csc_array) -> Bool:
        """Which features move in enough groups to be tested, shape (d_sae,)."""
        return np.asarray(np.diff(groups.indptr) >= LEAST)

    def test(self, groups: csc_array) -> RankTests:
        """Whether the features move to one side, given what `groups` makes of them."""
        return signed_rank(groups)

    def interval(self, column: Scores) -> Interval:
        """The effect of one feature with its interval, given its column of what `groups` makes."""
        return rank_biserial_interval(column)

    def pull(self, column: Scores, side: Side) -> Scores:
        """How much each row makes one feature higher on that side, given its value in each row."""
        before, after = np.split(column, 2)
        nothing = np.zeros_like(before)
        return np.concatenate([nothing, after - before] if side == "b" else [before - after, nothing])


Design = Independent | Paired


def one_column(values: Scores) -> csr_array:
    """The values as the only column of a matrix, shape (n, 1)."""
    return csr_array(values[:, None])


def stacked(parts: Sequence[csr_array]) -> csr_array:
    """The rows of several matrices, one matrix after the other."""
    return vstack(parts, format="csr")


def group_means(rows: csr_array, group: Rows) -> csc_array:
    """The mean of the rows of each group, shape (n_groups, m).

    Args:
        rows: The values of n rows in m columns.
        group: The number of each row's group, counted from 0; shape (n,).
    """
    n = len(group)
    # In float64 sums of some float32 are exact, so that equal values have equal means and tie.
    total = csr_array((np.ones(n), (group, np.arange(n)))) @ rows.astype(np.float64)
    means = (csr_array((1 / np.bincount(group), (np.arange(total.shape[0]),) * 2)) @ total).tocsc()
    means.eliminate_zeros()
    return means


def moved(before: csr_array, after: csr_array) -> csr_array:
    """`after` less `before`, and 0 where they differ by no more than `ROUNDING` of the larger; no value is below 0."""
    differences = (after - before).tocsr()
    differences = differences.multiply(abs(differences) > ROUNDING * after.maximum(before)).tocsr()
    differences.eliminate_zeros()
    return differences
