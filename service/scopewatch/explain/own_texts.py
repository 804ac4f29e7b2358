"""The caller's own texts that were read of a pair: what the places of an explanation refer to."""

from scopewatch.explanation import Text
from scopewatch.pipeline.stages import Judged
from scopewatch.types import Pair, ReadText, Segment


def own_texts(judged: Judged) -> tuple[Text, ...]:
    """The texts as the caller sent them, in the order in which they are read; `Explanation.texts`.

    Where the caller sent tokens and no text, it is what they decode to.
    """
    pair = judged.asked.job.pair
    return tuple(
        Text(
            segment=text.segment.name.lower(),
            turn=text.turn,
            role=pair.history[text.turn].role if text.segment is Segment.HISTORY else "",
            text=_own(pair, text),
        )
        for text in judged.read.tokenised.readings[0].texts
    )


def text_number(judged: Judged, segment: Segment, turn: int) -> int:
    """The index among `own_texts` of the text of a segment and, in the history, of a turn."""
    places = [(text.segment, text.turn) for text in judged.read.tokenised.readings[0].texts]
    return places.index((segment, turn))


def text_of(pair: Pair, segment: Segment, turn: int) -> str:
    """The text that a pair has for a segment and, in the history, for a turn."""
    if segment is Segment.HISTORY:
        return pair.history[turn].content
    return pair.prompt if segment is Segment.PROMPT else pair.response


def _own(pair: Pair, text: ReadText) -> str:
    return text_of(pair, text.segment, text.turn) or text.text
