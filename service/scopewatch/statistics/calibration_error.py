"""Whether a probability means what it says: pairs binned by it, and the expected calibration error."""

from dataclasses import dataclass

import numpy as np

from scopewatch.statistics.scores import Bool, Scores, check_probabilities


@dataclass(frozen=True, slots=True)
class Bin:
    """The pairs whose probability is in (low, high]."""

    low: float
    high: float
    n: int
    mean_probability: float
    share_positive: float


def reliability(labels: Bool, probabilities: Scores, bins: int = 10) -> list[Bin]:
    """The pairs by their probability, in so many bins of equal width; bins without pairs are left out.

    Raises:
        DataError: There are no pairs, or a probability is outside [0, 1].
    """
    check_probabilities(probabilities)
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
    """The expected calibration error: the gap between probability and share of positives, averaged over the pairs.

    The gap of a pair is that of its bin.
    """
    filled = reliability(labels, probabilities, bins)
    return sum(part.n * abs(part.mean_probability - part.share_positive) for part in filled) / len(labels)
