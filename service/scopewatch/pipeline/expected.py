"""Pairs on their way to the queue: the number of their tokens is guessed, and no token made that comes to nothing.

Under overload most pairs are refused, and to make their tokens first takes the time that others are waiting for.
"""

from collections.abc import Callable, Sequence

from scopewatch.errors import Overloaded
from scopewatch.types import Caller, Pair, ScoreJob

RefuseLate = Callable[[float, float, Caller, float], None]
"""Raises Overloaded for a pair of so many tokens that cannot be read before its deadline, given its caller and how many
tokens come to the queue before it."""
_KEPT = 0.99
"""The weight that what was known of texts keeps when a pair is added."""


class Expected:
    """Counts the tokens of pairs that were let in and are not in the queue yet.

    Args:
        refuse_late: The queue's way to say that a pair will be late.
    """

    def __init__(self, refuse_late: RefuseLate) -> None:
        self._refuse_late = refuse_late
        self._tokens = 0.0
        self._seen_chars = self._seen_tokens = 0.0

    def expect(self, jobs: Sequence[ScoreJob]) -> tuple[list[Overloaded | None], float]:
        """Lets pairs in that can be read in time, as far as their length tells.

        Args:
            jobs: The pairs of one call, in order.

        Returns:
            Why a pair is refused, or None, for each; and the tokens that are expected of the others, for `arrived`.
        """
        before = self._tokens
        refusals = [self._refusal(job) for job in jobs]
        return refusals, self._tokens - before

    def arrived(self, expected: float, pairs: Sequence[tuple[Pair, int]]) -> None:
        """Notes that tokens were made, or could not be.

        Args:
            expected: The tokens that were expected.
            pairs: The pairs of which tokens were made, and how many there are.
        """
        self._tokens -= expected
        for pair, tokens in pairs:
            self._seen_chars = _KEPT * self._seen_chars + _length(pair)
            self._seen_tokens = _KEPT * self._seen_tokens + tokens

    def _refusal(self, job: ScoreJob) -> Overloaded | None:
        tokens = _length(job.pair) * self._seen_tokens / max(1.0, self._seen_chars)
        if job.deadline_s is not None and tokens:
            try:
                self._refuse_late(tokens, job.deadline_s, job.caller, self._tokens)
            except Overloaded as refusal:
                return refusal
        self._tokens += tokens
        return None


def _length(pair: Pair) -> int:
    """The characters of a pair, and token ids, each of which counts as one."""
    ids = len(pair.prompt_token_ids) + len(pair.response_token_ids)
    return len(pair.prompt) + len(pair.response) + sum(len(turn.content) for turn in pair.history) + ids
