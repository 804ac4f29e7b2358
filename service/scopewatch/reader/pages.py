"""Pages of the device's memory, on which the keys and values of beginnings are kept: 64 tokens each, of every layer."""

import logging

import torch

log = logging.getLogger(__name__)

BLOCK = 64
"""Tokens on a page."""


class PagePool:
    """Pages of one size, taken and given back by their numbers. Page 0 holds zeros and is never given out.

    No memory is taken before the first page is.

    Args:
        max_bytes: The greatest size of all pages together.
        layers: The number of decoder layers whose keys and values a page holds; at least one.
        kv_heads: The number of heads of keys and values.
        head_dim: The length of a head's vectors.
        dtype: The type of keys and values.
        device: Where the pages lie.
    """

    def __init__(
        self, max_bytes: int, *, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_bytes = 2 * layers * BLOCK * kv_heads * head_dim * dtype.itemsize
        self.max_bytes = max_bytes
        self.layers = layers
        self.keys: list[torch.Tensor] = []
        """By layer, shape (pages, 64, kv_heads, head_dim); empty as long as there is no page in use."""
        self.values: list[torch.Tensor] = []
        """As `keys`."""
        self._shape = (max_bytes // self.page_bytes, BLOCK, kv_heads, head_dim)
        self._place = {"dtype": dtype, "device": device}
        self._free = list(range(self._shape[0] - 1, 0, -1))

    def take(self) -> int | None:
        """The number of a page that nobody uses; None if there is none."""
        return self._free.pop() if self._free and (self.keys or self.allocate()) else None

    def give_back(self, page: int) -> None:
        """Lets others have a page."""
        self._free.append(page)

    @property
    def pages(self) -> int:
        """The number of pages, page 0 among them."""
        return self._shape[0]

    def close(self) -> None:
        """Gives out no more pages; graphs may go on to read those that there are."""
        self._free = []

    def allocate(self) -> bool:
        """Takes the memory of all pages, if that has not been done; where it cannot be had, there are no pages.

        Returns:
            Whether there are pages.
        """
        try:
            if not self.keys and self._free:
                # Where an attention reads page 0, it multiplies what is there by 0, which may not be NaN.
                self.keys, self.values = (
                    [self._zeroed(torch.empty(self._shape, **self._place)) for _ in range(self.layers)]  # type: ignore[call-overload]
                    for _ in range(2)
                )
        except torch.OutOfMemoryError:
            log.warning(
                "no memory for %d MiB of beginnings that texts share, so none are kept; lower prefix_cache_bytes",
                self.max_bytes >> 20,
            )
            self._free = []
        return bool(self.keys)

    def write(
        self, layer: int, pages: torch.Tensor, rows: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Copies tokens of a row onto pages.

        Args:
            layer: The layer whose keys and values they are.
            pages: The numbers of the pages, shape (n,).
            rows: The places of their tokens in the row, shape (n * 64,).
            key: The row's keys, shape (tokens, kv_heads, head_dim).
            value: The row's values, as `key`.
        """
        for held, new in ((self.keys, key), (self.values, value)):
            held[layer].index_copy_(0, pages, new.index_select(0, rows).view(-1, *self._shape[1:]))

    def read(self, layer: int, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values that lie on pages, in the order of the pages; each of shape (n * 64, kv_heads, head_dim).

        Args:
            layer: The layer whose keys and values they are.
            pages: The numbers of the pages, shape (n,).
        """
        key, value = (held[layer].index_select(0, pages).flatten(0, 1) for held in (self.keys, self.values))
        return key, value

    @staticmethod
    def _zeroed(pages: torch.Tensor) -> torch.Tensor:
        pages[0] = 0
        return pages
