"""Arrays in weight files, read in parts.

A file is opened to its table of arrays only: names, shapes, types and places, all checked against the file before
anything is allocated. Columns are then streamed, so that a 10 GB encoder of which 64 features are watched costs
megabytes. How each kind of file is opened is told in npz_file.py, safetensors_file.py and torch_file.py.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np

from scopewatch.errors import SaeError
from scopewatch.types import Float32, Indices

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of one number of each type that can be read."""
_INTEGERS = {"int32": 4, "int64": 8}
_CHUNK_BYTES = 16 << 20
"""How much of a file is in memory at once."""
_SEEK_BYTES = 1 << 14
"""Below this distance, reading on is cheaper than seeking."""
_MAX_ELEMENTS = 1 << 34


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a file; its values are given as float32."""

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
        """This tensor, which has to be of that shape and of a float type; -1 stands for any length.

        Raises:
            SaeError: The tensor is of another shape or type.
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
        """The whole array."""
        with self.open() as stream:
            flat = self._values(stream, self.size)
        return np.array(flat.reshape(self.shape, order="F" if self.fortran_order else "C"), order="C")

    def number(self) -> float:
        """The one number that this array is.

        Raises:
            SaeError: The array is something else.
        """
        return float(self.expect(*(1 for _ in self.shape)).read().item())

    def integer(self) -> int:
        """The one whole number that this array is.

        Raises:
            SaeError: The array is something else.
        """
        if self.size != 1 or self.dtype not in _INTEGERS:
            raise SaeError(f"{self.file}: {self.name} is {self.dtype} {self.shape}; expected one whole number")
        with self.open() as stream:
            return int.from_bytes(stream.read(_INTEGERS[self.dtype]), "little", signed=True)

    def columns(self, index: Indices) -> Float32:
        """Some columns of a matrix, in bounded memory whichever way the file lays it out.

        Quick for neighbouring columns where the file can be sought in; see `on_disk`.

        Args:
            index: The columns, ascending.

        Returns:
            Shape (rows, len(index)).
        """
        kept = np.empty((self.shape[0], len(index)), np.float32)
        edges = np.flatnonzero(np.diff(index, prepend=-2, append=-2) != 1).tolist()
        runs = list(pairwise(edges))
        seeks = self.fortran_order or len(runs) * _SEEK_BYTES < self.shape[1] * ITEMSIZE[self.dtype]
        with self.open() as stream:
            if self.seekable and seeks:
                self._seek(stream, index, runs, kept)
            else:
                self._stream(stream, index, kept)
        return kept

    def rows(self, index: Indices) -> Float32:
        """Some rows of a matrix, shape (len(index), columns); see `columns`."""
        return self.T.columns(index).T

    def on_disk(self, folder: Path) -> "Tensor":
        """The same array where it can be sought in: itself, or an uncompressed copy in a file in `folder`."""
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

    def _seek(self, stream: IO[bytes], index: Indices, runs: list[tuple[int, int]], kept: Float32) -> None:
        """Reads columns into `kept`, and of the file little else; a run is the places of neighbours in `index`."""
        (rows, columns), size, first = self.shape, ITEMSIZE[self.dtype], stream.tell()
        if not self.fortran_order:
            for row in range(rows):
                for start, stop in runs:
                    stream.seek(first + (row * columns + int(index[start])) * size)
                    kept[row, start:stop] = self._values(stream, stop - start)
            return
        step = max(1, _CHUNK_BYTES // (rows * size))
        for start, stop in runs:
            stream.seek(first + int(index[start]) * rows * size)
            for place in range(start, stop, step):
                count = min(step, stop - place)
                kept[:, place : place + count] = self._values(stream, count * rows).reshape(count, rows).T

    def _stream(self, stream: IO[bytes], index: Indices, kept: Float32) -> None:
        """Reads columns into `kept` by going through the whole file, some lines (rows or columns) at a time."""
        lines, length = reversed(self.shape) if self.fortran_order else self.shape
        step = max(1, _CHUNK_BYTES // (length * ITEMSIZE[self.dtype]))
        for start in range(0, lines, step):
            count = min(step, lines - start)
            block = self._values(stream, count * length).reshape(count, length)
            if self.fortran_order:
                inside = (index >= start) & (index < start + count)
                kept[:, inside] = block[index[inside] - start].T
            else:
                kept[start : start + count] = block[:, index]

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
    """The table of one file's arrays."""

    file: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The texts that a safetensors file holds beside its arrays."""

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
        """Checks that the file holds no other arrays, for formats whose own library insists on that.

        Raises:
            SaeError: There is another one.
        """
        if others := sorted(set(self.tensors) - set(names)):
            raise SaeError(
                f"{self.file}: holds {', '.join(others[:8])}, which an SAE of this format does not have and which may "
                "change its numbers"
            )


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns what the system says of a file that cannot be read into an error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise SaeError(f"{file}: no such file") from None
    except OSError as error:
        raise SaeError(f"{file}: cannot be read: {error.strerror or error}") from None


def at_offset(file: Path, name: str, shape: tuple[int, ...], dtype: str, offset: int, **layout: bool) -> Tensor:
    """An array that lies uncompressed in a file from byte `offset` on."""
    return Tensor(file, name, shape, dtype, partial(_from_offset, file, offset), **layout)


@contextmanager
def _from_offset(file: Path, offset: int) -> Iterator[IO[bytes]]:
    with reading(file), file.open("rb") as stream:
        stream.seek(offset)
        yield stream
