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
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from scopewatch.errors import DataError
from scopewatch.pairs.columns import Columns, find, listed

STDIN = Path("-")
"""Standard input, in the place of a file: JSONL."""
_MAX_LINE_BYTES = 64 << 20
_READ_AT_ONCE = 256
_LOOKED_AT = 1000
"""The rows of a file in which a column that was named has to be."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row of a file that is not read yet."""

    file: Path
    number: int
    """The row's place in the file, counted from 1; of JSONL and CSV the line."""
    load: Callable[[], object]
    """Reads the row: what it holds, as JSON has it. Raises a ValueError, or a RecursionError, where it cannot."""

    @property
    def place(self) -> str:
        """Where a user finds the row."""
        return f"{self.file}:{self.number}"


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
        try:
            yield from _FORMATS[format_of(file)](file, columns)
        except (OSError, EOFError, zlib.error) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise DataError(f"{file}: cannot be read: {said}") from None


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


def _jsonl_rows(file: Path, _: Columns) -> Iterator[RawRow]:
    with _unpacked(file) as stream:
        number = 0
        while line := stream.readline(_MAX_LINE_BYTES):
            number += 1
            whole = len(line) < _MAX_LINE_BYTES or line.endswith(b"\n")
            if not whole:
                while (rest := stream.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
            # A byte order mark, as some editors write it before the first line of a file, is no part of the row; files
            # that were put together have several.
            if row := line.removeprefix(codecs.BOM_UTF8).strip():
                yield RawRow(file, number, partial(_json, row) if whole else _too_long)


def _json(line: bytes) -> object:
    return json.loads(line.decode())


def _too_long() -> object:
    raise ValueError(f"longer than {_MAX_LINE_BYTES} bytes")


def _csv_rows(file: Path, columns: Columns) -> Iterator[RawRow]:
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


def _parquet_rows(file: Path, columns: Columns) -> Iterator[RawRow]:
    library = arrow()
    if file.suffix == ".gz":
        raise DataError(f"{file}: a compressed Parquet file is not read; unpack it")
    try:
        # Buffered ahead, or mapped, a whole row group would be in memory, which may be the whole file.
        with library.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as source:
            there = source.schema_arrow.names
            if not any(name in there or name.partition(".")[0] in there for name in columns.judged):
                needed = " or ".join(columns.judged[:2])
                raise DataError(f"{file}: has no column {needed}; there are: {listed(there)}")
            number = 0
            for batch in source.iter_batches(_READ_AT_ONCE, columns=[name for name in there if name in columns.read]):
                for index in range(batch.num_rows):
                    number += 1
                    yield RawRow(file, number, partial(_cells, batch, index))
    except (library.core.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from None


def _cells(batch: Any, index: int) -> object:
    return {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}


@dataclass(frozen=True, slots=True)
class Arrow:
    """The library that reads and writes Parquet files, where it is installed."""

    core: Any
    parquet: Any
    """Its Parquet module."""


def arrow() -> Arrow:
    """The library that reads and writes Parquet files.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError("Parquet files need pyarrow: pip install 'scopewatch[calibration]', or use .jsonl") from None
    return Arrow(pa, parquet)


_FORMATS: dict[str, Callable[[Path, Columns], Iterator[RawRow]]] = {
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
    "parquet": _parquet_rows,
}
