"""Shards: files of named arrays, each written whole or not at all, of which a damaged one is as good as none."""

import errno
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import DataError
from scopewatch.files import atomic_write


def is_whole(shard: Path) -> bool:
    """Whether a shard is there, and the reader failed on none of its pairs, as it need not do again."""
    try:
        with zipfile.ZipFile(shard) as archive:
            return archive.testzip() is None and not any(array_of(shard, "failed"))
    except (OSError, zipfile.BadZipFile):
        return False


def write_shard(shard: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Writes a shard whole or not at all."""
    try:
        with atomic_write(shard) as part, part.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise unwritable_folder(shard.parent.parent, error) from None


def unwritable_folder(folder: Path, error: OSError) -> DataError:
    mend = "make room there, or use" if error.errno == errno.ENOSPC else "use"
    return DataError(f"{folder}: cannot be written: {error.strerror or error}; {mend} another folder")


def array_of(shard: Path, name: str) -> NDArray[Any]:
    try:
        with np.load(shard) as archive:
            array: NDArray[Any] = archive[name]
            return array
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{shard}: gone or damaged ({error}); run the command again") from None
