"""Types of arguments that several commands have, and a check of the files that they write."""

import argparse
import re
from pathlib import Path

from scopewatch.errors import DataError


def check_written(*files: Path | None) -> None:
    """Refuses, before any work is done, files that could not be written after it.

    Raises:
        DataError: A file is a folder, or would lie in none.
    """
    for file in filter(None, files):
        if not file.parent.is_dir():
            raise DataError(f"{file}: there is no folder {file.parent}")
        if file.is_dir():
            raise DataError(f"{file}: is a folder; name a file to write")


def text(argument: str) -> str:
    """Argument type: valid text."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("not valid UTF-8") from None
    return argument


def count(argument: str) -> int:
    """Argument type: a number of at least 1."""
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a number of at least 1")
    return int(argument)


def share(argument: str) -> float:
    """Argument type: a share between 0 and 1."""
    try:
        share = float(argument)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a share between 0 and 1, such as 0.01")
    return share


def indices(argument: str) -> list[int]:
    """Argument type: feature indices, such as 1,5."""
    try:
        found = [int(part) for part in argument.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected numbers split by commas, such as 1,5") from None
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"{argument!r}: a feature index is not negative")
    return found


def valid_name(argument: str) -> str:
    """Argument type: a name as a watchlist has it."""
    from scopewatch.sources import NAME

    if not re.fullmatch(NAME, argument):
        raise argparse.ArgumentTypeError(
            f"{argument!r}: expected a letter, then at most 63 letters, digits, '_', '.' and '-'"
        )
    return argument
