"""The online scorer over a list of pairs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from scopewatch.errors import DataError, ScopewatchError
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.types import IndicatorScore, ScoredPair, ScoreJob

Score = Callable[[Sequence[ScoreJob]], Awaitable[list[ScoredPair | ScopewatchError]]]


@dataclass(frozen=True, slots=True)
class Scored:
    """What the online scorer says of n pairs; arrays have shape (n,)."""

    indicator: str
    watchlist: str
    threshold: float
    calibrated: bool
    card_warning: str
    scores: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    probabilities: NDArray[np.float64] | None
    """None where the indicator has no map to a probability."""
    truncated: int
    """Pairs that did not fit the reader whole."""


async def score_pairs(
    pairs: Sequence[LabelledPair], indicator: str, watchlist: str, score: Score, at_once: int = 64
) -> Scored:
    """Scores pairs with the online scorer.

    Args:
        pairs: At least one.
        indicator: Name in the watchlist.
        watchlist: Its name; empty for the default.
        score: The online scorer.
        at_once: Pairs it is given together.

    Raises:
        DataError: A pair cannot be scored, or the watchlist has no such indicator.
    """
    found: list[IndicatorScore] = []
    truncated, name = 0, watchlist
    for first in tqdm(range(0, len(pairs), at_once), desc="scoring", unit="batch", disable=None):
        chunk = pairs[first : first + at_once]
        jobs = [ScoreJob(item.pair, watchlist, request_id=str(item.line)) for item in chunk]
        for item, outcome in zip(chunk, await score(jobs), strict=True):
            if isinstance(outcome, ScopewatchError):
                raise DataError(f"{item.place}: {outcome}")
            name = outcome.watchlist
            found.append(_of(outcome, indicator))
            if found[-1].skipped_reason:
                raise DataError(f"{item.place}: {indicator} cannot be scored: {found[-1].skipped_reason}; leave it out")
            truncated += outcome.coverage.truncated
    probabilities = [part.probability for part in found if part.probability is not None]
    return Scored(
        indicator=indicator,
        watchlist=name,
        threshold=found[0].threshold,
        calibrated=found[0].calibrated,
        card_warning=found[0].card_warning,
        scores=np.array([part.score for part in found]),
        flagged=np.array([part.flagged for part in found]),
        probabilities=np.array(probabilities) if len(probabilities) == len(found) else None,
        truncated=truncated,
    )


def _of(outcome: ScoredPair, indicator: str) -> IndicatorScore:
    found = next((part for part in outcome.indicators if part.name == indicator), None)
    if found is None:
        known = ", ".join(part.name for part in outcome.indicators)
        raise DataError(f"indicator {indicator!r}: watchlist {outcome.watchlist} has {known}")
    return found
