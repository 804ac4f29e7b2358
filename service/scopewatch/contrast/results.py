"""What a contrast is asked for, and what it finds."""

from dataclasses import dataclass
from typing import Literal

from scopewatch.pairs.examples import Example
from scopewatch.pairs.kept_poolings import POOLINGS
from scopewatch.pairs.left_out import Tally
from scopewatch.statistics.scores import Interval
from scopewatch.types import Segment
from scopewatch.watch.poolings import Pooling


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a contrast is asked for."""

    sae: str
    """What the SAE is called in the result; empty for its name on Neuronpedia, or `sae`."""
    segment: Segment = Segment.RESPONSE
    pooling: Pooling = POOLINGS[0]
    paired: bool = False
    """Whether pair i of A belongs to pair i of B."""
    fdr: float = 0.05
    """The false discovery rate."""
    top: int = 30
    """The most features that are shown of each direction."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was read of one corpus."""

    pairs: int
    groups: int
    mean_tokens: float
    """How many tokens of the segment were read of a pair, on average."""
    truncated: int
    """How many pairs did not fit the reader whole."""
    left_out: int
    """How many further pairs had nothing to compare: their segment, or their partner's, is empty or was cut off."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A feature that differs."""

    feature: str
    """`{sae}/{index}`"""
    effect: Interval
    """In the measure that `Contrast.effect` names; features are chosen for large ones, which are a little too large."""
    groups: int
    """How many groups tell: those in which the feature fires, or of paired corpora those in which it differs."""
    p: float
    q: float
    """The lowest false discovery rate at which the feature passes."""
    mean_a: float
    """The mean of the pooled activations of all pairs of A."""
    mean_b: float
    """The mean of the pooled activations of all pairs of B."""
    share_a: float
    """The share of the pairs of A in which the feature fires."""
    share_b: float
    """The share of the pairs of B in which the feature fires."""
    label: str
    label_source: str
    examples: tuple[Example, ...]
    """Where the feature fires in the corpus in which it is up, the strongest token first."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """How two corpora differ."""

    reader: str
    sae: str
    hookpoint: str
    segment: str
    pooling: str
    a: Corpus
    b: Corpus
    effect: Literal["auroc", "rank_biserial"]
    """auroc: probability that a random group of B has a higher mean than one of A, 0.5 where nothing differs.
    rank_biserial: of paired corpora, from -1 (the feature only falls from A to B) to 1 (it only rises)."""
    fdr: float
    d_sae: int
    tested: int
    """How many features fire often enough to tell."""
    differing: int
    """How many of these pass at the false discovery rate."""
    up_in_a: tuple[Difference, ...]
    """Features that are higher in A, the clearest (by p) first."""
    up_in_b: tuple[Difference, ...]
    length_auroc: float
    """The probability that a random pair of B has more tokens than one of A."""
    length_p: float
    lengths_differ: bool
    """Whether lengths differ clearly, so that what differs may be due to length."""
    tally: Tally
    """How many rows of the files were read, and what was left out of them."""
