"""Gemma Scope `params.npz` (Gemma 2): W_enc (d_in, d_sae), b_enc, threshold (d_sae,), W_dec, b_dec, JumpReLU.

Format: google/gemma-scope-* model cards; arXiv 2408.05147. Read without pickle; only the watched columns of W_enc
are kept, the rest is streamed past, and W_dec is never read.
"""

import hashlib
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from scopewatch.errors import SaeError
from scopewatch.sae.weights import EncoderColumns, Float32, checked_features

_CHUNK_BYTES = 16 << 20
_MAX_ELEMENTS = 1 << 36
_FLOATS = ("float16", "float32", "float64")
_OTHER_SITES = re.compile(r"gemma-scope-[^/]*-(?:att|mlp|transcoders)(?![a-z])|(?<![^/])embedding/width_")
_LAYER = re.compile(r"(?:^|/)layer_(\d+)(?:/|$)")


@dataclass(frozen=True, slots=True)
class _Member:
    """An array in the archive: what its header promises, checked before anything is allocated."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool
    stream: IO[bytes]


def layer_of(path: Path) -> int | None:
    """The layer that a Gemma Scope path such as `layer_20/width_16k/average_l0_71/params.npz` names.

    Raises:
        SaeError: The path is of a release that does not read the residual stream.
    """
    text = path.as_posix()
    if match := _OTHER_SITES.search(text):
        release = match[0].partition("/")[0]
        raise SaeError(f"{path}: {release} is not a residual-stream release; only those can be read so far")
    layers = _LAYER.findall(text)
    return int(layers[-1]) if layers else None


def load_columns(file: Path, features: Sequence[int]) -> EncoderColumns:
    """Reads the encoder columns of some features.

    Args:
        file: `params.npz`.
        features: Feature indices, any order; the result's columns are ascending.

    Raises:
        SaeError: The file is missing, not an npz, truncated, pickled, of wrong shapes, or holds NaN.
    """
    with _archive(file) as archive:
        _refuse_scaling(archive, file)
        with _member(archive, file, "W_enc", ndim=2) as W_enc:
            d_in, d_sae = W_enc.shape
            columns = checked_features(features, d_sae, file)
            watched = _read_columns(W_enc, columns, file)
        vectors = {}
        for name in ("b_enc", "threshold"):
            with _member(archive, file, name, ndim=1) as vector:
                if vector.shape != (d_sae,):
                    raise SaeError(
                        f"{file}: {name} has shape {vector.shape}; W_enc {(d_in, d_sae)} asks for {(d_sae,)}"
                    )
                vectors[name] = _read_all(vector, file)[columns]
    for name, values in {"W_enc": watched, **vectors}.items():
        if not np.isfinite(values).all():
            raise SaeError(f"{file}: {name} holds NaN or infinity in a watched feature")
    if (vectors["threshold"] < 0).any():
        raise SaeError(f"{file}: a watched feature has a negative threshold; a JumpReLU SAE of this release has none")
    return EncoderColumns(
        W_enc=watched,
        b_enc=vectors["b_enc"],
        threshold=vectors["threshold"],
        d_sae=d_sae,
        digest=_digest(file),
        format="gemma_scope",
        architecture="jumprelu",
    )


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError:
        raise SaeError(f"{file}: no such file; a Gemma Scope SAE is a params.npz") from None
    except OSError as error:
        raise SaeError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
        raise SaeError(f"{file}: not a complete npz archive ({error}); download it again") from None


@contextmanager
def _member(archive: zipfile.ZipFile, file: Path, name: str, *, ndim: int) -> Iterator[_Member]:
    entry = next((e for e in (f"{name}.npy", f"{name.lower()}.npy") if e in archive.namelist()), None)
    if entry is None:
        there = ", ".join(sorted(n.removesuffix(".npy") for n in archive.namelist())[:8]) or "nothing"
        raise SaeError(f"{file}: no array {name}; there is {there}. Expected a Gemma Scope params.npz")
    with archive.open(entry) as stream:
        try:
            version = npy.read_magic(stream)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = read_header(stream)
        except ValueError as error:
            raise SaeError(f"{file}: {name} is not an npy array ({error})") from None
        if dtype.hasobject:
            raise SaeError(f"{file}: {name} is a pickled object array; it is refused, since loading it could run code")
        if dtype.name not in _FLOATS:
            raise SaeError(f"{file}: {name} is {dtype}; expected one of {', '.join(_FLOATS)}")
        if len(shape) != ndim or min(shape) < 1 or np.prod(shape, dtype=object) > _MAX_ELEMENTS:
            raise SaeError(f"{file}: {name} has shape {shape}; expected {ndim} dimension(s) of sensible size")
        promised = int(np.prod(shape, dtype=object)) * dtype.itemsize
        held = archive.getinfo(entry).file_size
        if not promised <= held <= promised + (1 << 16):
            raise SaeError(f"{file}: {name} {shape} {dtype} takes {promised} bytes, the archive holds {held}")
        yield _Member(name, shape, dtype, fortran_order, stream)


def _refuse_scaling(archive: zipfile.ZipFile, file: Path) -> None:
    if "scaling_factor.npy" in archive.namelist():
        with _member(archive, file, "scaling_factor", ndim=1) as factor:
            if not (_read_all(factor, file) == 1).all():
                raise SaeError(f"{file}: scaling_factor is not 1; such an SAE was not fully folded and is refused")


def _read_columns(member: _Member, columns: Sequence[int] | np.ndarray, file: Path) -> Float32:
    """Some columns of a matrix, streamed in bounded memory whichever way it is laid out."""
    rows, row_length = reversed(member.shape) if member.fortran_order else member.shape
    step = max(1, _CHUNK_BYTES // (row_length * member.dtype.itemsize))
    kept = np.empty((member.shape[0], len(columns)), np.float32)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        block = _read(member, count * row_length, file).reshape(count, row_length)
        if member.fortran_order:
            # Rows of the file are columns of the matrix.
            inside = (np.asarray(columns) >= first) & (np.asarray(columns) < first + count)
            kept[:, inside] = block[np.asarray(columns)[inside] - first].T
        else:
            kept[first : first + count] = block[:, columns]
    return kept


def _read_all(member: _Member, file: Path) -> Float32:
    return _read(member, member.shape[0], file).astype(np.float32)


def _read(member: _Member, count: int, file: Path) -> np.ndarray:
    wanted = count * member.dtype.itemsize
    data = member.stream.read(wanted)
    if len(data) != wanted:
        raise SaeError(f"{file}: {member.name} ends early; download it again")
    return np.frombuffer(data, member.dtype)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
