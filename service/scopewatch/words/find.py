"""The words of a text, and where in it they stand: the same for lexicons, bags of words and baselines.

A word is a run of letters, marks and digits; an apostrophe between two of them, straight or curly, belongs to it
("don't" is one word). Of scripts that are written without spaces every character counts as a word. Words are compared
in small letters, with composed accents and straight apostrophes.
"""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import regex

_WORD = regex.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_WITHOUT_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_LETTER = rf"(?!{_WITHOUT_SPACES})[^\W_]"
_SIGNS = regex.compile(r"\S+")
_SEEN = regex.compile(r"\X")
_PART = regex.compile(rf"{_WITHOUT_SPACES}\p{{M}}*|(?:{_LETTER})+(?:['\u2019](?:{_LETTER})+)*")


class Words(NamedTuple):
    """The n words of a text, in its order."""

    texts: list[str]
    """Each word as words are compared."""
    spans: list[tuple[int, int]]
    """The index of the first character of each word, and one past that of its last."""


class Counted(NamedTuple):
    """A word, a phrase or a pair of words that counts where it stands in a text."""

    text: str
    first: int
    """The index of its first word among the text's."""
    end: int
    """One past the index of its last word."""
    contribution: float
    """What it adds to the text's score, here."""


def find_words(text: str) -> Words:
    """The words of a text, with their places."""
    spans = [found.span() for found in _WORD.finditer(text)]
    if not text.isascii():
        spans = [part for start, end in spans for part in _parts(text, start, end)]
    return Words([_compared(text[start:end]) for start, end in spans], spans)


def find_pieces(text: str) -> list[tuple[int, int]]:
    """Where the words of a text stand, and between them runs of signs, such as stops and emoji: all but white space.

    None begins or ends inside of what is seen as one character: a letter with its accents, or an emoji of several.
    """
    pieces: list[tuple[int, int]] = []
    at = 0
    for start, end in [*find_words(text).spans, (len(text), len(text))]:
        pieces += (found.span() for found in _SIGNS.finditer(text, at, start))
        pieces.append((start, end))
        at = end
    return pieces[:-1] if text.isascii() else _widened(text, pieces[:-1])


def _widened(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans, in order, of whole characters as they are seen; those that share one become one span."""
    edges = [0, *(found.end() for found in _SEEN.finditer(text))]
    wide: list[tuple[int, int]] = []
    for span in spans:
        start, end = edges[bisect_right(edges, span[0]) - 1], edges[bisect_left(edges, span[1])]
        if wide and start < wide[-1][1]:
            first = wide.pop()
            start, end = first[0], max(end, first[1])
        wide.append((start, end))
    return wide


def _parts(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Where the words of a run of letters stand, which are several where its script is written without spaces."""
    if text[start:end].isascii():
        return [(start, end)]
    return [found.span() for found in _PART.finditer(text, start, end)]


def _compared(word: str) -> str:
    small = word.lower()
    return small if small.isascii() else unicodedata.normalize("NFC", small.replace("\u2019", "'"))
