"""A reader's weights as a smaller number format would have them, computed with as before.

It shows what a detector keeps when the reader is served in that format, on any device.
"""

from collections.abc import Mapping

import torch

from scopewatch.types import Rounding


def rounded(weights: Mapping[str, torch.Tensor], rounding: Rounding) -> dict[str, torch.Tensor]:
    """The weights rounded; whoever loads them gives them the type that is computed with.

    Args:
        weights: The weights of a text model by name; those of decoder layers begin with `layers.`.
        rounding: The format. Embeddings and norms stay as they are in int8.
    """
    if rounding == "bfloat16":
        return {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    if rounding == "int8":
        return {name: _int8(weight) if _is_linear(name, weight) else weight for name, weight in weights.items()}
    return dict(weights)


def _is_linear(name: str, weight: torch.Tensor) -> bool:
    return name.startswith("layers.") and weight.dim() == 2


def _int8(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.float()
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / step.clamp(min=torch.finfo(torch.float32).tiny)).round() * step
