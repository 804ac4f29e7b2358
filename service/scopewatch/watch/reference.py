"""Where the benign pairs of a card lie, so that one more pair can be told how unusual it is."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from scopewatch.sources import Several, Strict

LEVELS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""The shares of benign pairs that lie below what a reference keeps."""
Quantiles = Annotated[Several[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=11, max_length=11)]
"""The values at `LEVELS`, as `numpy.quantile` has them by default, rounded to six significant digits."""


class Reference(Strict):
    """Benign pairs of a card, on the indicator's segment. All quantiles are at `LEVELS`."""

    data: str = Field(min_length=1)
    """The files that hold the pairs."""
    n: int = Field(ge=1)
    """The number of pairs."""
    score: Quantiles
    """Of the indicator's score."""
    ids: Several[str] = Field(min_length=11, max_length=11)
    """The id of the pair whose score is nearest to each of these."""
    id_scores: Quantiles
    """The score of each of these pairs."""
    terms: dict[str, Quantiles] = Field(default_factory=dict)
    """Of the pooled value of each term, by `{feature} {pooling}`; of a combination by the name of the part."""
    sentence_score: Quantiles | None = None
    """Of the score of single sentences, of an indicator that shows hedging; None where that was not measured."""
    sentence_logprob: Quantiles | None = None
    """Of the mean log-probability of single sentences, in nats per token; None where that was not measured."""


def quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """The values at `LEVELS`, for a reference."""
    return tuple(float(f"{value:.6g}") for value in np.quantile(np.asarray(values, np.float64), LEVELS))


def percentile(kept: Sequence[float], value: float) -> float:
    """The share of the pairs that lie below a value, 0 to 1, by straight lines between quantiles.

    Where several quantiles equal the value, it lies in the middle of them.

    Args:
        kept: The values at `LEVELS`.
        value: The value.
    """
    at = np.asarray(kept, np.float64)
    low, high = np.searchsorted(at, value, "left"), np.searchsorted(at, value, "right")
    if low < high:
        return float(LEVELS[low] + LEVELS[high - 1]) / 2
    return float(np.interp(value, at, LEVELS))
