"""A pair without some of its words."""

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

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
    space_before: bool
    """Whether a space stands before it that is of no word."""
    space_behind: bool

    @property
    def is_seen(self) -> bool:
        """Whether any of it is seen: a letter, a digit or a sign, and no mark or format character alone."""
        kinds = map(unicodedata.category, self.text)
        return any(kind[0] not in "MZ" and kind not in {"Cc", "Cf"} for kind in kinds)


def words_of(pair: Pair, segments: Collection[Segment]) -> list[Word]:
    """The words of some of a pair's texts, in the order of the texts; none of a text that the caller gave as tokens."""
    given = {Segment.RESPONSE} if pair.response_token_ids else set()
    if pair.prompt_token_ids:
        given |= {Segment.PROMPT, Segment.HISTORY}
    words: list[Word] = []
    for segment, turn in _places(pair):
        if segment in segments and segment not in given:
            words += _words(segment, turn, _text_of(pair, segment, turn))
    return words


def shortened(pair: Pair, cut: Collection[Word]) -> Pair:
    """The pair without some words; each takes one space next to it along, that before it or else that behind it."""
    for segment, turn in _places(pair):
        gone = [word for word in cut if (word.segment, word.turn) == (segment, turn)]
        if gone:
            text = _without(_text_of(pair, segment, turn), sorted(gone, key=lambda word: word.start))
            pair = _with_text(pair, segment, turn, text)
    return pair


def _places(pair: Pair) -> Iterable[tuple[Segment, int]]:
    """The segment and the turn of each text of a pair."""
    history = [(Segment.HISTORY, turn) for turn in range(len(pair.history))]
    return (*history, (Segment.PROMPT, 0), (Segment.RESPONSE, 0))


def _words(segment: Segment, turn: int, text: str) -> list[Word]:
    spans = find_pieces(text)
    before = [0, *(end for _, end in spans)]
    behind = [*(start for start, _ in spans[1:]), len(text)]
    return [
        Word(segment, turn, start, end, text[start:end], text[at:start].endswith(" "), text[end:to].startswith(" "))
        for (start, end), at, to in zip(spans, before, behind, strict=False)
    ]


def _without(text: str, gone: Sequence[Word]) -> str:
    """A text without some of its words, which are given in its order."""
    kept: list[str] = []
    at = 0
    for word in gone:
        # The space before it may have gone with the word before it.
        takes_before = word.space_before and word.start > at
        kept.append(text[at : word.start - takes_before])
        at = word.end + (word.space_behind and not takes_before)
    return "".join((*kept, text[at:]))


def _text_of(pair: Pair, segment: Segment, turn: int) -> str:
    if segment is Segment.HISTORY:
        return pair.history[turn].content
    return pair.prompt if segment is Segment.PROMPT else pair.response


def _with_text(pair: Pair, segment: Segment, turn: int, text: str) -> Pair:
    if segment is Segment.PROMPT:
        return replace(pair, prompt=text)
    if segment is Segment.RESPONSE:
        return replace(pair, response=text)
    turns = list(pair.history)
    turns[turn] = replace(turns[turn], content=text)
    return replace(pair, history=tuple(turns))
