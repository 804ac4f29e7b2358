"""A pair without some of its words."""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from scopewatch.types import Pair, Segment
from scopewatch.words.find import find_pieces


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the caller's own texts, or a run of signs between two words."""

    segment: Segment
    turn: int
    start: int
    end: int
    text: str

    @property
    def is_seen(self) -> bool:
        """Whether any of it is seen: a letter, a digit or a sign, and no mark or format character alone."""
        kinds = map(unicodedata.category, self.text)
        return any(kind[0] not in "MZ" and kind not in {"Cc", "Cf"} for kind in kinds)


def words_of(pair: Pair, segments: Collection[Segment]) -> list[Word]:
    """The words of some of a pair's texts, in the order of the texts; none of a text that the caller gave as tokens."""
    texts = [(Segment.HISTORY, number) for number in range(len(pair.history))]
    texts += [(Segment.PROMPT, 0), (Segment.RESPONSE, 0)]
    given = {Segment.RESPONSE} if pair.response_token_ids else set()
    if pair.prompt_token_ids:
        given |= {Segment.PROMPT, Segment.HISTORY}
    words = []
    for segment, turn in texts:
        if segment in segments and segment not in given:
            text = _text_of(pair, segment, turn)
            words += [Word(segment, turn, start, end, text[start:end]) for start, end in find_pieces(text)]
    return words


def shortened(pair: Pair, words: Sequence[Word], cut: Collection[Word]) -> Pair:
    """The pair without some words, each of which takes one space next to it along.

    Args:
        pair: The pair.
        words: All words of the texts that are cut, as `words_of` has them.
        cut: Those of them that go.
    """
    for (segment, turn), own in groupby(words, key=lambda word: (word.segment, word.turn)):
        mine = list(own)
        gone = [number for number, word in enumerate(mine) if word in cut]
        if gone:
            pair = _with_text(pair, segment, turn, _without(_text_of(pair, segment, turn), mine, gone))
    return pair


def _text_of(pair: Pair, segment: Segment, turn: int) -> str:
    """The text that a pair has for a segment and, in the history, for a turn."""
    if segment is Segment.HISTORY:
        return pair.history[turn].content
    return pair.prompt if segment is Segment.PROMPT else pair.response


def _without(text: str, words: Sequence[Word], gone: Sequence[int]) -> str:
    """A text without some of its words: the space before each goes too, or else the one behind it."""
    kept: list[str] = []
    at = 0
    for number in gone:
        start, end = words[number].start, words[number].end
        before = words[number - 1].end if number else 0
        behind = words[number + 1].start if number + 1 < len(words) else len(text)
        if start > max(at, before) and text[start - 1] == " ":
            start -= 1
        elif end < behind and text[end] == " ":
            end += 1
        kept.append(text[at:start])
        at = end
    return "".join((*kept, text[at:]))


def _with_text(pair: Pair, segment: Segment, turn: int, text: str) -> Pair:
    if segment is Segment.PROMPT:
        return replace(pair, prompt=text)
    if segment is Segment.RESPONSE:
        return replace(pair, response=text)
    turns = list(pair.history)
    turns[turn] = replace(turns[turn], content=text)
    return replace(pair, history=tuple(turns))
