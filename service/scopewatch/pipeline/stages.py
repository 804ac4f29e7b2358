"""The stages of a pair's journey: each knows all that the one before it knew."""

from typing import NamedTuple

from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.judgements import Remembered
from scopewatch.types import CoveredActivations, ScoreJob, TokenisedPair
from scopewatch.verdicts import Judgement, Timings


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
    readings: tuple[TokenisedPair, ...]
    """The pair as it is read: as it is, cleaned, or both ways."""
    keys: tuple[bytes, ...]
    """The key of each reading's activations in the cache."""
    tokenise_s: float


class Read(NamedTuple):
    """A job whose activations are known."""

    tokenised: Tokenised
    covered: tuple[CoveredActivations, ...]
    """The activations of each reading."""
    values: tuple[bytes, ...]
    """The activations of each reading as the cache holds them."""
    cached: bool
    timings: Timings


class Judged(NamedTuple):
    """A job that has its judgement."""

    read: Read
    judgement: Judgement
    timings: Timings
    """All but the total."""

    @property
    def asked(self) -> Asked:
        """The job, and the watchlist that judged it."""
        return self.read.tokenised.asked


class LookedUp(NamedTuple):
    """What a look-up in the cache makes of the jobs of a call."""

    recalled: list[tuple[int, Judgement]]
    """The places of jobs whose remembered judgement stands, since the cache holds the very value it was made from."""
    unjudged: list[tuple[Tokenised, tuple[bytes | None, ...]]]
    """The other jobs, in order, each with the value that the cache holds of each reading, if it holds one."""
    cache_s: float
