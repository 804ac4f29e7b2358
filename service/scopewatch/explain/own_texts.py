"""The caller's own texts that were read of a pair: what the places of an explanation refer to."""

from typing import cast

import numpy as np

from scopewatch.explanation import SegmentName, Text
from scopewatch.pipeline.stages import Judged
from scopewatch.types import Pair, ReadText, Segment


def own_texts(judged: Judged) -> tuple[Text, ...]:
    """The texts as the caller sent them, without empty ones, in the order in which they are read; `Explanation.texts`.

    Where the caller sent tokens and no text, it is what they decode to.
    """
    pair = judged.asked.job.pair
    return tuple(
        Text(
            segment=segment_name(read.segment),
            turn=read.turn,
            role=pair.history[read.turn].role if read.segment is Segment.HISTORY else "",
            text=own,
        )
        for read in judged.read.tokenised.readings[0].texts
        if (own := text_of(pair, read.segment, read.turn) or _decoded(read))
    )


def text_number(judged: Judged, segment: Segment, turn: int) -> int:
    """The index among `own_texts` of the text of a segment and, in the history, of a turn."""
    places = [(text.segment, text.turn) for text in own_texts(judged)]
    return places.index((segment_name(segment), turn))


def segment_name(segment: Segment) -> SegmentName:
    """A segment as explanations name it."""
    return cast("SegmentName", segment.name.lower())


def text_of(pair: Pair, segment: Segment, turn: int) -> str:
    """The text that a pair has for a segment and, in the history, for a turn."""
    if segment is Segment.HISTORY:
        return pair.history[turn].content
    return pair.prompt if segment is Segment.PROMPT else pair.response


def _decoded(read: ReadText) -> str:
    """What the caller's tokens decode to, of a text of which nothing else was given."""
    if read.starts is None or read.ends is None:
        return read.text
    # Of a text that was read cleaned, what cleaning took away is not known any more.
    letters = np.full(int(read.ends.max(initial=0)), "\ufffd")
    letters[read.starts] = list(read.text)
    return "".join(letters.tolist())
