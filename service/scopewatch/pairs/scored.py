"""What the online scorer says of a list of pairs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from scopewatch.errors import (
    DataError,
    EngineDied,
    EngineError,
    InvalidRequest,
    Overloaded,
    ScopewatchError,
    UnknownWatchlist,
)
from scopewatch.pairs.data_files import Reading
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import LeftOut
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.types import ScoreJob
from scopewatch.verdicts import IndicatorScore, ScoredPair, Verdict
from scopewatch.watch.reference import term_name

Scorer = Callable[[Sequence[ScoreJob]], Awaitable[list[ScoredPair | ScopewatchError]]]
"""The online scorer: pairs in, and for each of them what it says or why it cannot be scored."""
_LONGEST_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class IndicatorScores:
    """What the online scorer says of n pairs by one indicator; arrays have shape (n,)."""

    indicator: str
    watchlist: str
    thresholds: Scores
    """The threshold that each pair was held against: the same for all, unless it goes by length."""
    n_tokens: Rows
    """How many tokens of the indicator's segment each pair has."""
    calibrated: bool
    card_warning: str
    scores: Scores
    flagged: Bool
    probabilities: Scores | None
    """None where the indicator maps its score to no probability."""
    truncated: int
    """How many pairs did not fit the reader whole."""
    incomplete: int = 0
    """How many pairs have the verdict INCOMPLETE."""
    pooled: Mapping[str, Scores] = field(default_factory=dict)
    """The pooled value of each term that fired anywhere, by its `watch.reference.term_name`; empty if not asked for."""


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """The pairs that several indicators have judged, all of them, and the pairs that were left out."""

    pairs: list[LabelledPair]
    """The n pairs that the scores are of, in the order in which they were given."""
    by_indicator: Mapping[str, IndicatorScores]
    """The scores by each indicator, by its name."""
    left_out: list[LeftOut]


@dataclass(slots=True)
class _Found:
    """What was found of the pairs so far."""

    pairs: list[LabelledPair] = field(default_factory=list)
    scores: list[list[IndicatorScore]] = field(default_factory=list)
    """What each indicator said of each of these pairs."""
    left_out: list[LeftOut] = field(default_factory=list)
    watchlist: str = ""
    truncated: int = 0
    incomplete: int = 0


async def answers(jobs: Sequence[ScoreJob], score: Scorer) -> list[ScoredPair | InvalidRequest | EngineError]:
    """What the scorer says of each pair; a pair for which there is no room yet is asked again.

    Args:
        jobs: The pairs.
        score: The online scorer.

    Raises:
        ScopewatchError: The scorer failed, through no fault of the pair: the next would fail the same way.
    """
    found: dict[int, ScoredPair | InvalidRequest | EngineError] = {}
    waiting = list(range(len(jobs)))
    while waiting:
        again: list[int] = []
        wait_s = 0.0
        for place, outcome in zip(waiting, await score([jobs[place] for place in waiting]), strict=True):
            if isinstance(outcome, Overloaded):
                again.append(place)
                wait_s = max(wait_s, min(outcome.retry_after_s, _LONGEST_WAIT_S))
            elif isinstance(outcome, (EngineDied, UnknownWatchlist)) or not isinstance(
                outcome, (ScoredPair, InvalidRequest, EngineError)
            ):
                raise outcome
            else:
                found[place] = outcome
        waiting = again
        if waiting:
            await asyncio.sleep(wait_s)
    return [found[place] for place in range(len(jobs))]


async def score_pairs(
    pairs: Sequence[LabelledPair],
    indicators: Sequence[str],
    watchlist: str,
    score: Scorer,
    *,
    at_once: int = 64,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    pooled: bool = False,
) -> ScoredPairs:
    """Scores pairs by some indicators with the online scorer; a pair that one of them cannot judge is left out.

    Args:
        pairs: The pairs to score.
        indicators: The names of the indicators.
        watchlist: The name of their watchlist; empty for the default one.
        score: The online scorer.
        at_once: How many pairs the scorer is given together.
        reading: Whether a pair may be left out.
        pooled: Whether the pooled values of the indicators' terms are kept too, of each pair.

    Raises:
        DataError: The watchlist has no such indicator; or with `strict` a pair that cannot be scored.
        ScopewatchError: The scorer failed altogether.
    """
    found = _Found()
    for first in tqdm(range(0, len(pairs), at_once), desc="scoring", unit="batch", disable=None):
        chunk = pairs[first : first + at_once]
        jobs = [ScoreJob(item.pair, watchlist, request_id=str(item.line)) for item in chunk]
        for item, outcome in zip(chunk, await answers(jobs, score), strict=True):
            told = _told(item, outcome, indicators, pooled=pooled)
            if isinstance(told, LeftOut):
                found.left_out.append(reading.checked(told))
            elif isinstance(outcome, ScoredPair):
                found.pairs.append(item)
                found.scores.append(told)
                found.watchlist = outcome.watchlist
                found.truncated += outcome.coverage.truncated
                found.incomplete += outcome.verdict is Verdict.INCOMPLETE
    return ScoredPairs(found.pairs, _by_indicator(found, indicators), found.left_out)


def failure(place: str, error: ScopewatchError) -> LeftOut:
    """The pair that is left out since it could not be scored."""
    return LeftOut(place, error.reason, str(error))


def _told(
    item: LabelledPair,
    outcome: ScoredPair | InvalidRequest | EngineError,
    indicators: Sequence[str],
    *,
    pooled: bool,
) -> list[IndicatorScore] | LeftOut:
    """What the indicators say of a pair, or why it cannot be in the numbers."""
    if not isinstance(outcome, ScoredPair):
        return failure(item.place, outcome)
    told = [_score_by(name, outcome) for name in indicators]
    skipped = next((part for part in told if part.skipped_reason), None)
    if skipped:
        detail = f"{skipped.name} cannot be scored: {skipped.skipped_reason}"
        return LeftOut(item.place, skipped.skipped_reason, detail)
    # What explains a score is let go, unless it is asked for: there may be many pairs.
    return [replace(part, features=part.features if pooled else (), evidence=()) for part in told]


def _score_by(indicator: str, outcome: ScoredPair) -> IndicatorScore:
    found = next((part for part in outcome.indicators if part.name == indicator), None)
    if found is None:
        known = ", ".join(part.name for part in outcome.indicators)
        raise DataError(f"indicator {indicator!r}: watchlist {outcome.watchlist} has {known}")
    return found


def _by_indicator(found: _Found, indicators: Sequence[str]) -> dict[str, IndicatorScores]:
    """The scores of all pairs in arrays, by the indicator's name; none where no pair was scored."""
    of_indicators = zip(indicators, zip(*found.scores, strict=True), strict=False)
    return {name: _joined(name, scores, found) for name, scores in of_indicators}


def _joined(indicator: str, scores: Sequence[IndicatorScore], found: _Found) -> IndicatorScores:
    probabilities = [part.probability for part in scores if part.probability is not None]
    return IndicatorScores(
        indicator=indicator,
        watchlist=found.watchlist,
        thresholds=np.array([part.threshold for part in scores]),
        n_tokens=np.array([part.n_tokens for part in scores]),
        calibrated=scores[0].calibrated,
        card_warning=scores[0].card_warning,
        scores=np.array([part.score for part in scores]),
        flagged=np.array([part.flagged for part in scores]),
        probabilities=np.array(probabilities) if len(probabilities) == len(scores) else None,
        truncated=found.truncated,
        incomplete=found.incomplete,
        pooled=_pooled(scores),
    )


def _pooled(scores: Sequence[IndicatorScore]) -> dict[str, Scores]:
    """The pooled values of the terms in arrays, by the term's name; 0 where a term added nothing."""
    pooled: dict[str, Scores] = {}
    for row, score in enumerate(scores):
        for term in score.features:
            name = term_name(term.feature, term.pooling)
            pooled.setdefault(name, np.zeros(len(scores)))[row] = term.pooled
    return pooled
