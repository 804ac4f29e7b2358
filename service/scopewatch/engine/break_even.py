"""From when on it is faster to read on top of what is known of texts than to read that again."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from scopewatch.reader.pages import BLOCK

_TIMES = 3
"""How often each pass is run at most; the fastest counts."""
_BUDGET_S = 1.0
"""The time after which no pass is run again."""
_MARGIN = 0.05
"""The share of a pass's time that has to be saved; less may be chance."""
_SHARE = 0.8
"""The share of a pass's tokens that is known where one figure is told for all: 400 of 500."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """What passes take on a device.

    Small passes take as long as launching their kernels, or as loading the weights, however few tokens are left to
    read; and what is known has to be gathered. So reuse pays only in large passes, and not everywhere at all.

    Args:
        tokens: The numbers of tokens of passes, ascending; with none of them reuse always pays.
        seconds: The time that each of these passes took.
        known_s: The time that it takes to read on top of known tokens at all.
        known_token_s: The time that each known token takes besides.
    """

    tokens: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    known_s: float = 0.0
    known_token_s: float = 0.0

    def pays(self, tokens: int, known: int) -> bool:
        """Whether a pass is faster by reuse.

        Args:
            tokens: The number of all tokens of the pass.
            known: The number of those that are known.
        """
        if not self.tokens:
            return True
        reusing_s = self._pass_s(tokens - known) + self.known_s + self.known_token_s * known
        return reusing_s < (1 - _MARGIN) * self._pass_s(tokens)

    def least_tokens(self, most_tokens: int) -> int | None:
        """The size from which on a pass pays four fifths of which are known; None if none up to `most_tokens` does."""
        sizes = range(2 * BLOCK, most_tokens + 1, BLOCK)
        return next((size for size in sizes if self.pays(size, int(_SHARE * size))), None)

    def _pass_s(self, tokens: int) -> float:
        if len(self.tokens) > 1 and tokens > self.tokens[-1]:
            slope = (self.seconds[-1] - self.seconds[-2]) / (self.tokens[-1] - self.tokens[-2])
            return self.seconds[-1] + slope * (tokens - self.tokens[-1])
        return float(np.interp(tokens, self.tokens, self.seconds))


def measured(
    read: Callable[[int, int], object],
    sizes: Sequence[int],
    known: tuple[int, int],
    clock: Callable[[], float] = time.monotonic,
) -> BreakEven:
    """Measures a device by passes that run on it, each of them once at least.

    Args:
        read: Reads so many tokens in one pass, on top of so many known ones, and returns when the device is done.
        sizes: Numbers of tokens to read, ascending; at least one.
        known: Two numbers of known tokens, ascending, on top of which the smallest number is read.
        clock: Tells the time in seconds.
    """
    began_s = clock()

    def fastest(tokens: int, known: int) -> float:
        best_s = math.inf
        for number in range(_TIMES):
            started_s = clock()
            if number and started_s - began_s > _BUDGET_S:
                break
            read(tokens, known)
            best_s = min(best_s, clock() - started_s)
        return best_s

    few_s, many_s = (fastest(sizes[0], number) for number in known)
    # A larger pass that is faster than a smaller one is chance.
    seconds = tuple(accumulate((fastest(size, 0) for size in sizes), max))
    token_s = max(0.0, (many_s - few_s) / (known[1] - known[0]))
    known_s = max(0.0, few_s - token_s * known[0] - seconds[0])
    return BreakEven(tuple(sizes), seconds, known_s, token_s)
