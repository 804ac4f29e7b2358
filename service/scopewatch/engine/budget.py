"""How many tokens a batch may have: as many as pay, and as the device's memory holds."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count

import numpy as np
import torch

from scopewatch.errors import ConfigError
from scopewatch.types import EncodedBatch, TokenIds

MOST_TOKENS = {"cpu": 4096, "cuda": 16_384}
"""The number of tokens beyond which a batch takes longer and a token does not get cheaper, by kind of device."""
_SHARE = 0.9
"""The share of the free memory that batches may fill; the rest is for what fragments."""


def batch_tokens(
    run: Callable[[Sequence[TokenIds]], EncodedBatch],
    device: torch.device,
    *,
    max_tokens: int,
    held_bytes: int,
) -> int:
    """A token budget for this device.

    Args:
        run: The engine, without graphs, whose batches take no memory but theirs; on a GPU it runs three batches.
        device: The device the engine runs on.
        max_tokens: Tokens of the longest pair.
        held_bytes: Memory that batches cannot have, though it counts as free: what will be kept of beginnings, and what
            belongs to graphs.

    Raises:
        ConfigError: There is no memory for the longest pair.
    """
    most = max(max_tokens, MOST_TOKENS[device.type])
    if device.type == "cpu":
        # It runs batches in short rows, see `passes.ROW_TOKENS`.
        return most
    peak_bytes = partial(_peak_bytes, run, device, max_tokens, count())
    # Once before, since kernels that are compiled take memory of their own.
    peak_bytes(1)
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    fitting = fitting_pairs(peak_bytes, int(_SHARE * (free - held_bytes)))
    return min(most, max(1, fitting) * max_tokens)


def _peak_bytes(
    run: Callable[[Sequence[TokenIds]], EncodedBatch],
    device: torch.device,
    max_tokens: int,
    numbers: Iterator[int],
    pairs: int,
) -> int:
    """What a batch of the longest pairs takes at most, beside what rests in the device's memory."""
    torch.cuda.reset_peak_memory_stats(device)
    resting = torch.cuda.memory_allocated(device)
    # No two begin alike, or what they share would be read once.
    for outcome in run([np.full(max_tokens, next(numbers), np.int32) for _ in range(pairs)]).activations:
        if isinstance(outcome, Exception):
            raise ConfigError(f"max_tokens {max_tokens}: the device cannot read so long a pair; lower it ({outcome})")
    return torch.cuda.max_memory_allocated(device) - resting


def fitting_pairs(peak_bytes: Callable[[int], int], free_bytes: int) -> int:
    """How many pairs of a batch fit into memory, going by batches of one and of two.

    Memory is a straight line: each token of a row takes as much as any other, whatever text it is of.

    Args:
        peak_bytes: Runs a batch of so many equally long pairs and tells the memory it took at most.
        free_bytes: The memory a batch may take.
    """
    one, two = peak_bytes(1), peak_bytes(2)
    each = max(two - one, one // 2, 1)
    return max(0, 1 + (free_bytes - one) // each)
