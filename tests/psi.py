"""The population stability index, from its definition and in float64, for what computes it elsewhere to be held against."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.5
"""What is added to the count of every bin, so that an empty one has a logarithm."""


def smoothed_shares(counts: Sequence[float]) -> NDArray[np.float64]:
    """The share of each bin, shape (n_bins,); they add up to 1."""
    added = np.asarray(counts, np.float64) + SMOOTHING
    shares: NDArray[np.float64] = added / added.sum()
    return shares


def psi(live: Sequence[float], reference: Sequence[float]) -> float:
    """How far apart two samples lie that were counted by the same bins: 0 where the shares are equal.

    Args:
        live: The number of pairs of the traffic in each bin.
        reference: The number of benign pairs in each bin: what `*_reference_ratio` says, times `reference_pairs`.
    """
    now, then = smoothed_shares(live), smoothed_shares(reference)
    return float(((now - then) * np.log(now / then)).sum())


def noise_floor(bins: int, live: float, reference: float) -> float:
    """The index to expect of two samples of one distribution: (bins - 1) (1 / live + 1 / reference).

    Args:
        bins: The number of bins.
        live: The number of pairs of one sample.
        reference: The number of pairs of the other.
    """
    return (bins - 1) * (1 / live + 1 / reference)
