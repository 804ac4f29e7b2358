"""Types of arguments that several commands have, and checks of the files that they read and write."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.errors import DataError

if TYPE_CHECKING:
    from scopewatch.identity import FeatureKey


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
        if not os.access(file.parent, os.W_OK):
            raise DataError(f"{file}: nothing may be written in folder {file.parent}")


def check_folder(folder: Path) -> None:
    """Refuses, before any work is done, a folder that is not there and could not be made, or that nothing may go into.

    Raises:
        DataError: The folder, or one that it would lie in, is a file or may not be written.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise DataError(f"{folder}: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise DataError(f"{folder}: nothing may be written in folder {there}")


def check_read(*files: Path | None) -> None:
    """Refuses, before any work is done, files that cannot be read.

    Raises:
        DataError: A file is not there, or may not be read.
    """
    for file in filter(None, files):
        try:
            file.open("rb").close()
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None


def text_of(file: Path) -> str:
    """The text of a file, or of standard input where its name is `-`.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def text(argument: str) -> str:
    """Argument type: valid text."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("not valid UTF-8") from None
    return argument


def said(argument: str) -> str:
    """Argument type: text with more than white space in it."""
    if not text(argument).strip():
        raise argparse.ArgumentTypeError("is empty; there is nothing to score")
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


def features(argument: str) -> "tuple[FeatureKey, ...]":
    """Argument type: features, each with the name of its SAE, such as sae/1,sae/5."""
    from scopewatch.identity import FeatureKey

    found = []
    for part in text(argument).split(","):
        sae, _, index = part.strip().rpartition("/")
        if not sae or not index.isdecimal():
            raise argparse.ArgumentTypeError(
                f"{part!r}: expected the SAE's name and a feature's index, such as sae/7957"
            )
        found.append(FeatureKey(sae, int(index)))
    if twice := [str(key) for key in dict.fromkeys(found) if found.count(key) > 1]:
        raise argparse.ArgumentTypeError(f"{', '.join(twice)}: is named twice")
    if len({key.sae for key in found}) > 1:
        raise argparse.ArgumentTypeError(
            f"{argument!r}: names features of several SAEs; make an indicator of each one's, and --combine them"
        )
    return tuple(found)


def valid_name(argument: str) -> str:
    """Argument type: a name as a watchlist has it."""
    from scopewatch.sources import NAME

    if not re.fullmatch(NAME, argument):
        raise argparse.ArgumentTypeError(
            f"{argument!r}: expected a letter, then at most 63 letters, digits, '_', '.' and '-'"
        )
    return argument
