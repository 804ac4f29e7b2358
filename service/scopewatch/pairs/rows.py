"""Rows of JSONL, CSV and Parquet files of any size, read without ever holding a whole file."""

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from scopewatch.errors import DataError
from scopewatch.pairs.arrow import parquet_count, parquet_rows
from scopewatch.pairs.columns import Columns, find, listed
from scopewatch.pairs.raw_row import START, Position, RawRow

STDIN = Path("-")
"""Standard input, in the place of a file: JSONL."""
_MAX_LINE_BYTES = 64 << 20
_COUNTED_AT_ONCE = 1 << 20
_LOOKED_AT = 1000
"""The rows of a file in which a column that was named has to be."""


def digest_of(file: Path) -> str:
    """SHA-256 of a data file, in hex.

    Raises:
        DataError: The file cannot be read.
    """
    with open_data(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_data(file: Path) -> io.BufferedReader:
    """A data file, opened to be read from its start; standard input can be read again, too.

    Raises:
        DataError: It cannot be opened.
    """
    try:
        if file == STDIN:
            stream = os.fdopen(os.dup(_saved(sys.stdin.buffer).fileno()), "rb")
            stream.seek(0)
            return stream
        return file.open("rb")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None


def rows_of(files: Iterable[Path], columns: Columns) -> Iterator[RawRow]:
    """The rows of files, one after the other; blank lines are no rows, but are counted.

    Args:
        files: Files by the names of `format_of`.
        columns: The columns that are read of a table.

    Raises:
        DataError: A file cannot be read, or not to its end.
    """
    for file in files:
        yield from rows_after(file, columns, START)


def rows_after(file: Path, columns: Columns, begin: Position) -> Iterator[RawRow]:
    """The rows of a file behind a place in it: what lies before it is skipped, in JSONL and Parquet without reading it.

    Args:
        file: A file by the names of `format_of`.
        columns: The columns that are read of a table.
        begin: Where to begin.

    Raises:
        DataError: The file cannot be read, or not to its end.
    """
    try:
        yield from _FORMATS[format_of(file)](file, columns, begin)
    except (OSError, EOFError, zlib.error) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{file}: cannot be read: {said}") from None


def most_rows(file: Path) -> int:
    """The number of rows of a file, or a somewhat higher one where lines are no rows of their own.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        if format_of(file) == "parquet":
            return parquet_count(file)
        with _unpacked(file) as stream:
            lines, last = 0, b"\n"
            while data := stream.read(_COUNTED_AT_ONCE):
                lines, last = lines + data.count(b"\n"), data[-1:]
            return lines + (last != b"\n")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from None


def format_of(file: Path) -> str:
    """The format that a file's name says: `parquet`, `csv`, or else `jsonl`, which may be compressed (`.gz`)."""
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    return suffix[1:] if suffix in (".parquet", ".csv") else "jsonl"


def check_readable(files: Iterable[Path], columns: Columns) -> None:
    """Refuses what would fail only after the engine is loaded.

    Raises:
        DataError: A file cannot be read, or none of its first rows has a column that was named.
    """
    for file in files:
        rows = islice(rows_of([file], columns), _LOOKED_AT if columns.renamed else 1)
        if not columns.renamed:
            next(rows, None)
            continue
        missing, there, some = dict(columns.renamed), dict[str, None](), False
        for row in rows:
            if not missing:
                break
            if isinstance(held := _loaded(row), dict):
                some = True
                there |= dict.fromkeys(held)
                missing = {
                    part: name for part, name in missing.items() if find(held, name) is None and name not in held
                }
        if some and missing:
            flags = ", ".join(f"--{part}-column {name}" for part, name in missing.items())
            raise DataError(f"{file}: has no column for {flags}; there are: {listed(there)}")


def _loaded(row: RawRow) -> object:
    try:
        return row.load()
    except (ValueError, RecursionError):
        return None


@lru_cache(maxsize=1)
def _saved(stream: IO[bytes]) -> IO[bytes]:
    """What the stream holds, saved in a file without a name: it is looked at, counted and read."""
    saved = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process, which has one standard input
    shutil.copyfileobj(stream, saved)
    saved.flush()
    return saved


def _unpacked(file: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file)) if file.suffix == ".gz" else open_data(file)


def _jsonl_rows(file: Path, _: Columns, begin: Position) -> Iterator[RawRow]:
    with _unpacked(file) as stream:
        number, end = begin.number, begin.end
        stream.seek(end)
        while line := stream.readline(_MAX_LINE_BYTES):
            number, end = number + 1, end + len(line)
            whole = len(line) < _MAX_LINE_BYTES or line.endswith(b"\n")
            if not whole:
                while rest := stream.readline(_MAX_LINE_BYTES):
                    end += len(rest)
                    if rest.endswith(b"\n"):
                        break
            # A byte order mark, as some editors write it before the first line of a file, is no part of the row; files
            # that were put together have several.
            if row := line.removeprefix(codecs.BOM_UTF8).strip():
                yield RawRow(file, number, partial(_json, row) if whole else _too_long, end)


def _json(line: bytes) -> object:
    return json.loads(line.decode())


def _too_long() -> object:
    raise ValueError(f"longer than {_MAX_LINE_BYTES} bytes")


def _csv_rows(file: Path, columns: Columns, begin: Position) -> Iterator[RawRow]:
    # A line may begin within a cell: what comes before has to be read to know.
    yield from islice(_all_csv_rows(file, columns), begin.rows, None)


def _all_csv_rows(file: Path, columns: Columns) -> Iterator[RawRow]:
    csv.field_size_limit(_MAX_LINE_BYTES)
    with (
        _unpacked(file) as stream,
        io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="") as lines,
    ):
        # Files that were put together have a byte order mark, and the names again, before the rows of each.
        reader = csv.DictReader(line.removeprefix("\ufeff") for line in lines)
        try:
            for cells in reader:
                if all(cell == name for name, cell in cells.items()):
                    continue
                # The line on which the row begins; some of its cells may hold further ones.
                line = reader.line_num - sum(cell.count("\n") for cell in cells.values() if isinstance(cell, str))
                yield RawRow(file, line, partial(_csv_cells, cells, columns.label))
        except csv.Error as error:
            raise DataError(f"{file}:{reader.line_num}: not CSV: {error}") from None


def _csv_cells(cells: dict[str, Any], label: str) -> object:
    """The cells that hold something; a label is a number, though CSV has only text."""
    if None in cells:
        raise ValueError("has more cells than the first line has names")
    for cell in cells.values():
        if cell and any("\udc80" <= letter <= "\udcff" for letter in cell):
            raise ValueError("not UTF-8; save the file as UTF-8")
    found = {name: cell for name, cell in cells.items() if cell}
    if found.get(label) in ("0", "1"):
        found[label] = int(found[label])
    return found


_FORMATS: dict[str, Callable[[Path, Columns, Position], Iterator[RawRow]]] = {
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
    "parquet": parquet_rows,
}
