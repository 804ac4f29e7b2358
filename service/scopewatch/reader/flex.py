"""Attention over a whole row of packed texts in one kernel, FlexAttention (arXiv 2412.05496)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention.flex_attention import BlockMask

from scopewatch.reader.packing import AttentionKind, Packing, Room
from scopewatch.reader.prefixes import BLOCK
from scopewatch.types import Bools, Int64

TILE = 128
"""Tokens along a side of a tile of the mask."""
MULTIPLE = 2 * TILE
"""Rows are filled up to a multiple of this. A row of one tile would be compiled once more: torch takes a size of 1 for
a constant."""


class PackedFlex:
    """Attends by one FlexAttention kernel for the whole row.

    Args:
        flex: torch's `flex_attention`, compiled or not.
        otherwise: The attention for rows without a packing.
    """

    name = "packed_flex"
    multiple = MULTIPLE

    def __init__(self, flex: Callable[..., Any], *, otherwise: AttentionKind) -> None:
        self._flex = flex
        self._otherwise = otherwise

    def plan(self, packing: Packing, room: Room | None) -> dict[str, NDArray[Any]] | None:  # noqa: ARG002
        """Nothing, and no row fits into a room: the mask's tiles depend on the texts."""
        return None if room else {}

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
        for text in packing.texts:
            text.keep(key, value)
        if sliding_window not in packing.masks:
            packing.masks[sliding_window] = _mask(packing, sliding_window, query.device)
        seen = self._flex(
            query,
            *_behind_known(packing, module.layer_idx, key, value),
            score_mod=_capped(softcap) if softcap else None,
            block_mask=packing.masks[sliding_window],
            scale=scaling,
            enable_gqa=True,
        )
        return seen.transpose(1, 2), None


def _capped(softcap: float) -> Callable[..., torch.Tensor]:
    """Soft-caps logits, c tanh(logit / c)."""

    def capped(logit: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return softcap * torch.tanh(logit / softcap)

    return capped


def _behind_known(
    packing: Packing, layer: int, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A row's keys and values behind those of all known blocks, which are filled up to whole tiles."""
    past = [known for text in packing.texts for known in text.past(layer)]
    if not past:
        # Laid out as with a past, since another layout is compiled once more.
        return torch.cat([key[0]], dim=1)[None], torch.cat([value[0]], dim=1)[None]
    gap = [(torch.zeros_like(past[0][0]),) * 2] * (-len(past) % (TILE // BLOCK))
    keys, values = zip(*past, *gap, strict=True)
    return torch.cat([*keys, key[0]], dim=1)[None], torch.cat([*values, value[0]], dim=1)[None]


def _mask(packing: Packing, window: int | None, device: torch.device) -> BlockMask:
    """Which token sees which: those of its own text, no later ones, none further back than the window.

    Tiles in which nobody sees anybody are left out, and in those where everybody sees everybody nothing is asked;
    `create_block_mask` would find them by asking for every pair of tokens.
    """
    owner, position = packing.owner, packing.positions
    known = [len(text.reading.known) for text in packing.texts]
    gap = BLOCK * (-sum(known) % (TILE // BLOCK))
    seen_owner = np.concatenate([np.repeat(np.arange(len(known)), np.multiply(known, BLOCK)), np.full(gap, -1), owner])
    seen_position = np.concatenate([*(np.arange(BLOCK * blocks) for blocks in known), np.zeros(gap, int), position])
    reach = window or np.iinfo(np.int32).max
    some, every = _seen_tiles(_tiles(owner, seen_owner), _tiles(position, seen_position), reach)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every, device),
        *_listed(every, device),
        BLOCK_SIZE=TILE,
        mask_mod=_visible((owner, position), (seen_owner, seen_position), reach, device),
        seq_lengths=(len(owner), len(seen_owner)),
        compute_q_blocks=False,
    )


def _seen_tiles(owners: "tuple[_Range, _Range]", positions: "tuple[_Range, _Range]", reach: int) -> tuple[Bools, Bools]:
    """Tiles in which some token may see another, and tiles in which every token sees every other."""
    (q_owner, k_owner), (q_position, k_position) = owners, positions
    some = (q_owner.least <= k_owner.most) & (k_owner.least <= q_owner.most)
    some &= (k_position.least <= q_position.most) & (q_position.least - k_position.most < reach)
    every = (q_owner.least == q_owner.most) & (k_owner.least == k_owner.most) & (q_owner.least == k_owner.least)
    every &= (k_position.most <= q_position.least) & (q_position.most - k_position.least < reach)
    return some, every


def _visible(
    queries: tuple[Int64, Int64], keys: tuple[Int64, Int64], reach: int, device: torch.device
) -> Callable[..., torch.Tensor]:
    """What the kernel asks of single tokens; queries and keys are given by their texts and positions."""
    q_text, q_place, k_text, k_place = (
        torch.from_numpy(array.astype(np.int32)).to(device) for array in (*queries, *keys)
    )
    # A tensor, since a number is compiled into the kernel.
    most = torch.tensor(reach, device=device)

    def visible(_row: torch.Tensor, _head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        distance = q_place[q] - k_place[k]
        return (q_text[q] == k_text[k]) & (distance >= 0) & (distance < most)

    return visible


class _Range(NamedTuple):
    """The least and the greatest value in each tile, broadcastable to (query tiles, key tiles)."""

    least: Int64
    most: Int64


def _tiles(queries: Int64, keys: Int64) -> tuple[_Range, _Range]:
    q, k = queries.reshape(-1, 1, TILE), keys.reshape(1, -1, TILE)
    return _Range(q.min(-1), q.max(-1)), _Range(k.min(-1), k.max(-1))


def _listed(tiles: Bools, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of the tiles in each row of tiles are true, and the columns of all tiles, those of true ones first."""
    which = np.argsort(~tiles, axis=1, kind="stable")
    count, listed = (torch.from_numpy(array.astype(np.int32))[None, None].to(device) for array in (tiles.sum(1), which))
    return count, listed
