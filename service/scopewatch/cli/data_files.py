"""Arguments that say which files hold the pairs and how they are read, and what a run says of rows it left out."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.cli.argument_types import text
from scopewatch.cli.terminal import remark

if TYPE_CHECKING:
    from scopewatch.pairs.columns import Columns
    from scopewatch.pairs.data_files import Reading
    from scopewatch.pairs.left_out import Tally

DATA_HELP = "files, - for standard input, or quoted patterns: JSONL (.jsonl, .jsonl.gz), CSV or Parquet"
SOME_LEFT_OUT = 3
"""The exit code of a run that did its work and left out some rows."""
_PARTS = ("prompt", "response", "messages", "history", "label", "group", "id", "source")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `reading_of`."""
    parser.add_argument("--strict", action="store_true", help="end at the first row that cannot be used")
    add_columns(parser)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `columns_of`."""
    group = parser.add_argument_group("columns (a name, or a path such as output.text)")
    for part in _PARTS:
        group.add_argument(f"--{part}-column", type=text, default=part, metavar="NAME", help=f"holds the {part}")


def reading_of(args: argparse.Namespace) -> "Reading":
    """How the arguments say that files are read."""
    from scopewatch.pairs.data_files import Reading

    return Reading(columns_of(args), strict=args.strict)


def columns_of(args: argparse.Namespace) -> "Columns":
    """Where the arguments say that the parts of a pair stand."""
    from scopewatch.pairs.columns import Columns

    return Columns(**{part: getattr(args, f"{part}_column") for part in _PARTS})


def data_of(names: Sequence[str], reading: "Reading") -> list[Path]:
    """The files of these names and patterns, which can be read.

    Raises:
        DataError: One cannot, or has no column that the arguments name.
    """
    from scopewatch.pairs.data_files import named_files
    from scopewatch.pairs.rows import check_readable

    files = named_files(*names)
    check_readable(files, reading.columns)
    return files


def tell(tally: "Tally", *, did: str, whose: str = "") -> int:
    """Says on standard error which rows were left out, if any were, and how many were read and used.

    Args:
        tally: The rows.
        did: What was done with those that were used.
        whose: The argument that named their files, where there are several.

    Returns:
        The exit code.
    """
    if not tally.left_out:
        return 0
    for line in tally.first_lines:
        remark(line)
    counts = f"read {tally.read:,} rows, {did} {tally.used:,}, left out {tally.left_out:,}: {tally.by_reason}"
    remark(f"scopewatch: {whose}{counts}")
    return SOME_LEFT_OUT
