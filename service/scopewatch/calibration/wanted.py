"""What a calibration is asked for."""

from dataclasses import dataclass
from typing import Literal

from scopewatch.identity import FeatureKey
from scopewatch.watch.poolings import Pooling

Kind = Literal["features", "probe", "words", "combination"]
Weights = Literal["free", "nonnegative", "equal"]
"""Whether weights are fitted, and may be negative; or, of a combination, are the same size for every part."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The kind of the detector, the bound on its false positives, and how it is fitted."""

    kind: Kind = "features"
    max_fpr: float = 0.01
    """The highest false-positive rate that is wanted."""
    confidence: float = 0.95
    """How surely the false-positive rate is to be at most that."""
    held_out: float = 0.5
    """The share of the groups that measure the detector and do not fit it."""
    terms: int | None = None
    """The number of weighted features; None has cross-validation choose it."""
    weights: Weights = "free"
    features: tuple[FeatureKey, ...] = ()
    """The features that it is to be made of; none for those that the data choose."""
    poolings: tuple[Pooling, ...] = ()
    """The poolings of features that are considered; none for all that are kept of a pair."""
    across_sources: bool = False
    """Whether cross-validation leaves out whole sources instead of groups."""
    by_length: bool = False
    """Whether the threshold may go with the length of the segment, where benign pairs support it."""
    fragility: bool = True
    """Whether held-out pairs are scored again with things changed that should not matter."""
    force: bool = False
    """Whether to write what a bag of words or a single feature clearly beats, or whose bound is above `max_fpr`."""
