"""safetensors files: 8 bytes of header length (little-endian), a JSON header, then the data.

The format is told in the huggingface/safetensors repository.
"""

import json
from pathlib import Path
from typing import Any

from scopewatch.errors import SaeError
from scopewatch.sae.settings import without_repetition
from scopewatch.sae.tensors import ITEMSIZE, Tensor, TensorFile, at_offset, reading

_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_MAX_HEADER_BYTES = 8 << 20


def open_safetensors(file: Path) -> TensorFile:
    """The table of a safetensors file's arrays.

    Raises:
        SaeError: The file is missing or damaged, or an array does not fill its place.
    """
    with reading(file), file.open("rb") as stream:
        size = file.stat().st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise SaeError(f"{file}: not a safetensors file; download it again")
        try:
            header = json.loads(stream.read(length), object_pairs_hook=without_repetition)
            metadata = header.pop("__metadata__", None) or {}
            if not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("its metadata is no text")
            places = sorted((*entry["data_offsets"], name) for name, entry in header.items())
            tensors = {name: _tensor(name, entry, 8 + length, file) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SaeError(f"{file}: its safetensors header is damaged ({error}); download it again") from None
    _assert_no_gaps(file, places, size - 8 - length)
    return TensorFile(file, tensors, metadata)


def _assert_no_gaps(file: Path, places: list[tuple[int, int, str]], data_bytes: int) -> None:
    """Checks, as the format demands, that the arrays fill the data: no gap, no overlap, nothing before or after."""
    reached = 0
    for begin, end, name in [*places, (data_bytes, data_bytes, "the end")]:
        if begin != reached:
            raise SaeError(f"{file}: {name} is at {begin} and should be at {reached}; download it again")
        reached = end


def _tensor(name: str, entry: dict[str, Any], data_start: int, file: Path) -> Tensor:
    """The array of one entry of the header, whose size has to be what the entry promises."""
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(isinstance(number, int) and number >= 0 for number in (begin, end, *shape)) or begin > end:
        raise ValueError(f"{name} has a place or shape that is no number")
    dtype = _TYPES.get(entry["dtype"], entry["dtype"])
    tensor = at_offset(file, name, shape, dtype, data_start + begin)
    if dtype in ITEMSIZE and tensor.nbytes != end - begin:
        raise SaeError(f"{file}: {name} {shape} {dtype} takes {tensor.nbytes} bytes, the file holds {end - begin}")
    return tensor
