"""Arrays in weight files, read in parts.

A file is opened to its table of arrays only: names, shapes, types and places, all checked against the file before
anything is allocated. Columns are then streamed, so that a 10 GB encoder of which 64 features are watched costs
megabytes.

npz: zip of npy members (numpy.lib.format). safetensors: 8 bytes little-endian header length, JSON header, data
(huggingface/safetensors, format). torch files: see `torch_file`.
"""

import json
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from scopewatch.errors import SaeError

Float32 = NDArray[np.float32]
Indices = NDArray[np.intp]

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_INTEGERS = {"int32": 4, "int64": 8}
_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_CHUNK_BYTES = 16 << 20
_SEEK_BYTES = 1 << 14
"""Below this distance, reading on is cheaper than seeking."""
_MAX_ELEMENTS = 1 << 34
_MAX_HEADER_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a file; values come out as float32."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    """A key of `ITEMSIZE`, or the name of a type that cannot be read."""
    open: Callable[[], AbstractContextManager[IO[bytes]]] = field(repr=False)
    """Gives a stream that begins with the array's first byte."""
    seekable: bool = True
    fortran_order: bool = False

    def __post_init__(self) -> None:
        if np.prod(self.shape, dtype=object) > _MAX_ELEMENTS or min(self.shape, default=1) < 1:
            raise SaeError(f"{self.file}: {self.name} has shape {self.shape}, which no SAE has")

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes in the file, uncompressed."""
        return self.size * ITEMSIZE.get(self.dtype, 1)

    @property
    def T(self) -> "Tensor":  # noqa: N802 - as numpy names it
        """The transpose, without reading anything."""
        return replace(self, shape=self.shape[::-1], fortran_order=not self.fortran_order)

    def expect(self, *shape: int) -> "Tensor":
        """This tensor, of that shape and a float type; -1 stands for any length.

        Raises:
            SaeError: It is not.
        """
        if self.dtype not in ITEMSIZE:
            raise SaeError(f"{self.file}: {self.name} is {self.dtype}; expected one of {', '.join(ITEMSIZE)}")
        if len(self.shape) != len(shape) or any(w not in (-1, s) for w, s in zip(shape, self.shape, strict=False)):
            wanted = (
                "(" + ", ".join("any" if w == -1 else str(w) for w in shape) + ("," if len(shape) == 1 else "") + ")"
            )
            raise SaeError(f"{self.file}: {self.name} has shape {self.shape}; expected {wanted}")
        return self

    def read(self) -> Float32:
        """All of it."""
        with self.open() as stream:
            flat = self._values(stream, self.size)
        return np.array(flat.reshape(self.shape, order="F" if self.fortran_order else "C"), order="C")

    def number(self) -> float:
        """The one number this array is.

        Raises:
            SaeError: It is something else.
        """
        return float(self.expect(*(1 for _ in self.shape)).read().item())

    def integer(self) -> int:
        """The one whole number this array is.

        Raises:
            SaeError: It is something else.
        """
        if self.size != 1 or self.dtype not in _INTEGERS:
            raise SaeError(f"{self.file}: {self.name} is {self.dtype} {self.shape}; expected one whole number")
        with self.open() as stream:
            return int.from_bytes(stream.read(_INTEGERS[self.dtype]), "little", signed=True)

    def columns(self, index: Indices) -> Float32:
        """Some columns of a matrix, in bounded memory whichever way it is laid out.

        Args:
            index: Ascending.

        Returns:
            Shape (rows, len(index)).
        """
        rows, size = self.shape[0], ITEMSIZE[self.dtype]
        kept = np.empty((rows, len(index)), np.float32)
        with self.open() as stream:
            if self.seekable and self.fortran_order:
                first = stream.tell()
                for place, column in enumerate(index.tolist()):
                    stream.seek(first + column * rows * size)
                    kept[:, place] = self._values(stream, rows)
                return kept
            if self.seekable and len(index) * _SEEK_BYTES < self.shape[1] * size:
                first = stream.tell()
                for row in range(rows):
                    for place, column in enumerate(index.tolist()):
                        stream.seek(first + (row * self.shape[1] + column) * size)
                        kept[row, place] = self._values(stream, 1)[0]
                return kept
            for start, block in self._lines(stream):
                if self.fortran_order:
                    inside = (index >= start) & (index < start + len(block))
                    kept[:, inside] = block[index[inside] - start].T
                else:
                    kept[start : start + len(block)] = block[:, index]
        return kept

    def rows(self, index: Indices) -> Float32:
        """Some rows of a matrix, shape (len(index), columns); see `columns`."""
        return self.T.columns(index).T

    def slab(self, start: int, stop: int) -> Float32:
        """Columns `start` to `stop` of a matrix; quick only where the file can be sought in, see `on_disk`."""
        size = ITEMSIZE[self.dtype]
        if not self.seekable:
            return self.columns(np.arange(start, stop))
        if self.fortran_order:
            with self.open() as stream:
                stream.seek(stream.tell() + start * self.shape[0] * size)
                flat = self._values(stream, (stop - start) * self.shape[0])
            return flat.reshape(stop - start, self.shape[0]).T.copy()
        kept = np.empty((self.shape[0], stop - start), np.float32)
        with self.open() as stream:
            first = stream.tell()
            for row in range(self.shape[0]):
                stream.seek(first + (row * self.shape[1] + start) * size)
                kept[row] = self._values(stream, stop - start)
        return kept

    def on_disk(self, folder: Path) -> "Tensor":
        """The same array where it can be sought in: itself, or uncompressed into a file in `folder`."""
        if self.seekable:
            return self
        with self.open() as stream, tempfile.NamedTemporaryFile(dir=folder, delete=False) as target:
            left = self.nbytes
            while left:
                part = stream.read(min(left, _CHUNK_BYTES))
                if not part:
                    raise SaeError(f"{self.file}: {self.name} ends early; download it again")
                target.write(part)
                left -= len(part)
        return replace(self, open=partial(_from_offset, Path(target.name), 0), seekable=True)

    def _lines(self, stream: IO[bytes]) -> Iterator[tuple[int, Float32]]:
        """Blocks of the file's lines (rows, or columns in Fortran order) with the number of each first line."""
        lines, length = reversed(self.shape) if self.fortran_order else self.shape
        step = max(1, _CHUNK_BYTES // (length * ITEMSIZE[self.dtype]))
        for start in range(0, lines, step):
            count = min(step, lines - start)
            yield start, self._values(stream, count * length).reshape(count, length)

    def _values(self, stream: IO[bytes], count: int) -> Float32:
        wanted = count * ITEMSIZE[self.dtype]
        data = stream.read(wanted)
        if len(data) != wanted:
            raise SaeError(f"{self.file}: {self.name} ends early; download it again")
        if self.dtype == "bfloat16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            return np.frombuffer(data, f"<f{ITEMSIZE[self.dtype]}").astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The arrays of one file."""

    file: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a safetensors file says beside its arrays."""

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            there = ", ".join(sorted(self.tensors)[:8]) or "nothing"
            raise SaeError(f"{self.file}: no array {name}; there is {there}")
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        """An array that may be absent."""
        return self.tensors.get(name)

    def only(self, names: Iterable[str]) -> None:
        """Checks that there is nothing but these arrays, for formats whose own library insists on that.

        Raises:
            SaeError: There is another one.
        """
        if others := sorted(set(self.tensors) - set(names)):
            raise SaeError(
                f"{self.file}: holds {', '.join(others[:8])}, which an SAE of this format does not have and which may "
                "change its numbers"
            )


def open_npz(file: Path) -> TensorFile:
    """The arrays of an npz, without pickle.

    Raises:
        SaeError: Missing, damaged, or an array is pickled or does not fill its place.
    """
    with _archive(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        if len(set(names)) != len(names):
            raise SaeError(f"{file}: an array stands twice in it; download it again")
        tensors = {name.removesuffix(".npy"): _npy_header(archive, name, file) for name in names}
    return TensorFile(file, tensors)


def open_safetensors(file: Path) -> TensorFile:
    """The arrays of a safetensors file.

    Raises:
        SaeError: Missing, damaged, or an array does not fill its place.
    """
    with _reading(file), file.open("rb") as stream:
        size = file.stat().st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise SaeError(f"{file}: not a safetensors file; download it again")
        try:
            header = json.loads(stream.read(length), object_pairs_hook=without_repetition)
            metadata = header.pop("__metadata__", None) or {}
            if not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("its metadata is no text")
            entries = sorted((*entry["data_offsets"], name) for name, entry in header.items())
            tensors = {name: _safetensors_entry(name, entry, 8 + length, file) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SaeError(f"{file}: its safetensors header is damaged ({error}); download it again") from None
    # As the format demands: no gap, no overlap, nothing before or after.
    place = 0
    for begin, end, name in [*entries, (size - 8 - length, size - 8 - length, "the end")]:
        if begin != place:
            raise SaeError(f"{file}: {name} is at {begin} and should be at {place}; download it again")
        place = end
    return TensorFile(file, tensors, metadata)


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with _reading(file), zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
        raise SaeError(f"{file}: not a complete npz archive ({error}); download it again") from None


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SaeError(f"{file}: no such file") from None
    except OSError as error:
        raise SaeError(f"{file}: cannot be read: {error.strerror or error}") from None


@contextmanager
def _npy_data(file: Path, member: str, skip: int) -> Iterator[IO[bytes]]:
    with _archive(file) as archive, archive.open(member) as stream:
        stream.read(skip)
        yield stream


@contextmanager
def _from_offset(file: Path, offset: int) -> Iterator[IO[bytes]]:
    with _reading(file), file.open("rb") as stream:
        stream.seek(offset)
        yield stream


def at_offset(file: Path, name: str, shape: tuple[int, ...], dtype: str, offset: int, **layout: bool) -> Tensor:
    """An array that lies uncompressed in a file from byte `offset` on."""
    return Tensor(file, name, shape, dtype, partial(_from_offset, file, offset), **layout)


def _npy_header(archive: zipfile.ZipFile, member: str, file: Path) -> Tensor:
    name = member.removesuffix(".npy")
    entry = archive.getinfo(member)
    with archive.open(member) as stream:
        try:
            version = npy.read_magic(stream)
            if version not in {(1, 0), (2, 0), (3, 0)}:
                raise ValueError(f"version {version}")
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = read_header(stream)
        # numpy reads a header as Python source.
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
        partial(_npy_data, file, member, start),
        seekable=False,
        fortran_order=fortran_order and len(shape) > 1,
    )
    promised = tensor.size * dtype.itemsize
    if not promised <= entry.file_size - start <= promised + (1 << 16):
        raise SaeError(f"{file}: {name} {shape} {dtype} takes {promised} bytes, the archive holds {entry.file_size}")
    return tensor


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: what a damaged or hostile file says twice is not guessed at."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _safetensors_entry(name: str, entry: dict[str, Any], data_start: int, file: Path) -> Tensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(isinstance(number, int) and number >= 0 for number in (begin, end, *shape)) or begin > end:
        raise ValueError(f"{name} has a place or shape that is no number")
    dtype = _SAFETENSORS_TYPES.get(entry["dtype"], entry["dtype"])
    tensor = at_offset(file, name, shape, dtype, data_start + begin)
    if dtype in ITEMSIZE and tensor.nbytes != end - begin:
        raise SaeError(f"{file}: {name} {shape} {dtype} takes {tensor.nbytes} bytes, the file holds {end - begin}")
    return tensor
