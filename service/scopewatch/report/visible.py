"""Texts of strangers as people may look at them: unseen characters, and those that steer, have their numbers shown."""

import html
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

_BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that are drawn as nothing."""
_JOINERS = "\u200c\u200d"
_MOST_COMBINING = 6
"""How many marks in a row may be drawn onto one letter; more of them would run into the lines above and below."""


@dataclass(frozen=True, slots=True)
class Run:
    """Letters that are shown as they are, or one unseen character, several times in a row."""

    text: str
    unseen: str = ""
    """The number of the character, such as U+202E; empty for letters that are shown as they are."""

    @property
    def mark(self) -> str:
        """What is shown of an unseen character."""
        return self.unseen if len(self.text) == 1 else f"{self.unseen} x{len(self.text)}"


def runs(text: str) -> Iterator[Run]:
    """A text in runs of what is shown as it is and of what is not."""
    if text.isascii() and text.isprintable():
        yield Run(text)
        return
    for unseen, places in groupby(range(len(text)), key=lambda at: _unseen(text, at)):
        yield Run("".join(text[at] for at in places), unseen)


def visible(text: str) -> str:
    """A text whose unseen characters are replaced by their numbers in brackets; lines and tabs stay."""
    return "".join(f"[{run.mark}]" if run.unseen else run.text for run in runs(text))


def visible_html(text: str) -> str:
    """A text as HTML, in which each unseen character stands as its number in a box."""
    return "".join(
        f'<span class="u">{run.mark}</span>' if run.unseen else html.escape(run.text, quote=False) for run in runs(text)
    )


def one_line(text: str, longest: int) -> str:
    """A text on one line, cut to the longest allowed, its unseen characters replaced by their numbers."""
    flat = " ".join(text[: 4 * longest].split())
    shown = visible(flat)
    return shown if len(shown) <= longest and len(text) <= 4 * longest else f"{shown[: longest - 1]}…"


def _unseen(text: str, at: int) -> str:
    """The number of the character at a place, if it is not shown as it is."""
    letter = text[at]
    if (letter.isprintable() and letter not in _BLANK and not _piles_up(text, at)) or _shapes(text, at):
        return ""
    return f"U+{ord(letter):04X}"


def _piles_up(text: str, at: int) -> bool:
    """Whether a mark is one of too many on one letter."""
    before = text[max(0, at - _MOST_COMBINING) : at + 1]
    return len(before) > _MOST_COMBINING and all(unicodedata.category(letter)[0] == "M" for letter in reversed(before))


def _shapes(text: str, at: int) -> bool:
    """Whether a character that is not printable is wanted: a line, a tab, a space, what joins emoji or letters."""
    letter, after = text[at], text[at + 1 : at + 2]
    if letter in _JOINERS:
        before = text[at - 1 : at] if at else ""
        return all(side.isprintable() and not side.isascii() for side in (before, after) if side) and bool(
            before and after
        )
    return letter in "\n\t" or (letter == "\r" and after == "\n") or unicodedata.category(letter) == "Zs"
