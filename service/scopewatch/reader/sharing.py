"""Texts of one row that begin alike: what they share stands there once, and they go on from it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from scopewatch.reader.prefixes import BLOCK, Reading


def side_by_side(readings: Sequence[Reading]) -> list[int]:
    """An order in which texts that begin alike are neighbours; others stay in theirs.

    Returns:
        The indices of the texts.
    """
    first: dict[bytes, int] = {}
    for number, reading in enumerate(readings):
        for key in reading.keys:
            first.setdefault(key, number)
    # Each block stands for the first text that has it, and a text's end for itself.
    return sorted(range(len(readings)), key=lambda number: [*(first[key] for key in readings[number].keys), number])


def shared_rows(readings: Sequence[Reading], most_tokens: int) -> Iterator[Sequence[Reading]]:
    """Neighbouring texts that have at most `most_tokens` tokens together, or one text that alone has more.

    What neighbours share counts once. What is known counts too: it takes no computing, but memory.
    """
    start = tokens = 0
    for number, reading in enumerate(readings):
        shared = BLOCK * _common(readings[number - 1], reading) if start < number else 0
        if start < number and tokens + len(reading.ids) - shared > most_tokens:
            yield readings[start:number]
            start, tokens, shared = number, 0, 0
        tokens += len(reading.ids) - shared
    if readings:
        yield readings[start:]


def distinct_tokens(readings: Sequence[Reading]) -> int:
    """The number of tokens of neighbouring texts, those that they share counted once."""
    shared = sum(_common(one, other) for one, other in pairwise(readings))
    return sum(len(reading.ids) for reading in readings) - BLOCK * shared


def known_tokens(readings: Sequence[Reading]) -> int:
    """The number of tokens that are known of neighbouring texts, those that they share counted once."""
    shared = sum(min(_common(one, other), len(one.known), len(other.known)) for one, other in pairwise(readings))
    return BLOCK * (sum(len(reading.known) for reading in readings) - shared)


def with_beginnings(readings: Sequence[Reading]) -> list[Reading]:
    """A row's texts with the beginnings that neighbours share, as texts of their own.

    Returns:
        Copies of the texts in their order, each behind the beginnings it goes on from (`Reading.parent`), which may go
        on from others in their turn.
    """
    return list(_grown(readings, None))


def _grown(readings: Sequence[Reading], parent: Reading | None) -> Iterator[Reading]:
    """The same for texts that all go on from `parent`."""
    start = 0
    while start < len(readings):
        reading = readings[start]
        depth = len(parent.keys) if parent else len(reading.known)
        stop = start + 1
        while stop < len(readings) and _alike(reading, readings[stop], depth, known=parent is None):
            stop += 1
        known = [] if parent else reading.known
        if stop == start + 1:
            yield replace(reading, known=known, parent=parent, wanted={})
        else:
            common = min(_common(reading, other) for other in readings[start + 1 : stop])
            keys = reading.keys[:common]
            node = Reading(reading.ids[: BLOCK * common], keys, common, known, parent, shared=True)
            yield node
            yield from _grown(readings[start:stop], node)
        start = stop


def _alike(one: Reading, other: Reading, depth: int, *, known: bool) -> bool:
    """Whether two texts are equal up to the end of block `depth`, behind equally many known ones."""
    if known and len(one.known) != len(other.known):
        return False
    return one.keys[depth : depth + 1] == other.keys[depth : depth + 1] != ()


def _common(one: Reading, other: Reading) -> int:
    """The number of leading blocks that two texts share."""
    least = min(len(one.keys), len(other.keys))
    return next((number for number in range(least) if one.keys[number] != other.keys[number]), least)
