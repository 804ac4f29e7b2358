"""Paths from home, and writing files so that nobody ever sees half of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scopewatch.errors import DataError, SetupError


def expanded(path: Path | str) -> Path:
    """A path with the home folder in place of `~`.

    Raises:
        SetupError: The system knows no such home; a process may run as a user that has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SetupError(f"{path}: there is no such home folder; write the whole path") from None


@contextmanager
def atomic_write(file: Path, *, rehearse: bool = False) -> Iterator[Path]:
    """Gives a path to write to; when the block ends, what was written there takes the place of the file.

    Whoever reads the file sees all of the old one or all of the new one, after a crash too. If the block raises, the
    file stays as it was. A link is followed, and a file that is replaced passes its mode on.

    Args:
        file: The file to write, in a folder that exists.
        rehearse: Whether to leave the file alone in any case: the block finds out what could be written.

    Raises:
        OSError: The file cannot be written.
    """
    target = file.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        if not rehearse:
            if target.exists():
                shutil.copymode(target, part)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink()


def write_text(file: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; a device or a pipe such as /dev/stdout is written to directly.

    Raises:
        DataError: It cannot be written; names the file and the reason.
    """
    try:
        if file.exists() and not file.is_file():
            file.write_text(text, encoding="utf-8")
            return
        with atomic_write(file) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(unwritable(file, error)) from None


def unwritable(file: Path, error: OSError) -> str:
    """The sentence that says that a file could not be written, and why."""
    return f"{file}: cannot be written: {error.strerror or error}"
