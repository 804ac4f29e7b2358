"""Bins that values of benign pairs fell into, so that traffic can be counted by the same bins and held against them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from scopewatch.sources import Several, Strict
from scopewatch.types import Float64

SCORE_BINS = 8
"""The number of bins of equal share of values that may be below 0, such as most scores."""
FIRED_BINS = 5
"""The number of bins of equal share of values above 0, beside the one bin of all that are not."""
MOST_EDGES = 15
"""More bins than that, in a card that is written by hand, would be more noise than signal."""
_LEAST_SHARE = 0.1
"""The smallest share of all pairs that a bin above 0 holds, unless there is only one such bin."""


class Bins(Strict):
    """How many benign pairs have their value in each of some bins, whose order is that of the values."""

    edges: Annotated[Several[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1, max_length=MOST_EDGES)]
    """The highest value of each bin but the last, which has none; the first bin has no lowest value."""
    counts: Several[Annotated[int, Field(ge=0)]]
    """The number of pairs in each bin: one entry more than there are edges."""

    @field_validator("edges")
    @classmethod
    def _ascends(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        for before, after in pairwise(edges):
            if after <= before:
                raise ValueError(f"edges ascend, each above the one before, but {after:g} stands after {before:g}")
        return edges

    @field_validator("counts")
    @classmethod
    def _one_a_bin(cls, counts: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        edges = info.data.get("edges")
        if edges is not None and len(counts) != len(edges) + 1:
            raise ValueError(f"{len(edges)} edges make {len(edges) + 1} bins, so as many counts, not {len(counts)}")
        return counts

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def n(self) -> int:
        """The number of pairs in all bins together."""
        return sum(self.counts)


def bins_of(values: Sequence[float] | Float64) -> Bins:
    """Bins that hold about equal shares of values, and how many of the values each of them holds.

    Values of which none is below 0, such as a feature's or a share of words, are told apart by whether they are above 0
    at all: the first bin holds those that are not. Where many values are equal there are fewer bins, for a value is
    never in two of them.

    Args:
        values: At least one, all finite.
    """
    values = np.asarray(values, np.float64)
    if values.min() >= 0:
        fired = values[values > 0]
        parts = min(FIRED_BINS, int(len(fired) / len(values) / _LEAST_SHARE))
        found = {0.0, *_between(fired, parts)}
    else:
        found = set(_between(values, SCORE_BINS))
    highest = float(values.max())
    # Nothing lies above the highest value, and a bin there would be empty; but one edge there has to be.
    edges = sorted(edge for edge in found if edge < highest) or [min(found, default=kept(highest))]
    counts = np.bincount(np.searchsorted(edges, values, "left"), minlength=len(edges) + 1)
    return Bins(edges=tuple(edges), counts=tuple(counts.tolist()))


def _between(values: Float64, parts: int) -> list[float]:
    """What divides values into so many parts of equal share; nothing for one part or none."""
    shares = np.arange(1, parts) / parts if parts else ()
    return [kept(value) for value in np.quantile(values, shares).tolist()] if len(shares) else []


def kept(value: float) -> float:
    """The value as a card keeps it: with six significant digits."""
    return float(f"{value:.6g}")
