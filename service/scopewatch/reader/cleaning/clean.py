"""Reading a text with nothing hidden by odd characters.

Not undone are text that a right-to-left override really reverses, digits and signs that stand for letters (m4y),
letters that are spaced out or upside down, flags, and Latin letters that imitate those of another script.
"""

from dataclasses import dataclass

import numpy as np
import regex

from scopewatch.reader.cleaning.edits import EditedText
from scopewatch.reader.cleaning.invisible import stacked_marks, unseen
from scopewatch.reader.cleaning.letter_case import usual_case
from scopewatch.reader.cleaning.letter_forms import plain_letters, whole_letters
from scopewatch.reader.cleaning.lookalikes import latin_letters
from scopewatch.types import Bools, Int32

_ORDINARY = regex.compile(
    r"[\t\n\r\x20-\x7e\u00a0-\u00ac\u00ae-\u0130\u0132-\u017e"  # of Western and Central Europe
    r"\u2010-\u2027\u2030-\u205e\u20a0-\u20c0\u2190-\u23ff\u2500-\u27bf\U0001f300-\U0001faff]*+"  # signs
)
"""Texts in which no character hides or imitates another: most texts are such, and are known at once."""
_SPELLING = (unseen, whole_letters, plain_letters, stacked_marks, latin_letters)


@dataclass(frozen=True, slots=True)
class OddChars:
    """How many characters of a text hide or imitate letters."""

    invisible_chars: int
    """Characters that are not seen and stand at letters, or cover the letter that they are drawn on."""
    lookalike_chars: int
    """Characters that imitate other letters."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text without what hides or imitates letters, and where each of its characters stands in the original."""

    text: str
    starts: Int32
    """The first code point in the original of each character of `text`, shape (len(text),)."""
    ends: Int32
    """One past the last code point in the original of each character, shape (len(text),)."""
    invisible_chars: int
    """Characters of the original that are not seen and stand at letters, or cover the letter that they are drawn on."""
    lookalike_chars: int
    """Characters of the original that imitate other letters: full-width, mathematical, those of other scripts."""


def clean(text: str) -> Cleaned:
    """The text without what hides or imitates letters, and with capitals where orthography puts them.

    What is clean already comes back as it is.
    """
    spelt = _spelt(EditedText.untouched(text))
    traced = _spelt(spelt.edited(usual_case(spelt.text, _changed(spelt, text))))
    return Cleaned(traced.text, traced.starts, traced.ends, spelt.invisible_chars, spelt.lookalike_chars)


def _changed(spelt: EditedText, text: str) -> Bools:
    """Whether each character of the edited text stands for another that stood there; ligatures stand for several."""
    other = np.array([text[place] != char for place, char in zip(spelt.starts.tolist(), spelt.text, strict=True)], bool)
    alone = np.ones(len(other), bool)
    alone[1:] &= spelt.starts[1:] != spelt.starts[:-1]
    alone[:-1] &= spelt.starts[1:] != spelt.starts[:-1]
    return other & alone


def odd_chars(text: str) -> OddChars:
    """How many characters of the text hide or imitate letters."""
    if _ORDINARY.fullmatch(text):
        return OddChars(0, 0)
    traced = _spelt(EditedText.untouched(text))
    return OddChars(traced.invisible_chars, traced.lookalike_chars)


def _spelt(traced: EditedText) -> EditedText:
    """The text in plain letters; what one step reveals, the others see in the next round."""
    while True:
        before = traced.text
        if _ORDINARY.fullmatch(before):
            return traced
        for step in _SPELLING:
            traced = traced.edited(step(traced.text))
        if traced.text == before:
            return traced
