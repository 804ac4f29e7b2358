"""How well scores rank pairs: the AUROC of one score, of every feature at once, and its interval over groups."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import DataError
from scopewatch.statistics.scores import Bool, Interval, Scores, check_both_labels, check_finite, check_share

try:
    from scipy.sparse import coo_array, csc_array, csr_array
except ImportError:
    raise DataError("calibration needs SciPy: pip install 'scopewatch[calibration]'") from None

_DRAWN_AT_ONCE = 1 << 20  # pairs times resamplings: a bootstrap of any size needs some 50 MB


def auroc(labels: Bool, scores: Scores) -> float:
    """The share of (positive, negative) couples in which the positive scores higher, ties counted half.

    Raises:
        DataError: All labels are the same, or a score is no finite number.
    """
    _check(labels, scores)
    return float(_weighted_aurocs(labels, scores, np.ones((1, len(labels))))[0])


def column_aurocs(features: csc_array | csr_array, labels: Bool) -> Scores:
    """The AUROC of every column, exactly, zeros being tied for the lowest place.

    A single sort of numbers made of column, value and label does it, at 8 bytes and some temporaries a stored value.

    Args:
        features: The values of n pairs in m columns; none is below 0, and no position is stored twice.
        labels: The label of each pair, shape (n,); both must occur.

    Returns:
        The AUROCs, shape (m,); 0.5 for an empty column.

    Raises:
        DataError: All labels are the same, or a value is negative or no number.
    """
    entries = features.tocoo(copy=False)
    _check(labels, entries.data)
    if entries.data.size and entries.data.min() < 0:
        raise DataError("a feature is negative: pooled activations are at least 0")
    n_positive, n_columns = int(labels.sum()), features.shape[1]
    n_negative = len(labels) - n_positive
    keys = _sorted_keys(entries, labels)
    is_positive = (keys & np.uint64(1)).astype(bool)
    keys >>= np.uint64(1)
    starts = np.flatnonzero(np.diff(keys, prepend=~np.uint64(0)))  # where runs of ties begin
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


def _sorted_keys(entries: coo_array, labels: Bool) -> NDArray[np.uint64]:
    """A number for every value above 0, ascending: by column, then by value (31 bits), then by label (the last bit)."""
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
    return np.asarray(keys)


def auroc_interval(
    labels: Bool,
    scores: Scores,
    groups: Sequence[str],
    *,
    confidence: float = 0.95,
    resamplings: int = 1000,
    seed: int = 0,
) -> Interval:
    """The AUROC with a two-sided percentile bootstrap over groups; resamplings without both labels are drawn again.

    Where every resampling gives the same, because the scores separate perfectly or there is one group only, a bootstrap
    would claim certainty. The interval then is as wide as that of m independent couples, none of them in the wrong
    order, m being how many couples share no group: their share is within 1 - (half of 1 - confidence)^(1/m).

    Args:
        labels: The label of each pair; both must occur.
        scores: The score of each pair, a finite number.
        groups: The group of each pair; pairs of one group are drawn together.
        confidence: The share of such intervals that are to hold the true value.
        resamplings: How many times the groups are drawn.
        seed: The same seed draws the same groups.

    Raises:
        DataError: All labels are the same, a score is no finite number, or the confidence is outside (0, 1).
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
    """The AUROC of `a` less that of `b` on the same pairs, both resampled together as by `auroc_interval`."""
    _check(labels, a)
    _check(labels, b)
    draws = [
        _weighted_aurocs(labels, a, weights) - _weighted_aurocs(labels, b, weights)
        for weights in _resampled(labels, groups, resamplings, seed)
    ]
    value = auroc(labels, a) - auroc(labels, b)
    return _interval(value, draws, confidence, _couples(labels, groups), lowest=-1)


def _weighted_aurocs(labels: Bool, scores: Scores, weights: Scores) -> Scores:
    """The AUROC of each resampling, shape (r,).

    Args:
        labels: The label of each of n pairs.
        scores: Their scores.
        weights: How often each pair is in each of r resamplings, shape (r, n): whole numbers, whose sums are exact.
    """
    negatives = np.flatnonzero(~labels)
    negatives = negatives[np.argsort(scores[negatives])]
    lower = np.zeros((len(weights), len(negatives) + 1))
    np.cumsum(weights[:, negatives], axis=1, out=lower[:, 1:])
    first, last = (np.searchsorted(scores[negatives], scores[labels], side) for side in ("left", "right"))
    positive = weights[:, labels]
    won = np.einsum("rp,rp->r", positive, lower[:, first] + lower[:, last]) / 2
    return np.asarray(won / (positive.sum(axis=1) * lower[:, -1]))


def _resampled(labels: Bool, groups: Sequence[str], resamplings: int, seed: int) -> Iterator[Scores]:
    """How often each pair is in each resampling: blocks of shape (some, n_pairs), of `resamplings` rows in all."""
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
    """The percentile interval; where all draws agree, what so many independent couples leave open."""
    check_share("confidence", confidence)
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
    check_both_labels(labels)
    check_finite(scores)
