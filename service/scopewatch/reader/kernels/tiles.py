"""Attention over packed texts whose keys lie in tiles, in the row or in pages: online softmax (arXiv 2307.08691)."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from scopewatch.reader.kernels.interpreted import interpreted

TILE = tl.constexpr(64)
"""Keys at a time; a page holds as many."""
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _tanh(x, PRECISE: tl.constexpr):
    """The hyperbolic tangent; precise also near 0 if asked for (a polynomial of the Cephes library's `tanhf`)."""
    size = tl.abs(x)
    tanh = 1.0 - 2.0 / (tl.exp2(size * (2.0 * _LOG2_E)) + 1.0)
    if PRECISE:
        z = x * x
        series = z * -5.70498872745e-3 + 2.06390887954e-2
        series = z * series - 5.37397155531e-2
        series = z * series + 1.33314422036e-1
        series = z * series - 3.33332819422e-1
        tanh = tl.where(size < 0.625, size + size * z * series, tanh)
    return tl.where(x < 0, -tanh, tanh)


@triton.jit
def _product(a, b, sums, INTERPRETED: tl.constexpr):
    """The product of a and b, added to float32 sums.

    Factors in float32 are multiplied in full, not rounded to TF32 for the tensor cores. Triton's interpreter takes
    bfloat16 numbers for integers.
    """
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit
def _tile(row, row_step, pages, page_step, line_step, r, dim, there):
    """A head's keys or values at the 64 positions of a table's entry r; zeros where nothing is there."""
    start = tl.where(r < 0, pages + (-r).to(tl.int64) * page_step, row + r.to(tl.int64) * row_step)
    step = tl.where(r < 0, line_step, row_step)
    return tl.load(start + tl.arange(0, TILE)[:, None] * step + dim[None], mask=there, other=0.0)


@triton.jit
def _hide(logits, seen, position, WINDOW: tl.constexpr):
    """Logits without those of later keys and of keys beyond the window."""
    visible = seen[None] <= position[:, None]
    if WINDOW:
        visible = visible & (seen[None] > position[:, None] - WINDOW)
    return tl.where(visible, logits, float("-inf"))


@triton.jit
def tiles_kernel(
    query,
    key,
    value,
    key_pages,
    value_pages,
    queries,
    keys,
    out,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    kp_page,
    kp_line,
    kp_head,
    vp_page,
    vp_line,
    vp_head,
    o_row,
    o_head,
    SCALING: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    QUERIES: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """One tile of queries of `HEADS` heads that share their keys: HEADS x QUERIES lines."""
    tile = queries + 4 * tl.program_id(0)
    count = tl.load(tile + 1)
    if count == 0:
        return
    row, first, table = tl.load(tile), tl.load(tile + 2), keys + tl.load(tile + 3)
    last = first + count - 1
    programs: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    kv_head = tl.program_id(1) // programs
    key, value = key + kv_head * k_head, value + kv_head * v_head
    key_pages, value_pages = key_pages + kv_head * kp_head, value_pages + kv_head * vp_head

    line = tl.arange(0, HEADS * QUERIES)
    in_group = tl.program_id(1) % programs * HEADS + line // QUERIES
    place = line % QUERIES
    position = first + place
    dim = tl.arange(0, PADDED_DIM)
    inside = (dim < HEAD_DIM)[None]
    held = ((place < count) & (in_group < GROUP))[:, None] & inside
    head = kv_head * GROUP + in_group
    at_row = (row + place).to(tl.int64)[:, None]
    q = tl.load(query + at_row * q_row + head[:, None] * q_head + dim[None], mask=held, other=0.0)

    # Of each line so far: the largest logit, and the sum of all weights and of weighted values relative to it.
    # Logits are in units in which a weight is 2^logit.
    largest = tl.full([HEADS * QUERIES], float("-inf"), tl.float32)
    total = tl.full([HEADS * QUERIES], 0.0, tl.float32)
    gathered = tl.full([HEADS * QUERIES, PADDED_DIM], 0.0, tl.float32)
    unit: tl.constexpr = (SOFTCAP if SOFTCAP > 0 else SCALING) * _LOG2_E
    start = tl.maximum(first - WINDOW + 1, 0) // TILE if WINDOW else 0
    for number in range(start, last // TILE + 1):
        r = tl.load(table + number)
        seen = number * TILE + tl.arange(0, TILE)
        there = (seen <= last)[:, None] & inside
        k = _tile(key, k_row, key_pages, kp_page, kp_line, r, dim, there)
        v = _tile(value, v_row, value_pages, vp_page, vp_line, r, dim, there)
        logits = _product(q, tl.trans(k), None, INTERPRETED)
        if SOFTCAP > 0:
            logits = _tanh(logits * (SCALING / SOFTCAP), q.dtype == tl.float32)
        if (number * TILE + TILE > first + 1) | ((number * TILE <= last - WINDOW) & (WINDOW > 0)):
            logits = _hide(logits, seen, position, WINDOW)
        larger = tl.maximum(largest, tl.max(logits, 1) * unit)
        # A line that has seen nothing yet has no largest logit.
        base = tl.where(larger == float("-inf"), 0.0, larger)
        # Fused explicitly, so that no tile is rounded in another way than the others.
        weight = tl.exp2(tl.fma(logits, tl.full(logits.shape, unit, tl.float32), -base[:, None]))
        fade = tl.exp2(largest - base)
        total = tl.fma(total, fade, tl.sum(weight, 1))
        gathered = _product(weight.to(v.dtype), v, gathered * fade[:, None], INTERPRETED)
        largest = larger
    seen_by_line = (gathered / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + at_row * o_row + head[:, None] * o_head + dim[None], seen_by_line, mask=held)


def launch(
    out: torch.Tensor,
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
    form: Sequence[int],
) -> None:
    """Runs the kernel: the operator `scopewatch::packed_tiles` (`reader/tiles.py`) into `out`."""
    heads, n_queries, warps, stages = form
    kv_heads, head_dim = key.shape[1], key.shape[3]
    group = query.shape[1] // kv_heads
    together = min(heads, group)
    k_steps, v_steps = ((0, 0, 0) if pages is None else pages.stride()[:3] for pages in (key_pages, value_pages))
    # One compiled kernel for rows with and without pages: no first page is waited for, and no bit can differ.
    key_pages = key if key_pages is None else key_pages
    value_pages = value if value_pages is None else value_pages
    tiles_kernel[len(queries), kv_heads * -(-group // together)](
        query,
        key,
        value,
        key_pages,
        value_pages,
        queries,
        keys,
        out,
        query.stride(2),
        query.stride(1),
        key.stride(2),
        key.stride(1),
        value.stride(2),
        value.stride(1),
        *k_steps,
        *v_steps,
        out.stride(1),
        out.stride(2),
        SCALING=scaling,
        WINDOW=window,
        SOFTCAP=softcap,
        GROUP=group,
        HEADS=together,
        QUERIES=n_queries,
        HEAD_DIM=head_dim,
        PADDED_DIM=max(16, triton.next_power_of_2(head_dim)),
        INTERPRETED=interpreted(),
        num_warps=warps,
        num_stages=stages,
    )
