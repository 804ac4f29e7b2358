"""The search for the words without which a verdict turns: which are tried, and how many at a time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2

from scopewatch.errors import EngineDied, EngineError, InvalidRequest, NotReady, UnknownWatchlist
from scopewatch.explain.behind_flag import excess
from scopewatch.explain.shortening import Word, shortened
from scopewatch.pipeline.stages import Judged
from scopewatch.types import ScoreJob
from scopewatch.verdicts import Verdict

Read = Callable[[ScoreJob], Awaitable[Judged]]
"""Reads and judges one pair, as `Monitor.read` does."""
_SETS = 8
"""How many sets of words are tried in a round, at most."""
_AT_ONCE_TOKENS = 8192
"""How many tokens are read together, about: as many pairs as have so many, and no more than `_SETS`."""
_FORWARD = 0.75
"""The share of the bound that may go into finding words; the rest is for putting needless ones back."""


@dataclass(frozen=True, slots=True)
class Shorter:
    """A pair without some words, and what became of it."""

    cut: frozenset[Word]
    excess: float
    """By how much the score that is farthest above its threshold is above it; at most 0 where the verdict turned."""
    verdict: Verdict

    @property
    def turned(self) -> bool:
        """Whether the verdict is another than FLAG."""
        return self.verdict is not Verdict.FLAG


class WordSearch:
    """Finds words without which the verdict of a flagged pair turns.

    Args:
        judged: The pair.
        read: Reads shortened pairs.
        ranked: The words that may go, those first that speak most for the flag.
        most_scored: How many shortened pairs are read, at most.
    """

    def __init__(self, judged: Judged, read: Read, ranked: Sequence[Word], most_scored: int) -> None:
        self._judged = judged
        self._read = read
        self._ranked = ranked
        n_tokens = sum(len(tokens.ids) for tokens in judged.read.tokenised.readings)
        self._at_once = max(1, min(_SETS, _AT_ONCE_TOKENS // n_tokens))
        seen = {word.segment for word in ranked if word.is_seen}
        self._some = {word for word in ranked if word.is_seen or word.segment not in seen}
        """The words of which one has to stay in each segment: those that are seen, if any is."""
        self._in_segment = Counter(word.segment for word in self._some)
        self._most = self._left = most_scored
        self._known: dict[frozenset[Word], Shorter | None] = {}
        self.failed = 0
        """How many shortened pairs could not be read."""

    @property
    def scored(self) -> int:
        """How many shortened pairs were scored."""
        return self._most - self._left - self.failed

    @property
    def exhausted(self) -> bool:
        """Whether the bound was reached."""
        return not self._left

    async def take_out(self) -> Shorter:
        """Takes words out until the verdict turns, or there is nothing more to try.

        In every round the best-ranked sets of words are tried, each beside what is gone already, and that one goes
        which lowers the largest excess over a threshold most. A set is one word at first and twice as many in every
        round: so the rounds are as many as the logarithm of the number of words, and the bound holds for long texts.
        """
        best = Shorter(frozenset(), excess(self._judged.judgement), self._judged.judgement.verdict)
        self._known[best.cut] = best
        rounds = ceil(log2(len(self._ranked))) + 1 if self._ranked else 0
        sets = max(1, min(_SETS, int(_FORWARD * self._left / max(1, rounds))))
        for number in range(rounds):
            left = [word for word in self._ranked if word not in best.cut]
            starts = range(0, len(left), 1 << number)[:sets]
            cuts = [self._leaving_some(best.cut, left[start : start + (1 << number)]) for start in starts]
            tried = await self._try(cuts)
            best = min((best, *tried), key=lambda shorter: shorter.excess)
            if best.turned or self.exhausted:
                break
        return best

    async def put_back(self, found: Shorter) -> Shorter:
        """Puts words back for as long as the verdict stays turned: unless the bound is reached, until no word can be.

        Halves of the words are put back, then quarters, and so on down to single words, as the complements of delta
        debugging are tested (Zeller and Hildebrandt 2002, algorithm ddmin).

        Args:
            found: What turned the verdict; of its words those that speak least for the flag are put back first.
        """
        gone = [word for word in reversed(self._ranked) if word in found.cut]
        size = ceil(len(gone) / 2)
        while len(gone) > 1 and not self.exhausted:
            groups = [gone[start : start + size] for start in range(0, len(gone), size)]
            tried = await self._try([found.cut.difference(group) for group in groups])
            turned = [shorter for shorter in tried if shorter.turned]
            if turned:
                found = min(turned, key=lambda shorter: (len(shorter.cut), shorter.excess))
                gone = [word for word in gone if word in found.cut]
                size = min(size, ceil(len(gone) / 2))
            elif size == 1:
                break
            else:
                size = ceil(size / 2)
        return found

    def _leaving_some(self, cut: frozenset[Word], words: Sequence[Word]) -> frozenset[Word]:
        """What is gone, and these words, without the last ones where nothing that is seen would stay of a segment."""
        more = list(words)
        while more and not self._leaves_some(cut.union(more)):
            more.pop()
        return cut.union(more)

    def _leaves_some(self, cut: frozenset[Word]) -> bool:
        gone = Counter(word.segment for word in cut if word in self._some)
        return all(gone[segment] < all_of_it for segment, all_of_it in self._in_segment.items())

    async def _try(self, cuts: Sequence[frozenset[Word]]) -> list[Shorter]:
        """Scores the pair without words, as often as the bound allows; what cannot be read is left out."""
        new = [cut for cut in dict.fromkeys(cuts) if cut not in self._known][: self._left]
        self._left -= len(new)
        job = self._judged.asked.job
        for start in range(0, len(new), self._at_once):
            together = new[start : start + self._at_once]
            jobs = [replace(job, pair=shortened(job.pair, cut), include_evidence=False) for cut in together]
            outcomes = await asyncio.gather(*map(self._read, jobs), return_exceptions=True)
            self._known |= {cut: self._tried(cut, outcome) for cut, outcome in zip(together, outcomes, strict=True)}
        return [shorter for cut in cuts if (shorter := self._known.get(cut))]

    def _tried(self, cut: frozenset[Word], outcome: Judged | BaseException) -> Shorter | None:
        if isinstance(outcome, BaseException):
            if not _is_of_one_pair(outcome):
                raise outcome
            self.failed += 1
            return None
        if outcome.asked.watchlist.digest != self._judged.asked.watchlist.digest:
            raise NotReady("the watchlists are being replaced; try again")
        return Shorter(cut, excess(outcome.judgement), outcome.judgement.verdict)


def _is_of_one_pair(error: BaseException) -> bool:
    """Whether nothing is wrong but with the pair that was read."""
    return isinstance(error, EngineError | InvalidRequest) and not isinstance(error, EngineDied | UnknownWatchlist)
