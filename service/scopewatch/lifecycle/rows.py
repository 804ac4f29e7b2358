"""Rows of JSONL and Parquet files of any size, read and written without ever holding a whole file."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from scopewatch.errors import DataError

Row = tuple[int, Callable[[], object]]
"""The row's number in the file, counted from 1, and what reads it or raises a ValueError or RecursionError."""
_MAX_LINE_BYTES = 64 << 20
_READ_AT_ONCE = 256


def check_format(file: Path) -> None:
    """Refuses a file whose name does not say JSONL or Parquet, and Parquet where nothing reads it.

    Raises:
        DataError: The name ends in something else, or pyarrow is not installed.
    """
    if file.suffix not in (".jsonl", ".parquet"):
        raise DataError(f"{file}: expected a name that ends in .jsonl or .parquet")
    if file.suffix == ".parquet":
        _pyarrow()


def read_rows(file: Path, columns: Sequence[str], needed: str) -> Iterator[Row]:
    """The rows of a file; blank lines of JSONL are no rows, but are counted.

    Args:
        file: A file that `check_format` lets pass.
        columns: The columns of a Parquet file that are read.
        needed: The column that a Parquet file must have.

    Raises:
        DataError: The file is no Parquet file, or one without that column.
    """
    return _parquet_rows(file, columns, needed) if file.suffix == ".parquet" else _lines(file)


@contextmanager
def row_writer(
    file: Path, suffix: str, types: Mapping[str, str], origin: Mapping[str, str]
) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Writes a file by groups of rows.

    Args:
        file: The file, which is replaced if it exists.
        suffix: The format: `.jsonl` or `.parquet`.
        types: What Arrow calls the type of each column, by the column's name.
        origin: What made the rows: said once in the metadata of Parquet, key `scopewatch`, and in every row of JSONL.
    """
    if suffix == ".jsonl":
        with file.open("w", encoding="utf-8") as stream:
            yield lambda rows: stream.writelines(json_lines({**row, **origin} for row in rows))
        return
    pa, pq = _pyarrow()
    columns = [(name, pa.type_for_alias(kind)) for name, kind in types.items()]
    schema = pa.schema(columns, metadata={"scopewatch": json.dumps(origin)})
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))


def json_lines(rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """The rows as lines of JSONL."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _lines(file: Path) -> Iterator[Row]:
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(_MAX_LINE_BYTES):
            number += 1
            whole = len(line) < _MAX_LINE_BYTES or line.endswith(b"\n")
            if not whole:
                while (rest := stream.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
            if line.strip():
                yield number, partial(json.loads, line) if whole else _too_long


def _too_long() -> object:
    raise ValueError(f"longer than {_MAX_LINE_BYTES} bytes")


def _parquet_rows(file: Path, columns: Sequence[str], needed: str) -> Iterator[Row]:
    pa, pq = _pyarrow()
    try:
        # Buffered ahead, or mapped, a whole row group would be in memory, which may be the whole file.
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as source:
            there = source.schema_arrow.names
            if needed not in there:
                raise DataError(f"{file}: has no column {needed}; there are: {', '.join(there) or 'none'}")
            number = 0
            for batch in source.iter_batches(_READ_AT_ONCE, columns=[name for name in columns if name in there]):
                for index in range(batch.num_rows):
                    number += 1
                    yield number, partial(_cells, batch, index)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from None


def _cells(batch: Any, index: int) -> object:
    return {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError("Parquet files need pyarrow: pip install 'scopewatch[calibration]', or use .jsonl") from None
    return pa, parquet
