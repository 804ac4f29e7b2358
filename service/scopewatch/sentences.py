"""Where sentences end: one rule for every language, and the sentences that a pair's tokens make.

The rule is that of Unicode (Standard Annex 29, sentence boundaries), with what it leaves to others: abbreviations,
lists, semicolons. A sentence ends

- behind `.`, `!`, `?`, `…` or `;` where white space or nothing follows, and behind the full stops of scripts that write
  no space there (`。`, `।`, `؟`) wherever they stand; closing quotes, brackets, asterisks and references such as `[3]`
  that follow at once are of the sentence;
- at the end of a line, with or without a stop: headings, paragraphs and items of lists are sentences;
- but not behind the dot of an abbreviation (`Dr.`, `e.g.`, `Fig. 3`), an initial or the number of an item (`1.`), nor
  behind an ellipsis that a small letter follows, nor where the sentence would have neither letter nor digit. A small
  letter alone says nothing: in forums and chats sentences begin with them.

White space is at no end: a sentence reaches from the end of the one before it to its own last visible character.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import regex

from scopewatch.types import Bools, Indices, Int32, ReadText, Segment, TokenisedPair

_STOP = regex.compile(
    r"""(?V1)
    (?P<line> [\n\v\f\r\x85\u2028\u2029] \s*+ ) |
    (?<! [.\u2024\u2026!?;] ) (?: (?P<dots> [.\u2024\u2026]++ ) (?! [!?;] ) | [.\u2024\u2026!?;]++ )
        [\p{Pe}\p{Pf}\p{Pi}"'*_`\p{Cf}]*+ (?: \[\d+\] )*+ (?= \s+ (?P<next> \S ) | \s*+ \Z ) |
    (?: [\p{STerm}\u061b\uff1b--[.!?\uff0e]]++ | \uff0e (?! \d ) ) [\p{Pe}\p{Pf}"'*_`\p{Cf}]*+
    """,
    regex.VERBOSE,
)
"""Where a sentence may end. `next` is the character that follows white space behind dots."""
_LETTER_OR_DIGIT = regex.compile(r"[\p{L}\p{N}]")
_ITEM = regex.compile(r"[^\p{L}\p{N}]*(?:\d+|\p{Ll}|[ivx]+)")
"""A sentence that is nothing but the number or letter of a list's item."""
_NAMED = regex.compile(
    r"(?i)dr|mrs?|ms|prof|st|rev|hon|sen|rep|gov|gen|capt|lt|col|sgt|e\.?g|i\.?e|vs|cf|approx|z\.b|d\.h"
)
"""Abbreviations that a name or an example follows."""
_NUMBERED = regex.compile(
    r"(?i)nos?|nr|figs?|eqs?|sec|ch|chap|vol|pp?|art|refs?|al|ca?|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
)
"""Abbreviations that a number, or a year in brackets, follows; `no` before anything else is an answer."""
_RUNNING = regex.compile(r"(?i)al|etc|inc|ltd|corp|co|jr|sr|dept|figs?|eqs?|ca|min|max|avg|est|bzw|usw|.*\..*")
"""Abbreviations behind which a sentence goes on if a small letter follows, such as all with dots inside."""
_LONGEST = 24
"""How many characters before a dot are looked at."""


def sentence_ends(text: str) -> list[int]:
    """Where the sentences of a text end: one past each sentence's last visible character, in code points, ascending.

    A text of signs alone is one sentence; a text of white space has none.
    """
    ends: list[int] = []
    begin = 0
    for stop in _STOP.finditer(text):
        start, end = stop.span()
        if stop["line"]:
            end = begin + len(text[begin:start].rstrip())
        elif stop["dots"] and stop["next"]:
            before = text[max(begin, start - _LONGEST) : start]
            if _goes_on(before, stop["dots"], stop["next"]):
                continue
        if _LETTER_OR_DIGIT.search(text, begin, end):
            ends.append(end)
        begin = end
    if _LETTER_OR_DIGIT.search(text, begin) or (not ends and not text.isspace() and text):
        ends.append(len(text.rstrip()))
    return ends


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """The first and one past the last code point of each sentence of a text, without the white space before it."""
    for before, end in pairwise([0, *sentence_ends(text)]):
        yield end - len(text[before:end].lstrip()), end


def _goes_on(sentence: str, dots: str, following: str) -> bool:
    """Whether a sentence goes on behind dots.

    Args:
        sentence: The sentence up to the dots, or as much of it as an abbreviation may have.
        dots: The dots.
        following: The first visible character behind the dots.
    """
    if _ITEM.fullmatch(sentence):
        return True
    if dots != ".":
        return following.islower()
    word = (sentence.split() or [""])[-1].lstrip("([{\"'*_\u201c\u2018\u00ab\u201e")
    initial = word.rsplit(".", 1)[-1]
    if len(initial) == 1 and initial.isupper() and word != "I":
        return True
    numbered = following.isdigit() or following == "("
    return bool(
        _NAMED.fullmatch(word)
        or (numbered and _NUMBERED.fullmatch(word))
        or (following.islower() and _RUNNING.fullmatch(word))
    )


@dataclass(frozen=True, eq=False)
class SegmentSentences:
    """The sentences that the tokens of one segment of a pair make; worked out when they are first asked for.

    Sentences are those of the caller's texts, in whatever windows they were read, and a turn of the history ends one.
    Each of the segment's tokens is of one sentence: that in which it begins or, behind the last of its text, that one.
    """

    pair: TokenisedPair
    segment: Segment

    @cached_property
    def positions(self) -> Indices:
        """The segment's tokens among the pair's, ascending; shape (n_tokens,)."""
        return np.flatnonzero(self.pair.segments == self.segment)

    @property
    def of_tokens(self) -> Indices:
        """The number of each token's sentence, counted over those that were read; shape (n_tokens,)."""
        return np.cumsum(self._is_first) - 1

    @cached_property
    def first_tokens(self) -> Indices:
        """The number of each sentence's first token among the segment's; shape (n_sentences,)."""
        return np.flatnonzero(self._is_first)

    @cached_property
    def last_tokens(self) -> Indices:
        """Of each sentence the token of the segment that carries its last visible character, or is read last of it."""
        rows = np.arange(len(self.positions))
        # White space behind the last sentence of a text is of it, and does not end it.
        inside = self.pair.starts[self.positions] < self.places[:, 1]
        last: Indices = np.maximum.reduceat(rows + len(rows) * inside, self.first_tokens) % len(rows)
        return last

    @cached_property
    def places(self) -> Int32:
        """The sentence of each token, as `places_of` has it; shape (n_tokens, 2)."""
        return self.places_of(self.pair.turns[self.positions], self.pair.starts[self.positions])

    def places_of(self, turns: Int32, starts: Int32) -> Int32:
        """The sentences in which n characters of the caller's texts stand: the turn, and where in it the sentence ends.

        Args:
            turns: The turn of each character, shape (n,).
            starts: The index of each character in its text, shape (n,).

        Returns:
            Shape (n, 2).
        """
        found = np.full(len(starts), np.iinfo(np.int32).max, np.int32)
        for text in self.pair.texts:
            if text.segment == self.segment and len(ends := _ends_in_callers_text(text)):
                mine = turns == text.turn
                place = np.searchsorted(ends, starts[mine], side="right")
                found[mine] = ends[np.minimum(place, len(ends) - 1)]
        return np.stack((turns, found), axis=1)

    @cached_property
    def _is_first(self) -> Bools:
        """Whether each token is the first of its sentence."""
        starts = self.pair.starts[self.positions]
        # A template may have put a text's parts in another order, or have written it twice.
        changes = np.diff(self.places, axis=0).any(axis=1) | (np.diff(starts) < 0)
        return np.append(True, changes)[: len(starts)]


def _ends_in_callers_text(text: ReadText) -> Int32:
    """Where the sentences of a text that is read end in the text that the caller sent."""
    ends = np.array(sentence_ends(text.text), np.int32)
    return ends if text.ends is None else text.ends[ends - 1]
