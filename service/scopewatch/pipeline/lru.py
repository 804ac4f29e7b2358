"""A mapping that forgets what was used longest ago."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Lru(Generic[V]):
    """Least recently used values, bounded in bytes.

    Args:
        max_bytes: Bound on keys plus values; 0 keeps nothing.
        size: Bytes that a value takes.
    """

    def __init__(self, max_bytes: int, size: Callable[[V], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._bytes = 0
        self._values: OrderedDict[bytes, V] = OrderedDict()

    def get(self, key: bytes) -> V | None:
        """The value, which is now the one used last; None for whatever is not kept."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: bytes, value: V) -> None:
        """Keeps a value, and forgets others until it fits."""
        self._drop(key)
        # One too large to keep must not push everything else out.
        if (size := len(key) + self._size(value)) > self._max_bytes:
            return
        self._values[key] = value
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    def clear(self) -> None:
        self._values.clear()
        self._bytes = 0

    def _drop(self, key: bytes) -> None:
        if (old := self._values.pop(key, None)) is not None:
            self._bytes -= len(key) + self._size(old)
