"""Linear layers for x86 CPUs, with weights laid out once as oneDNN multiplies them (decision 0017)."""

from typing import Any

import torch


class PackedLinear(torch.nn.Module):
    """What `torch.nn.Linear` computes, (..., in_features) to (..., out_features), weights not rearranged per call."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        # Opaque, and so no parameter.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())  # noqa: SLF001

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")  # noqa: SLF001
        return out


def multiplies_bfloat16() -> bool:
    """Whether packed layers are faster in bfloat16 here than in float32; unpacked ones are hundreds of times slower."""
    here = torch.cpu.get_capabilities()
    return _can_pack() and bool(here.get("avx512_bf16") or here.get("amx_bf16"))


def pack_linears(model: torch.nn.Module) -> None:
    """Replaces a model's linear layers, where this CPU and this torch can."""
    if not _can_pack():
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            model.set_submodule(name, PackedLinear(module))


def _can_pack() -> bool:
    backends: Any = torch.backends
    return bool(backends.mkldnn.is_available()) and backends.cpu.get_cpu_capability().startswith("AVX")
