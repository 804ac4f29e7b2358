"""The caller's texts that were read, and the tokens of them by which an explanation says where something is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, cast

import numpy as np

from scopewatch.explanation import Heat, SegmentName, Text
from scopewatch.types import Float64, Indices, Pair, ReadText, Segment, TokenisedPair


@dataclass(frozen=True)
class ReadTexts:
    """The caller's texts, and the n tokens of theirs that were read, in the order of the reading."""

    texts: tuple[Text, ...]
    pair: TokenisedPair
    """The pair as it was read."""
    positions: Indices
    """Each token among the pair's, ascending; shape (n,)."""
    whose: Indices
    """The index in `texts` of the text that each token is of; shape (n,)."""

    @classmethod
    def of(cls, pair: Pair, tokens: TokenisedPair) -> Self:
        """The texts of a pair.

        Args:
            pair: The pair as its caller sent it.
            tokens: The pair as it was read.
        """
        own = {(read.segment, read.turn): text for read in tokens.texts if (text := _own_text(pair, read))}
        positions = np.flatnonzero(tokens.segments != Segment.TEMPLATE)
        number = {key: place for place, key in enumerate(own)}
        keys = zip(tokens.segments[positions].tolist(), tokens.turns[positions].tolist(), strict=True)
        whose = np.array([number[Segment(segment), turn] for segment, turn in keys], np.intp)
        texts = tuple(
            Text(
                segment=segment_name(segment),
                turn=turn,
                role=pair.history[turn].role if segment is Segment.HISTORY else "",
                text=text,
            )
            for (segment, turn), text in own.items()
        )
        return cls(texts, tokens, positions, whose)

    @cached_property
    def starts(self) -> Indices:
        """The first code point of each token in its text; shape (n,)."""
        return self.pair.starts[self.positions].astype(np.intp)

    @cached_property
    def ends(self) -> Indices:
        """One past the last code point of each token; shape (n,)."""
        return self.pair.ends[self.positions].astype(np.intp)

    def number_of(self, segment: Segment, turn: int) -> int:
        """The index of a text; -1 where it was not read."""
        name = segment_name(segment)
        return next((i for i, text in enumerate(self.texts) if (text.segment, text.turn) == (name, turn)), -1)

    def tokens_at(self, text: int, starts: Indices, ends: Indices) -> Iterator[Indices]:
        """The tokens that stand at each of some places in a text.

        Args:
            text: The index of the text; -1 for none, where no token is.
            starts: The first code point of each place.
            ends: One past its last.
        """
        mine = np.flatnonzero(self.whose == text)
        # A template may have put a text's parts in another order.
        mine = mine[np.argsort(self.starts[mine], kind="stable")]
        reach = np.maximum.accumulate(self.ends[mine]) if len(mine) else self.ends[mine]
        first = np.searchsorted(reach, starts, side="right")
        last = np.searchsorted(self.starts[mine], ends, side="left")
        return (mine[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True))

    def carried(self, values: Float64, reading: TokenisedPair) -> Float64:
        """What stands at the tokens of a reading, at the tokens of the explanation; shape (n,).

        Where several tokens of another reading stand at one token, the value that is furthest from 0 counts.

        Args:
            values: A value for each token of the reading.
            reading: A reading of the same pair.
        """
        if reading is self.pair:
            return values[self.positions]
        found = np.zeros(len(self.positions))
        for number, text in enumerate(self.texts):
            mine = (reading.segments == Segment[text.segment.upper()]) & (reading.turns == text.turn) & (values != 0)
            places = reading.starts[mine].astype(np.intp), reading.ends[mine].astype(np.intp)
            for value, tokens in zip(values[mine].tolist(), self.tokens_at(number, *places), strict=True):
                for token in tokens.tolist():
                    found[token] = max(found[token], value, key=abs)
        return found


def heat_of(values: Float64) -> Heat:
    """Where values are not 0."""
    token = np.flatnonzero(values)
    return Heat(token=tuple(token.tolist()), value=tuple(values[token].tolist()))


def heat_at(token: Indices, value: Sequence[float]) -> Heat:
    """Values at tokens, ascending."""
    return Heat(token=tuple(token.tolist()), value=tuple(value))


def segment_name(segment: Segment) -> SegmentName:
    """A segment as explanations name it."""
    return cast("SegmentName", segment.name.lower())


def _own_text(pair: Pair, read: ReadText) -> str:
    """The text as its caller has it; where the caller gave tokens alone, what they decode to."""
    given = {
        Segment.PROMPT: pair.prompt,
        Segment.RESPONSE: pair.response,
        Segment.HISTORY: pair.history[read.turn].content if read.segment is Segment.HISTORY else "",
    }[read.segment]
    if given or read.starts is None or read.ends is None:
        return given or read.text
    # Of a text that was read cleaned, what cleaning took away is not known any more.
    letters = np.full(int(read.ends.max(initial=0)), "\ufffd")
    letters[read.starts] = list(read.text)
    return "".join(letters.tolist())
