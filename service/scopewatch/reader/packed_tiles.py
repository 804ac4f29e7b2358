"""`packed_tiles`: attention over packed texts that reads keys where they lie, and its plan of a row's tiles."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scopewatch.reader.packing import AttentionKind, Packing, Room
from scopewatch.reader.tiles import TILE, Form, packed_tiles
from scopewatch.types import Int64

_ALIKE = 512
"""Tiles that differ by fewer keys keep their order, so that those of one text find its keys in the device's cache."""


class PackedTiles:
    """Attends by one kernel of our own for the whole row.

    Args:
        form: How the kernel divides its work.
        otherwise: The attention for rows without a packing.
    """

    name = "packed_tiles"
    multiple = 16
    invariant = True

    def __init__(self, form: Form, *, otherwise: AttentionKind) -> None:
        self.form = form
        self._otherwise = otherwise

    def plan(self, packing: Packing, room: Room | None) -> dict[str, NDArray[Any]] | None:
        """The tables that the operator takes as `queries` and `keys` (`reader/tiles.py`), the longest work first.

        What begins last ends last, and should then be short.
        """
        texts = [(text.place.start, text.place.stop, text.first, text.tiles()) for text in packing.texts]
        # What fills up reads itself, in short texts of its own, so that its numbers are numbers.
        filling = range(packing.tokens, len(packing.ids), TILE)
        texts += [(row, min(row + TILE, len(packing.ids)), 0, [row]) for row in filling]
        tables = [table for *_, table in texts]
        starts, stops, firsts = np.array([spans for *spans, _ in texts]).T
        offsets = np.cumsum([0, *map(len, tables[:-1])])
        queries = self._tiles(starts, stops, firsts, offsets)
        keys = np.concatenate(tables).astype(np.int32)
        if room is None:
            return {"tile_queries": queries, "tile_keys": keys}
        spare, left = room.query_tiles - len(queries), room.key_tiles - len(keys)
        if spare < 0 or left < 0:
            return None
        return {"tile_queries": np.pad(queries, ((0, spare), (0, 0))), "tile_keys": np.pad(keys, (0, left))}

    def _tiles(self, starts: Int64, stops: Int64, firsts: Int64, offsets: Int64) -> NDArray[np.int32]:
        """The tiles of queries of texts given by their rows, first positions and tables, those with many keys first."""
        counts = -(-(stops - starts) // self.form.queries)
        text = np.repeat(np.arange(len(counts)), counts)
        within = self.form.queries * (np.arange(len(text)) - np.repeat(np.cumsum(counts) - counts, counts))
        row, position = starts[text] + within, firsts[text] + within
        count = np.minimum(stops[text] - row, self.form.queries)
        order = np.argsort(-((position + count) // _ALIKE), kind="stable")
        return np.stack([row, count, position, offsets[text]], axis=1)[order].astype(np.int32)

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
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        if packing is None:
            return self._otherwise(
                module, query, key, value, mask, scaling=scaling, sliding_window=sliding_window, softcap=softcap
            )
        packing.keep(module.layer_idx, key, value)
        pool, layer = packing.pool, module.layer_idx
        gathered = packed_tiles(
            query,
            key,
            value,
            (pool.keys[layer], pool.values[layer]) if pool and pool.keys else None,
            packing.inputs["tile_queries"],
            packing.inputs["tile_keys"],
            scaling=scaling,
            window=sliding_window,
            softcap=softcap,
            form=self.form,
        )
        return gathered, None
