"""Rotary positions of queries and keys, in one launch, straight from the joined product of q, k and v."""

from functools import cache

import torch
import triton
import triton.language as tl

_NUMBERS = 2048
"""Numbers of each half that one program holds: 16 for each thread of four warps."""


@triton.jit
def _gained(unit, gain, FROM_ONE: tl.constexpr, dtype: tl.constexpr):
    """A norm's unit vectors times their gain, rounded where the plain modules round, and wide again."""
    if FROM_ONE:
        return (unit * (1.0 + gain)).to(dtype).to(tl.float32)
    return (gain * unit.to(dtype).to(tl.float32)).to(dtype).to(tl.float32)


# The number of tokens varies from pass to pass, and must not have the kernel compiled again.
@triton.jit(do_not_specialize=["period"])
def rotary_kernel(
    qkv,
    cos,
    sin,
    q_gain,
    k_gain,
    out,
    qkv_stride,
    period,
    q_heads,
    all_heads,
    half,
    eps,
    NORM: tl.constexpr,
    FROM_ONE: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`HEADS` heads of one token: [norm over each head], then x cos + rotate_half(x) sin, each product rounded."""
    dtype = qkv.dtype.element_ty
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    within = column < half
    inside = (head < all_heads) & within
    at = qkv + token * qkv_stride + head * (2 * half) + column
    left = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(left * left + right * right, axis=1, keep_dims=True) / (2 * half) + eps)
        is_query = head < q_heads
        q_left = tl.load(q_gain + column, mask=within, other=0.0).to(tl.float32)
        k_left = tl.load(k_gain + column, mask=within, other=0.0).to(tl.float32)
        q_right = tl.load(q_gain + half + column, mask=within, other=0.0).to(tl.float32)
        k_right = tl.load(k_gain + half + column, mask=within, other=0.0).to(tl.float32)
        left = _gained(left * scale, tl.where(is_query, q_left, k_left), FROM_ONE, dtype)
        right = _gained(right * scale, tl.where(is_query, q_right, k_right), FROM_ONE, dtype)
    angle = (token % period) * (2 * half) + column
    cos_left = tl.load(cos + angle, mask=within, other=0.0).to(tl.float32)
    sin_left = tl.load(sin + angle, mask=within, other=0.0).to(tl.float32)
    cos_right = tl.load(cos + angle + half, mask=within, other=0.0).to(tl.float32)
    sin_right = tl.load(sin + angle + half, mask=within, other=0.0).to(tl.float32)
    turned_left = (left * cos_left).to(dtype).to(tl.float32) - (right * sin_left).to(dtype).to(tl.float32)
    turned_right = (right * cos_right).to(dtype).to(tl.float32) + (left * sin_right).to(dtype).to(tl.float32)
    to = out + token * (all_heads * 2 * half) + head * (2 * half) + column
    tl.store(to, turned_left.to(dtype), mask=inside)
    tl.store(to + half, turned_right.to(dtype), mask=inside)


def rotary(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_heads: int,
    kv_heads: int,
    q_gain: torch.Tensor | None,
    k_gain: torch.Tensor | None,
    eps: float,
    from_one: bool,
) -> torch.Tensor:
    """See `scopewatch.reader.fused.operators`."""
    qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
    head_dim, heads = cos.shape[-1], q_heads + kv_heads
    out = qkv.new_empty((*qkv.shape[:-1], heads, head_dim))
    tokens = qkv.numel() // qkv.shape[-1]
    if not tokens:
        return out
    tiled = tiling(heads, head_dim)
    rotary_kernel[(tokens, triton.cdiv(heads, tiled["HEADS"]))](
        qkv,
        cos,
        sin,
        q_gain,
        k_gain,
        out,
        qkv.shape[-1],
        cos.numel() // head_dim,
        q_heads,
        heads,
        head_dim // 2,
        eps,
        NORM=q_gain is not None,
        FROM_ONE=from_one,
        **tiled,
    )
    return out


@cache
def tiling(heads: int, head_dim: int) -> dict[str, int]:
    """How the heads of a token are shared out to programs, and how these are compiled."""
    block = triton.next_power_of_2(head_dim // 2)
    return {
        "HEADS": min(triton.next_power_of_2(heads), max(1, _NUMBERS // block)),
        "BLOCK": block,
        "num_warps": 4,
        # A multiplication and addition in one would leave out the rounding between them.
        "enable_fp_fusion": False,
    }
