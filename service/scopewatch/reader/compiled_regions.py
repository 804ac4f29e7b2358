"""Parts of a reader compiled into fewer kernels: norms and MLPs, which are the same in every layer (decision 0017)."""

from collections.abc import Callable
from typing import Any

import torch

from scopewatch.reader.linear import PackedLinear


def compile_regions(model: torch.nn.Module) -> None:
    """Compiles, at its first pass, each norm and each MLP of torch's own linear layers, for rows of any length.

    Whole layers are left alone: hookpoints lie between their parts. Rows vary in length, so that no graph of a whole
    pass could be replayed.
    """
    for module in model.modules():
        kind = type(module).__name__
        packed = any(isinstance(part, PackedLinear) for part in module.modules())
        if kind.endswith("RMSNorm") or (kind.endswith("MLP") and not packed):
            module.forward = _unless_tapped(module)


def _unless_tapped(module: torch.nn.Module) -> Callable[..., Any]:
    """A module's forward, compiled while nobody listens inside the module: torch compiles as if nobody ever did."""
    plain, compiled = module.forward, torch.compile(module.forward, dynamic=True)
    parts = list(module.modules())[1:]

    def forward(*arguments: Any, **named: Any) -> Any:
        tapped = any(part._forward_hooks or part._forward_pre_hooks for part in parts)  # noqa: SLF001
        return (plain if tapped else compiled)(*arguments, **named)

    return forward
