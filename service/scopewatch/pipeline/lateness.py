"""Who would be late is told so at once: what cannot be read before its deadline is not let in, nor begun."""

from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

from scopewatch.errors import Overloaded
from scopewatch.pipeline.lanes import Lanes, Waiting
from scopewatch.pipeline.timetable import Timetable
from scopewatch.types import Caller

_LEAST_SPARE, _MOST_SPARE, _MORE_SPARE = 1.1, 2.0, 0.1
"""How many times as long as foretold a pair that comes is taken to wait, so that few are let in only to be dropped:
more by the last for each that is dropped, and less again by as much for two hundred that are read."""

E = TypeVar("E", bound=Waiting)


class Lateness(Generic[E]):
    """Foretells whether pairs are late, and learns from those that were let in and dropped.

    Args:
        lanes: What waits for the engine.
        timetable: Foretells when batches end.
        clock: Tells the time in seconds, monotonic; deadlines are on this clock.
    """

    def __init__(self, lanes: Lanes[E], timetable: Timetable, clock: Callable[[], float]) -> None:
        self._lanes = lanes
        self._timetable = timetable
        self._clock = clock
        self._spare = _LEAST_SPARE

    def refuse(self, tokens: float, deadline_s: float, caller: Caller, ahead_tokens: float = 0.0) -> None:
        """Refuses a pair that would not be read before its deadline if it came now.

        Args:
            tokens: The number of its tokens, which may be a guess.
            deadline_s: When its caller stops waiting.
            caller: Whose pair it is.
            ahead_tokens: The number of tokens that are on their way to the queue before it.

        Raises:
            Overloaded: It would be late.
        """
        if not ahead_tokens and self._tries():
            return
        turn = (self._lanes.taken_tokens(caller) + round(ahead_tokens), 0)
        self._check(round(tokens), deadline_s, caller, turn, ahead_tokens)

    def refuse_coming(self, entry: E, deadline_s: float) -> None:
        """Refuses a pair that has come, if it cannot be read before its deadline.

        Raises:
            Overloaded: It would be late.
        """
        if deadline_s != inf and not self._tries():
            self._check(entry.tokens, deadline_s, entry.caller, entry.turn)

    def hopeless(self, deadline_s: float, tokens: int, waiting_tokens: int, *, alone: bool) -> bool:
        """Whether a pair would be late in a batch of so many tokens.

        Args:
            deadline_s: When its caller stops waiting.
            tokens: The number of the batch's tokens.
            waiting_tokens: The number of tokens that waited when the batch was begun to be put together.
            alone: Whether it is the first of the batch.
        """
        if deadline_s == inf:
            return False
        tried = alone and self._timetable.tries
        ends_s = self._clock() if tried else self._timetable.ends_s(tokens, waiting_tokens=waiting_tokens)
        return ends_s >= deadline_s

    def dropped(self) -> None:
        """Notes that a pair was let in and had to be dropped."""
        self._spare = min(self._spare + _MORE_SPARE, _MOST_SPARE)

    def taken(self) -> None:
        """Notes that a pair was let in and is read."""
        self._spare = max(self._spare - _MORE_SPARE / 200, _LEAST_SPARE)

    def _tries(self) -> bool:
        """Whether a pair is read even if it looks hopeless."""
        return not self._lanes.tokens and self._timetable.tries

    def _check(
        self, tokens: int, deadline_s: float, caller: Caller, turn: tuple[int, int], ahead_tokens: float = 0.0
    ) -> None:
        now_s = self._clock()
        ahead_tokens += self._lanes.tokens_before(caller, turn)
        waiting_tokens = max(self._lanes.tokens, round(ahead_tokens))
        ends_s = self._timetable.ends_s(tokens, waiting_tokens=waiting_tokens, ahead_tokens=ahead_tokens)
        if (late_s := now_s + self._spare * (ends_s - now_s) - deadline_s) > 0:
            raise Overloaded("there is no time to read it before its deadline", retry_after_s=bounded(late_s))


def bounded(wait_s: float) -> float:
    """The seconds after which a refused caller may come back, within bounds."""
    return min(max(wait_s, 0.05), 10.0)
