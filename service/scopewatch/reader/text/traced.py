"""Text that knows which of its characters a caller wrote, through whatever a chat template does with it.

A chat template takes messages apart and puts them together again: it trims, splits at `</think>`, joins, writes JSON.
To search for the messages in what it wrote would be a guess, and one that a caller can mislead. `Traced` is a `str` in
every respect, so a template does with it what it does with any text, and each piece that comes out says which message
it is of and where in it. What the template itself wrote is of no message.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self, SupportsIndex, overload

NO_SEGMENT = -1
"""The source of a caller's text that is read and not scored, such as the arguments of a tool call."""
_JSON_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_CONVERSION = re.compile("(%s|%%)")


class Piece(NamedTuple):
    """A stretch of a text that a caller wrote."""

    start: int
    """The first character of the stretch in the text that holds it."""
    end: int
    """One past the last."""
    source: int
    """The number of the caller's text that the stretch is of."""
    offset: int
    """The place of the first character in that text."""


class Traced(str):
    """A text with its pieces. Methods that keep track are overridden; of all others the result is a plain `str`."""

    __slots__ = ("_pieces",)
    _pieces: tuple[Piece, ...]

    def __new__(cls, text: str, pieces: Iterable[Piece] = ()) -> Self:
        made = super().__new__(cls, text)
        made._pieces = tuple(pieces)
        return made

    @classmethod
    def of(cls, text: str, pieces: Iterable[Piece]) -> "Traced":
        """The text, of which these pieces are a caller's."""
        return cls(text, pieces)

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> str:
        return joined([self] * times)

    __rmul__ = __mul__

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        text = super().__getitem__(key)
        start, stop, step = key.indices(len(self)) if isinstance(key, slice) else _one(key, len(self))
        return self._part(start, stop) if step == 1 else text

    def strip(self, chars: str | None = None, /) -> str:
        return self._part(len(self) - len(super().lstrip(chars)), len(super().rstrip(chars)))

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._part(len(self) - len(super().lstrip(chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._part(0, len(super().rstrip(chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self._part(len(self) - len(super().removeprefix(prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        return self._part(0, len(super().removesuffix(suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(super().rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        whole = self._parts(super().splitlines(keepends=True), "")
        return [line[: len(bare)] for line, bare in zip(whole, super().splitlines(keepends), strict=True)]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._around(*map(len, super().partition(sep)))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._around(*map(len, super().rpartition(sep)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        return joined(_between(self.split(old, count), new)) if old else super().replace(old, new, count)

    def join(self, parts: Iterable[str], /) -> str:
        return joined(_between(parts, self))

    def lower(self) -> str:
        return self._recased(super().lower())

    def upper(self) -> str:
        return self._recased(super().upper())

    def title(self) -> str:
        return self._recased(super().title())

    def capitalize(self) -> str:
        return self._recased(super().capitalize())

    def _recased(self, text: str) -> str:
        return Traced.of(text, self._pieces) if len(text) == len(self) else text

    def _around(self, before: int, sep: int, after: int) -> tuple[str, str, str]:
        end = before + sep + after
        return self._part(0, before), self._part(before, before + sep), self._part(before + sep, end)

    def _parts(self, parts: list[str], sep: str | None) -> list[str]:
        """The parts of this text, which stand in it in this order, `sep` apart; white space apart without it."""
        found: list[str] = []
        place = 0
        for part in parts:
            start = str.index(self, part, place)
            found.append(self._part(start, start + len(part)))
            place = start + len(part) + len(sep or "")
        return found

    def _part(self, start: int, stop: int) -> str:
        text = super().__getitem__(slice(start, stop))
        inside = [piece for piece in self._pieces if piece.start < stop and piece.end > start] if text else ()
        return Traced.of(text, (_shifted(piece, start, stop) for piece in inside))


@overload
def traced(value: str, source: int) -> Traced: ...
@overload
def traced(value: Any, source: int) -> Any: ...
def traced(value: Any, source: int) -> Any:
    """A value of JSON's kinds, in which every text, keys included, is all a caller's, of one source."""
    if isinstance(value, str):
        return Traced.of(value, [Piece(0, len(value), source, 0)] if value else [])
    if isinstance(value, Mapping):
        return {traced(key, source): traced(item, source) for key, item in value.items()}
    return [traced(item, source) for item in value] if isinstance(value, list | tuple) else value


def pieces_of(text: str) -> tuple[Piece, ...]:
    """The pieces of a text that a caller wrote, in order."""
    return text._pieces if isinstance(text, Traced) else ()  # noqa: SLF001 - a template sees no private attributes


def joined(parts: Iterable[str]) -> str:
    """The parts one behind the other, as `"".join` puts them, with their pieces."""
    parts = list(parts)
    pieces: list[Piece] = []
    place = 0
    for part in parts:
        for start, end, source, offset in pieces_of(part):
            last = pieces[-1] if pieces else None
            if (
                last
                and last.end == start + place
                and (last.source, last.offset + last.end - last.start) == (source, offset)
            ):
                pieces[-1] = Piece(last.start, end + place, source, last.offset)
            else:
                pieces.append(Piece(start + place, end + place, source, offset))
        place += len(part)
    text = "".join(parts)
    return Traced.of(text, pieces) if pieces else text


def formatted(form: Any, values: Any) -> Any:
    """What `form % values` gives; of a form with plain `%s` alone, with the pieces of what it puts in."""
    text = form % values
    parts = _CONVERSION.split(form) if isinstance(form, str) else []
    if not parts or any("%" in part for part in parts[::2]):
        return text
    given = iter(values if isinstance(values, tuple) else (values,))
    return joined(str(next(given)) if part == "%s" else "%" if part == "%%" else part for part in parts)


def traced_json(value: Any, **options: Any) -> str:
    """What `json.dumps` writes with these options, with the pieces of the texts in it."""
    text = json.dumps(value, **options)
    parts: list[str] = []
    place = 0
    for own, written in zip(_strings(value, options.get("sort_keys", False)), _JSON_STRING.finditer(text), strict=True):
        parts += (text[place : written.start(1)], _escaped(own, written[1], options.get("ensure_ascii", True)))
        place = written.end(1)
    return joined([*parts, text[place:]])


def _strings(value: Any, sort_keys: bool) -> Iterator[str]:
    """Every text that JSON writes for a value, in the order in which it is written."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in sorted(value.items()) if sort_keys else value.items():
            # Keys that are numbers are written as texts.
            yield key if isinstance(key, str) else ""
            yield from _strings(item, sort_keys)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, sort_keys)


def _escaped(own: str, written: str, ensure_ascii: bool) -> str:
    """What JSON wrote for a text, with the text's pieces."""
    if written == own or not pieces_of(own):
        return Traced.of(written, pieces_of(own))
    letters = []
    for letter in own:
        escape = json.dumps(letter, ensure_ascii=ensure_ascii)[1:-1]
        # Each character of an escape is that of the letter it stands for.
        piece = pieces_of(letter)
        letters.append(Traced.of(escape, (Piece(i, i + 1, *piece[0][2:]) for i in range(len(escape)) if piece)))
    return joined(letters)


def _between(parts: Iterable[str], separator: str) -> Iterator[str]:
    for number, part in enumerate(parts):
        if number:
            yield separator
        yield part


def _one(key: SupportsIndex, length: int) -> tuple[int, int, int]:
    place = key.__index__() % length
    return place, place + 1, 1


def _shifted(piece: Piece, start: int, stop: int) -> Piece:
    """The part of a piece that lies in a slice, counted from the slice's start."""
    first = max(piece.start, start)
    return Piece(first - start, min(piece.end, stop) - start, piece.source, piece.offset + first - piece.start)
