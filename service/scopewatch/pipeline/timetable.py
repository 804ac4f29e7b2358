"""When the engine will have read what: by what it has in hand, what waits, and how fast it was lately."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from scopewatch.pipeline.pace import Pace

_TRUST_S = 5.0
"""How long a pace is trusted that no batch confirms."""
_STEP = 4
"""How many times larger than those lately a batch may become at once, if somebody in it has a deadline."""
_WORTHWHILE = 0.9
"""The share of the best rate at which a batch has to be read for others to wait for it, or to be half of what could be
one.
"""
_PART_S = 0.005
"""The shortest time of a batch that is half of what could be one."""


@dataclass(slots=True, eq=False)
class Run:
    """A batch that the engine has."""

    tokens: int
    handed_s: float


class Timetable:
    """Foretells when batches end. All times are on the clock that is given.

    Args:
        pace: Learns how long batches take.
        max_batch_tokens: The most tokens of several pairs in one batch.
        clock: Seconds, monotonic.
    """

    def __init__(self, pace: Pace, max_batch_tokens: int, clock: Callable[[], float]) -> None:
        self._pace = pace
        self._max_batch_tokens = max_batch_tokens
        self._clock = clock
        self._runs: list[Run] = []
        self._free_since_s = -inf

    @property
    def running(self) -> int:
        """The number of batches that the engine has."""
        return len(self._runs)

    @property
    def tries(self) -> bool:
        """Whether to read a pair even if it looks hopeless: only a batch can show that an idle engine got faster."""
        return not self._runs and self._clock() - self._free_since_s > _TRUST_S

    def begin(self, tokens: int) -> Run:
        """Notes that a batch is handed to the engine, which may be busy with another."""
        self._runs.append(Run(tokens, self._clock()))
        return self._runs[-1]

    def end(self, run: Run, tokens: int = 0, reused_tokens: int = 0) -> None:
        """Notes that a batch has ended.

        Args:
            run: The batch, from `begin`.
            tokens: The number of its tokens that the engine read; 0 where nothing can be learned from it.
            reused_tokens: The number of these that the engine knew.
        """
        now_s = self._clock()
        if tokens:
            self._pace.learn(tokens, now_s - max(run.handed_s, self._free_since_s), reused_tokens)
        self._runs.remove(run)
        self._free_since_s = now_s

    def ends_s(self, tokens: int, *, waiting_tokens: int = 0, ahead_tokens: float = 0.0) -> float:
        """When, at the latest but for surprises, a batch will have ended; now, while nothing is known.

        Args:
            tokens: The number of tokens of the batch, or of one pair in it.
            waiting_tokens: The number of tokens that wait. Of so many others keep the pair company in its batch, up to
                what makes a batch worthwhile. Where fixed costs are high, small batches for the sake of those in the
                greatest hurry would make all others late.
            ahead_tokens: The number of tokens that are read before it, without those that the engine has.
        """
        most = max(tokens, self._max_batch_tokens)
        batches, rest = divmod(tokens + ahead_tokens, most)
        seconds = self._left_s() + batches * self._pace.seconds_for(most)
        if rest:
            worthwhile = self._pace.tokens_at(_WORTHWHILE, most)
            seconds += self._pace.seconds_for(max(int(rest), min(worthwhile, waiting_tokens)))
        return self._clock() + self._pace.caution * seconds

    def in_time(self, tokens: int, deadline_s: float) -> bool:
        """Whether a batch will end before a deadline, as far as it is known how long so large a batch takes."""
        if deadline_s == inf:
            return True
        return tokens <= _STEP * self._pace.largest_tokens and self.ends_s(tokens) <= deadline_s

    def worth_parting(self, tokens: int) -> bool:
        """Whether to read all that waits in two batches rather than one, so that one is read while one is answered.

        Args:
            tokens: The number of tokens that wait.
        """
        most, half = self._max_batch_tokens, tokens // 2
        if tokens > most or self._pace.seconds_for(half) < _PART_S:
            return False
        return half >= self._pace.tokens_at(_WORTHWHILE, most)

    def wait_s(self, tokens: int) -> float:
        """The seconds that the engine takes for so many tokens in full batches."""
        return tokens / self._max_batch_tokens * self._pace.seconds_for(self._max_batch_tokens)

    def _left_s(self) -> float:
        """The seconds that the engine still needs for the batches that it has."""
        if not self._runs:
            return 0.0
        first, *others = self._runs
        spent_s = self._clock() - max(first.handed_s, self._free_since_s)
        left_s = max(0.0, self._pace.seconds_for(first.tokens) - spent_s)
        return left_s + sum(self._pace.seconds_for(run.tokens) for run in others)
