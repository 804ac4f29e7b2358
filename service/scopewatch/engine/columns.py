"""Pre-activations of encoder columns: the same for an activation whatever else is encoded with it (decision 0053)."""

import torch
from torch.nn import functional

from scopewatch.reader.linear import PackedLinear, packed_linear
from scopewatch.reader.products import product


class Columns(torch.nn.Module):
    """Computes `x @ W_enc + b_enc` in float32, (..., d_in) to (..., n).

    Args:
        W_enc: Shape (d_in, n).
        b_enc: Shape (n,).
    """

    def __init__(self, W_enc: torch.Tensor, b_enc: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Buffer(W_enc.T), torch.nn.Buffer(b_enc)
        self._packed: PackedLinear | None = None

    @property
    def product_weights(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """What `RowCounts.settle` takes."""
        return [(self.weight, self.bias)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pre-activations.

        Args:
            x: Shape (..., d_in), float32.
        """
        if x.is_cuda:
            return product(x, self.weight, self.bias)
        if self._packed is None:
            self._packed = packed_linear(self.weight, self.bias)
        if self._packed is None:
            return functional.linear(x, self.weight, self.bias)
        # A lone row is added up in another order than one of several.
        alone = x[..., 0].numel() == 1
        pre: torch.Tensor = self._packed(x.expand(2, *x.shape).contiguous() if alone else x)
        return pre[0] if alone else pre
