"""A dictionary rounded for tensor cores, with a bound of the error (decision 0054)."""

import torch

_TINY = 1e-15
"""Below this norm the bound of the error would have to count numbers too small for float32."""


class Rounded:
    """A dictionary rounded to bfloat16, and how far a product with it may be off.

    With u = 2^-8, rounding both vectors changes x·w by at most (2u + u^2) |x||w|. Tensor cores add exact products up in
    float32, but cut off where others round: each of d additions errs by at most 2^-22 of the sum of the magnitudes
    (measured by Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science
    7, 2021). A float32 product errs by at most d 2^-24 of it, in any order of sums (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1). The sum of magnitudes is at most |x||w|. All are taken a hundredth larger, for the
    rounding of the norms and for higher powers.

    Args:
        W_enc: Shape (d_in, d_sae).
        b_enc: Shape (d_sae,).
    """

    def __init__(self, W_enc: torch.Tensor, b_enc: torch.Tensor) -> None:
        self.W_enc = W_enc.to(torch.bfloat16)
        self._norms: torch.Tensor = torch.linalg.vector_norm(W_enc, dim=0).clamp(min=_TINY)
        self._biases = b_enc.abs()
        u, d_in = 2**-8, len(W_enc)
        self._exact = 1.01 * (d_in + 1) * 2**-24
        self._coefficient = 1.01 * (2 * u + u**2 + d_in * 2**-22) + 2 * self._exact

    def product(self, x: torch.Tensor, columns: slice) -> torch.Tensor:
        """The product of (tokens, d_in), rounded, with some columns, in float32."""
        rounded, columns_of = x.to(torch.bfloat16), self.W_enc[:, columns]
        if x.is_cuda:
            return torch.mm(rounded, columns_of, out_dtype=torch.float32)
        return rounded.float() @ columns_of.float()

    def error(self, x: torch.Tensor, columns: slice) -> torch.Tensor:
        """How far pre-activations of some columns may be from what float32 products give, (tokens, 1)."""
        return self._coefficient * _norms(x) * self._norms[columns].max() + 2**-22 * self._biases[columns].max()

    def slack(self, x: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """How far two float32 products with given columns may be from each other, (tokens, n)."""
        return 2 * self._exact * _norms(x) * self._norms[columns] + 2**-22 * self._biases[columns]

    def slack_of(self, x: torch.Tensor, token: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """The same for single tokens and columns, (pairs,)."""
        return 2 * self._exact * _norms(x)[token, 0] * self._norms[column] + 2**-22 * self._biases[column]

    @property
    def strongest(self) -> torch.Tensor:
        """The columns of the greatest norm and of the greatest bias, (2,)."""
        return torch.stack([self._norms.argmax(), self._biases.argmax()])

    def bounds(self, x: torch.Tensor) -> torch.Tensor:
        """On which tokens the bounds hold, (tokens,): not where squares are too large or too small for float32."""
        norms = _norms(x)[:, 0]
        return torch.isfinite(norms) & (norms > _TINY)


def _norms(x: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norms
