"""Labels and scores: the arrays that every statistic takes, the checks that it begins with, the interval it gives.

Labels are True where the indicator should fire; scores are higher where a pair is likelier to be such a one. Whatever
cannot be computed from them is a DataError.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import DataError

Bool = NDArray[np.bool_]
"""Usually one label a pair, of shape (n_pairs,)."""
Scores = NDArray[np.float64]
"""Usually one score a pair, of shape (n_pairs,)."""
Rows = NDArray[np.intp]
"""Numbers of the pairs that are meant, counted from 0."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


def check_both_labels(labels: Bool) -> None:
    """Refuses labels of which nothing can be ranked.

    Raises:
        DataError: All labels are the same.
    """
    if labels.all() or not labels.any():
        raise DataError(f"{len(labels)} pairs of one label; both labels, 0 and 1, are needed")


def check_finite(scores: Scores) -> None:
    """Refuses scores that have no place in an order.

    Raises:
        DataError: A score is infinite or no number.
    """
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are no finite number")


def check_share(name: str, value: float) -> None:
    """Refuses a share that is none, naming the argument it was given for.

    Raises:
        DataError: The value is not between 0 and 1.
    """
    if not 0 < value < 1:
        raise DataError(f"{name}: expected a share between 0 and 1, not {value:g}")


def check_probabilities(values: Scores) -> None:
    """Refuses an array of probabilities that is empty or holds anything else.

    Raises:
        DataError: There are none, or one is outside [0, 1].
    """
    if not values.size or not ((values >= 0) & (values <= 1)).all():
        raise DataError("expected probabilities from 0 to 1, at least one")
