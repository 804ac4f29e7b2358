"""Attention over a whole row of packed texts in one kernel, FlexAttention (arXiv 2412.05496)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention.flex_attention import BlockMask

from scopewatch.reader.packing import AttentionKind, Packing, Room
from scopewatch.reader.pages import BLOCK
from scopewatch.types import Bools

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
    invariant = False

    def __init__(self, flex: Callable[..., Any], *, otherwise: AttentionKind) -> None:
        self._flex = flex
        self._otherwise = otherwise

    def plan(self, packing: Packing, room: Room | None) -> dict[str, NDArray[Any]] | None:
        """Who sees whom, for queries and keys; no row fits into a room, since the mask's tiles depend on the texts."""
        if room:
            return None
        packing.planned = _who_sees_whom(packing)
        return packing.planned

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
        if sliding_window not in packing.masks:
            packing.masks[sliding_window] = _mask(packing, sliding_window)
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
    """A row's keys and values behind those of all known blocks.

    Both always lie in memory token by token, since another layout is compiled once more.
    """
    parts = [key[0].transpose(0, 1), value[0].transpose(0, 1)]
    if packing.pool and "pages" in packing.inputs:
        known = packing.pool.read(layer, packing.inputs["pages"])
        parts = [torch.cat(both) for both in zip(known, parts, strict=True)]
    keys, values = (part.contiguous().transpose(0, 1)[None] for part in parts)
    return keys, values


@dataclass(slots=True)
class _KnownBlock:
    """A block on a page, and the texts that see it: from one number up to, and without, another."""

    page: int
    position: int
    since: int
    until: int


def _known_blocks(packing: Packing) -> list[_KnownBlock]:
    """The known blocks of a row, those that neighbours share once."""
    blocks: list[_KnownBlock] = []
    last: list[_KnownBlock] = []
    for number, text in enumerate(packing.texts):
        if text.parent:
            continue
        own = []
        for depth, page in enumerate(text.pages):
            if depth < len(last) and last[depth].page == page:
                block = last[depth]
            else:
                block = _KnownBlock(page, BLOCK * depth, number, 0)
                blocks.append(block)
            block.until = text.until
            own.append(block)
        last = own
    return blocks


def _who_sees_whom(packing: Packing) -> dict[str, NDArray[Any]]:
    """The text and position of each query, and of each key its position and the numbers of the texts that see it.

    A key is seen by its own text and by those that go on from it, which stand right behind it. Keys are those of known
    blocks, filled up to whole tiles with page 0, which nobody sees, and then those of the row.
    """
    known = _known_blocks(packing)
    known += [_KnownBlock(0, 0, -1, -1)] * (-len(known) % (TILE // BLOCK))
    own = np.append([text.until for text in packing.texts], len(packing.texts) + 1)
    plan = {
        "text": packing.owner,
        "position": packing.positions,
        "key_position": np.concatenate([*(np.arange(BLOCK) + block.position for block in known), packing.positions]),
        "key_since": np.concatenate([np.repeat([block.since for block in known], BLOCK), packing.owner]),
        "key_until": np.concatenate([np.repeat([block.until for block in known], BLOCK), own[packing.owner]]),
    }
    plan = {name: array.astype(np.int32) for name, array in plan.items()}
    return plan | ({"pages": np.array([block.page for block in known])} if known else {})


def _mask(packing: Packing, window: int | None) -> BlockMask:
    """Which token sees which: of its own text and what that goes on from, those before it and within the window.

    Tiles in which nobody sees anybody are left out, and in those where everybody sees everybody nothing is asked;
    `create_block_mask` would find them by asking for every pair of tokens.
    """
    reach = window or np.iinfo(np.int32).max
    device = packing.inputs["text"].device
    some, every = _seen_tiles(packing.planned, reach)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every, device),
        *_listed(every, device),
        BLOCK_SIZE=TILE,
        mask_mod=_visible(packing.inputs, reach),
        seq_lengths=(len(packing.planned["text"]), len(packing.planned["key_since"])),
        compute_q_blocks=False,
    )


def _seen_tiles(plan: Mapping[str, NDArray[Any]], reach: int) -> tuple[Bools, Bools]:
    """Tiles in which some token may see another, and tiles in which every token sees every other."""
    text, position = _ranges(plan["text"], (-1, 1)), _ranges(plan["position"], (-1, 1))
    since, until, key = (_ranges(plan[name], (1, -1)) for name in ("key_since", "key_until", "key_position"))
    some = (since.least <= text.most) & (text.least < until.most)
    some &= (key.least <= position.most) & (position.least - key.most < reach)
    every = (since.most <= text.least) & (text.most < until.least)
    every &= (key.most <= position.least) & (position.most - key.least < reach)
    return some, every


def _visible(plan: Mapping[str, torch.Tensor], reach: int) -> Callable[..., torch.Tensor]:
    """What the kernel asks of single tokens."""
    text, position = plan["text"], plan["position"]
    since, until, key = plan["key_since"], plan["key_until"], plan["key_position"]
    # A tensor, since a number is compiled into the kernel.
    most = torch.tensor(reach, device=text.device)

    def visible(_row: torch.Tensor, _head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        distance = position[q] - key[k]
        return (since[k] <= text[q]) & (text[q] < until[k]) & (distance >= 0) & (distance < most)

    return visible


class _Range(NamedTuple):
    """The least and the greatest number of each tile."""

    least: NDArray[Any]
    most: NDArray[Any]


def _ranges(numbers: NDArray[Any], shape: tuple[int, int]) -> _Range:
    tiles = numbers.reshape(-1, TILE)
    return _Range(tiles.min(axis=1).reshape(shape), tiles.max(axis=1).reshape(shape))


def _listed(tiles: Bools, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of the tiles in each row of tiles are true, and the columns of all tiles, those of true ones first."""
    which = np.argsort(~tiles, axis=1, kind="stable")
    count, listed = (torch.from_numpy(array.astype(np.int32))[None, None].to(device) for array in (tiles.sum(1), which))
    return count, listed
