"""The stages of a pair's journey: each knows all that the one before it knew."""

from dataclasses import dataclass

from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.judgements import Remembered
from scopewatch.types import CoveredActivations, Judgement, ScoreJob, Timings, TokenisedPair


@dataclass(frozen=True, slots=True)
class Asked:
    """A job whose watchlist is known."""

    place: int
    """The job's place among those of the call."""
    job: ScoreJob
    watchlist: CompiledWatchlist
    name: bytes
    """The name of its judgement; empty where judgements are not remembered."""
    remembered: Remembered | None


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A job whose pair was tokenised."""

    asked: Asked
    tokens: TokenisedPair
    key: bytes
    """The key of its activations in the cache."""
    tokenise_s: float


@dataclass(frozen=True, slots=True)
class Read:
    """A job whose activations are known."""

    tokenised: Tokenised
    covered: CoveredActivations
    value: bytes
    """The activations as the cache holds them."""
    cached: bool
    timings: Timings


@dataclass(frozen=True, slots=True)
class Judged:
    """A job that has its judgement."""

    asked: Asked
    judgement: Judgement
    cached: bool
    timings: Timings
    """All but the total."""
