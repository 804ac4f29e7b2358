"""The element-wise work of a decoder layer as operators of torch: one launch each on CUDA, and plain torch elsewhere.

An operator's function here is its plain twin, which rounds to the reader's type where transformers' modules do; the
kernels of `scopewatch.reader.kernels` round at the same places. `from_one` tells the two kinds of RMSNorm apart:
Gemma's gain is 1 + weight and is multiplied in float32, the others' is the weight and is multiplied after rounding.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_pytorch_tanh": lambda gate: functional.gelu(gate, approximate="tanh"),
    "silu": functional.silu,
}
"""The activation functions that `gated` has, as configurations name them."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_LIBRARY: Any = torch.library.Library("scopewatch", "FRAGMENT")  # type: ignore[no-untyped-call]


def _operator(kernels: str, arguments: str, shaped: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """Makes an operator of a twin, by the twin's name.

    Args:
        kernels: The module of `scopewatch.reader.kernels` that has the function of that name for CUDA.
        arguments: The operator's arguments and results, as torch writes schemas.
        shaped: Gives results without numbers, for tensors that have shapes only.
    """

    def make(twin: _Function) -> _Function:
        name = twin.__name__

        @cache
        def kernel() -> Callable[..., Any]:
            function: Callable[..., Any] = getattr(import_module(f"scopewatch.reader.kernels.{kernels}"), name)
            return function

        def launch(x: torch.Tensor, *others: object) -> Any:
            # Triton launches on the device that is current.
            with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
                return kernel()(x, *others)

        _LIBRARY.define(name + arguments)
        _LIBRARY.impl(name, twin, "CPU")
        _LIBRARY.impl(name, shaped, "Meta")
        _LIBRARY.impl(name, launch, "CUDA")
        operator: _Function = getattr(torch.ops.scopewatch, name).default
        return operator

    return make


def _normed(x: torch.Tensor, gain: torch.Tensor, eps: float, from_one: bool) -> torch.Tensor:
    wide = x.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (unit * (1.0 + gain.float())).to(x.dtype) if from_one else gain * unit.to(x.dtype)


def _like_one(x: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _like_two(x: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
    return _like_one(x), _like_one(x)


@_operator("norms", "(Tensor x, Tensor gain, float eps, bool from_one) -> Tensor", _like_one)
def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float, from_one: bool) -> torch.Tensor:
    """An RMSNorm (arXiv 1910.07467): x / sqrt(mean(x^2) + eps) times its gain.

    Args:
        x: Shape (..., d).
        gain: The norm's weight, shape (d,).
        eps: What is added to the mean square.
        from_one: Whether the norm is Gemma's.
    """
    return _normed(x, gain, eps, from_one)


@_operator("norms", "(Tensor x, Tensor residual, Tensor gain, float eps, bool from_one) -> (Tensor, Tensor)", _like_two)
def add_norm(
    x: torch.Tensor, residual: torch.Tensor, gain: torch.Tensor, eps: float, from_one: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A part's output added to the stream, and the next norm of the sum: (residual + x, norm(residual + x))."""
    total = residual + x
    return total, _normed(total, gain, eps, from_one)


@_operator("norms", "(Tensor x, Tensor residual, Tensor gain, float eps, bool from_one) -> Tensor", _like_one)
def norm_add(x: torch.Tensor, residual: torch.Tensor, gain: torch.Tensor, eps: float, from_one: bool) -> torch.Tensor:
    """The norm of a part's output, added to the stream: residual + norm(x)."""
    return residual + _normed(x, gain, eps, from_one)


@_operator(
    "norms",
    "(Tensor x, Tensor residual, Tensor first, Tensor second, float eps, bool from_one) -> (Tensor, Tensor)",
    _like_two,
)
def norm_add_norm(  # noqa: PLR0917 - operators take their arguments by place
    x: torch.Tensor, residual: torch.Tensor, first: torch.Tensor, second: torch.Tensor, eps: float, from_one: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with the next norm of the sum: s = residual + norm(x), with gain `first`, and norm(s), with `second`."""
    total = residual + _normed(x, first, eps, from_one)
    return total, _normed(total, second, eps, from_one)


def _like_heads(
    qkv: torch.Tensor, cos: torch.Tensor, _sin: object, q_heads: int, kv_heads: int, *_: object
) -> torch.Tensor:
    return qkv.new_empty((*qkv.shape[:-1], q_heads + kv_heads, cos.shape[-1]))


@_operator(
    "rotary",
    "(Tensor qkv, Tensor cos, Tensor sin, int q_heads, int kv_heads, Tensor? q_gain, Tensor? k_gain, float eps, "
    "bool from_one) -> Tensor",
    _like_heads,
)
def rotary(  # noqa: PLR0917 - as above
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
    """Rotary positions (arXiv 2104.09864) of the heads of q and k: x cos + rotate_half(x) sin.

    Args:
        qkv: Queries, keys and values side by side, shape (rows, tokens, (q_heads + 2 kv_heads) head_dim).
        cos: Shape (rows or 1, tokens, head_dim), in the reader's type.
        sin: Shape as of `cos`.
        q_heads: Number of heads of queries.
        kv_heads: Number of heads of keys.
        q_gain: Weight of the RMSNorm over each head of queries before, shape (head_dim,); None where there is none.
        k_gain: That of keys.
        eps: What these norms add to the mean square.
        from_one: Whether they are Gemma's.

    Returns:
        Heads of q, then of k, shape (rows, tokens, q_heads + kv_heads, head_dim).
    """
    x = qkv.reshape(*qkv.shape[:-1], -1, cos.shape[-1])[..., : q_heads + kv_heads, :]
    if q_gain is not None and k_gain is not None:
        q, k = x[..., :q_heads, :], x[..., q_heads:, :]
        x = torch.cat([_normed(q, q_gain, eps, from_one), _normed(k, k_gain, eps, from_one)], dim=-2)
    left, right = x.chunk(2, dim=-1)
    turned: torch.Tensor = x * cos.unsqueeze(-2) + torch.cat([-right, left], dim=-1) * sin.unsqueeze(-2)
    return turned


def _like_half(both: torch.Tensor, _activation: str) -> torch.Tensor:
    return both.new_empty((*both.shape[:-1], both.shape[-1] // 2))


@_operator("gated", "(Tensor both, str activation) -> Tensor", _like_half)
def gated(both: torch.Tensor, activation: str) -> torch.Tensor:
    """What a gated MLP makes of its first products, act(gate) * up.

    Args:
        both: Gate and up side by side, shape (..., 2 d_mlp).
        activation: One of `ACTIVATIONS`.

    Returns:
        Shape (..., d_mlp).
    """
    gate, up = both.chunk(2, dim=-1)
    active: torch.Tensor = ACTIVATIONS[activation](gate)
    return active * up
