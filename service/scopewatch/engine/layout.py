"""Arrays of the host that go to the device together: one buffer, one copy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

_ALIGNED = 64
"""Each array begins at a multiple of this number of bytes: kernels are compiled once more for pointers that do not."""

Arrays = Mapping[str, np.ndarray[Any, Any]]


class _Form(NamedTuple):
    """What an array is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Layout:
    """Where arrays lie in a buffer of bytes, one behind the other.

    Args:
        arrays: The arrays, by name; what counts are their shapes and types.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._forms = _forms(arrays)
        self._dtypes = {name: torch.from_numpy(array[:0]).dtype for name, array in arrays.items()}
        self._inside: dict[str, slice] = {}
        self.nbytes = 0
        """The size of a buffer that holds them."""
        for name, array in arrays.items():
            start = -(-self.nbytes // _ALIGNED) * _ALIGNED
            self.nbytes = start + array.nbytes
            self._inside[name] = slice(start, self.nbytes)

    def fill(self, buffer: torch.Tensor, arrays: Arrays) -> None:
        """Writes arrays into a buffer of the host.

        Args:
            buffer: Bytes, shape (nbytes or more,).
            arrays: Arrays by the same names, of the same shapes and types.

        Raises:
            ValueError: They are others.
        """
        if _forms(arrays) != self._forms:
            raise ValueError("the arrays are not those that the buffer was laid out for")
        for name, view in self.views(buffer).items():
            view.numpy()[...] = arrays[name]

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The arrays as they lie in a buffer, on the host or the device: tensors by name, which share its memory."""
        return {
            name: buffer[inside].view(self._dtypes[name]).view(self._forms[name].shape)
            for name, inside in self._inside.items()
        }


def _forms(arrays: Arrays) -> dict[str, _Form]:
    return {name: _Form(array.shape, array.dtype) for name, array in arrays.items()}


class Inputs:
    """Tensors on a device that arrays of the same shapes are copied into, again and again.

    Args:
        arrays: What they hold at first.
        device: The device.
    """

    def __init__(self, arrays: Arrays, device: torch.device) -> None:
        self._layout = Layout(arrays)
        self._host = torch.empty(self._layout.nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._buffer = torch.empty(self._layout.nbytes, dtype=torch.uint8, device=device)
        self.tensors = self._layout.views(self._buffer)
        """The tensors, by name."""
        self.fill(arrays)

    def fill(self, arrays: Arrays) -> None:
        """Copies other arrays into the tensors.

        Args:
            arrays: Arrays by the same names, of the same shapes and types.

        Raises:
            ValueError: They are others.
        """
        self._layout.fill(self._host, arrays)
        # The device is waited for: the next arrays go through the same memory of the host.
        self._buffer.copy_(self._host)


def on_device(arrays: Arrays, device: torch.device) -> dict[str, torch.Tensor]:
    """Arrays as tensors on a device; to a GPU they go in one copy, for which nobody waits."""
    if device.type != "cuda":
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    layout = Layout(arrays)
    host = torch.empty(layout.nbytes, dtype=torch.uint8, pin_memory=True)
    layout.fill(host, arrays)
    return layout.views(host.to(device, non_blocking=True))
