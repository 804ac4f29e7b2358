"""A gated MLP's activation and product, straight from the joined product of gate and up."""

import torch
import triton
import triton.language as tl

_BLOCK = 1024
"""Columns of one program: 8 for each thread of four warps, 16 bytes of bfloat16."""


@triton.jit
def gated_kernel(both, out, width, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """act(gate) * up, with the activation rounded as a module of its own would."""
    dtype = both.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(both + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        # gelu(x) = x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3) (arXiv 1606.08415), and
        # (1 + tanh(u)) / 2 is the logistic function of 2 u.
        opened = tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        opened = tl.sigmoid(gate)
    active = (gate * opened).to(dtype).to(tl.float32)
    tl.store(out + row * width + column, (active * up).to(dtype), mask=inside)


def gated(both: torch.Tensor, activation: str) -> torch.Tensor:
    """See `scopewatch.reader.fused.operators`."""
    both = both.contiguous()
    width = both.shape[-1] // 2
    out = both.new_empty((*both.shape[:-1], width))
    if rows := out.numel() // width:
        block = min(_BLOCK, triton.next_power_of_2(width))
        gated_kernel[(rows, triton.cdiv(width, block))](
            both, out, width, GELU=activation == "gelu_pytorch_tanh", BLOCK=block, num_warps=4
        )
    return out
