"""What explanations ask of an engine that serves, and what it tells them; `inside.Inside` does it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from scopewatch.identity import FeatureKey
from scopewatch.types import CoveredActivations, Float32, Indices, Int32, Segment, TokenisedPair

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""Work in steps: it yields nothing after each, and returns its result."""


@dataclass(frozen=True, slots=True)
class SegmentTop:
    """The features of a whole dictionary with the highest peaks on one segment; n of them, the highest first."""

    segment: Segment
    feature: Indices
    """Shape (n,), like the others; of equal peaks the lower index comes first."""
    peak: Float32
    mean: Float32
    """The mean activation over the segment's tokens."""
    tokens: Indices
    """On how many of them each fired."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What one whole SAE makes of a pair of n tokens, in all of its windows; template tokens are left at 0."""

    sae: str
    d_sae: int
    hookpoint: str
    feature: Int32
    """Shape (n, k): the features that fired most strongly on each token, the strongest first; -1 where fewer fired."""
    value: Float32
    """Shape (n, k): their activations; 0 where fewer fired."""
    segments: tuple[SegmentTop, ...]
    l0: float
    """How many features fired on a token of the caller's text, on average."""
    unexplained: Float32 | None
    """Shape (n,): ||y - y'||^2 / ||y - mean y||^2, y' being what the SAE makes of y, the mean that over the tokens of
    the same segment; 1 where that divides by 0, as for the only token of a segment; None where the SAE has no decoder
    that belongs here."""
    shares: dict[Segment, float]
    """The same of whole segments: sums over their tokens above and below the line (`fvu` of `sae verify`). Segments are
    left out where that divides by 0."""
    problem: str = ""
    """Why something of this could not be told."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A pair read again while something was taken out of the reader."""

    covered: CoveredActivations
    """What fired then, of every watched feature, and the reader's own predictions where its head is loaded."""
    removed: float
    """||what was taken out|| / ||activation there||, the mean over the tokens where anything was; 0 if nowhere."""


class Looks(Protocol):
    """What explanations ask of an engine. All of it runs on the engine's thread, on the one reader that serves.

    What may take long is done in steps: between two of them, which take some hundredths of a second each, the engine
    reads what waits to be scored.
    """

    @property
    def has_head(self) -> bool:
        """Whether the reader's head is loaded, so that its own predictions can be told."""

    def read(self, tokens: TokenisedPair) -> CoveredActivations:
        """What fires on a pair of every watched feature, and, wherever the head is loaded, LOGPROB and ENTROPY.

        Raises:
            EngineError: The reader fails on the pair.
        """

    def look(self, tokens: TokenisedPair, top: int) -> Steps[list[Looked]]:
        """What every whole SAE that is watched makes of a pair; one for each, in the order of their names.

        Args:
            tokens: The pair.
            top: How many features are told of each segment and of each token, at most.

        Raises:
            EngineError: The reader fails on the pair.
        """

    def remove(
        self, tokens: TokenisedPair, features: Sequence[FeatureKey], *, seed: int | None = None
    ) -> Steps[Removed]:
        """Reads a pair while features are taken out where their SAE reads: activation times decoder row at every token.

        Args:
            tokens: The pair.
            features: Watched features of SAEs that have a decoder.
            seed: None takes out the features themselves; a number, in place of each the decoder row of another feature,
                drawn by it, and at every token as much of the sum as has the same norm.

        Raises:
            SaeError: An SAE of them has no decoder, or nothing can be taken out where it reads.
            EngineError: The reader fails on the pair.
        """
