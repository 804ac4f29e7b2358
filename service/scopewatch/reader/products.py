"""Matrix products of what runs on a GPU."""

import torch
from torch.nn import functional


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer's output.

    Args:
        x: Shape (..., in_features).
        weight: Shape (out_features, in_features).
        bias: Shape (out_features,), or None.
    """
    return functional.linear(x, weight, bias)
