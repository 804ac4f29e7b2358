"""Attention over a whole row of packed texts in one kernel, FlexAttention (arXiv 2412.05496)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention.flex_attention import BlockMask

from scopewatch.reader.packing import Packing
from scopewatch.reader.prefixes import BLOCK

TILE = 128
"""Tokens along a side of a tile of the mask."""
MULTIPLE = 2 * TILE
"""Rows are filled up to a multiple of this. A row of one tile would be compiled once more: torch takes a size of 1 for
a constant."""

Attend = Callable[..., tuple[torch.Tensor, None]]


def flex_with(flex: Callable[..., Any], *, otherwise: Attend) -> Attend:
    """Attention by a FlexAttention kernel, with the arguments of `attention.packed`.

    Args:
        flex: `flex_attention`, compiled or not.
        otherwise: For rows without a packing.
    """

    def attend(
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
            return otherwise(
                module, query, key, value, mask, scaling=scaling, sliding_window=sliding_window, softcap=softcap
            )
        for text in packing.texts:
            text.keep(key, value)
        past = [known for text in packing.texts for known in text.past(module.layer_idx)]
        if not past:
            # Laid out as with a past, since another layout is compiled once more.
            key, value = (torch.cat([own[0]], dim=1)[None] for own in (key, value))
        else:
            gap = [(torch.zeros_like(past[0][0]),) * 2] * (-len(past) % (TILE // BLOCK))
            key, value = (
                torch.cat([*(known[part] for known in past + gap), own[0]], dim=1)[None]
                for part, own in enumerate((key, value))
            )
        if sliding_window not in packing.masks:
            packing.masks[sliding_window] = _mask(packing, sliding_window, query.device)

        def capped(logit: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            assert softcap
            return softcap * torch.tanh(logit / softcap)

        seen = flex(
            query,
            key,
            value,
            score_mod=capped if softcap else None,
            block_mask=packing.masks[sliding_window],
            scale=scaling,
            enable_gqa=True,
        )
        return seen.transpose(1, 2), None

    return attend


def _mask(packing: Packing, window: int | None, device: torch.device) -> BlockMask:
    """Who sees whom: tokens of one text, no later ones, none further back than the window.

    Tiles in which nobody sees anybody are left out, and in those where everybody sees everybody nothing is asked;
    `create_block_mask` would find them by asking for every pair of tokens.
    """
    owner, position = packing.owner, packing.positions
    known = [len(text.reading.known) for text in packing.texts]
    gap = BLOCK * (-sum(known) % (TILE // BLOCK))
    seen_owner = np.concatenate([np.repeat(np.arange(len(known)), np.multiply(known, BLOCK)), np.full(gap, -1), owner])
    seen_position = np.concatenate([*(np.arange(BLOCK * blocks) for blocks in known), np.zeros(gap, int), position])
    reach = window or np.iinfo(np.int32).max

    (q_owner, k_owner), (q_position, k_position) = _tiles(owner, seen_owner), _tiles(position, seen_position)
    some = (q_owner.least <= k_owner.most) & (k_owner.least <= q_owner.most)
    some &= (k_position.least <= q_position.most) & (q_position.least - k_position.most < reach)
    every = (q_owner.least == q_owner.most) & (k_owner.least == k_owner.most) & (q_owner.least == k_owner.least)
    every &= (k_position.most <= q_position.least) & (q_position.most - k_position.least < reach)

    q_text, q_place, k_text, k_place = (
        torch.from_numpy(array.astype(np.int32)).to(device) for array in (owner, position, seen_owner, seen_position)
    )
    # A tensor, since a number is compiled into the kernel.
    most = torch.tensor(reach, device=device)

    def visible(_row: torch.Tensor, _head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        distance = q_place[q] - k_place[k]
        return (q_text[q] == k_text[k]) & (distance >= 0) & (distance < most)

    return BlockMask.from_kv_blocks(
        *_listed(some & ~every, device),
        *_listed(every, device),
        BLOCK_SIZE=TILE,
        mask_mod=visible,
        seq_lengths=(len(owner), len(seen_owner)),
        compute_q_blocks=False,
    )


class _Range(NamedTuple):
    """Least and most of each tile, broadcastable to (query tiles, key tiles)."""

    least: NDArray[np.int64]
    most: NDArray[np.int64]


def _tiles(queries: NDArray[np.int64], keys: NDArray[np.int64]) -> tuple[_Range, _Range]:
    q, k = queries.reshape(-1, 1, TILE), keys.reshape(1, -1, TILE)
    return _Range(q.min(-1), q.max(-1)), _Range(k.min(-1), k.max(-1))


def _listed(tiles: NDArray[np.bool_], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tiles each row of tiles has, and which, those first."""
    which = np.argsort(~tiles, axis=1, kind="stable")
    count, listed = (torch.from_numpy(array.astype(np.int32))[None, None].to(device) for array in (tiles.sum(1), which))
    return count, listed
