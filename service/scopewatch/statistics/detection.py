"""What a score is worth: ranking with intervals, false-positive bounds, calibration error.

Labels are bool of shape (n,), True where the indicator should fire; scores are float64 of shape (n,), higher where it
is likelier. Whatever cannot be computed from them is a DataError.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import DataError, TooLittleData

try:
    from scipy import special, stats
    from scipy.sparse import csc_array, csr_array
except ImportError:
    raise DataError("calibration needs SciPy: pip install 'scopewatch[calibration]'") from None

Bool = NDArray[np.bool_]
Scores = NDArray[np.float64]
_DRAWN_AT_ONCE = 1 << 20  # pairs times resamplings: a bootstrap of any size needs some 50 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold whose false-positive rate is bounded; flagged is what scores above `value`."""

    value: float
    exceeding: int
    """Benign pairs, of `n`, above it."""
    n: int
    fpr_upper: float
    """The false-positive rate is at most this, with `confidence`."""
    confidence: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs whose probability is in (low, high]."""

    low: float
    high: float
    n: int
    mean_probability: float
    share_positive: float


def auroc(labels: Bool, scores: Scores) -> float:
    """Share of (positive, negative) couples in which the positive scores higher, ties for half.

    Raises:
        DataError: One label only, or a score that is no finite number.
    """
    _check(labels, scores)
    return float(_weighted_aurocs(labels, scores, np.ones((1, len(labels))))[0])


def column_aurocs(features: csc_array | csr_array, labels: Bool) -> Scores:
    """The AUROC of every column, exactly, zeros being tied for the lowest place.

    One sort does it: of numbers made of column, value and label, which costs 8 bytes and some temporaries a non-zero.

    Args:
        features: Shape (n, m), no value below 0, no position stored twice.
        labels: Both must occur.

    Returns:
        Shape (m,); 0.5 for an empty column.

    Raises:
        DataError: One label only, or a value that is negative or no number.
    """
    entries = features.tocoo(copy=False)
    _check(labels, entries.data)
    if entries.data.size and entries.data.min() < 0:
        raise DataError("a feature is negative: pooled activations are at least 0")
    n_positive, n_columns = int(labels.sum()), features.shape[1]
    n_negative = len(labels) - n_positive
    rows, columns = entries.coords
    # The bits of a float32 that is not negative are in the order of its value.
    if entries.data.dtype == np.float32:
        order = entries.data.view(np.uint32)
    else:
        order = np.unique(entries.data, return_inverse=True)[1]
    keys = columns.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= order.astype(np.uint64) << np.uint64(1)
    keys |= labels[rows]
    keys = keys[entries.data > 0]
    keys.sort()
    is_positive = (keys & np.uint64(1)).astype(bool)
    keys >>= np.uint64(1)
    starts = np.flatnonzero(np.diff(keys, prepend=~np.uint64(0)))  # of runs that tie
    column = (keys[starts] >> np.uint64(31)).astype(np.intp)
    del keys
    positive = np.add.reduceat(is_positive, starts, dtype=np.int64) if len(starts) else starts
    negative = np.diff(starts, append=len(is_positive)) - positive
    positive_zeros = n_positive - np.bincount(column, positive, n_columns)
    negative_zeros = n_negative - np.bincount(column, negative, n_columns)
    # Negatives below a run: all non-zero ones before it, less those of earlier columns, and its column's zeros.
    earlier = np.cumsum(n_negative - negative_zeros) - (n_negative - negative_zeros)
    below = np.cumsum(negative) - negative + (negative_zeros - earlier)[column]
    won = np.bincount(column, positive * (below + negative / 2), n_columns) + positive_zeros * negative_zeros / 2
    return won / (n_positive * n_negative)


def auroc_interval(
    labels: Bool,
    scores: Scores,
    groups: Sequence[str],
    *,
    confidence: float = 0.95,
    resamplings: int = 1000,
    seed: int = 0,
) -> Interval:
    """The AUROC with a two-sided percentile bootstrap over groups; draws without both labels are drawn again.

    Where every draw gives the same, because the scores separate perfectly or there is one group only, a bootstrap
    would claim certainty. The interval then is as wide as that of m independent couples, none of them in the wrong
    order, m being how many couples share no group: their share is within 1 - (half of 1 - confidence)^(1/m).

    Args:
        labels: Both must occur.
        scores: Finite.
        groups: The group of each pair; pairs of one group are drawn together.
        confidence: Of the interval.
        resamplings: How many.
        seed: Fixes them.

    Raises:
        DataError: One label only, a score that is no finite number, or a confidence outside (0, 1).
    """
    _check(labels, scores)
    draws = [_weighted_aurocs(labels, scores, weights) for weights in _resampled(labels, groups, resamplings, seed)]
    return _interval(auroc(labels, scores), draws, confidence, _couples(labels, groups), lowest=0)


def auroc_difference(
    labels: Bool,
    a: Scores,
    b: Scores,
    groups: Sequence[str],
    *,
    confidence: float = 0.95,
    resamplings: int = 1000,
    seed: int = 0,
) -> Interval:
    """AUROC of `a` less AUROC of `b` on the same pairs, both resampled together; as `auroc_interval`."""
    _check(labels, a)
    _check(labels, b)
    draws = [
        _weighted_aurocs(labels, a, weights) - _weighted_aurocs(labels, b, weights)
        for weights in _resampled(labels, groups, resamplings, seed)
    ]
    value = auroc(labels, a) - auroc(labels, b)
    return _interval(value, draws, confidence, _couples(labels, groups), lowest=-1)


def false_positive_bound(exceeding: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of a rate of which `exceeding` of `n` independent pairs were seen.

    Raises:
        DataError: No pairs, more exceeding than there are, or a confidence outside (0, 1).
    """
    _check_share("confidence", confidence)
    if not 0 <= exceeding <= n or n < 1:
        raise DataError(f"false positives: {exceeding} of {n} pairs")
    return 1.0 if exceeding == n else float(special.betaincinv(exceeding + 1, n - exceeding, confidence))


def threshold_for(benign: Scores, max_fpr: float, confidence: float = 0.95) -> Threshold:
    """The lowest threshold whose false-positive rate is at most `max_fpr` with `confidence`, whatever the distribution.

    It is the (k+1)-th largest of the n benign scores, k being the most that may exceed it for the Clopper-Pearson bound
    of k of n to be at most `max_fpr`. That bound is meant for a threshold fixed before the scores are seen, yet holds
    for this one, and exactly: of independent scores with a continuous distribution, the share of the population above
    the (k+1)-th largest is Beta(k+1, n-k) distributed (Wilks 1941), and the bound is the `confidence` quantile of just
    that distribution. Where scores tie the share above is stochastically smaller, so that the bound errs to the safe
    side; it remains that of k, even if fewer exceed a tied threshold, since how many do is chosen by the data too.

    The scores must be independent of each other and of the indicator's weights: one pair per group (`one_per_group`),
    none that the indicator was fitted on.

    Args:
        benign: Scores of pairs on which the indicator should not fire, shape (n,).
        max_fpr: Highest false-positive rate wanted, in (0, 1).
        confidence: Of the bound, in (0, 1).

    Raises:
        TooLittleData: So few that even a threshold none exceeds has a higher bound.
        DataError: A score that is no finite number, or a share outside (0, 1).
    """
    _check_share("max_fpr", max_fpr)
    _check_share("confidence", confidence)
    _check_finite(benign)
    n = len(benign)
    best = false_positive_bound(0, n, confidence) if n else 1.0
    if best > max_fpr:
        needed = math.ceil(math.log1p(-confidence) / math.log1p(-max_fpr))
        raise TooLittleData(
            f"{n} benign pairs support a false-positive rate of {best:.2g} at best ({confidence:.0%} confidence); "
            f"{max_fpr:g} needs at least {needed}",
            n=n,
            needed=needed,
        )
    # The quantile is the fewest that are too many, but for rounding.
    allowed = max(0, int(stats.binom.ppf(1 - confidence, n, max_fpr)) - 1)
    value = float(np.partition(benign, n - 1 - allowed)[n - 1 - allowed])
    return Threshold(
        value=value,
        exceeding=int((benign > value).sum()),
        n=n,
        fpr_upper=false_positive_bound(allowed, n, confidence),
        confidence=confidence,
    )


def one_per_group(groups: Sequence[str], seed: int = 0) -> NDArray[np.intp]:
    """Ascending indices of one pair of each group, every pair of a group being as likely."""
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    _, first = np.unique(np.array(groups, dtype=object)[shuffled], return_index=True)
    return np.sort(shuffled[first])


def reliability(labels: Bool, probabilities: Scores, bins: int = 10) -> list[Bin]:
    """Pairs by their probability, in bins of equal width; bins without pairs are left out.

    Raises:
        DataError: No pairs, or a probability outside [0, 1].
    """
    _check_probabilities(probabilities)
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], probabilities)
    return [
        Bin(
            low=float(edges[number]),
            high=float(edges[number + 1]),
            n=int(inside.sum()),
            mean_probability=float(probabilities[inside].mean()),
            share_positive=float(labels[inside].mean()),
        )
        for number in range(bins)
        if (inside := place == number).any()
    ]


def calibration_error(labels: Bool, probabilities: Scores, bins: int = 10) -> float:
    """Expected calibration error: mean gap between probability and share of positives over bins, weighed by pairs."""
    filled = reliability(labels, probabilities, bins)
    return sum(part.n * abs(part.mean_probability - part.share_positive) for part in filled) / len(labels)


def benjamini_hochberg(p: Scores) -> Scores:
    """The q values: rejecting all that are at most q keeps the false discovery rate at q.

    Holds for tests that are independent or depend on each other positively (Benjamini and Yekutieli 2001).

    Raises:
        DataError: A p value outside [0, 1], or none.
    """
    _check_probabilities(p)
    return np.asarray(stats.false_discovery_control(p))


def _weighted_aurocs(labels: Bool, scores: Scores, weights: Scores) -> Scores:
    """One AUROC for every row of weights (r, n); counts of pairs, so that all sums are exact."""
    negatives = np.flatnonzero(~labels)
    negatives = negatives[np.argsort(scores[negatives])]
    lower = np.zeros((len(weights), len(negatives) + 1))
    np.cumsum(weights[:, negatives], axis=1, out=lower[:, 1:])
    first, last = (np.searchsorted(scores[negatives], scores[labels], side) for side in ("left", "right"))
    positive = weights[:, labels]
    won = np.einsum("rp,rp->r", positive, lower[:, first] + lower[:, last]) / 2
    return np.asarray(won / (positive.sum(axis=1) * lower[:, -1]))


def _resampled(labels: Bool, groups: Sequence[str], resamplings: int, seed: int) -> Iterator[Scores]:
    """How often each pair is in each resampling, (some, n) at a time; `resamplings` rows in all."""
    names, member = np.unique(np.array(groups, dtype=object), return_inverse=True)
    generator, missing, size = np.random.default_rng(seed), resamplings, len(names)
    rows = min(resamplings, max(1, _DRAWN_AT_ONCE // len(labels)))
    while missing:
        drawn = generator.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)[:, member].astype(float)
        usable = weights[:, labels].any(axis=1) & weights[:, ~labels].any(axis=1)
        weights = weights[usable][:missing]
        missing -= len(weights)
        yield weights


def _interval(value: float, draws: list[Scores], confidence: float, couples: int, lowest: int) -> Interval:
    _check_share("confidence", confidence)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(draws), (tail, 1 - tail)).tolist()
    if low == high:
        unseen = 1 - tail ** (1 / couples)
        low, high = max(lowest, value - unseen), min(1, value + unseen)
    return Interval(value, low, high)


def _couples(labels: Bool, groups: Sequence[str]) -> int:
    """How many (positive, negative) couples there are of which no two share a group; at least 1."""
    positive = {group for group, label in zip(groups, labels, strict=True) if label}
    negative = {group for group, label in zip(groups, labels, strict=True) if not label}
    return max(1, min(len(positive), len(negative), len(positive | negative) // 2))


def _check(labels: Bool, scores: Scores) -> None:
    if labels.all() or not labels.any():
        raise DataError(f"{len(labels)} pairs of one label; both labels, 0 and 1, are needed")
    _check_finite(scores)


def _check_finite(scores: Scores) -> None:
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are no finite number")


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise DataError(f"{name}: expected a share between 0 and 1, not {value:g}")


def _check_probabilities(values: Scores) -> None:
    if not values.size or not ((values >= 0) & (values <= 1)).all():
        raise DataError("expected probabilities from 0 to 1, at least one")
