"""From a feature's activations on the tokens of a segment to one number; the formulas are in `poolings.Pooling`."""

import numpy as np
from numpy.typing import NDArray

from scopewatch.sentences import SegmentSentences
from scopewatch.types import Indices
from scopewatch.watch.poolings import Pooling

Dense = NDArray[np.float64]
"""Activations of some features on one segment's tokens, shape (n_tokens, n_features)."""


def pool(pooling: Pooling, dense: Dense, sentences: SegmentSentences) -> NDArray[np.float64]:
    """Pools each column over the tokens.

    Args:
        pooling: The kind of pooling with its arguments.
        dense: Shape (n_tokens, n_features), n_tokens at least 1; values at least 0, except those of probes.
        sentences: The sentences that the tokens make.

    Returns:
        Shape (n_features,).
    """
    n_tokens = len(dense)
    match pooling.kind:
        case "max":
            pooled = dense.max(axis=0)
        case "mean":
            pooled = dense.mean(axis=0)
        case "sum":
            pooled = dense.sum(axis=0)
        case "fraction_active":
            pooled = np.count_nonzero(dense > 0, axis=0) / n_tokens
        case "rolling_mean_max":
            window = min(pooling.window or 1, n_tokens)
            totals = np.zeros((n_tokens + 1, dense.shape[1]), order="F")
            np.cumsum(dense, axis=0, out=totals[1:])
            # A difference of running totals can leave -1e-17 where all is 0.
            pooled = np.maximum((totals[window:] - totals[:-window]).max(axis=0) / window, 0.0)
        case "k_of_n":
            pooled = _kth_largest_in_a_window(dense, pooling.k or 1, min(pooling.n or n_tokens, n_tokens))
        case "last" | "sentence_end":
            # One feature after the other, so that the order of summation does not depend on how many there are.
            read = np.take(dense.T, tokens_read(pooling, sentences), axis=1)
            pooled = read.max(axis=1) if pooling.over == "max" else read.mean(axis=1)
    return np.asarray(pooled, np.float64)


def tokens_read(pooling: Pooling, sentences: SegmentSentences) -> Indices:
    """Which of a segment's tokens a pooling looks at, ascending; whatever fires on others is nothing to it."""
    if pooling.kind == "sentence_end":
        return sentences.last_tokens
    every = np.arange(len(sentences.positions))
    return every[-(pooling.n or 1) :] if pooling.kind == "last" else every


def _kth_largest_in_a_window(dense: Dense, k: int, n: int) -> NDArray[np.float64]:
    if k > n:
        return np.zeros(dense.shape[1])
    if n == len(dense):
        return np.asarray(np.partition(dense.T, n - k)[:, n - k], np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(dense, n, axis=0)
    kth = np.partition(windows, n - k, axis=-1)[..., n - k]
    return np.asarray(kth.max(axis=0), np.float64)
