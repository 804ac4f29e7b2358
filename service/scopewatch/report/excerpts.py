"""Excerpts: as much of a text as a table has room for, around the places that matter, which are marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

_GAP = "…"
_LONGEST_REST = 40
"""The most characters of a word before or behind the place that is in it."""


class Place(NamedTuple):
    """A place in a text."""

    start: int
    """The index of its first character."""
    end: int
    """One past the index of its last character."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an excerpt."""

    text: str
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Parts of a text, in its order; three dots stand for what is left out."""

    pieces: tuple[Piece, ...]

    def __str__(self) -> str:
        """The excerpt for a terminal: what is marked stands between quotation marks."""
        return "".join(f"«{piece.text}»" if piece.marked else piece.text for piece in self.pieces)


def excerpt(text: str, places: Sequence[Place], *, around: int = 40, most: int = 320) -> Excerpt:
    """Makes an excerpt, on one line; the beginning of the text where no place in it matters.

    Args:
        text: The text.
        places: The places that matter, those that matter most first; they may overlap. Whole words are marked.
        around: How many characters are shown on either side of a place, at most; they begin and end with whole words.
        most: How many characters of the text are shown, about: at most `2 * around` more.
    """
    words = [place for place in (_whole_words(text, place) for place in places) if place.start < place.end]
    shown = _joined(_windows(text, words, around, most) or [Place(0, min(most, len(text)))])
    marks = _joined(words)
    pieces: list[Piece] = []
    for number, window in enumerate(shown):
        if window.start > 0:
            pieces.append(Piece(f" {_GAP} " if number else _GAP))
        pieces += _pieces(text, window, marks)
    if shown[-1].end < len(text):
        pieces.append(Piece(_GAP))
    return Excerpt(tuple(pieces))


def _whole_words(text: str, place: Place) -> Place:
    """The place without white space at its ends, and with the rest of the words that it begins and ends in."""
    inside = text[place.start : place.end].rstrip()
    start, end = place.start + len(inside) - len(inside.lstrip()), place.start + len(inside)
    if start < end:
        before, after = text[max(0, start - _LONGEST_REST) : start + 1], text[end - 1 : end + _LONGEST_REST]
        start -= max(0, _letters(before[::-1]) - 1)
        end += max(0, _letters(after) - 1)
    return Place(start, end)


def _letters(text: str) -> int:
    """How many letters, digits and apostrophes a text begins with."""
    return next((n for n, letter in enumerate(text) if not letter.isalnum() and letter not in "'\u2019"), len(text))


def _windows(text: str, places: Sequence[Place], around: int, most: int) -> list[Place]:
    """What is shown: the surroundings of the first places, as many as there is room for."""
    windows: list[Place] = []
    room = most
    for place in places:
        if any(window.start <= place.start and place.end <= window.end for window in windows):
            continue
        end = place.end
        if end - place.start > room:
            if windows:
                break
            end = place.start + (_last_space(text[place.start : place.start + room + 1]) or room)
        before, after = text[max(0, place.start - around) : place.start], text[end : end + around]
        if len(before) == around:
            before = before[len(before) - _last_space(before[::-1]) :]
        if len(after) == around:
            after = after[: _last_space(after)]
        windows.append(Place(place.start - len(before), end + len(after)))
        room -= windows[-1].end - windows[-1].start
        if room <= 0:
            break
    return windows


def _last_space(text: str) -> int:
    """The index of the last white space of a text; 0 without any."""
    return next((at for at in range(len(text) - 1, 0, -1) if text[at].isspace()), 0)


def _joined(places: Sequence[Place]) -> list[Place]:
    """The places in the order of the text, those that touch made one."""
    joined: list[Place] = []
    for place in sorted(places):
        if joined and place.start <= joined[-1].end:
            joined[-1] = Place(joined[-1].start, max(place.end, joined[-1].end))
        else:
            joined.append(place)
    return joined


def _pieces(text: str, window: Place, marks: Sequence[Place]) -> list[Piece]:
    """The text of a window, parted where marks begin and end."""
    inside = [Place(max(mark.start, window.start), min(mark.end, window.end)) for mark in marks]
    inside = [mark for mark in inside if mark.start < mark.end]
    ends = [window.start, *(end for mark in inside for end in mark), window.end]
    pieces = [Piece(_on_one_line(text[start:end]), marked=bool(n % 2)) for n, (start, end) in enumerate(pairwise(ends))]
    return [piece for piece in pieces if piece.text]


def _on_one_line(text: str) -> str:
    return "".join(" " if letter.isspace() else letter for letter in text)
