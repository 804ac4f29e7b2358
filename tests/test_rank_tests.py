"""Rank tests of sparse columns, against SciPy's on each column, and what the false discovery rate is where nothing differs."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csc_array, csr_array

from scopewatch.contrast.designs import group_means, moved
from scopewatch.statistics.rank_tests import benjamini_hochberg, mann_whitney, rank_biserial_interval, signed_rank
from scopewatch.statistics.ranking import column_aurocs
from scopewatch.statistics.scores import Interval


def columns(n: int, m: int = 40, seed: int = 0) -> np.ndarray:
    """Mostly zeros, some columns with ties among the rest, the last empty and the one before it full."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(1, size=(n, m)) * (rng.random((n, m)) < rng.uniform(0.05, 0.9, m))
    values[:, ::3] = np.round(values[:, ::3], 1)
    values[:, -2] += 0.5
    values[:, -1] = 0
    return values


@pytest.mark.parametrize(("n", "n_b"), [(200, 100), (200, 13), (7, 3), (2, 1)])
def test_mann_whitney_is_scipys(n: int, n_b: int) -> None:
    """p and U of every column, with many ties at 0, are those of SciPy's asymptotic test."""
    values = columns(n)
    in_b = np.random.default_rng(1).permutation(n) < n_b
    expected = [stats.mannwhitneyu(column[in_b], column[~in_b], method="asymptotic") for column in values.T]

    found = mann_whitney(csc_array(values), in_b)

    np.testing.assert_allclose(found.p, [test.pvalue for test in expected], rtol=1e-9)
    np.testing.assert_allclose(found.effect, [test.statistic / (n_b * (n - n_b)) for test in expected], rtol=1e-12)
    np.testing.assert_allclose(found.effect, column_aurocs(csc_array(values), in_b), rtol=1e-12)


@pytest.mark.parametrize("n", [200, 12, 1])
def test_signed_rank_is_scipys(n: int) -> None:
    """p of every column of differences is that of SciPy's asymptotic test without the zeros, 1 where all are zero."""
    values = columns(n, seed=1) - columns(n, seed=2)
    expected = [
        stats.wilcoxon(column[column != 0], method="asymptotic").pvalue if column.any() else 1.0 for column in values.T
    ]

    np.testing.assert_allclose(signed_rank(csc_array(values)).p, expected, rtol=1e-9)


def test_rank_biserial_is_the_difference_of_rank_sums() -> None:
    """The effect of a paired test is (sum of ranks of rises - sum of ranks of falls) / sum of ranks, by definition."""
    values = columns(60, seed=1) - columns(60, seed=2)

    def expected(column: np.ndarray) -> float:
        column = column[column != 0]
        ranks = stats.rankdata(np.abs(column))
        return float((ranks @ np.sign(column)) / ranks.sum()) if len(column) else 0.0

    np.testing.assert_allclose(signed_rank(csc_array(values)).effect, [expected(c) for c in values.T], atol=1e-12)
    np.testing.assert_allclose(
        [rank_biserial_interval(c, resamplings=1).value for c in values.T], [expected(c) for c in values.T], atol=1e-12
    )


def test_rank_biserial_interval_is_the_bootstraps() -> None:
    """The interval is that of resampling the differences and ranking each draw anew."""
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(0.3, 1, 80), 1) * (rng.random(80) < 0.6)
    draws = signed_rank(csc_array(values[rng.integers(80, size=(80, 4000))])).effect

    found = rank_biserial_interval(values, resamplings=4000)

    np.testing.assert_allclose([found.low, found.high], np.quantile(draws, [0.025, 0.975]), atol=0.02)


def test_nothing_moved_has_no_interval() -> None:
    """Where no difference is left, the effect is 0."""
    assert Interval(0.0, 0.0, 0.0) == rank_biserial_interval(np.zeros(5))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_way_is_not_certainty(sign: float) -> None:
    """Where all n differences go one way, the interval reaches to what n can miss: 26% of the other way for n of 12."""
    found = rank_biserial_interval(sign * np.append(np.arange(1.0, 13.0), 0.0))

    assert sign == found.value
    assert pytest.approx([1 - 2 * (1 - 0.025 ** (1 / 12)), 1.0]) == sorted(abs(end) for end in (found.low, found.high))


def test_group_means() -> None:
    """Each group is the mean of its rows; those of equal rows are exactly equal, so that they tie."""
    rows = np.array([[0.1, 0.0], [0.7, 0.0], [0.1, 3.0], [0.1, 0.0]], np.float32)
    means = group_means(csr_array(rows), np.array([0, 1, 0, 0])).toarray()

    np.testing.assert_allclose(means, [[0.1, 1.0], [0.7, 0.0]], rtol=1e-7)
    assert means[0, 0] == np.float64(rows[0, 0])


def test_rounding_is_no_move() -> None:
    """A difference as small as another batch makes is 0 and not stored; a larger one, and one from 0, is kept."""
    before = csr_array(np.array([[2.0, 2.0, 0.0, 3.0]], np.float32))
    after = csr_array(np.array([[2.001, 2.01, 1e-6, 0.0]], np.float32))

    found = moved(before, after)

    assert 3 == found.nnz
    np.testing.assert_allclose(found.toarray(), [[0, 0.01, 1e-6, -3.0]], rtol=1e-4)


@pytest.mark.parametrize("n_b", [200, 50])
def test_where_nothing_differs_little_is_found(n_b: int) -> None:
    """Of random halves, or quarters, of one corpus, hardly more than 5% show anything at a false discovery rate of 5%."""
    values = csc_array(columns(400, 300))
    values = values[:, np.flatnonzero(np.diff(values.indptr) * n_b / 400 >= 10)]
    rng = np.random.default_rng(3)

    found = [(benjamini_hochberg(mann_whitney(values, rng.permutation(400) < n_b).p) <= 0.05).any() for _ in range(100)]

    assert sum(found) <= 11
