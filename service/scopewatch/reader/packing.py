"""Texts side by side in one row: nothing is padded, and a beginning that was read before is not read again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from scopewatch.reader.prefixes import BLOCK, Reading

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Each of shape (kv_heads, tokens, head_dim)."""


@dataclass(slots=True)
class PackedText:
    """A text's place in the row, and what attention needs to know of the text besides."""

    reading: Reading
    place: slice
    """Where its unread tokens lie in the row."""
    parent: "PackedText | None" = None
    """A beginning that stands in the same row, on which this text goes on."""
    wanted: Sequence[int] = ()
    """Blocks whose keys and values are to be kept."""
    kept: dict[int, list[KeysValues]] = field(default_factory=dict)
    """By block number, the keys and values of each layer that ran."""

    @property
    def first(self) -> int:
        """Position of its first unread token: as many are known, or stand in the row as its parent's."""
        unread: int = self.place.stop - self.place.start
        return len(self.reading.ids) - unread

    def tiles(self) -> list[int]:
        """Where its keys lie, for each 64 positions from 0 to its last token.

        Returns:
            r >= 0: at the neighbouring rows r, r + 1, ... of the row; -p: on page p of the pool of pages.
        """
        before = self.parent.tiles() if self.parent else [-page for page in self.reading.pages]
        return [*before, *range(self.place.start, self.place.stop, BLOCK)]

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
            PackedText(reading, slice(int(stop) - len(reading.rest), int(stop)), wanted=blocks)
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
        self.inputs: dict[str, torch.Tensor] = {}
        """What the attention planned for this row, on the reader's device."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much a plan may hold where the shapes of its arrays are fixed beforehand."""

    query_tiles: int
    key_tiles: int


class AttentionKind(Protocol):
    """An attention over packed texts, by whose name transformers calls it."""

    @property
    def name(self) -> str:
        """What it is called in `attn_implementation` and in the reader's identity."""
        ...

    @property
    def multiple(self) -> int:
        """Rows are filled up to a multiple of this number of tokens."""
        ...

    def plan(self, packing: Packing, room: Room | None) -> dict[str, NDArray[Any]] | None:
        """What it wants on the device, under `packing.inputs`, when the layers run.

        Args:
            packing: The row.
            room: Where it is given, the arrays' shapes depend on it and on the row's filled length alone.

        Returns:
            Arrays by name; None where the row does not fit into the room, or no room is enough for this kind.
        """
        ...

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: None,
        *,
        scaling: float,
        packing: Packing | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **others: object,
    ) -> tuple[torch.Tensor, None]:
        """Attends, for each layer.

        Args:
            module: The reader's attention module.
            query: Shape (rows, heads, tokens, head_dim), one row if there is a packing.
            key: Shape (rows, kv_heads, tokens, head_dim).
            value: Shape as of `key`.
            mask: None; who sees whom follows from the packing.
            scaling: Factor of the logits.
            packing: Which texts lie in the row; without it every row is one text.
            sliding_window: Number of tokens a token sees, itself and those right before it; None for all before it.
            softcap: c in c tanh(logit / c); None for plain logits.
            others: What transformers gives besides.

        Returns:
            What each token gathers, shape (rows, tokens, heads, head_dim), and None in place of weights.
        """
        ...
