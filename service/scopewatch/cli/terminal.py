"""What is different where a person reads: looks, and characters that would steer the terminal.

Where output goes into a pipe or a file nothing is different, so that programs can read it.
"""

import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from scopewatch.config import wants_plain

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for tab and newline, and those that turn the direction of what is read."""


def is_read_by_people(stream: TextIO) -> bool:
    """Whether a stream is a terminal."""
    return stream.isatty()


def takes_looks(stream: TextIO) -> bool:
    """Whether a stream is a terminal that takes colours, and is to be given them."""
    return is_read_by_people(stream) and not wants_plain()


def harmless(text: str) -> str:
    """The text with an escape in the place of every character that would steer a terminal."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def remark(text: str) -> None:
    """Says something on standard error; what the text quotes of a file or a reply cannot steer the terminal there."""
    print(harmless(text) if is_read_by_people(sys.stderr) else text, file=sys.stderr)


class Harmless(io.TextIOBase):
    """Standard output where it is a terminal: what is printed cannot steer it, whoever wrote the text.

    Args:
        terminal: The stream of the terminal.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal

    def write(self, text: str) -> int:
        """Writes a text without what would steer the terminal."""
        self._terminal.write(harmless(text))
        return len(text)

    def flush(self) -> None:
        self._terminal.flush()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._terminal.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._terminal.encoding

    @property
    def terminal(self) -> TextIO:
        """The stream itself, for looks, which are made of such characters."""
        return self._terminal


def show_table(stream: Any, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Shows a table on a terminal, as wide as that is; its cells are text and nothing else, not markup.

    Args:
        stream: The terminal, or `Harmless` around it.
        columns: The names of the columns.
        rows: The cells of each row.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    console = Console(file=getattr(stream, "terminal", stream), no_color=wants_plain(), highlight=False, markup=False)
    console.print(table)
