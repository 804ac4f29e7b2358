"""How much one caller may ask for: calls at once, pairs a second, tokens a minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scopewatch.errors import Overloaded

Clock = Callable[[], float]
"""Seconds that only grow, as `time.monotonic` gives them."""
_CALL_RETRY_S = 0.1
"""When to ask again where as many calls run as may: one of them is answered soon, nobody knows when."""
_ROUNDING_S = 1e-6
"""Less than this nobody is sent away for: whoever comes when told to is not told again."""


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """What one caller may have; None is any number."""

    max_calls: int | None = None
    """Calls that are answered at once."""
    pairs_per_s: float | None = None
    """A second's worth may be asked for at once. A call for more is taken where nothing is owed, and paid for after: no
    batch is refused for ever."""
    tokens_per_minute: int | None = None
    """Tokens of the reader. A minute's worth may be read at once; what is read beyond it is owed."""


class Quota:
    """What one caller has taken, held against its limits. Used on one thread; what is owed survives other limits.

    Args:
        limits: What the caller may have.
        clock: Tells the time.
    """

    def __init__(self, limits: QuotaLimits, clock: Clock = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._calls = 0
        self._pairs = _Owed(clock())
        self._tokens = _Owed(clock())

    @contextmanager
    def call(self, pairs: int) -> Iterator[None]:
        """Counts a call for as long as it is answered.

        Args:
            pairs: The number of pairs that the call asks about.

        Raises:
            Overloaded: The caller has had as much as it may for now; says when to ask again.
        """
        limits, now_s = self.limits, self._clock()
        if limits.max_calls is not None and self._calls >= limits.max_calls:
            raise Overloaded(
                f"more than {limits.max_calls} calls of this caller at once; wait until one is answered",
                retry_after_s=_CALL_RETRY_S,
            )
        if (per_minute := limits.tokens_per_minute) is not None:
            wait_s = self._tokens.wait_s(0, now_s, rate_per_s=per_minute / 60, most=per_minute)
            _refuse_for(wait_s, f"more than {per_minute} tokens of this caller in a minute")
        if (per_s := limits.pairs_per_s) is not None and pairs:
            wait_s = self._pairs.wait_s(pairs, now_s, rate_per_s=per_s, most=per_s)
            _refuse_for(wait_s, f"more than {per_s:g} pairs of this caller in a second")
            self._pairs.amount += pairs
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def charge(self, tokens: int) -> None:
        """Counts tokens that are read for the caller, once it is known how many they are."""
        if (per_minute := self.limits.tokens_per_minute) is not None:
            self._tokens.pay(self._clock(), per_minute / 60)
            self._tokens.amount += tokens


class _Owed:
    """What was taken and is not paid for yet; time pays for it."""

    def __init__(self, now_s: float) -> None:
        self.amount = 0.0
        self._paid_s = now_s

    def pay(self, now_s: float, rate_per_s: float) -> None:
        self.amount = max(0.0, self.amount - rate_per_s * (now_s - self._paid_s))
        self._paid_s = now_s

    def wait_s(self, wanted: float, now_s: float, *, rate_per_s: float, most: float) -> float:
        """In how many seconds so much may be taken; more than may ever be owed counts as all of that."""
        self.pay(now_s, rate_per_s)
        return max(0.0, (self.amount + min(wanted, most) - most) / rate_per_s)


def _refuse_for(wait_s: float, problem: str) -> None:
    if wait_s > _ROUNDING_S:
        raise Overloaded(f"{problem}; ask again in {wait_s:.3g} s", retry_after_s=wait_s)
