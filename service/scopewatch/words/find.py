"""The words of a text, and where in it they stand: the same for lexicons, bags of words and baselines.

A word is a run of letters, marks and digits; an apostrophe between two of them, straight or curly, belongs to it
("don't" is one word). Of scripts that are written without spaces every character counts as a word. Words are compared
in small letters, with composed accents and straight apostrophes.
"""

import unicodedata
from typing import NamedTuple

import regex

_WORD = regex.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_WITHOUT_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_LETTER = rf"(?!{_WITHOUT_SPACES})[^\W_]"
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


def _parts(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Where the words of a run of letters stand, which are several where its script is written without spaces."""
    if text[start:end].isascii():
        return [(start, end)]
    return [found.span() for found in _PART.finditer(text, start, end)]


def _compared(word: str) -> str:
    small = word.lower()
    return small if small.isascii() else unicodedata.normalize("NFC", small.replace("\u2019", "'"))
