"""A row of a file that is not read yet, and places between rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row of a file that is not read yet."""

    file: Path
    number: int
    """The row's place in the file, counted from 1; of JSONL and CSV the line."""
    load: Callable[[], object]
    """Reads the row: what it holds, as JSON has it. Raises a ValueError, or a RecursionError, where it cannot."""
    end: int = 0
    """The byte behind the row in the file, unpacked, where JSONL can be entered again; 0 in other formats."""

    @property
    def place(self) -> str:
        """Where a user finds the row."""
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two rows of a file."""

    rows: int = 0
    """The number of rows before it."""
    number: int = 0
    """The `RawRow.number` of the last of them."""
    end: int = 0
    """The `RawRow.end` of the last of them."""

    def after(self, rows: Sequence[RawRow]) -> "Position":
        """The place behind rows that follow this one."""
        return Position(self.rows + len(rows), rows[-1].number, rows[-1].end) if rows else self


START = Position()
