"""What indicators say of single sentences: of each as if the response were nothing but it, read where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.sentences import SegmentSentences
from scopewatch.types import Activations, CoveredActivations, Indices, ReadText, Segment, TokenisedPair
from scopewatch.verdicts import IndicatorScore
from scopewatch.words.whole import whole_words


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
    if not len(sentences.positions):
        return
    each = np.split(sentences.positions, sentences.first_tokens[1:])
    for positions, last in zip(each, sentences.last_tokens.tolist(), strict=True):
        alone, fired = _alone(tokens, positions), _fired(covered, positions)
        judgement = judge(watchlist, [alone], [fired], max_evidence=0)
        end = int(tokens.ends[sentences.positions[last]])
        yield SentenceScores(int(alone.turns[0]), int(alone.starts[0]), end, positions, judgement.indicators)


def _alone(tokens: TokenisedPair, positions: Indices) -> TokenisedPair:
    """One sentence's tokens and text, and nothing else, so that what a sentence costs goes by its own length."""
    segment, turn = Segment(int(tokens.segments[positions[0]])), int(tokens.turns[positions[0]])
    start, end = int(tokens.starts[positions[0]]), int(tokens.ends[positions].max())
    return replace(
        tokens,
        ids=tokens.ids[positions],
        segments=tokens.segments[positions],
        turns=tokens.turns[positions],
        starts=tokens.starts[positions],
        ends=tokens.ends[positions],
        window_tokens=(),
        texts=tuple(_cut(one, start, end) for one in tokens.texts if (one.segment, one.turn) == (segment, turn)),
    )


def _cut(text: ReadText, start: int, end: int) -> ReadText:
    """The part of a text that is read which stands at a place of the caller's own, with whole words."""
    starts = np.arange(len(text.text), dtype=np.int32) if text.starts is None else text.starts
    ends = starts + 1 if text.ends is None else text.ends
    first, last = np.searchsorted(starts, (start, end)).tolist()
    # A token may reach into a word of the next sentence, of which no part is a word.
    first, last = min(first, whole_words(text.text, first, last)[0]), max(last, whole_words(text.text, first, last)[1])
    return replace(text, text=text.text[first:last], starts=starts[first:last], ends=ends[first:last])


def _fired(covered: CoveredActivations, positions: Indices) -> CoveredActivations:
    """What fired on some of a pair's tokens, which are all there are then."""
    found = covered.activations
    begin, end = np.searchsorted(found.token, (positions[0], positions[-1] + 1)).tolist()
    row = np.searchsorted(positions, found.token[begin:end])
    mine = positions[row] == found.token[begin:end]
    cut = Activations(
        len(positions),
        row[mine].astype(np.int32),
        found.column[begin:end][mine],
        found.value[begin:end][mine],
    )
    return CoveredActivations(cut, covered.table)
