"""A text that is edited while it stays known where each of its characters stood at first."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from scopewatch.types import Int32


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters of a text that give way to others."""

    start: int
    """The index of the first character that goes."""
    end: int
    """One past the last character that goes."""
    text: str
    """What comes in their place; each of its characters stands where all those that go stood."""
    invisible_chars: int = 0
    """How many of the characters that go are not seen, or hide the letter that they are drawn on."""
    lookalike_chars: int = 0
    """How many of the characters that go imitate others."""


@dataclass(frozen=True, slots=True)
class EditedText:
    """A text that was edited, and what its edits were."""

    text: str
    starts: Int32
    """The first code point in the original of each character, shape (len(text),)."""
    ends: Int32
    """One past the last code point in the original of each character, shape (len(text),)."""
    invisible_chars: int = 0
    lookalike_chars: int = 0

    @classmethod
    def untouched(cls, text: str) -> Self:
        """A text before its first edit."""
        places = np.arange(len(text) + 1, dtype=np.int32)
        return cls(text, places[:-1], places[1:])

    def edited(self, edits: Iterable[Edit]) -> "EditedText":
        """The text after edits, which are in the order of the text and do not overlap."""
        made = list(edits)
        if not made:
            return self
        places = [(edit.start, edit.end, len(edit.text)) for edit in made]
        begins, ends, sizes = np.array([*places, (len(self.text), 0, 0)], np.intp).T
        kept_from = np.concatenate(([0], ends[:-1]))
        lengths = np.stack((begins - kept_from, sizes), axis=1).ravel()
        is_kept = np.repeat(np.tile((True, False), len(sizes)), lengths)
        within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        first = np.repeat(np.stack((kept_from, begins), axis=1).ravel(), lengths) + within * is_kept
        last = np.where(is_kept, first, np.repeat(np.repeat(ends - 1, 2), lengths))
        pieces: list[str] = []
        for edit, kept in zip(made, kept_from[:-1], strict=True):
            pieces += (self.text[kept : edit.start], edit.text)
        return EditedText(
            "".join((*pieces, self.text[kept_from[-1] :])),
            self.starts[first],
            self.ends[last],
            self.invisible_chars + sum(edit.invisible_chars for edit in made),
            self.lookalike_chars + sum(edit.lookalike_chars for edit in made),
        )
