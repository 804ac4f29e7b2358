"""Linear layers for x86 CPUs, with weights laid out once as oneDNN multiplies them (decision 0017)."""

from typing import Any

import torch

_POINTWISE = {"gelu_pytorch_tanh": ("gelu", "tanh"), "silu": ("swish", "")}
"""By an activation function's name in configurations: its name in oneDNN, and the formula meant there."""


class PackedLinear(torch.nn.Module):
    """Computes what `torch.nn.Linear` does, (..., in_features) to (..., out_features), without rearranging weights in
    every call.

    Args:
        linear: The layer whose place it takes.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        # Opaque, and so no parameter.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())  # noqa: SLF001

    def forward(self, x: torch.Tensor, then: tuple[str, str] = ("none", "")) -> torch.Tensor:
        """The layer's output, on request with an activation function after it, one of `_POINTWISE`."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, then[0], [], then[1])  # noqa: SLF001
        return out

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """The layer's output times another tensor of that shape, element by element."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, factor, self._weight, self.bias, "mul")  # noqa: SLF001
        return out


def packed_linear(weight: torch.Tensor, bias: torch.Tensor) -> PackedLinear | None:
    """A linear layer with weights laid out for oneDNN; None where this CPU and this torch cannot.

    Args:
        weight: Shape (out_features, in_features).
        bias: Shape (out_features,).
    """
    if not _can_pack():
        return None
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    linear.bias = torch.nn.Parameter(bias, requires_grad=False)
    return PackedLinear(linear)


class PackedMlp(torch.nn.Module):
    """A gated MLP, down(act(gate(x)) * up(x)), whose activation and product are made together with what they are of.

    While somebody listens inside it, its parts run one by one.

    Args:
        mlp: The MLP whose place it takes; its linear layers are packed already.
        activation: Name of its activation function, a key of `_POINTWISE`.
    """

    def __init__(self, mlp: Any, activation: str) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            mlp.gate_proj,
            mlp.up_proj,
            mlp.down_proj,
            mlp.act_fn,
        )
        self._then = _POINTWISE[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The MLP's output, (..., d) to the same shape."""
        parts = (self.gate_proj, self.up_proj, self.act_fn)
        if any(part._forward_hooks or part._forward_pre_hooks for part in parts):  # noqa: SLF001
            inner = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        else:
            inner = self.up_proj.times(x, self.gate_proj(x, self._then))
        out: torch.Tensor = self.down_proj(inner)
        return out


def multiplies_bfloat16() -> bool:
    """Whether packed layers are faster in bfloat16 here than in float32; unpacked ones are hundreds of times slower.

    The CPU must have the arithmetic, and oneDNN must be allowed to use it: `ONEDNN_MAX_CPU_ISA` may hide it.
    """
    here = torch.cpu.get_capabilities()
    has_arithmetic = bool(here.get("avx512_bf16") or here.get("amx_bf16"))
    return _can_pack() and has_arithmetic and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def pack_linears(model: torch.nn.Module, activation: str = "") -> None:
    """Replaces a model's linear layers, where this CPU and this torch can.

    Args:
        model: The model whose layers are replaced.
        activation: The activation function of its MLPs, as the configuration names it; if oneDNN has it, MLPs are
            replaced as well.
    """
    if not _can_pack():
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            model.set_submodule(name, PackedLinear(module))
    for name, module in list(model.named_modules()):
        if name.endswith(".mlp") and activation in _POINTWISE:
            model.set_submodule(name, PackedMlp(module, activation))


def _can_pack() -> bool:
    backends: Any = torch.backends
    return bool(backends.mkldnn.is_available()) and backends.cpu.get_cpu_capability().startswith("AVX")
