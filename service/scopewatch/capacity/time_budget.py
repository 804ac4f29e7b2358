"""The time that a measurement may take, of which its parts get shares."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """Time that began to run when this was made.

    Args:
        within_s: The seconds there are.
        clock: Tells the time in seconds; all that is measured goes by it.
    """

    within_s: float
    clock: Callable[[], float] = time.perf_counter
    began_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "began_s", self.clock())

    @property
    def spent_s(self) -> float:
        """The seconds since it began."""
        return self.clock() - self.began_s

    @property
    def left_s(self) -> float:
        """The seconds that are left; 0 where it is over."""
        return max(0.0, self.within_s - self.spent_s)

    def share(self, part: float, *, without_s: float = 0.0) -> Self:
        """A budget that begins now and has this part of what is left after `without_s` seconds are laid aside."""
        return type(self)(part * max(0.0, self.left_s - without_s), self.clock)

    def rounds(self, most: int) -> Iterator[int]:
        """Numbers rounds from 1: the first always, and as many more as fit if each takes as long as the longest did."""
        longest_s = 0.0
        for number in range(1, most + 1):
            if number > 1 and longest_s >= self.left_s:
                return
            began_s = self.clock()
            yield number
            longest_s = max(longest_s, self.clock() - began_s)
