"""The library that reads and writes Parquet files, and the rows of such files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scopewatch.errors import DataError
from scopewatch.pairs.columns import Columns, listed
from scopewatch.pairs.raw_row import Position, RawRow

_READ_AT_ONCE = 256


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


@contextmanager
def parquet_file(file: Path, **options: object) -> Iterator[Any]:
    """A Parquet file, open to be read.

    Args:
        file: Its name.
        options: Further arguments of `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: It cannot be read, whenever that turns out.
    """
    library = arrow()
    try:
        with library.parquet.ParquetFile(file, **options) as source:
            yield source
    except (library.core.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from None


def parquet_rows(file: Path, columns: Columns, begin: Position) -> Iterator[RawRow]:
    """The rows of a Parquet file behind a place in it; row groups that lie before it are not read."""
    if file.suffix == ".gz":
        raise DataError(f"{file}: a compressed Parquet file is not read; unpack it")
    # Buffered ahead, or mapped, a whole row group would be in memory, which may be the whole file.
    with parquet_file(file, buffer_size=1 << 20, pre_buffer=False) as source:
        there = source.schema_arrow.names
        if not any(name in there or name.partition(".")[0] in there for name in columns.judged):
            needed = " or ".join(columns.judged[:2])
            raise DataError(f"{file}: has no column {needed}; there are: {listed(there)}")
        groups, number = _groups_from(source.metadata, begin.rows)
        wanted = [name for name in there if name in columns.read]
        for batch in source.iter_batches(_READ_AT_ONCE, row_groups=groups, columns=wanted):
            for index in range(batch.num_rows):
                number += 1
                if number > begin.rows:
                    yield RawRow(file, number, partial(_cells, batch, index))


def _groups_from(metadata: Any, rows: int) -> tuple[list[int], int]:
    """The row groups of a Parquet file that hold rows behind the first `rows`, and the number of rows before them."""
    before = 0
    for group in range(metadata.num_row_groups):
        held = metadata.row_group(group).num_rows
        if before + held > rows:
            return list(range(group, metadata.num_row_groups)), before
        before += held
    return [], before


def _cells(batch: Any, index: int) -> object:
    return {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def parquet_count(file: Path) -> int:
    """The number of rows of a Parquet file."""
    with parquet_file(file) as source:
        return int(source.metadata.num_rows)
