"""Where the benign pairs of a card lie, so that one more pair can be told how unusual it is."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self, TypeVar

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from scopewatch.identity import FeatureKey
from scopewatch.sources import Several, Strict
from scopewatch.types import Float64
from scopewatch.watch.bins import Bins, kept

LEVELS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""The shares of benign pairs that lie below what a reference keeps."""
Kept = TypeVar("Kept", float, str)


def _one_a_level(values: tuple[Kept, ...]) -> tuple[Kept, ...]:
    if len(values) != len(LEVELS):
        shares = ", ".join(f"{level:g}" for level in LEVELS)
        raise ValueError(f"holds {len(LEVELS)} entries, one at each of the shares {shares}; not {len(values)}")
    return values


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    for before, after in pairwise(values):
        if after < before:
            raise ValueError(f"quantiles ascend, but {after:g} stands after {before:g}")
    return values


Numbers = Annotated[Several[Annotated[float, Field(allow_inf_nan=False)]], AfterValidator(_one_a_level)]
"""One number at each of `LEVELS`, rounded to six significant digits."""
Quantiles = Annotated[Numbers, AfterValidator(_ascending)]
"""The values at `LEVELS`, as `numpy.quantile` has them by default."""


class Reference(Strict):
    """Benign pairs of a card, on the indicator's segment. All quantiles are at `LEVELS`."""

    data: str = Field(min_length=1)
    """The files that hold the pairs."""
    n: int = Field(ge=1)
    """The number of pairs."""
    score: Quantiles
    """Of the indicator's score."""
    ids: Annotated[Several[str], AfterValidator(_one_a_level)]
    """The id of the pair whose score is nearest to each of these."""
    id_scores: Numbers
    """The score of each of these pairs."""
    terms: dict[str, Quantiles] = Field(default_factory=dict)
    """Of the pooled value of each term, by its `term_name`."""
    sentence_score: Quantiles | None = None
    """Of the score of single sentences, of an indicator that shows hedging; None where that was not measured."""
    sentence_logprob: Quantiles | None = None
    """Of the mean log-probability of single sentences, in nats per token; None where that was not measured."""
    score_bins: Bins | None = None
    """The pairs by their score, for traffic to be held against; None in cards from before there were bins."""
    term_bins: dict[str, Bins] = Field(default_factory=dict)
    """Likewise by the pooled value of each term, by its `term_name`."""

    @model_validator(mode="after")
    def _bins_hold_every_pair(self) -> Self:
        if self.term_bins and not self.score_bins:
            raise ValueError("term_bins: there are bins of terms, but no score_bins; make the reference again")
        for name in self.term_bins.keys() - self.terms.keys():
            raise ValueError(f"term_bins: {name} is no entry of terms")
        named = {"score_bins": self.score_bins} | {f"term_bins: {name}": one for name, one in self.term_bins.items()}
        for name, bins in named.items():
            if bins and bins.n != self.n:
                raise ValueError(f"{name}: counts add up to {bins.n}, but n is {self.n}")
        return self

    @property
    def bins_digest(self) -> str:
        """Eight characters that tell these bins, and what is in them, from those of any other reference."""
        bins = self.model_dump_json(include={"score_bins", "term_bins"})
        return hashlib.sha256(bins.encode()).hexdigest()[:8]


def term_name(feature: FeatureKey | str, pooling: object) -> str:
    """What a reference calls a term: `{feature} {pooling}`; a part of a combination is called by its own name."""
    return feature if isinstance(feature, str) else f"{feature} {pooling}"


def at_levels(values: Sequence[float] | Float64) -> Float64:
    """The quantiles of values at `LEVELS`, ascending whatever rounding does to the last bit; shape (n_levels,)."""
    found: Float64 = np.maximum.accumulate(np.quantile(np.asarray(values, np.float64), LEVELS))
    return found


def quantiles(values: Sequence[float] | Float64) -> tuple[float, ...]:
    """The values at `LEVELS`, for a reference."""
    return tuple(map(kept, at_levels(values).tolist()))


def percentile(at_each_level: Sequence[float], value: float) -> float:
    """The share of the pairs that lie below a value, 0 to 1, by straight lines between quantiles.

    Where several quantiles equal the value, as far as they are kept, it lies in the middle of them.

    Args:
        at_each_level: The values at `LEVELS`.
        value: The value.
    """
    at, value = np.asarray(at_each_level, np.float64), kept(value)
    low, high = np.searchsorted(at, value, "left"), np.searchsorted(at, value, "right")
    if low < high:
        return float(LEVELS[low] + LEVELS[high - 1]) / 2
    return float(np.interp(value, at, LEVELS))
