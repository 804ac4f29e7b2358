"""Tokens that know whose text they are of, and where in it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from scopewatch.reader.text.traced import Piece
from scopewatch.reader.text.vocabulary import Encoded
from scopewatch.types import Bools, Indices, Int8, Int32, ReadText, TokenIds


@dataclass(frozen=True, slots=True)
class Tokens:
    """Some tokens in a row; all arrays have shape (n_tokens,)."""

    ids: TokenIds
    segments: Int8
    """The segment that a token is of, as far as truncation is concerned."""
    turns: Int32
    starts: Int32
    """The first code point of each token in its text; 0 for those of no segment."""
    ends: Int32
    scored: Bools
    """Whether the token counts; control tokens do not, whoever wrote them."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, which: slice | Bools | Indices) -> Self:
        # One by one: to ask for the names costs several times what the slices do.
        return type(self)(
            self.ids[which],
            self.segments[which],
            self.turns[which],
            self.starts[which],
            self.ends[which],
            self.scored[which],
        )

    @classmethod
    def joined(cls, parts: "Sequence[Tokens]") -> "Tokens":
        """The parts one behind the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def as_context(self) -> Self:
        """The same tokens, none of which counts."""
        none = np.zeros(len(self), np.int32)
        return type(self)(self.ids, none.astype(np.int8), none, none, none, none.astype(np.bool_))


def locate(encoded: Encoded, pieces: Sequence[Piece], texts: Sequence[ReadText]) -> Tokens:
    """Gives each token the caller's text that it overlaps, and its place there.

    A token reaches to where the next one starts elsewhere. So the bytes of one character that fell back to byte tokens
    all have its place, though some tokenizers give an empty offset for all but one of them; and a letter has the place
    of the accents that were composed into it, though its offset leaves them out.

    Args:
        encoded: The tokens of a text.
        pieces: The stretches of the text that a caller wrote, in order; a source below 0 is of no segment.
        texts: The caller's texts.
    """
    own = [piece for piece in pieces if piece.source >= 0] or [Piece(0, 0, 0, 0)]
    piece_starts, piece_ends, piece_sources, offsets = np.array(own, np.int32).T
    begins, ends = encoded.offsets[:, 0], _reach(encoded.offsets)
    # The first piece that ends behind the token's beginning, and the last that starts before its end.
    first = np.searchsorted(piece_ends, begins, side="right")
    last = np.searchsorted(piece_starts, ends, side="left") - 1
    inside = (first <= last) & ~encoded.control
    first, last = np.where(inside, first, 0), np.where(inside, last, 0)
    # A token of two texts is of the later one.
    whose = piece_sources[last]
    first = np.where(piece_sources[first] == whose, first, last)
    starts = np.maximum(begins - piece_starts[first], 0) + offsets[first]
    stops = np.maximum(np.minimum(ends, piece_ends[last]) - piece_starts[last] + offsets[last], starts + 1)
    for number, text in enumerate(texts):
        if text.starts is not None and text.ends is not None:
            mine = inside & (whose == number)
            starts[mine], stops[mine] = text.starts[starts[mine]], text.ends[stops[mine] - 1]
    segments = np.array([text.segment for text in texts], np.int8)
    turns = np.array([text.turn for text in texts], np.int32)
    return Tokens(encoded.ids, segments[whose] * inside, turns[whose], starts, stops, inside)


def _reach(offsets: Int32) -> Int32:
    """Where each token ends, counting what lies between it and the next token that starts elsewhere."""
    order = np.maximum.accumulate(offsets[:, 0])
    behind = np.append(order, np.iinfo(np.int32).max)[np.searchsorted(order, order, side="right")]
    ends: Int32 = np.maximum(offsets[:, 1], behind)
    return ends
