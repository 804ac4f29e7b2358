"""SHA-256 of many files in one text file, as `sha256sum` writes and checks it: a digest, two spaces, and a path."""

import re
from collections.abc import Mapping
from pathlib import Path

from scopewatch.errors import DataError
from scopewatch.files import write_text

_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


def read_sums(file: Path) -> dict[str, str]:
    """The digest of each path that a file lists; empty lines and those that begin with # are left out.

    Raises:
        DataError: The file cannot be read, or a line is none of this form.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text in UTF-8"
        raise DataError(f"{file}: cannot be read: {reason}") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        listed = _LINE.fullmatch(line)
        if listed is None:
            raise DataError(f"{file}:{number}: expected a SHA-256, two spaces and a path, as sha256sum writes them")
        if sums.setdefault(listed[2], listed[1]) != listed[1]:
            raise DataError(f"{file}:{number}: {listed[2]} has another digest further up; keep the right one")
    return sums


def as_text(sums: Mapping[str, str]) -> str:
    """The lines that `read_sums` reads, sorted by path."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items()))


def write_sums(file: Path, sums: Mapping[str, str]) -> None:
    """Writes the lines that `read_sums` reads, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    write_text(file, as_text(sums))
