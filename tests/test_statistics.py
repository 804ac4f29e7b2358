"""What is claimed of a score: rankings, intervals, bounds, calibration error, each against another way to count."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csc_array, csr_array
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from scopewatch.errors import DataError, TooLittleData
from scopewatch.statistics.bounds import Threshold, false_positive_bound, one_per_group, threshold_for
from scopewatch.statistics.calibration_error import calibration_error, reliability
from scopewatch.statistics.rank_tests import benjamini_hochberg
from scopewatch.statistics.ranking import auroc, auroc_difference, auroc_interval, column_aurocs
from scopewatch.statistics.scores import Interval, Scores

_LABELS = arrays.arrays(bool, st.integers(2, 40)).filter(lambda labels: 0 < labels.sum() < len(labels))
_FEW_VALUES = st.integers(-3, 3).map(float)


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[NDArray[np.bool_], Scores]:
    """Both labels, many ties."""
    labels = draw(_LABELS)
    return labels, draw(arrays.arrays(float, len(labels), elements=_FEW_VALUES))


def grouped(seed: int, groups: int, size: int, shift: float = 1.0) -> tuple[NDArray[np.bool_], Scores, list[str]]:
    """Groups of `size` pairs that share a label and most of their score."""
    random = np.random.default_rng(seed)
    labels = random.random(groups) < 0.5
    scores = np.repeat(random.normal(size=groups) + shift * labels, size) + 0.1 * random.normal(size=groups * size)
    return np.repeat(labels, size), scores, [str(number // size) for number in range(groups * size)]


def by_couples(labels: NDArray[np.bool_], scores: Scores) -> float:
    """Share of (positive, negative) couples in the right order, ties for half."""
    return float((np.sign(scores[labels][:, None] - scores[~labels]) / 2 + 0.5).mean())


# AUROC


@given(labelled_scores())
def test_auroc_is_the_share_of_couples_in_the_right_order(drawn: tuple[NDArray[np.bool_], Scores]) -> None:
    """Every couple counted by hand, ties for half; scikit-learn agrees."""
    labels, scores = drawn
    assert by_couples(labels, scores) == pytest.approx(auroc(labels, scores), abs=1e-14)
    assert roc_auc_score(labels, scores) == pytest.approx(auroc(labels, scores), abs=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", [csr_array, csc_array])
@given(_LABELS, st.integers(0, 10_000))
def test_columns_have_the_auroc_that_each_has_alone(
    form: type, dtype: type, labels: NDArray[np.bool_], seed: int
) -> None:
    """Ties among values, stored zeros, empty and full columns: as counted by hand on the dense column."""
    random = np.random.default_rng(seed)
    levels = random.choice([1e-40, 0.25, 1.0, 1 + 1e-7, 3e38], size=(len(labels), 12)).astype(dtype)
    features = form(levels * (random.random(levels.shape) < np.linspace(0, 1, 12)))
    features.data[random.random(features.nnz) < 0.1] = 0
    expected = [by_couples(labels, column) for column in features.toarray().astype(float).T]
    np.testing.assert_allclose(column_aurocs(features, labels), expected, rtol=0, atol=1e-12)


def test_columns_of_a_wide_dictionary_are_exact() -> None:
    """262,144 columns, most of them empty: those with values agree, the others say 0.5."""
    random = np.random.default_rng(0)
    rows, columns = random.integers(500, size=40_000), random.integers(200, size=40_000) * 1300
    features = csr_array((random.exponential(size=40_000).astype(np.float32), (rows, columns)), shape=(500, 262_144))
    features.sum_duplicates()
    labels = random.random(500) < 0.3
    found = column_aurocs(features, labels)
    used = np.unique(columns)
    expected = [roc_auc_score(labels, column) for column in features.tocsc()[:, used].toarray().T]
    np.testing.assert_allclose(found[used], expected, rtol=0, atol=1e-12)
    assert (np.delete(found, used) == 0.5).all()


@pytest.mark.parametrize("form", [csr_array, csc_array])
def test_columns_without_any_value_say_nothing(form: type) -> None:
    """An SAE of which nothing fired has AUROC 0.5 everywhere."""
    assert column_aurocs(form((4, 3), dtype=np.float32), np.array([True, False, True, False])).tolist() == [0.5] * 3


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_columns_refuse_what_no_pooling_gives(value: float) -> None:
    """A negative value would be sorted wrongly, one that is no number not at all."""
    with pytest.raises(DataError, match=r"negative|finite"):
        column_aurocs(csr_array(np.array([[1.0], [value]], np.float32)), np.array([True, False]))


# Intervals


def test_interval_is_that_of_drawing_groups_by_hand() -> None:
    """The same percentiles as of rows repeated by hand, within the noise of resampling."""
    labels, scores, groups = grouped(0, groups=60, size=3)
    random, by_hand = np.random.default_rng(1), []
    while len(by_hand) < 4000:
        rows = (3 * random.integers(60, size=60)[:, None] + np.arange(3)).ravel()
        if 0 < labels[rows].sum() < len(rows):
            by_hand.append(by_couples(labels[rows], scores[rows]))
    found = auroc_interval(labels, scores, groups, resamplings=4000)
    assert auroc(labels, scores) == found.value
    assert np.quantile(by_hand, [0.025, 0.975]) == pytest.approx([found.low, found.high], abs=0.008)


def test_interval_covers_as_often_as_it_says() -> None:
    """Of 100 data sets, about 95 % of the intervals hold the true AUROC; ignoring the groups, far fewer do."""
    truth = stats.norm.cdf(1 / np.sqrt(2 * 1.01))
    by_group, by_pair = 0, 0
    for seed in range(100):
        labels, scores, groups = grouped(seed, groups=80, size=4)
        found = auroc_interval(labels, scores, groups, resamplings=200)
        naive = auroc_interval(labels, scores, [str(row) for row in range(320)], resamplings=200)
        by_group += found.low <= truth <= found.high
        by_pair += naive.low <= truth <= naive.high
    assert 100 - by_group <= stats.binom.ppf(0.999, 100, 0.06)  # few groups make a bootstrap slightly too narrow
    assert 100 - by_pair > stats.binom.ppf(0.999, 100, 0.15)


def test_interval_ignores_order_names_and_units() -> None:
    """A monotone change of the scores changes nothing, and the seed fixes the draws."""
    labels, scores, groups = grouped(3, groups=30, size=2)
    expected = auroc_interval(labels, scores, groups)
    assert expected == auroc_interval(labels, 5 * scores - 2, groups)
    assert expected != auroc_interval(labels, scores, groups, seed=1)


def test_interval_draws_again_when_a_label_is_missing() -> None:
    """One positive group among eight is missing from a third of all draws, and no interval is NaN."""
    labels = np.arange(16) < 2
    found = auroc_interval(labels, np.random.default_rng(0).normal(size=16), [str(row // 2) for row in range(16)])
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("couples", "low"), [(1, 0.025), (10, 0.025**0.1), (500, 0.025**0.002)])
def test_perfect_separation_is_not_certainty(couples: int, low: float) -> None:
    """With m independent couples and no error among them, the lower end is Clopper-Pearson's of m successes of m."""
    labels = np.repeat([True, False], couples)
    found = auroc_interval(labels, labels.astype(float), [str(row) for row in range(2 * couples)])
    assert stats.binomtest(couples, couples).proportion_ci(0.95).low == pytest.approx(low)
    assert Interval(1.0, pytest.approx(low), 1.0) == found


def test_one_group_leaves_everything_open() -> None:
    """Nothing is known of how another group would do."""
    labels = np.array([True, False, True, False, False])
    found = auroc_interval(labels, np.array([4.0, 1, 2, 3, 0]), ["only"] * 5)
    assert Interval(pytest.approx(5 / 6), 0, 1) == Interval(found.value, round(found.low), found.high)


def test_difference_is_paired() -> None:
    """Two scores that agree on nearly every pair differ by far less than their own intervals suggest."""
    labels, scores, groups = grouped(5, groups=150, size=2)
    other = scores + 0.2 * np.random.default_rng(0).normal(size=300)
    found = auroc_difference(labels, scores, other, groups)
    alone = auroc_interval(labels, scores, groups)
    assert auroc(labels, scores) - auroc(labels, other) == pytest.approx(found.value)
    assert found.high - found.low < (alone.high - alone.low) / 2
    swapped = auroc_difference(labels, other, scores, groups)
    assert Interval(-swapped.value, pytest.approx(-swapped.high), pytest.approx(-swapped.low)) == found


def test_difference_sees_what_is_there() -> None:
    """A signal is better than noise, with an interval above zero; noise is no better than noise."""
    labels, scores, groups = grouped(6, groups=200, size=1)
    noise = np.random.default_rng(1).normal(size=(2, 200))
    assert auroc_difference(labels, scores, noise[0], groups).low > 0
    none = auroc_difference(labels, noise[0], noise[1], groups)
    assert none.low < 0 < none.high


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_one_label_ranks_nothing(labels: list[bool]) -> None:
    """Without both labels there is no AUROC, and the message says what is missing."""
    for call in (
        auroc,
        lambda a, b: auroc_interval(a, b, ["1", "2"]),
        lambda a, b: auroc_difference(a, b, b, ["1", "2"]),
    ):
        with pytest.raises(DataError, match="both labels, 0 and 1, are needed"):
            call(np.array(labels), np.zeros(2))


def test_scores_that_are_no_number_are_refused() -> None:
    """NaN sorts anywhere, so it is an error everywhere, which says how many there are."""
    labels, scores = np.array([True, False, False]), np.array([1.0, np.nan, np.inf])
    with pytest.raises(DataError, match="2 of 3 scores"):
        auroc(labels, scores)
    with pytest.raises(DataError, match="2 of 3 scores"):
        auroc_difference(labels, np.zeros(3), scores, ["1", "2", "3"])
    with pytest.raises(DataError, match="2 of 3 scores"):
        threshold_for(scores, 0.9)


# False-positive bounds


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_bound_is_clopper_pearson(n: int, share: float, confidence: float) -> None:
    """SciPy's exact interval of a one-sided test has the same end."""
    exceeding = int(share * n)
    interval = stats.binomtest(exceeding, n, alternative="less").proportion_ci(confidence, "exact")
    assert interval.high == pytest.approx(false_positive_bound(exceeding, n, confidence), rel=1e-6)


@pytest.mark.parametrize(("exceeding", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_bound_refuses_counts_that_cannot_be(exceeding: int, n: int) -> None:
    """More false positives than pairs, or no pairs."""
    with pytest.raises(DataError, match=f"{exceeding} of {n}"):
        false_positive_bound(exceeding, n)


@given(st.integers(1, 1500), st.sampled_from([0.003, 0.01, 0.05, 0.3, 0.9]), st.sampled_from([0.5, 0.75, 0.95]))
def test_threshold_is_the_lowest_the_bound_permits(n: int, max_fpr: float, confidence: float) -> None:
    """As many exceed it as keep the bound; one more would break it; too few pairs are refused and would do if `needed`."""
    scores = np.random.default_rng(n).permutation(n).astype(float)
    fitting = [k for k in range(n) if stats.beta.ppf(confidence, k + 1, n - k) <= max_fpr * (1 + 1e-12)]
    if not fitting:
        with pytest.raises(TooLittleData) as caught:
            threshold_for(scores, max_fpr, confidence)
        needed = caught.value.needed
        assert n == caught.value.n
        assert stats.beta.ppf(confidence, 1, needed) <= max_fpr * (1 + 1e-12)
        assert stats.beta.ppf(confidence, 1, needed - 1) > max_fpr if needed > 1 else n == 0
    else:
        k = max(fitting)
        bound = pytest.approx(stats.beta.ppf(confidence, k + 1, n - k))
        assert Threshold(float(n - 1 - k), k, n, bound, confidence) == threshold_for(scores, max_fpr, confidence)


def test_too_little_data_says_what_it_would_support() -> None:
    """The message gives the best bound there is and how many pairs would do."""
    with pytest.raises(
        TooLittleData, match=r"100 benign pairs .* 0\.03 at best \(95% confidence\); 0\.01 needs at least 299"
    ):
        threshold_for(np.arange(100.0), 0.01)
    assert threshold_for(np.arange(299.0), 0.01).exceeding == 0
    with pytest.raises(TooLittleData, match="0 benign pairs"):
        threshold_for(np.array([]), 0.01)


@pytest.mark.parametrize(
    ("max_fpr", "confidence", "named"),
    [
        (0, 0.95, "max_fpr"),
        (1, 0.95, "max_fpr"),
        (np.nan, 0.95, "max_fpr"),
        (0.01, 1, "confidence"),
        (0.01, 0, "confidence"),
    ],
)
def test_shares_outside_their_range_are_named(max_fpr: float, confidence: float, named: str) -> None:
    """Nothing is promised with certainty, and no rate is zero."""
    with pytest.raises(DataError, match=named):
        threshold_for(np.arange(500.0), max_fpr, confidence)


def test_ties_at_the_threshold_do_not_exceed_it() -> None:
    """Only what is strictly above is counted; the bound is that of as many as were permitted to be."""
    untied = threshold_for(np.arange(1000.0), 0.05)
    assert 950 < untied.value < 990
    tied = threshold_for(np.repeat([0.0, 1.0], [900, 100]), 0.05)
    assert Threshold(1.0, 0, 1000, untied.fpr_upper, 0.95) == tied


_N, _RESAMPLINGS, _MAX_FPR = 400, 200, 0.03
_POISSON = stats.poisson(3)


@pytest.mark.parametrize(
    ("draw", "above"),
    [
        (lambda random: random.normal(size=_N), stats.norm.sf),
        (lambda random: random.standard_cauchy(size=_N), stats.cauchy.sf),
        (lambda random: random.poisson(3, size=_N).astype(float), _POISSON.sf),
        (lambda random: np.round(random.normal(size=_N), 1), lambda value: stats.norm.sf(value + 0.05)),
        (lambda random: np.maximum(random.normal(size=_N) - 1.5, 0), lambda value: stats.norm.sf(value + 1.5)),
    ],
    ids=["normal", "heavy_tailed", "few_values", "rounded", "mostly_zero"],
)
def test_the_bound_holds_as_often_as_it_says(
    draw: Callable[[np.random.Generator], Scores], above: Callable[[float], float]
) -> None:
    """Over 200 resamplings the true false-positive rate exceeds the bound no more often than 5 % allow by chance."""
    random = np.random.default_rng(0)
    found = [threshold_for(draw(random), _MAX_FPR) for _ in range(_RESAMPLINGS)]
    assert all(threshold.fpr_upper <= _MAX_FPR for threshold in found)
    violations = sum(above(threshold.value) > threshold.fpr_upper for threshold in found)
    assert violations <= stats.binom.ppf(0.999, _RESAMPLINGS, 0.05)


def test_ties_earn_no_smaller_bound() -> None:
    """Bounding by how many exceed a tied threshold would be wrong twice as often: how many do is the data's choice too."""
    random = np.random.default_rng(0)
    value, share_above = np.array([0.0, 1.0, 2.0]), np.array([0.0296, 0.0075, 0.0])
    kept = tempting = 0
    for _ in range(2000):
        scores = random.choice(value, p=[1 - 0.0296, 0.0296 - 0.0075, 0.0075], size=_N)
        found = threshold_for(scores, _MAX_FPR)
        truth = share_above[int(found.value)]
        kept += truth > found.fpr_upper
        tempting += truth > false_positive_bound(found.exceeding, _N)
    assert kept <= stats.binom.ppf(0.999, 2000, 0.05) < tempting


def test_a_plain_quantile_would_not_hold_the_bound() -> None:
    """Where 3 % of the benign pairs exceed a threshold, more of the population do about every other time."""
    random = np.random.default_rng(0)
    naive = [np.quantile(random.normal(size=_N), 1 - _MAX_FPR) for _ in range(_RESAMPLINGS)]
    assert int((stats.norm.sf(naive) > _MAX_FPR).sum()) > _RESAMPLINGS / 3


def test_the_bound_is_exact_and_not_only_safe() -> None:
    """With continuous scores it is violated in 5 % of 20,000 resamplings, not in fewer: no data is wasted."""
    random = np.random.default_rng(0)
    found = [threshold_for(random.random(200), 0.05) for _ in range(20_000)]
    violations = sum(1 - threshold.value > threshold.fpr_upper for threshold in found)
    low, high = stats.binom.ppf([0.0005, 0.9995], 20_000, 0.05)
    assert low <= violations <= high


# One pair per group


@given(st.lists(st.sampled_from("abcdefg"), max_size=30), st.integers(0, 5))
def test_one_pair_of_every_group(groups: list[str], seed: int) -> None:
    """No group is missing, none is there twice, and the seed decides."""
    chosen = one_per_group(groups, seed)
    assert sorted(set(groups)) == sorted(groups[row] for row in chosen)
    assert chosen.tolist() == sorted(one_per_group(groups, seed).tolist())


def test_every_pair_of_a_group_is_as_likely() -> None:
    """Over 3,000 seeds each pair of a group of three comes up a third of the time."""
    groups = ["a", "b", "a", "a"]
    counts = np.bincount(np.concatenate([one_per_group(groups, seed) for seed in range(3000)]), minlength=4)
    assert counts[1] == 3000
    assert stats.chisquare(counts[[0, 2, 3]]).pvalue > 1e-4


# Calibration error and multiple testing


@given(st.integers(2, 300), st.integers(1, 20), st.integers(0, 1000))
def test_reliability_is_scikit_learns_curve(n: int, bins: int, seed: int) -> None:
    """The same shares and means; every pair is in one bin, within its ends."""
    random = np.random.default_rng(seed)
    probabilities = np.round(random.random(n), 1)
    labels = random.random(n) < probabilities
    share, mean = calibration_curve(labels, probabilities, n_bins=bins, pos_label=True)
    found = reliability(labels, probabilities, bins)
    np.testing.assert_allclose([part.share_positive for part in found], share)
    np.testing.assert_allclose([part.mean_probability for part in found], mean)
    assert n == sum(part.n for part in found)
    assert all(part.low - 1e-12 <= part.mean_probability <= part.high + 1e-12 for part in found)


def test_calibration_error_is_the_mean_gap() -> None:
    """60 pairs said 0.85 of which 45 are positive, 40 said 0.15 of which 6 are: 0.6 * 0.1."""
    labels = np.repeat([True, False, True, False], [45, 15, 6, 34])
    assert calibration_error(labels, np.repeat([0.85, 0.15], [60, 40])) == pytest.approx(0.06)


def test_calibration_error_tells_honest_from_boastful() -> None:
    """Probabilities that are the truth have almost none; the same pushed to the ends have much."""
    random = np.random.default_rng(0)
    probabilities = random.random(20_000)
    labels = random.random(20_000) < probabilities
    assert calibration_error(labels, probabilities) < 0.015
    assert calibration_error(labels, np.round(probabilities)) > 0.2


@pytest.mark.parametrize("values", [[], [0.2, 1.2], [-0.1], [np.nan]])
def test_probabilities_are_checked(values: list[float]) -> None:
    """A log-odds is not taken for a probability, nor NaN for a p value."""
    with pytest.raises(DataError, match="probabilities"):
        calibration_error(np.ones(len(values), bool), np.array(values))
    with pytest.raises(DataError, match="probabilities"):
        benjamini_hochberg(np.array(values))


@given(arrays.arrays(float, st.integers(1, 40), elements=st.floats(0, 1)))
def test_q_values_are_benjamini_and_hochbergs(p: Scores) -> None:
    """The smallest of m p / rank over the ranks not below, counted by hand."""
    m = len(p)
    ordered = np.sort(p)
    by_hand = [min([1.0, *(m * value / (rank + 1) for rank, value in enumerate(ordered) if value >= own)]) for own in p]
    np.testing.assert_allclose(benjamini_hochberg(p), by_hand, rtol=1e-9, atol=1e-300)
