"""What makes a verdict FLAG: the indicators, and the words that speak most for them."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil, inf

import numpy as np

from scopewatch.explain.shortening import Word
from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.stages import Judged
from scopewatch.types import Segment, TokenisedPair
from scopewatch.verdicts import IndicatorScore, Judgement

_MOST_RANKED = 512
"""How many words are ranked one by one; of more words, runs of neighbours are."""


def excess(judgement: Judgement) -> float:
    """By how much the score that is farthest above its threshold is above it, of those that make verdicts."""
    return max((score.score - score.threshold for score in _decisive(judgement.indicators)), default=-inf)


def behind_the_flag(judged: Judged) -> CompiledWatchlist:
    """The judging watchlist with nothing but the indicators that made the verdict FLAG, and those they are made of."""
    watchlist = judged.asked.watchlist
    sources = {one.source.name: one.source for one in watchlist.indicators}
    wanted: set[str] = set()
    names = _flagged(judged)
    while names:
        wanted |= names
        names = {part.indicator for name in names for part in sources[name].combines if part.indicator} - wanted
    return replace(watchlist, indicators=tuple(one for one in watchlist.indicators if one.source.name in wanted))


async def ranked_words(judged: Judged, watchlist: CompiledWatchlist, words: Sequence[Word]) -> list[Sequence[Word]]:
    """The words that were read, alone or in runs of neighbours, those first that speak most for the flag.

    Each is scored as if its segment were nothing but it, read where it stands: so a word that says what another says
    too is not taken for needless. Other calls are answered in between.

    Args:
        judged: The pair.
        watchlist: Its indicators, from `behind_the_flag`.
        words: The words.
    """
    size = ceil(len(words) / _MOST_RANKED) or 1
    runs = [words[start : start + size] for start in range(0, len(words), size)]
    thresholds = {score.name: score.threshold for score in judged.judgement.indicators}
    flagged = _flagged(judged)
    ranked: list[tuple[float, Sequence[Word]]] = []
    for run in runs:
        await asyncio.sleep(0)
        alone = [_alone(tokens, run) for tokens in judged.read.tokenised.readings]
        judgement = judge(watchlist, alone, judged.read.covered, max_evidence=0)
        scored = [one for one in judgement.indicators if one.name in flagged and not one.skipped_reason]
        if scored:
            ranked.append((max(one.score - thresholds[one.name] for one in scored), run))
    return [run for _, run in sorted(ranked, key=lambda each: -each[0])]


def _alone(tokens: TokenisedPair, run: Sequence[Word]) -> TokenisedPair:
    """The pair as if the segments of these words were nothing but they."""
    mine = np.zeros(len(tokens.ids), np.bool_)
    for word in run:
        of_text = (tokens.segments == word.segment) & (tokens.turns == word.turn)
        mine |= of_text & (tokens.starts < word.end) & (tokens.ends > word.start)
    others = np.isin(tokens.segments, [word.segment for word in run]) & ~mine
    return replace(tokens, segments=np.where(others, np.int8(Segment.TEMPLATE), tokens.segments))


def _decisive(scores: Iterable[IndicatorScore]) -> list[IndicatorScore]:
    """The scores that make a verdict FLAG, if they are flagged."""
    return [score for score in scores if score.severity != "info" and not score.skipped_reason]


def _flagged(judged: Judged) -> set[str]:
    return {score.name for score in _decisive(judged.judgement.indicators) if score.flagged}
