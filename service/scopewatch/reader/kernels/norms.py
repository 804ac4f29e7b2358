"""RMSNorm and the residual sums around it, each row read once and written once.

Sums are kept in float32; what the plain modules round to the reader's type is rounded at the same places.
"""

from functools import cache

import torch
import triton
import triton.language as tl


@triton.jit
def _normed(x, gain, column, inside, width, eps, FROM_ONE: tl.constexpr, dtype: tl.constexpr):
    """x / sqrt(mean(x^2) + eps) times its gain, rounded to `dtype` and wide again."""
    weight = tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
    unit = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    if FROM_ONE:
        return (unit * (1.0 + weight)).to(dtype).to(tl.float32)
    return (weight * unit.to(dtype).to(tl.float32)).to(dtype).to(tl.float32)


@triton.jit
def norm_kernel(
    x_in,
    residual_in,
    first_gain,
    second_gain,
    sum_out,
    normed_out,
    width,
    eps,
    FIRST: tl.constexpr,
    ADD: tl.constexpr,
    SECOND: tl.constexpr,
    FROM_ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: [norm], [+ residual, written], [norm, written]; what is in brackets can be left out."""
    dtype = x_in.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_in + row + column, mask=inside, other=0.0).to(tl.float32)
    if FIRST:
        x = _normed(x, first_gain, column, inside, width, eps, FROM_ONE, dtype)
    if ADD:
        residual = tl.load(residual_in + row + column, mask=inside, other=0.0).to(tl.float32)
        x = (residual + x).to(dtype).to(tl.float32)
        tl.store(sum_out + row + column, x.to(dtype), mask=inside)
    if SECOND:
        normed = _normed(x, second_gain, column, inside, width, eps, FROM_ONE, dtype)
        tl.store(normed_out + row + column, normed.to(dtype), mask=inside)


def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float, from_one: bool) -> torch.Tensor:
    """See `scopewatch.reader.fused.operators`, as for all functions here."""
    x = x.contiguous()
    normed = torch.empty_like(x)
    _launch(x, None, None, gain, None, normed, eps, from_one)
    return normed


def add_norm(
    x: torch.Tensor, residual: torch.Tensor, gain: torch.Tensor, eps: float, from_one: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + residual, and the norm of that."""
    x, residual = x.contiguous(), residual.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    _launch(x, residual, None, gain, total, normed, eps, from_one)
    return total, normed


def norm_add(x: torch.Tensor, residual: torch.Tensor, gain: torch.Tensor, eps: float, from_one: bool) -> torch.Tensor:
    """The norm of x, plus residual."""
    x, residual = x.contiguous(), residual.contiguous()
    total = torch.empty_like(x)
    _launch(x, residual, gain, None, total, None, eps, from_one)
    return total


def norm_add_norm(
    x: torch.Tensor, residual: torch.Tensor, first: torch.Tensor, second: torch.Tensor, eps: float, from_one: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of x, plus residual, and the norm of that."""
    x, residual = x.contiguous(), residual.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    _launch(x, residual, first, second, total, normed, eps, from_one)
    return total, normed


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    first: torch.Tensor | None,
    second: torch.Tensor | None,
    total: torch.Tensor | None,
    normed: torch.Tensor | None,
    eps: float,
    from_one: bool,
) -> None:
    width = x.shape[-1]
    if not x.numel():
        return
    norm_kernel[(x.numel() // width,)](
        x,
        residual,
        first,
        second,
        total,
        normed,
        width,
        eps,
        FIRST=first is not None,
        ADD=residual is not None,
        SECOND=second is not None,
        FROM_ONE=from_one,
        **tiling(width),
    )


@cache
def tiling(width: int) -> dict[str, int]:
    """How a row of so many numbers is shared out: at most 32 numbers of each array to a thread, up to 16,384."""
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(16, max(4, block // 512))}
