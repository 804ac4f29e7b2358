"""How many tokens a batch may have: as many as pay, and as the device's memory holds."""

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from scopewatch.errors import ConfigError
from scopewatch.types import EncodedBatch

MOST_TOKENS = {"cpu": 4096, "cuda": 16_384}
"""Beyond it a batch takes longer and a token does not get cheaper."""
_SHARE = 0.9
"""Of the free memory; the rest is for what fragments."""


def batch_tokens(
    run: Callable[[Sequence[NDArray[np.int32]]], EncodedBatch],
    device: torch.device,
    *,
    max_tokens: int,
    kept_bytes: int,
) -> int:
    """A token budget for this device.

    Args:
        run: The engine; on a GPU it runs three batches.
        device: Where it runs.
        max_tokens: Of the longest pair.
        kept_bytes: What will be kept of beginnings, beside the batches.

    Raises:
        ConfigError: There is no memory for the longest pair.
    """
    most = max(max_tokens, MOST_TOKENS[device.type])
    if device.type == "cpu":
        # It runs batches in short rows, see `runner.ROW_TOKENS`.
        return most

    numbers = count()

    def peak_bytes(pairs: int) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        resting = torch.cuda.memory_allocated(device)
        # No two begin alike, or what they share would be read once.
        for outcome in run([np.full(max_tokens, next(numbers), np.int32) for _ in range(pairs)]).activations:
            if isinstance(outcome, Exception):
                raise ConfigError(
                    f"max_tokens {max_tokens}: the device cannot read so long a pair; lower it ({outcome})"
                )
        return torch.cuda.max_memory_allocated(device) - resting

    # Once before, since kernels that are compiled take memory of their own.
    peak_bytes(1)
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    fitting = fitting_pairs(peak_bytes, int(_SHARE * (free - kept_bytes)))
    return min(most, max(1, fitting) * max_tokens)


def fitting_pairs(peak_bytes: Callable[[int], int], free_bytes: int) -> int:
    """How many pairs of a batch fit into memory, going by batches of one and of two.

    Memory is a straight line: each token of a row takes as much as any other, whatever text it is of.

    Args:
        peak_bytes: Runs a batch of so many equally long pairs and tells what it took at most.
        free_bytes: What a batch may take.
    """
    one, two = peak_bytes(1), peak_bytes(2)
    each = max(two - one, one // 2, 1)
    return max(0, 1 + (free_bytes - one) // each)
