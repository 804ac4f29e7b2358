"""Files of lines, one a day, that are only ever added to."""

import contextlib
import mmap
import os
from datetime import date
from pathlib import Path


class Days:
    """The files `{prefix}-YYYY-MM-DD.jsonl` of a folder. Only their owner can read them. Used on one thread.

    Args:
        folder: The folder, which exists.
        prefix: What the files' names begin with.
        guarded: Whether lines are on the disk, not only in the system's memory, when `append` returns, and a file is
            refused that somebody else has changed since.
    """

    def __init__(self, folder: Path, prefix: str, *, guarded: bool) -> None:
        self.folder = folder
        self._prefix = prefix
        self._guarded = guarded
        self._torn = False
        self._file: Path | None = None
        self._descriptor = -1
        self._size = 0

    def files(self) -> list[Path]:
        """The files that there are, from the oldest to the newest."""
        return sorted(file for file in self.folder.glob(f"{self._prefix}-*.jsonl") if self.day_of(file))

    def file_of(self, day: date) -> Path:
        """Where lines of a day go; there may be no such file yet."""
        return self.folder / f"{self._prefix}-{day.isoformat()}.jsonl"

    def before(self, day: date) -> list[Path]:
        """The files of the days before one, from the oldest to the newest."""
        return [file for file in self.files() if (of := self.day_of(file)) and of < day]

    def append(self, file: Path, data: bytes) -> None:
        """Adds lines to a file: all of them, or none.

        Args:
            file: From `file_of`.
            data: Whole lines.

        Raises:
            OSError: They could not be written, or the file is not as it was left.
        """
        if file != self._file:
            self._open(file)
        if self._torn:
            self._cut()
        if self._changed():
            if self._guarded:
                raise OSError(None, "the file was deleted, or somebody else wrote to it", str(file))
            self._open(file)
        try:
            _write_all(self._descriptor, data)
            if self._guarded:
                os.fsync(self._descriptor)
        except OSError:
            # Half a line would spoil the next one.
            self._torn = True
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._size += len(data)

    def close(self) -> None:
        """Closes the file that lines were added to last; `append` opens it again."""
        if self._file:
            os.close(self._descriptor)
        self._file = None

    def _open(self, file: Path) -> None:
        self.close()
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if self._guarded:
            sync_folder(file.parent)
        self._file, self._descriptor, self._size = file, descriptor, os.fstat(descriptor).st_size
        self._torn = False

    def _changed(self) -> bool:
        found = os.fstat(self._descriptor)
        return not found.st_nlink or found.st_size != self._size

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self._size)
        self._torn = False

    def day_of(self, file: Path) -> date | None:
        """The day of a file; None where its name is none of ours."""
        with contextlib.suppress(ValueError):
            return date.fromisoformat(file.stem.removeprefix(f"{self._prefix}-"))
        return None


def end_of(file: Path) -> tuple[bytes, bytes]:
    """The last whole line of a file, and what follows it; either may be empty."""
    with file.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return b"", b""
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end = content.rfind(b"\n") + 1
            start = content.rfind(b"\n", 0, max(0, end - 1)) + 1
            return content[start:end], content[end:]


def sync_folder(folder: Path) -> None:
    """Makes what was created, renamed or deleted in a folder outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        # A disk that is full takes a part first and refuses the rest.
        rest = rest[os.write(descriptor, rest) :]
