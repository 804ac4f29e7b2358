"""Attention over packed texts whose keys lie in tiles, in the row or in pages: online softmax (arXiv 2307.08691)."""

from typing import Any

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
    large = 1.0 - 2.0 / (tl.exp2(size * (2.0 * _LOG2_E)) + 1.0)
    if PRECISE:
        z = x * x
        series = -5.70498872745e-3
        series = series * z + 2.06390887954e-2
        series = series * z - 5.37397155531e-2
        series = series * z + 1.33314422036e-1
        series = series * z - 3.33332819422e-1
        large = tl.where(size < 0.625, size + size * z * series, large)
    return tl.where(x < 0, -large, large)


@triton.jit
def _product(a, b, sums, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """a b + sums in float32; Triton's interpreter takes bfloat16 numbers for integers."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision=PRECISION)


@triton.jit
def attend(
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
    kp_row,
    kp_head,
    vp_page,
    vp_row,
    vp_head,
    o_row,
    o_head,
    scaling: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    QUERIES: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    tile = queries + 4 * tl.program_id(0)
    count = tl.load(tile + 1)
    if count == 0:
        return
    row = tl.load(tile)
    first = tl.load(tile + 2)
    table = keys + tl.load(tile + 3)
    last = first + count - 1

    programs: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    kv_head = tl.program_id(1) // programs
    line = tl.arange(0, HEADS * QUERIES)
    in_group = tl.program_id(1) % programs * HEADS + line // QUERIES
    head = kv_head * GROUP + in_group
    place = line % QUERIES
    position = first + place
    dim = tl.arange(0, PADDED_DIM)
    held = (place < count) & (in_group < GROUP)
    inside = dim < HEAD_DIM

    q_at = query + (row + place).to(tl.int64)[:, None] * q_row + head[:, None] * q_head + dim[None]
    q = tl.load(q_at, mask=held[:, None] & inside[None], other=0.0)
    most = tl.full([HEADS * QUERIES], float("-inf"), tl.float32)
    total = tl.full([HEADS * QUERIES], 0.0, tl.float32)
    gathered = tl.full([HEADS * QUERIES, PADDED_DIM], 0.0, tl.float32)
    factor: tl.constexpr = SOFTCAP * _LOG2_E if SOFTCAP > 0 else scaling * _LOG2_E
    start = 0
    if WINDOW:
        start = tl.maximum(first - WINDOW + 1, 0) // TILE
    for number in range(start, last // TILE + 1):
        r = tl.load(table + number)
        k_at, k_step = key + r.to(tl.int64) * k_row + kv_head * k_head, k_row
        v_at, v_step = value + r.to(tl.int64) * v_row + kv_head * v_head, v_row
        if key_pages is not None:
            paged = r < 0
            page = (-r).to(tl.int64)
            k_at = tl.where(paged, key_pages + page * kp_page + kv_head * kp_head, k_at)
            v_at = tl.where(paged, value_pages + page * vp_page + kv_head * vp_head, v_at)
            k_step = tl.where(paged, kp_row, k_step)
            v_step = tl.where(paged, vp_row, v_step)
        within = tl.arange(0, TILE)
        seen = number * TILE + within
        known = (seen <= last)[:, None] & inside[None]
        k = tl.load(k_at + within[:, None] * k_step + dim[None], mask=known, other=0.0)
        v = tl.load(v_at + within[:, None] * v_step + dim[None], mask=known, other=0.0)
        logits = _product(q, tl.trans(k), None, PRECISION, INTERPRETED)
        if SOFTCAP > 0:
            logits = _tanh(logits * (scaling / SOFTCAP), q.dtype == tl.float32)
        edge = (number + 1) * TILE > first + 1
        if WINDOW:
            edge = edge | (number * TILE <= last - WINDOW)
        if edge:
            visible = seen[None] <= position[:, None]
            if WINDOW:
                visible = visible & (seen[None] > position[:, None] - WINDOW)
            logits = tl.where(visible, logits, float("-inf"))
        larger = tl.maximum(most, tl.max(logits, 1) * factor)
        # A query that sees nothing yet has no largest logit.
        base = tl.where(larger == float("-inf"), 0.0, larger)
        weight = tl.exp2(tl.fma(logits, tl.full(logits.shape, factor, tl.float32), -base[:, None]))
        fade = tl.exp2(most - base)
        total = tl.fma(total, fade, tl.sum(weight, 1))
        gathered = _product(weight.to(v.dtype), v, gathered * fade[:, None], PRECISION, INTERPRETED)
        most = larger
    o_at = out + (row + place).to(tl.int64)[:, None] * o_row + head[:, None] * o_head + dim[None]
    tl.store(o_at, (gathered / total[:, None]).to(out.dtype.element_ty), mask=held[:, None] & inside[None])


def launch(
    query: Any,
    key: Any,
    value: Any,
    key_pages: Any,
    value_pages: Any,
    queries: Any,
    keys: Any,
    out: Any,
    scaling: float,
    window: int,
    softcap: float,
    form: Any,
) -> None:
    """Runs the kernel on tensors as of the operator `scopewatch::packed_tiles` (reader/tiles.py)."""
    heads, n_queries, warps, stages = form
    _, kv_heads, _, head_dim = key.shape
    group = query.shape[1] // kv_heads
    together = min(heads, group)
    # Steps from one page, row and head to the next; the numbers of a head lie side by side.
    k_steps, v_steps = ((0, 0, 0) if pages is None else pages.stride()[:3] for pages in (key_pages, value_pages))
    attend[len(queries), kv_heads * -(-group // together)](
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
        scaling=scaling,
        WINDOW=window,
        SOFTCAP=softcap,
        GROUP=group,
        HEADS=together,
        QUERIES=n_queries,
        HEAD_DIM=head_dim,
        PADDED_DIM=max(16, triton.next_power_of_2(head_dim)),
        # Products of float32 in full: tensor cores would round the factors to TF32.
        PRECISION="ieee",
        INTERPRETED=interpreted(),
        num_warps=warps,
        num_stages=stages,
    )
