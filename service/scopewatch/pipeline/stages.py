"""The stages of a pair's journey: each knows all that the one before it knew."""

from typing import NamedTuple

from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.judgements import Remembered
from scopewatch.types import CoveredActivations, Judgement, ScoreJob, Timings, TokenisedPair


class Asked(NamedTuple):
    """A job whose watchlist is known."""

    place: int
    """The job's place among those of the call."""
    job: ScoreJob
    watchlist: CompiledWatchlist
    name: bytes
    """The name of its judgement; empty where judgements are not remembered."""
    remembered: Remembered | None


class Tokenised(NamedTuple):
    """A job whose pair was tokenised."""

    asked: Asked
    tokens: TokenisedPair
    key: bytes
    """The key of its activations in the cache."""
    tokenise_s: float


class Read(NamedTuple):
    """A job whose activations are known."""

    tokenised: Tokenised
    covered: CoveredActivations
    value: bytes
    """The activations as the cache holds them."""
    cached: bool
    timings: Timings


class Judged(NamedTuple):
    """A job that has its judgement."""

    asked: Asked
    judgement: Judgement
    cached: bool
    timings: Timings
    """All but the total."""


class LookedUp(NamedTuple):
    """What a look-up in the cache makes of the jobs of a call."""

    recalled: list[tuple[int, Judgement]]
    """The places of jobs whose remembered judgement stands, since the cache holds the very value it was made from."""
    unjudged: list[tuple[Tokenised, bytes | None]]
    """The other jobs, in order, each with the value that the cache holds, if it holds one."""
    cache_s: float
