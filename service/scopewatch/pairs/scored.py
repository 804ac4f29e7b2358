"""What the online scorer says of a list of pairs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from scopewatch.errors import DataError, ScopewatchError
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.statistics.scores import Bool, Scores
from scopewatch.types import IndicatorScore, ScoredPair, ScoreJob

Scorer = Callable[[Sequence[ScoreJob]], Awaitable[list[ScoredPair | ScopewatchError]]]
"""The online scorer: pairs in, and for each of them what it says or why it cannot be scored."""


@dataclass(frozen=True, slots=True)
class IndicatorScores:
    """What the online scorer says of n pairs by one indicator; arrays have shape (n,)."""

    indicator: str
    watchlist: str
    threshold: float
    calibrated: bool
    card_warning: str
    scores: Scores
    flagged: Bool
    probabilities: Scores | None
    """None where the indicator maps its score to no probability."""
    truncated: int
    """How many pairs did not fit the reader whole."""


async def score_pairs(
    pairs: Sequence[LabelledPair], indicator: str, watchlist: str, score: Scorer, at_once: int = 64
) -> IndicatorScores:
    """Scores pairs by one indicator with the online scorer.

    Args:
        pairs: The pairs to score, at least one.
        indicator: The name of the indicator.
        watchlist: The name of its watchlist; empty for the default one.
        score: The online scorer.
        at_once: How many pairs the scorer is given together.

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
            found.append(_score_by(indicator, outcome, item))
            name = outcome.watchlist
            truncated += outcome.coverage.truncated
    return _joined(found, indicator, name, truncated)


def _joined(found: Sequence[IndicatorScore], indicator: str, watchlist: str, truncated: int) -> IndicatorScores:
    """The scores of all pairs in arrays."""
    probabilities = [part.probability for part in found if part.probability is not None]
    return IndicatorScores(
        indicator=indicator,
        watchlist=watchlist,
        threshold=found[0].threshold,
        calibrated=found[0].calibrated,
        card_warning=found[0].card_warning,
        scores=np.array([part.score for part in found]),
        flagged=np.array([part.flagged for part in found]),
        probabilities=np.array(probabilities) if len(probabilities) == len(found) else None,
        truncated=truncated,
    )


def _score_by(indicator: str, outcome: ScoredPair, pair: LabelledPair) -> IndicatorScore:
    """What an indicator says of the pair, which it must have scored."""
    found = next((part for part in outcome.indicators if part.name == indicator), None)
    if found is None:
        known = ", ".join(part.name for part in outcome.indicators)
        raise DataError(f"indicator {indicator!r}: watchlist {outcome.watchlist} has {known}")
    if found.skipped_reason:
        raise DataError(f"{pair.place}: {indicator} cannot be scored: {found.skipped_reason}; leave it out")
    return found
