"""What each token adds to a pooled value: the numbers of a feature's tokens add up to what it was pooled to."""

import numpy as np

from scopewatch.pipeline.pooling import Dense, tokens_read
from scopewatch.sentences import SegmentSentences
from scopewatch.watch.poolings import Pooling


def token_shares(pooling: Pooling, dense: Dense, sentences: SegmentSentences) -> Dense:
    """What each token adds to what `pooling.pool` makes of each column.

    Of a largest value all is added by the token that has it, the first of several; of a mean every token adds its part.

    Args:
        pooling: The kind of pooling with its arguments.
        dense: Shape (n_tokens, n_features), n_tokens at least 1.
        sentences: The sentences that the tokens make.

    Returns:
        Shape (n_tokens, n_features); the sum of each column is its pooled value.
    """
    n_tokens = len(dense)
    shares = np.zeros_like(dense)
    match pooling.kind:
        case "max":
            shares = _only_at(dense, dense.argmax(axis=0))
        case "mean":
            shares = dense / n_tokens
        case "sum":
            shares = dense
        case "fraction_active":
            shares = (dense > 0) / n_tokens
        case "rolling_mean_max":
            shares = _in_highest_window(dense, min(pooling.window or 1, n_tokens))
        case "k_of_n":
            shares = _at_kth_of_a_window(dense, pooling.k or 1, min(pooling.n or n_tokens, n_tokens))
        case "last" | "sentence_end":
            rows = tokens_read(pooling, sentences)
            read = dense[rows]
            shares[rows] = _only_at(read, read.argmax(axis=0)) if pooling.over == "max" else read / len(rows)
    return shares


def _only_at(dense: Dense, rows: np.ndarray) -> Dense:
    """The values of one row of each column, and 0 elsewhere."""
    shares = np.zeros_like(dense)
    columns = np.arange(dense.shape[1])
    shares[rows, columns] = dense[rows, columns]
    return shares


def _in_highest_window(dense: Dense, window: int) -> Dense:
    """The part of each token of the window with the highest mean, of each column."""
    totals = np.cumsum(np.vstack([np.zeros_like(dense[:1]), dense]), axis=0)
    first = (totals[window:] - totals[:-window]).argmax(axis=0)
    row = np.arange(len(dense))[:, None]
    return np.where((row >= first) & (row < first + window), dense / window, 0.0)


def _at_kth_of_a_window(dense: Dense, k: int, n: int) -> Dense:
    """The k-th largest value of the window where that is highest, of each column."""
    if k > n:
        return np.zeros_like(dense)
    windows = np.lib.stride_tricks.sliding_window_view(dense, n, axis=0)
    kth = np.argpartition(windows, n - k, axis=-1)[..., n - k]
    first = np.take_along_axis(windows, kth[..., None], axis=-1)[..., 0].argmax(axis=0)
    return _only_at(dense, first + kth[first, np.arange(dense.shape[1])])
