"""What has happened to a pair, for those who count it, log it or pass it on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from scopewatch.types import ScoreJob
from scopewatch.verdicts import ScoredPair


class PairScored(NamedTuple):
    """A pair got its verdict."""

    job: ScoreJob
    pair: ScoredPair


PairsScored: TypeAlias = Callable[[Sequence[PairScored]], None]
"""Is told of all pairs that one call scored together. Runs on the event loop, before the call is answered."""
