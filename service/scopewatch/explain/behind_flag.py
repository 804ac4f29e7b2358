"""What makes a verdict FLAG: the scores, the segments they are of, and the words that speak most for them."""

from collections.abc import Iterable, Sequence
from math import inf

import numpy as np

from scopewatch.explain.heats import added_by_tokens
from scopewatch.explain.shortening import Word
from scopewatch.explain.sums import Summed, summed
from scopewatch.explain.texts import ReadTexts
from scopewatch.identity import FeatureKey
from scopewatch.pipeline.compiled import CompiledIndicator
from scopewatch.pipeline.segment_view import dense_activations
from scopewatch.pipeline.stages import Judged
from scopewatch.types import CoveredActivations, Float64, Segment, TokenisedPair
from scopewatch.verdicts import IndicatorScore, Judgement


def excess(judgement: Judgement) -> float:
    """By how much the score that is farthest above its threshold is above it, of those that make verdicts."""
    return max((score.score - score.threshold for score in _decisive(judgement.indicators)), default=-inf)


def segments_behind(judged: Judged) -> set[Segment]:
    """The segments that the indicators read which made the verdict FLAG, and those that they are made of."""
    sources = {one.source.name: one.source for one in judged.asked.watchlist.indicators}
    segments: set[Segment] = set()
    names = _flagged(judged)
    while names:
        segments |= {sources[name].read_segment for name in names}
        names = {part.indicator for name in names for part in sources[name].combines if part.indicator}
    return segments


def ranked_words(judged: Judged, texts: ReadTexts, words: Sequence[Word]) -> list[Word]:
    """The words that were read, those first that speak most for the scores that made the verdict FLAG.

    What a feature adds to a score is shared out among all tokens on which it fires, by how strongly: of two words that
    say the same, which of them a pooling looked at does not matter.

    Args:
        judged: The pair.
        texts: Its texts.
        words: The words.
    """
    speaks = _Speaking(judged, texts)
    added = np.sum([speaks.of(name) for name in sorted(_flagged(judged))], axis=0)
    ranked: list[tuple[float, Word]] = []
    for text in range(len(texts.texts)):
        mine = [word for word in words if texts.number_of(word.segment, word.turn) == text]
        places = np.array([(word.start, word.end) for word in mine], np.intp).reshape(-1, 2)
        for word, tokens in zip(mine, texts.tokens_at(text, *places.T), strict=True):
            if len(tokens):
                ranked.append((float(added[tokens].sum()), word))
    return [word for _, word in sorted(ranked, key=lambda each: -each[0])]


class _Speaking:
    """How much each of the n tokens of an explanation speaks for the indicators' scores."""

    def __init__(self, judged: Judged, texts: ReadTexts) -> None:
        self._judged = judged
        self._texts = texts
        self._sums = {one.source.name: one for one in summed(judged)}
        self._indicators = {one.source.name: one for one in judged.asked.watchlist.indicators}

    def of(self, name: str) -> Float64:
        """How much each token speaks for an indicator's score, shape (n,)."""
        indicator, one = self._indicators[name], self._sums[name]
        tokens = self._judged.read.tokenised.readings[one.reading]
        covered = self._judged.read.covered[one.reading]
        if isinstance(indicator, CompiledIndicator):
            return self._texts.carried(self._shared_out(one, indicator.segment, tokens, covered), tokens)
        parts = [part.weight * self.of(part.indicator) for part in indicator.source.combines if part.indicator]
        added = added_by_tokens(self._judged.asked.watchlist, tokens, covered, self._texts)[name].all
        return np.sum(parts, axis=0) if parts else added

    def _shared_out(self, one: Summed, segment: Segment, tokens: TokenisedPair, covered: CoveredActivations) -> Float64:
        """What each feature adds to a score, by how strongly it fires on each token of a reading."""
        watchlist = self._judged.asked.watchlist
        slot_of = {feature: slot for slot, feature in enumerate(watchlist.features)}
        added = np.zeros(len(slot_of))
        for summand in one.summands:
            assert isinstance(summand.feature, FeatureKey)
            added[slot_of[summand.feature]] += summand.contribution
        positions = np.flatnonzero(tokens.segments == segment)
        strengths = np.abs(dense_activations(watchlist, covered, positions, len(tokens.ids)))
        totals = strengths.sum(axis=0)
        found = np.zeros(len(tokens.ids))
        found[positions] = strengths @ np.divide(added, totals, out=np.zeros_like(added), where=totals > 0)
        return found


def _decisive(scores: Iterable[IndicatorScore]) -> list[IndicatorScore]:
    """The scores that make a verdict FLAG, if they are flagged."""
    return [score for score in scores if score.severity != "info" and not score.skipped_reason]


def _flagged(judged: Judged) -> set[str]:
    return {score.name for score in _decisive(judged.judgement.indicators) if score.flagged}
