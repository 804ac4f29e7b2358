"""The directory of a known reader in the cache: where it lies, and whether it is whole."""

import hashlib
import json
from pathlib import Path

from scopewatch.errors import ReaderError
from scopewatch.known_readers.table import known

ORIGIN = "origin.json"
"""What says of a directory what it was made of, and which files it has."""
MAKING = 1
"""The version of how `conversion` makes a directory; another one makes another directory."""


def place(name: str, folder: Path) -> Path:
    """Where the directory of a known reader lies, or would lie.

    Args:
        name: The reader's name.
        folder: The folder of all known readers.

    Raises:
        ReaderError: No reader is known by the name.
    """
    made_of = f"{known(name).file_sha256} {MAKING}"
    return folder / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def find(name: str, folder: Path) -> Path | None:
    """The directory of a known reader; None if it is not there, or not whole. The arguments are those of `place`.

    Raises:
        ReaderError: No reader is known by the name.
    """
    directory = place(name, folder)
    return directory if directory.is_dir() and not damage(directory) else None


def need(name: str, folder: Path) -> Path:
    """The directory of a known reader that has to be there. The arguments are those of `place`.

    Raises:
        ReaderError: It is not there, or not whole; says which command mends that.
    """
    directory = place(name, folder)
    wrong = damage(directory) if directory.is_dir() else "not in the cache"
    if wrong:
        raise ReaderError(f"reader {name}: {directory}: {wrong}; run: scopewatch reader get {name}")
    return directory


def damage(directory: Path, *, thorough: bool = False) -> str:
    """What is wrong with a directory, or nothing.

    Args:
        directory: The directory of a known reader.
        thorough: Whether files are compared by their SHA-256, which reads them whole; otherwise by their sizes.
    """
    try:
        files = json.loads((directory / ORIGIN).read_bytes())["files"]
        for name, recorded in files.items():
            file = directory / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != recorded["bytes"] or (thorough and sha256(file) != recorded["sha256"]):
                return f"{name} has changed"
    except OSError as error:
        return f"{Path(error.filename).name} cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{ORIGIN} is damaged"
    return ""


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
