"""Rows of a result, written and read as JSONL or Parquet."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scopewatch.errors import DataError
from scopewatch.pairs.arrow import arrow, parquet_file
from scopewatch.pairs.columns import Columns
from scopewatch.pairs.rows import open_data, rows_of

_READ_AT_ONCE = 1024


def check_format(file: Path) -> None:
    """Refuses a file whose name does not say JSONL or Parquet, and Parquet where nothing writes it.

    Raises:
        DataError: The name ends in something else, or pyarrow is not installed.
    """
    if file.suffix not in (".jsonl", ".parquet"):
        raise DataError(f"{file}: expected a name that ends in .jsonl or .parquet")
    if file.suffix == ".parquet":
        arrow()


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
    library = arrow()
    pa = library.core
    columns = [(name, pa.type_for_alias(kind)) for name, kind in types.items()]
    schema = pa.schema(columns, metadata={"scopewatch": json.dumps(origin)})
    with library.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))


def json_lines(rows: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """The rows as lines of JSONL."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def result_rows(file: Path, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The rows of a result, read without ever holding a whole file.

    Args:
        file: A file that `row_writer` wrote.
        names: The columns that are read.

    Raises:
        DataError: The file cannot be read, or has no such columns.
    """
    check_format(file)
    if file.suffix == ".parquet":
        yield from _parquet_rows(file, names)
        return
    for row in rows_of([file], Columns()):
        try:
            held = row.load()
            yield {name: held[name] for name in names}  # type: ignore[index]
        except (ValueError, RecursionError, LookupError, TypeError):
            raise DataError(f"{row.place}: expected a row of a result, with {', '.join(names)}") from None


def _parquet_rows(file: Path, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    open_data(file).close()
    with parquet_file(file) as source:
        if missing := [name for name in names if name not in source.schema_arrow.names]:
            raise DataError(f"{file}: has no column {missing[0]}; expected a result of `scopewatch scan`")
        for batch in source.iter_batches(_READ_AT_ONCE, columns=list(names)):
            yield from batch.to_pylist()
