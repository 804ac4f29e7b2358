"""Texts side by side in one row: nothing is padded, and a beginning that was read before is not read again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from scopewatch.reader.pages import PagePool
from scopewatch.reader.prefixes import BLOCK, Reading


@dataclass(slots=True, eq=False)
class PackedText:
    """A text's place in the row, and what attention needs to know of the text besides."""

    reading: Reading
    place: slice
    """Where its unread tokens lie in the row."""
    parent: "PackedText | None" = None
    """A beginning that stands in the same row, on which this text goes on."""
    until: int = 0
    """One past the number of the last text in the row that goes on from this one, or its own number and one."""

    @property
    def first(self) -> int:
        """Position of its first unread token: as many are known, or stand in the row as its parent's."""
        return self.reading.first

    @property
    def pages(self) -> list[int]:
        """The pages of the pool on which its known blocks lie."""
        return self.parent.pages if self.parent else self.reading.pages

    def tiles(self) -> list[int]:
        """Where its keys lie, for each 64 positions from 0 to its last token.

        Returns:
            r >= 0: at the neighbouring rows r, r + 1, ... of the row; -p: on page p of the pool of pages.
        """
        before = self.parent.tiles() if self.parent else [-page for page in self.reading.pages]
        return [*before, *range(self.place.start, self.place.stop, BLOCK)]


class Packing:
    """A row of texts.

    Args:
        readings: The texts, each behind the beginnings in the row that it goes on from.
        multiple: The row's length is filled up to a multiple of this number of tokens.
        pool: Where known blocks lie, and where blocks are kept.
    """

    def __init__(self, readings: Sequence[Reading], *, multiple: int = 1, pool: PagePool | None = None) -> None:
        self.pool = pool
        placed: dict[Reading | None, PackedText] = {}
        stop = 0
        for reading in readings:
            start, stop = stop, stop + len(reading.rest)
            placed[reading] = PackedText(reading, slice(start, stop), placed.get(reading.parent))
        self.texts = list(placed.values())
        """Those that others go on from stand before them, and all that go on from one stand together behind it."""
        self.tokens = stop
        filled = -(-self.tokens // multiple) * multiple
        self.ids = np.zeros(filled, np.int64)
        # What fills up stands at 0: some readers scale their positions by the largest.
        self.positions = np.zeros(filled, np.int64)
        self.owner = np.full(filled, len(readings))
        """Which text each token belongs to; what fills up belongs to one more."""
        for number, text in enumerate(self.texts):
            self.ids[text.place] = text.reading.rest
            self.positions[text.place] = np.arange(text.first, len(text.reading.ids))
            self.owner[text.place] = number
        for number, text in reversed(list(enumerate(self.texts))):
            text.until = max(text.until, number + 1)
            if text.parent:
                text.parent.until = max(text.parent.until, text.until)
        # Made by the attention of the device, once for all layers with the same window.
        self.masks: dict[int | None, object] = {}
        self.planned: dict[str, NDArray[Any]] = {}
        """What the attention planned for this row, on the host, where it wants it there too."""
        self.inputs: dict[str, torch.Tensor] = {}
        """What the attention planned for this row, on the reader's device."""
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def keeps(self) -> bool:
        """Whether blocks of the row are to be kept."""
        return any(text.reading.wanted for text in self.texts)

    def keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Writes the blocks that are to be kept on their pages; every attention calls it before it attends.

        Args:
            layer: The layer that attends.
            key: Shape (1, kv_heads, row's tokens, head_dim).
            value: As `key`.
        """
        if self.pool and self.keeps:
            if self._kept is None:
                self._kept = self._pages_and_rows(key.device)
            self.pool.write(layer, *self._kept, key[0].transpose(0, 1), value[0].transpose(0, 1))

    def _pages_and_rows(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        pages: list[int] = []
        starts: list[int] = []
        for text in self.texts:
            pages += text.reading.wanted.values()
            starts += [text.place.start + number * BLOCK - text.first for number in text.reading.wanted]
        rows = np.add.outer(np.array(starts), np.arange(BLOCK)).reshape(-1)
        return torch.tensor(pages, device=device), torch.from_numpy(rows).to(device)


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

    @property
    def invariant(self) -> bool:
        """Whether a text's numbers are the same to the last bit whatever stands beside it and is known of it."""
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
