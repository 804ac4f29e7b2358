"""Attention over tiles of keys: the operator `scopewatch::packed_tiles`, its kernel on CUDA and its plain twin on CPUs.

One call reads the keys of all texts of a row where they lie: in the row itself or in pages of known beginnings. What a
query gathers depends only on its text's keys and values in order of position: not on other texts, on where the text
stands, on how long the row is, or on what lies in pages.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

TILE = 64
"""Positions of a text whose keys lie side by side, which is a block's tokens."""


class Form(NamedTuple):
    """How the kernel divides its work. It changes nothing in what is computed."""

    heads: int
    """Query heads of one key head that a program takes together; each reads the same keys."""
    queries: int
    """Queries of a tile, 64 or 128."""
    warps: int
    stages: int
    """Tiles of keys under way at a time."""


def packed_tiles(  # noqa: PLR0917
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pages: tuple[torch.Tensor, torch.Tensor] | None,
    queries: torch.Tensor,
    keys: torch.Tensor,
    *,
    scaling: float,
    window: int | None,
    softcap: float | None,
    form: Form,
) -> torch.Tensor:
    """Attends causally over tiles of keys, as one operator on every device.

    Args:
        query: Shape (1, heads, tokens, head_dim).
        key: Shape (1, kv_heads, tokens, head_dim).
        value: Shape as of `key`.
        pages: Keys and values of known blocks at this layer, each of shape (pages, 64, kv_heads, head_dim); None if
            no table names a page.
        queries: Shape (n, 4), int32: for each tile of queries the row of its first, their number (0: the tile is
            unused), the position of the first in its text, and where in `keys` its text's table begins.
        keys: Shape (m,), int32: the texts' tables, with one entry for each 64 positions from 0 on. An entry r >= 0
            says that they are the rows r, r + 1, ... and -p that they lie in page p.
        scaling: Factor of the logits.
        window: Number of tokens a token sees, itself and those right before it; None for all before it.
        softcap: c in c tanh(logit / c); None for plain logits.
        form: How the kernel divides its work.

    Returns:
        What each token gathers, shape (1, tokens, heads, head_dim). Rows in no tile of queries hold anything.
    """
    key_pages, value_pages = pages or (None, None)
    return torch.ops.scopewatch.packed_tiles(  # type: ignore[no-any-return]
        query, key, value, key_pages, value_pages, queries, keys, scaling, window or 0, softcap or 0.0, list(form)
    )


def _plainly(  # noqa: PLR0917
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_pages: torch.Tensor | None,
    value_pages: torch.Tensor | None,
    queries: torch.Tensor,
    keys: torch.Tensor,
    scaling: float,
    window: int,
    softcap: float,
    _form: Sequence[int],
) -> torch.Tensor:
    """The same in plain torch, 64 queries at a time, so that products have the same shape whatever the company."""
    out = _shapes_only(query).zero_()
    table = keys.tolist()
    for row, count, first, offset in queries.tolist():
        for start in range(0, count, TILE):
            n, position = min(TILE, count - start), first + start
            from_tile = max(0, position - window + 1) // TILE if window else 0
            until = position + n
            where = table[offset + from_tile : offset + -(-until // TILE)]
            k = _read(key, key_pages, where, until - TILE * from_tile)
            v = _read(value, value_pages, where, until - TILE * from_tile)
            rows = slice(row + start, row + start + n)
            q = query.new_zeros(query.shape[1], TILE, query.shape[3], dtype=torch.float32)
            q[:, :n] = query[0, :, rows]
            logits = q.view(len(k), -1, TILE, q.shape[2]) @ k[:, None].transpose(-1, -2) * scaling
            if softcap:
                logits = softcap * torch.tanh(logits / softcap)
            ahead = torch.arange(TILE)[:, None] + position - (torch.arange(k.shape[1]) + TILE * from_tile)
            logits.masked_fill_((ahead < 0) | (ahead >= (window or until)), -torch.inf)
            weights = torch.exp(logits - logits.amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).min))
            gathered = weights.to(value.dtype).float() @ v[:, None] / weights.sum(-1, keepdim=True)
            out[0, rows] = gathered.flatten(0, 1)[:, :n].transpose(0, 1).to(out.dtype)
    return out


def _on_cuda(query: torch.Tensor, *others: Any) -> torch.Tensor:
    from scopewatch.reader.kernels.tiles import launch

    out = _shapes_only(query)
    # Triton launches on the device that is current.
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        launch(out, query, *others)
    return out


def _shapes_only(query: torch.Tensor, *_: object) -> torch.Tensor:
    rows, heads, tokens, head_dim = query.shape
    return query.new_empty(rows, tokens, heads, head_dim)


def _read(row: torch.Tensor, pages: torch.Tensor | None, where: Sequence[int], length: int) -> torch.Tensor:
    """The keys or values of tiles in order, float32 of shape (kv_heads, 64 tiles, head_dim); zeros beyond a length."""
    tiles = row.new_zeros(row.shape[1], len(where) * TILE, row.shape[3], dtype=torch.float32)
    for number, r in enumerate(where):
        start = TILE * number
        n = min(TILE, length - start)
        if r < 0:
            assert pages is not None
            tiles[:, start : start + n] = pages[-r, :n].transpose(0, 1)
        else:
            tiles[:, start : start + n] = row[0, :, r : r + n]
    return tiles


_LIBRARY: Any = torch.library.Library("scopewatch", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "packed_tiles(Tensor query, Tensor key, Tensor value, Tensor? key_pages, Tensor? value_pages, Tensor queries, "
    "Tensor keys, float scaling, int window, float softcap, int[] form) -> Tensor"
)
for _device, _function in {"CPU": _plainly, "CUDA": _on_cuda, "Meta": _shapes_only}.items():
    _LIBRARY.impl("packed_tiles", _function, _device)
