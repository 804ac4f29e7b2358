"""What indicators say of single sentences: of each as if the response were nothing but it, read where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.sentences import SegmentSentences
from scopewatch.types import CoveredActivations, Indices, Segment, TokenisedPair
from scopewatch.verdicts import IndicatorScore


@dataclass(frozen=True, slots=True)
class SentenceScores:
    """One sentence, and what every indicator says of it."""

    turn: int
    start: int
    """The first code point of the sentence in its text."""
    end: int
    """One past its last visible character."""
    positions: Indices
    """Its tokens among the pair's, ascending."""
    indicators: tuple[IndicatorScore, ...]
    """In the order of the watchlist; those that read another segment are skipped."""


def sentence_scores(
    watchlist: CompiledWatchlist, tokens: TokenisedPair, covered: CoveredActivations, segment: Segment
) -> Iterator[SentenceScores]:
    """Scores every sentence of a segment that was read.

    The activations are those of the whole pair, so that a sentence is read in its context; only the pooling is over the
    sentence alone, and a threshold that goes by length goes by that of the sentence.

    Args:
        watchlist: The watchlist.
        tokens: The pair as it was read.
        covered: What fired on its tokens.
        segment: The segment.

    Raises:
        EngineError: A score is no finite number.
    """
    sentences = SegmentSentences(tokens, segment)
    numbers = sentences.of_tokens
    for number, last in enumerate(sentences.last_tokens.tolist()):
        positions = sentences.positions[numbers == number]
        alone = np.full_like(tokens.segments, Segment.TEMPLATE)
        alone[positions] = segment
        judgement = judge(watchlist, [replace(tokens, segments=alone)], [covered], max_evidence=0)
        first, end = positions[0], sentences.positions[last]
        yield SentenceScores(
            int(tokens.turns[first]), int(tokens.starts[first]), int(tokens.ends[end]), positions, judgement.indicators
        )
