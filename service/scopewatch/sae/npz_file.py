"""npz files: a zip of npy members (numpy.lib.format), whose arrays are read without pickle."""

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from scopewatch.errors import SaeError
from scopewatch.sae.tensors import Tensor, TensorFile, reading


def open_npz(file: Path) -> TensorFile:
    """The table of an npz file's arrays.

    Raises:
        SaeError: The file is missing or damaged, or an array is pickled or does not fill its place.
    """
    with _archive(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        if len(set(names)) != len(names):
            raise SaeError(f"{file}: an array stands twice in it; download it again")
        return TensorFile(file, {name.removesuffix(".npy"): _tensor(archive, name, file) for name in names})


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with reading(file), zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
        raise SaeError(f"{file}: not a complete npz archive ({error}); download it again") from None


@contextmanager
def _data(file: Path, member: str, skip: int) -> Iterator[IO[bytes]]:
    with _archive(file) as archive, archive.open(member) as stream:
        stream.read(skip)
        yield stream


def _tensor(archive: zipfile.ZipFile, member: str, file: Path) -> Tensor:
    """The array of one member, whose size has to be what its header promises."""
    name = member.removesuffix(".npy")
    with archive.open(member) as stream:
        try:
            shape, fortran_order, dtype = _header(stream)
        # numpy reads a header as Python source, so that a damaged one raises what a tokenizer raises.
        except (ValueError, SyntaxError, TokenError, RecursionError) as error:
            raise SaeError(f"{file}: {name} is not an npy array ({error})") from None
        start = stream.tell()
    if dtype.hasobject:
        raise SaeError(f"{file}: {name} is a pickled object array; it is refused, since loading it could run code")
    tensor = Tensor(
        file,
        name,
        shape,
        dtype.name if dtype.isnative else str(dtype),
        partial(_data, file, member, start),
        seekable=False,
        fortran_order=fortran_order and len(shape) > 1,
    )
    promised, held = tensor.size * dtype.itemsize, archive.getinfo(member).file_size
    if not promised <= held - start <= promised + (1 << 16):
        raise SaeError(f"{file}: {name} {shape} {dtype} takes {promised} bytes, the archive holds {held}")
    return tensor


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """An array's shape, whether it lies in Fortran order, and its type."""
    version = npy.read_magic(stream)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise ValueError(f"version {version}")
    return npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)
