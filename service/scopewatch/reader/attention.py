"""Causal attention over packed texts, with what Gemma adds to it: soft-capped logits and sliding windows.

A text sees its own earlier tokens, of which the first may be known from an earlier pass. Both kinds take the place of
transformers' own and give what that gives for each text alone: `packed`, text by text, for CPUs; for GPUs one kernel
for the whole row, `packed_tiles` (`packed_tiles.py`) or `packed_flex` (`flex.py`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AttentionInterface

from scopewatch.errors import ConfigError
from scopewatch.reader.attention_choice import candidates, choose
from scopewatch.reader.attention_trials import AttentionShapes, Trials
from scopewatch.reader.packing import AttentionKind, PackedText, Packing, Room
from scopewatch.reader.pages import BLOCK

_QUERIES = 64
"""Queries at a time; the keys after the last of them are left out."""


def register_attention(device: torch.device, shapes: AttentionShapes | None = None) -> AttentionKind:
    """Makes the attention for a device known to transformers, by its name.

    Args:
        device: Where the reader runs.
        shapes: What its layers ask of attention. A GPU is asked which kind is right and fastest in these; without
            them, and on a CPU, it is `packed`.

    Returns:
        That attention.

    Raises:
        ConfigError: A CPU is to run the attention of a GPU.
    """
    packed = Packed()
    kind: AttentionKind = packed
    wanted = shapes.wanted if shapes else "packed"
    if device.type == "cpu" and wanted not in {"auto", "packed"}:
        raise ConfigError(f"attention {wanted}: runs on GPUs only; use auto")
    if device.type != "cpu" and shapes and wanted != "packed":
        kind = choose(candidates(shapes, packed), Trials(shapes, device, reference=packed), packed, shapes.dtype)
    AttentionInterface.register(kind.name, kind)
    return kind


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a layer attends; the arguments of `AttentionKind` by these names."""

    scaling: float
    window: int | None
    softcap: float | None


class Packed:
    """Attends text by text. Without a packing every row is one text."""

    name = "packed"
    multiple = 1
    invariant = True

    def plan(self, packing: Packing, room: Room | None) -> dict[str, NDArray[Any]] | None:  # noqa: ARG002
        """Nothing, and no row fits into a room: what it runs depends on the texts."""
        return None if room else {}

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: None,  # noqa: ARG002
        *,
        scaling: float,
        packing: Packing | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        rule = _Rule(scaling, sliding_window, softcap)
        if packing is None:
            return _causal(query, key, value, rule).transpose(1, 2), None
        packing.keep(module.layer_idx, key, value)
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        for text in packing.texts:
            keys, values = _keys_and_values(packing, text, module.layer_idx, (key, value), sliding_window)
            out[:, text.place] = _causal(query[:, :, text.place], keys, values, rule).transpose(1, 2)
        return out, None


def _keys_and_values(
    packing: Packing, text: PackedText, layer: int, row: tuple[torch.Tensor, torch.Tensor], window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """All keys and values of a row that a text sees, each (1, kv_heads, n, head_dim); the last of them are its own.

    They are copied only where they do not lie together in the row.
    """
    unseen = max(0, text.first - window + 1) // BLOCK if window else 0
    pages = text.pages[unseen:]
    places = _places(text, BLOCK * unseen)
    if len(places) == 1 and not pages:
        key, value = (whole[:, :, places[0]] for whole in row)
        return key, value
    known = [[kept] for kept in packing.pool.read(layer, torch.tensor(pages))] if packing.pool and pages else [[], []]
    key, value = (
        torch.cat([*kept, *(whole[0, :, place].transpose(0, 1) for place in places)]).transpose(0, 1)[None]
        for kept, whole in zip(known, row, strict=True)
    )
    return key, value


def _places(text: PackedText, start: int) -> list[slice]:
    """Where in the row a text lies with the beginnings it goes on from, from position `start` on."""
    after = text.place.start + max(0, start - text.first)
    place = slice(after, text.place.stop)
    if text.parent is None or start >= text.first:
        return [place]
    *before, last = _places(text.parent, start)
    return [*before, slice(last.start, place.stop)] if last.stop == after else [*before, last, place]


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: _Rule) -> torch.Tensor:
    """Attention of the last tokens of a text to all of it: (rows, heads, n, head_dim) to the same shape."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # As for linear layers, torch's own bfloat16 products are slow there.
        return _causal(query.float(), key.float(), value.float(), rule).bfloat16()
    n, total = query.shape[2], key.shape[2]
    window = min(rule.window or total, total)
    if total <= min(window, _QUERIES) and n == total and not rule.softcap:
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=n > 1, scale=rule.scaling, enable_gqa=True
        )
    return _in_strips(query, key, value, rule, window)


def _in_strips(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: _Rule, window: int) -> torch.Tensor:
    """The same, `_QUERIES` queries at a time, so that only keys in sight are multiplied."""
    n, total = query.shape[2], key.shape[2]
    past = total - n
    rows = min(n, _QUERIES)
    # For any strip of queries: from the farthest key that the first one sees to the last query's own.
    ahead = torch.arange(rows + window - 1, device=query.device) - torch.arange(rows, device=query.device)[:, None]
    bias = query.new_zeros(ahead.shape).masked_fill_((ahead < 0) | (ahead >= window), -torch.inf)
    out = torch.empty_like(query)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        farthest = past + start - window + 1
        first = max(0, farthest)
        seen = slice(first, past + stop)
        out[:, :, start:stop] = _attend(
            query[:, :, start:stop],
            key[:, :, seen],
            value[:, :, seen],
            bias[: stop - start, first - farthest : stop - start + window - 1],
            rule,
        )
    return out


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, rule: _Rule
) -> torch.Tensor:
    """Attention of all queries to all keys; with a soft cap, softmax(c tanh(q k / c)) v, which no fused kernel has.

    The formula is in the report on Gemma 2 (arXiv 2408.00118, 2.2).
    """
    if not rule.softcap:
        return functional.scaled_dot_product_attention(query, key, value, bias, scale=rule.scaling, enable_gqa=True)
    rows, heads, n, _ = query.shape
    groups = key.shape[1]
    grouped = (query * (rule.scaling / rule.softcap)).reshape(rows, groups, heads // groups, n, -1)
    logits = (grouped @ key.unsqueeze(2).transpose(-1, -2)).tanh_().mul_(rule.softcap).add_(bias)
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value.unsqueeze(2)).flatten(1, 2)
