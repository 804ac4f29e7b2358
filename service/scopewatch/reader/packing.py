"""Texts side by side in one row: nothing is padded, and a beginning that was read before is not read again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from scopewatch.reader.prefixes import BLOCK, Reading

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Each of shape (kv_heads, tokens, head_dim)."""


@dataclass(slots=True)
class PackedText:
    """A text's place in the row, and what attention needs to know of the text besides."""

    reading: Reading
    place: slice
    """Where its unread tokens lie in the row."""
    wanted: Sequence[int] = ()
    """Blocks whose keys and values are to be kept."""
    kept: dict[int, list[KeysValues]] = field(default_factory=dict)
    """By block number, the keys and values of each layer that ran."""

    def past(self, layer: int) -> list[KeysValues]:
        """Keys and values of the text's known blocks at a layer."""
        return [block.keys_values[layer] for block in self.reading.known]

    def keep(self, key: torch.Tensor, value: torch.Tensor) -> None:
        """Copies the wanted blocks out of the next layer's keys and values, (1, kv_heads, row's tokens, head_dim)."""
        for number in self.wanted:
            start = self.place.start + number * BLOCK - self.reading.past
            here = slice(start, start + BLOCK)
            self.kept.setdefault(number, []).append((key[0, :, here].clone(), value[0, :, here].clone()))


class Packing:
    """A row of texts.

    Args:
        readings: The texts.
        wanted: For each text, the numbers of the blocks to keep.
        multiple: The row's length is filled up to a multiple of this number of tokens.
    """

    def __init__(self, readings: Sequence[Reading], wanted: Sequence[Sequence[int]], *, multiple: int = 1) -> None:
        stops = np.cumsum([len(reading.rest) for reading in readings])
        self.texts = [
            PackedText(reading, slice(int(stop) - len(reading.rest), int(stop)), blocks)
            for reading, stop, blocks in zip(readings, stops, wanted, strict=True)
        ]
        self.tokens = int(stops[-1])
        filled = -(-self.tokens // multiple) * multiple
        self.ids = np.zeros(filled, np.int64)
        # What fills up stands at 0: some readers scale their positions by the largest.
        self.positions = np.zeros(filled, np.int64)
        self.owner = np.full(filled, len(readings))
        """Which text each token belongs to; what fills up belongs to one more."""
        for number, text in enumerate(self.texts):
            self.ids[text.place] = text.reading.rest
            self.positions[text.place] = np.arange(text.reading.past, len(text.reading.ids))
            self.owner[text.place] = number
        # Made by the attention of the device, once for all layers with the same window.
        self.masks: dict[int | None, object] = {}
