"""Tables of what was measured, as people read them on a terminal and on a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scopewatch.report.excerpts import Excerpt
from scopewatch.report.looks import Look

Cell = str | int | float | Excerpt | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text and numbers; rates and scores are shown with three decimals, and None as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    longest: int = 60
    """The most characters of a text that are shown; an excerpt is as long as it was made."""
    looks: Mapping[str, Look] = field(default_factory=dict)
    """The look of the detectors that stand in the first column, by name: a page shows it beside them."""


def table_of_columns(
    title: str,
    columns: Mapping[str, Sequence[Cell]],
    note: str = "",
    *,
    longest: int = 60,
    looks: Mapping[str, Look] | None = None,
) -> Table:
    """A table of columns of one length, by their names; those are left out in which nothing stands."""
    told = {name: cells for name, cells in columns.items() if any(cell is not None and str(cell) for cell in cells)}
    return Table(title, list(told), list(zip(*told.values(), strict=True)), note, longest, looks or {})


def table_as_text(table: Table) -> str:
    """The table for a terminal: columns are aligned, and numbers stand to the right."""
    rows = [list(table.columns), *([shown(cell, table.longest) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [">" if is_number else "<" for is_number in numeric(table)]
    lines = [
        "  ".join(["", *(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [table.title, *lines, f"  {table.note}"] if line.strip())


def numeric(table: Table) -> list[bool]:
    """Whether each column holds numbers only."""
    return [
        not any(isinstance(row[column], str | Excerpt) for row in table.rows) for column in range(len(table.columns))
    ]


def shown(cell: Cell, longest: int) -> str:
    """The cell as people read it: text of files is cut to the longest allowed, and cannot steer a terminal."""
    match cell:
        case None:
            return "-"
        case int():
            return f"{cell:,}"
        case float():
            return f"{cell:.3f}"
        case Excerpt():
            return _printable(str(cell))
    text = _printable(cell)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _printable(text: str) -> str:
    """The text with a mark in the place of every character that would steer a terminal, or turn a line around."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
