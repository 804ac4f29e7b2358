"""What has happened to a pair, for those who count it, log it or pass it on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from scopewatch.types import ScoreJob
from scopewatch.verdicts import ScoredPair


class PairScored(NamedTuple):
    """A pair got its verdict."""

    job: ScoreJob
    pair: ScoredPair


class PairFailed(NamedTuple):
    """A pair got an error in place of a verdict."""

    job: ScoreJob
    reason: str
    """The class of the error, as metrics name it."""
    watchlist: str
    """The name of the watchlist that was to judge it; `unknown` where there is none of the name that was asked for."""
    total_s: float = 0.0
    """The seconds that it took behind the door; 0 where it was refused there."""


PairsScored: TypeAlias = Callable[[Sequence[PairScored]], None]
"""Is told of all pairs that one call scored together. Runs on the event loop, before the call is answered."""
PairsFailed: TypeAlias = Callable[[Sequence[PairFailed]], None]
"""Is told of all pairs of one call that failed behind the door, as `PairsScored` is of the others."""
