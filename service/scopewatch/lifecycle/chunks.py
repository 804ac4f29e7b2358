"""Data files in chunks: the rows that are scored together and saved together."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from scopewatch.pairs.columns import Columns
from scopewatch.pairs.data_files import job_of
from scopewatch.pairs.left_out import LeftOut
from scopewatch.pairs.raw_row import START, Position, RawRow
from scopewatch.pairs.rows import rows_after
from scopewatch.types import ScoreJob


@dataclass(frozen=True, slots=True)
class Item:
    """A row that was read: the pair to score, or why there is none."""

    number: int
    """The row's place in its file, as `RawRow.number`."""
    found: ScoreJob | LeftOut


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of one file, which stand one after the other."""

    file: Path
    number: int
    """How many chunks of the file stand before it."""
    items: tuple[Item, ...]
    """Its rows: none only where the file holds none at all."""
    after: Position
    """The place in the file behind it."""
    is_last: bool
    """Whether the file ends with it."""


@dataclass(frozen=True, slots=True)
class Unread:
    """What of a file is to be scored."""

    file: Path
    rows: int
    """The number of rows of each chunk but the last."""
    first: int = 0
    """The number of the first chunk that is wanted."""
    begin: Position = START
    """Where in the file this chunk begins."""
    done: frozenset[int] = frozenset()
    """The numbers of chunks behind it that are not wanted."""


def chunks_of(unread: Unread, columns: Columns) -> Iterator[Chunk]:
    """Reads the chunks of a file that are wanted.

    Raises:
        DataError: The file cannot be read, or not to its end.
    """
    rows = rows_after(unread.file, columns, unread.begin)
    begin, held = unread.begin, list(islice(rows, unread.rows))
    for number in count(unread.first):
        following = list(islice(rows, unread.rows))
        after = begin.after(held)
        if number not in unread.done:
            yield Chunk(unread.file, number, _items(held, columns), after, not following)
        if not following:
            return
        begin, held = after, following


def _items(rows: list[RawRow], columns: Columns) -> tuple[Item, ...]:
    return tuple(Item(row.number, job_of(row, columns)) for row in rows)
