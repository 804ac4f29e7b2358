"""Parts of a reader compiled into fewer kernels: norms and MLPs, which are the same in every layer (decision 0017)."""

import torch

from scopewatch.engine.linear import PackedLinear


def compile_regions(model: torch.nn.Module) -> None:
    """Compiles, at its first pass, each norm and each MLP of torch's own linear layers, for rows of any length.

    Whole layers are left alone: hookpoints lie between their parts. Rows vary in length, so that no graph of a whole
    pass could be replayed.
    """
    for module in model.modules():
        kind = type(module).__name__
        packed = any(isinstance(part, PackedLinear) for part in module.modules())
        if kind.endswith("RMSNorm") or (kind.endswith("MLP") and not packed):
            module.forward = torch.compile(module.forward, dynamic=True)
