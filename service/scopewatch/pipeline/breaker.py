"""A circuit breaker: leaves a dependency that keeps failing alone for a while."""

import time
from collections.abc import Callable


class Breaker:
    """Stops asking a dependency that failed `failures` times in a row; tries again after a growing pause.

    Args:
        failures: How many failures in a row open the breaker.
        first_pause_s: How long it stays open at first, in seconds; twice as long after every failed trial.
        longest_pause_s: The longest pause, in seconds.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._failures = 0
        self._pause_s = first_pause_s
        self._retry_at: float | None = None
        self._on_trial = False

    @property
    def is_open(self) -> bool:
        """Whether the dependency is left alone."""
        return self._retry_at is not None

    def allows(self) -> bool:
        """Whether to ask now. While open, lets one caller through per pause."""
        if self._retry_at is None:
            return True
        if self._clock() < self._retry_at:
            return False
        self._retry_at = self._clock() + self._pause_s
        self._on_trial = True
        return True

    def succeeded(self) -> None:
        """Closes the breaker: the dependency answered."""
        self._failures = 0
        self._pause_s = self._first_pause_s
        self._retry_at = None
        self._on_trial = False

    def failed(self) -> None:
        """Counts a failure of the dependency."""
        self._failures += 1
        if self._retry_at is None and self._failures >= self._limit:
            self._retry_at = self._clock() + self._pause_s
        elif self._on_trial:
            # Calls that were under way when it opened fail without a trial, and say nothing new.
            self._on_trial = False
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
            self._retry_at = self._clock() + self._pause_s
