"""Torch files (`.pt`, `.pth`): the one place in this room that uses torch, and only to read a file's table of arrays.

`torch.load(weights_only=True)` under `FakeTensorMode` unpickles nothing but tensor descriptions and allocates nothing;
each description carries the place of its bytes (`_checkpoint_offset`, documented with torch's serialisation), which
are then streamed like those of any other file.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scopewatch.errors import SaeError
from scopewatch.sae.tensors import Tensor, TensorFile, at_offset, reading

_MAX_TABLE_BYTES = 8 << 20


def open_torch(file: Path) -> TensorFile:
    """The table of the tensors in a torch file that holds a dictionary of tensors.

    Raises:
        SaeError: The file is missing or damaged, of the format before torch 1.6, or holds anything but tensors and
            plain values.
    """
    places = _places(file)
    try:
        with FakeTensorMode():
            table = torch.load(file, weights_only=True)
    except pickle.UnpicklingError:
        raise SaeError(f"{file}: holds more than tensors; it is refused, since loading it could run code") from None
    except Exception as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise SaeError(f"{file}: not a complete torch file ({told}); download it again") from None
    if not isinstance(table, dict):
        raise SaeError(f"{file}: holds a {type(table).__name__}; expected a dictionary of tensors")
    return TensorFile(
        file,
        {str(name): _tensor(file, str(name), value, places) for name, value in table.items() if torch.is_tensor(value)},
    )


def _places(file: Path) -> dict[int, int]:
    """How many bytes each record of the file has, by the place where they begin."""
    try:
        with reading(file), zipfile.ZipFile(file) as archive, file.open("rb") as stream:
            places = {}
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise SaeError(f"{file}: {entry.filename} is compressed, which torch never writes")
                if entry.filename.endswith(("/data.pkl", "/byteorder")) and entry.file_size > _MAX_TABLE_BYTES:
                    raise SaeError(f"{file}: {entry.filename} is {entry.file_size} bytes long, which no SAE's is")
                if entry.filename.endswith("/byteorder") and archive.read(entry) != b"little":
                    raise SaeError(f"{file}: was written on a big-endian machine; save it anew on another")
                stream.seek(entry.header_offset + 26)
                name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
                places[entry.header_offset + 30 + name + extra] = entry.file_size
            return places
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
        raise SaeError(
            f"{file}: not a complete torch file of version 1.6 or later ({error}); "
            "download it again, or save it anew with a current torch"
        ) from None


def _tensor(file: Path, name: str, value: torch.Tensor, places: dict[int, int]) -> Tensor:
    storage: Any = value.untyped_storage() if value.layout == torch.strided else None
    start = getattr(storage, "_checkpoint_offset", None)
    if start is None:
        raise SaeError(f"{file}: {name} is no plain tensor; save it anew as one")
    offset = start + value.storage_offset() * value.element_size()
    if value.is_contiguous():
        layout = {}
    elif value.ndim == 2 and value.T.is_contiguous():
        layout = {"fortran_order": True}
    else:
        raise SaeError(f"{file}: {name} is a view with gaps; save it anew as a contiguous tensor")
    tensor = at_offset(file, name, tuple(value.shape), str(value.dtype).removeprefix("torch."), offset, **layout)
    if offset + value.numel() * value.element_size() > start + places.get(start, 0):
        raise SaeError(f"{file}: {name} ends early; download it again")
    return tensor
