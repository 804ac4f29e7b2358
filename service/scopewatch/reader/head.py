"""What the reader itself expected: how likely it found each token, and how open the choice was."""

import torch
from torch.nn import functional

_TOKENS = 64
"""Tokens whose logits exist at once: two arrays of 64 MiB with a vocabulary of 262,144."""
_SLICE = 1024
"""Rows of the weights that are multiplied at a time, so that they stay in a CPU's caches, and widened if need be."""


class Head:
    """A reader's output head.

    Args:
        weight: Shape (vocabulary, d); the embedding matrix itself where the reader ties the two.
        softcap: c in c tanh(logit / c); None for plain logits.
        tokens: How many tokens' logits exist at once.
        rows: How many rows of the weights are multiplied at a time on a CPU.
    """

    def __init__(
        self, weight: torch.Tensor, softcap: float | None, *, tokens: int = _TOKENS, rows: int = _SLICE
    ) -> None:
        self.weight = weight
        self._softcap = softcap
        self._tokens = tokens
        self._rows = rows

    def __call__(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Log-probability of tokens and entropy of the distributions they were expected from, in nats.

        Args:
            states: The stream at the token before each, after the reader's last norm; shape (n, d).
            ids: The tokens; shape (n,).

        Returns:
            One row for each token, shape (n, 2), float32.
        """
        # Always so many rows: products of another number add up otherwise, and a token would depend on its neighbours.
        filling = -len(ids) % self._tokens
        states, ids = functional.pad(states, (0, 0, 0, filling)), functional.pad(ids, (0, filling))
        chunks = zip(torch.split(states, self._tokens), torch.split(ids, self._tokens), strict=True)
        return torch.cat([self._predictions(*chunk) for chunk in chunks])[: len(ids) - filling]

    def _predictions(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = self._logits(states)
        if self._softcap:
            logits.div_(self._softcap).tanh_().mul_(self._softcap)
        # log_softmax rounds ten times worse over so many.
        each = logits.sub_(logits.logsumexp(dim=-1, keepdim=True))
        entropy = -each.exp().mul_(each).sum(dim=-1)
        return torch.stack([each.gather(1, ids[:, None])[:, 0], entropy], dim=1)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, vocabulary), in float32: bfloat16 would round a logit of 20 by up to 0.06."""
        if states.is_cuda and states.dtype == torch.bfloat16:
            return torch.mm(states, self.weight.T, out_dtype=torch.float32)
        wide = states.float()
        return torch.cat([wide @ rows.float().T for rows in torch.split(self.weight, self._rows)], dim=1)
