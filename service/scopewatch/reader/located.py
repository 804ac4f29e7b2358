"""Tokens that know whose text they are of, and where in it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from scopewatch.reader.traced import Piece
from scopewatch.reader.vocabulary import Encoded
from scopewatch.types import Bools, Indices, Int8, Int32, Segment, TokenIds


@dataclass(frozen=True, slots=True)
class Source:
    """A caller's text that tokens may be of."""

    segment: Segment
    turn: int = 0
    """The index in the history, for a text of it."""
    starts: Int32 | None = None
    """Where each character of the text that is read stands in the caller's own; None where the two are the same."""
    ends: Int32 | None = None
    """One past the last code point that the character is made of."""


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
        return type(self)(*(getattr(self, field.name)[which] for field in fields(self)))

    @classmethod
    def joined(cls, parts: "Sequence[Tokens]") -> "Tokens":
        """The parts one behind the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def as_context(self) -> Self:
        """The same tokens, none of which counts."""
        none = np.zeros(len(self), np.int32)
        return type(self)(self.ids, none.astype(np.int8), none, none, none, none.astype(np.bool_))


def locate(encoded: Encoded, length: int, pieces: Sequence[Piece], sources: Sequence[Source]) -> Tokens:
    """Gives each token the caller's text that it overlaps, and its place there.

    A token reaches to where the next one starts elsewhere. So the bytes of one character that fell back to byte tokens
    all have its place, though some tokenizers give an empty offset for all but one of them; and a letter has the place
    of the accents that were composed into it, though its offset leaves them out.

    Args:
        encoded: The tokens of a text.
        length: The number of code points of that text.
        pieces: The stretches of the text that a caller wrote; a source below 0 is of no segment.
        sources: The caller's texts.
    """
    # Of every character: whose text it is of, where in it, and where the stretch begins.
    owner, place, since = (np.full(length + 1, value, np.int32) for value in (-1, 0, 0))
    for start, end, source, offset in pieces:
        owner[start:end] = source
        place[start:end] = np.arange(offset, offset + end - start)
        since[start:end] = start
    position = np.arange(length + 1, dtype=np.int32)
    following = np.minimum.accumulate(np.where(owner >= 0, position, length)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(owner >= 0, position, -1))
    begins = np.minimum(encoded.offsets[:, 0], length)
    ends = np.minimum(_reach(encoded.offsets), length)
    first, last = following[begins], preceding[np.maximum(ends - 1, 0)]
    inside = (first < ends) & ~encoded.control
    first, last = np.where(inside, first, length), np.where(inside, last, length)
    whose = owner[last]
    # A token of two texts is of the later one.
    first = np.where(owner[first] == whose, first, since[last])
    own = [(number, sources[number]) for number in np.unique(whose[inside]).tolist()]
    segments, turns, starts, stops = (np.zeros(len(encoded.ids), np.int32) for _ in range(4))
    for number, source in own:
        mine = whose == number
        segments[mine], turns[mine] = source.segment, source.turn
        from_, to = place[first[mine]], place[last[mine]]
        starts[mine] = from_ if source.starts is None else source.starts[from_]
        stops[mine] = to + 1 if source.ends is None else source.ends[to]
    return Tokens(encoded.ids, segments.astype(np.int8), turns, starts, stops, inside)


def _reach(offsets: Int32) -> Int32:
    """Where each token ends, counting what lies between it and the next token that starts elsewhere."""
    order = np.maximum.accumulate(offsets[:, 0])
    behind = np.append(order, np.iinfo(np.int32).max)[np.searchsorted(order, order, side="right")]
    ends: Int32 = np.maximum(offsets[:, 1], behind)
    return ends
