"""The caller's texts that were read, and the tokens of them by which an explanation says where something is."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self, cast

import numpy as np

from scopewatch.explanation import Heat, SegmentName, Text
from scopewatch.types import Float64, Indices, Pair, ReadText, Segment, TokenisedPair
from scopewatch.words.whole import whole_words

_LONGEST_WORD = 64
"""How many characters of a word are told at most."""


@dataclass(frozen=True, eq=False)
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
        """What each token of a reading adds, at the tokens of the explanation, which share it; shape (n,).

        Args:
            values: What each token of the reading adds.
            reading: A reading of the same pair.
        """
        if reading is self.pair:
            return values[self.positions]
        found = np.zeros(len(self.positions))
        for number, text in enumerate(self.texts):
            mine = (reading.segments == Segment[text.segment.upper()]) & (reading.turns == text.turn) & (values != 0)
            places = self.tokens_at(number, reading.starts[mine].astype(np.intp), reading.ends[mine].astype(np.intp))
            for value, here in zip(values[mine].tolist(), places, strict=True):
                found[here] += value / max(1, len(here))
        return found

    @cached_property
    def word_places(self) -> list[tuple[int, int, int]]:
        """The word that each token is of: its text, its first code point and one past its last."""
        found: list[tuple[int, int, int]] = []
        word = (-1, 0, 0)
        for text, start, end in zip(self.whose.tolist(), self.starts.tolist(), self.ends.tolist(), strict=True):
            # The next piece of the same word; looked for again, a word of a million letters would take for ever.
            if text != word[0] or not word[1] <= start < end <= word[2]:
                word = (text, *whole_words(self.texts[text].text, start, end))
            found.append(word)
        return found

    def strongest_words(self, values: Float64, most: int) -> tuple[str, ...]:
        """The words whose tokens add most together, the highest first, each once and only if that is above 0.

        Args:
            values: What each token adds, shape (n,).
            most: The most words.
        """
        added: Counter[tuple[int, int, int]] = Counter()
        for token in np.flatnonzero(values).tolist():
            added[self.word_places[token]] += values[token]
        found: dict[str, str] = {}
        for (text, start, end), value in added.most_common():
            if value <= 0 or len(found) == most:
                break
            word = self.texts[text].text[start:end]
            word = word if len(word) <= _LONGEST_WORD else f"{word[:_LONGEST_WORD]}…"
            if any(map(str.isalnum, word)):
                found.setdefault(word.casefold(), word)
        return tuple(found.values())


def heat_of(values: Float64) -> Heat:
    """Where values are not 0."""
    token = np.flatnonzero(values)
    return Heat(token=tuple(token.tolist()), value=tuple(values[token].tolist()))


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
