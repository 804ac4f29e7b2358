"""Makes explanations, one at a time, behind what is scored."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from scopewatch.engine.looks import Looks, Steps
from scopewatch.errors import (
    ConfigError,
    DeadlineExpired,
    FieldViolation,
    InvalidRequest,
    NotReady,
    Overloaded,
    ScopewatchError,
)
from scopewatch.explain.ablating import ablate
from scopewatch.explain.deletion import smallest_deletion
from scopewatch.explain.document import explained
from scopewatch.explain.turns import RESTS, Turns
from scopewatch.explanation import MOST_TOP, Explanation, Wants
from scopewatch.identity import LOGPROB, EngineIdentity, SaeIdentity
from scopewatch.metrics.explanation_counts import ExplanationCounts
from scopewatch.pipeline.stages import Judged
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.types import Caller, CoveredActivations, ScoreJob
from scopewatch.verdicts import Label

T = TypeVar("T")
Labels = Callable[[SaeIdentity, Sequence[int]], Mapping[int, Label]]
"""The labels of features of an SAE, of those that have one; called on a thread of its own."""

_LANE = "an explanation"
"""The lane in which explanations are read; no caller has a name with a space."""
_LEAST_RETRY_S, _MOST_RETRY_S = 0.25, 10.0
_REPLACING_S = 1.0
"""When to ask again while watchlists are replaced."""


class Explainer:
    """Tells why pairs get their verdicts, by the numbers that they are scored by.

    Args:
        read: Reads and judges a pair: `Monitor.read`.
        running: The watchlists that the next call is judged by.
        watched: What the engine watches now; also called on its thread.
        inside: The engine.
        turns: Turns at the engine.
        labels: Labels of features that no watchlist watches.
        metrics: Counts explanations.
        most: How many explanations may wait or be made; 0 makes none.
    """

    def __init__(
        self,
        *,
        read: Callable[[ScoreJob], Awaitable[Judged]],
        running: Callable[[], WatchlistSet],
        watched: Callable[[], EngineIdentity],
        inside: Looks,
        turns: Turns,
        labels: Labels,
        metrics: ExplanationCounts,
        most: int,
    ) -> None:
        self._read = read
        self._running = running
        self._watched = watched
        self._inside = inside
        self._turns = turns
        self._labels = labels
        self._metrics = metrics
        self._most = most
        self._begun = 0
        self._one = asyncio.Lock()
        self._last_s = 0.0

    async def explain(self, job: ScoreJob, wants: Wants) -> Explanation:
        """Tells why a pair gets its verdict, when the engine has time for it.

        Raises:
            ConfigError: This service makes no explanations.
            InvalidRequest: More is wanted than is told, or the pair cannot be scored.
            Overloaded: As many explanations wait as may.
            DeadlineExpired: The deadline passed before all was told.
            NotReady: The watchlists are being replaced.
            ScopewatchError: The pair cannot be scored.
        """
        started_s, outcome = time.monotonic(), "failed"
        try:
            explanation = await self._in_time(job, wants)
            outcome = "ok"
        except ScopewatchError as error:
            outcome = error.reason
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._metrics.explained(outcome, time.monotonic() - started_s)
        return explanation

    async def _in_time(self, job: ScoreJob, wants: Wants) -> Explanation:
        if not self._most:
            raise ConfigError("this service makes no explanations; max_explanations is 0")
        if not 1 <= wants.top <= MOST_TOP:
            raise InvalidRequest(FieldViolation("top", f"is {wants.top}; from 1 to {MOST_TOP} features are told"))
        if self._begun >= self._most:
            retry_s = min(max(self._last_s, _LEAST_RETRY_S), _MOST_RETRY_S)
            raise Overloaded(f"{self._most} explanations wait or are being made", retry_after_s=retry_s)
        self._begun += 1
        try:
            async with asyncio.timeout_at(job.deadline_s) as deadline, self._one:
                return await self._timed(job, wants)
        except TimeoutError:
            if deadline.expired():
                raise DeadlineExpired("the deadline passed before the explanation was made") from None
            raise
        finally:
            self._begun -= 1

    async def _timed(self, job: ScoreJob, wants: Wants) -> Explanation:
        started_s = time.monotonic()
        try:
            return await self._explain(replace(job, caller=_behind(job.caller)), wants)
        finally:
            self._last_s = time.monotonic() - started_s

    async def _explain(self, job: ScoreJob, wants: Wants) -> Explanation:
        watchlists = self._running()
        judged = await self._judged(watchlists, job)
        steps = partial(self._steps, watchlists)
        looked = await steps(self._inside.look(judged.read.tokenised.readings[0], wants.top))
        predictions = await self._predictions(watchlists, judged)
        ablations = await ablate(judged, self._inside, steps, controls=wants.controls) if wants.ablate else ()
        shortened = partial(self._judged, watchlists)
        deletion = await smallest_deletion(judged, shortened) if wants.delete else None
        self._expect(watchlists)
        read_by_it = {feature.sae for feature in judged.asked.watchlist.features}
        saes = {sae.name: sae for sae in watchlists.engine.saes}
        assemble = partial(
            explained,
            judged,
            [one for one in looked if one.sae in read_by_it],
            predictions,
            watchlists=watchlists,
            labels=lambda name, features: self._labels(saes[name], features),
            ablations=ablations,
            deletion=deletion,
        )
        # Tens of milliseconds, in which others would not be answered.
        return await asyncio.to_thread(assemble)

    async def _judged(self, watchlists: WatchlistSet, job: ScoreJob) -> Judged:
        """Reads and judges a pair when it is its turn.

        Raises:
            NotReady: Other watchlists judge now than this explanation began with.
        """
        await self._turns.turn()
        self._expect(watchlists)
        judged = await self._read(job)
        self._turns.took(judged.timings.forward_s + judged.timings.encode_s)
        return judged

    async def _predictions(self, watchlists: WatchlistSet, judged: Judged) -> CoveredActivations | None:
        """What the reader expected of a pair: known already where a watchlist asks for it."""
        (first, *_), tokens = judged.read.covered, judged.read.tokenised.readings[0]
        ids = dict(zip(watchlists.engine.features, watchlists.engine.feature_ids, strict=True))
        if ids.get(LOGPROB) in first.table.features:
            return first
        if not self._inside.has_head:
            return None
        return await self._turns.run(partial(self._unless_replaced, watchlists, partial(self._inside.read, tokens)))

    async def _steps(self, watchlists: WatchlistSet, steps: Steps[T]) -> T:
        return await self._turns.drive(self._guarded(watchlists, steps))

    def _guarded(self, watchlists: WatchlistSet, steps: Steps[T]) -> Generator[None, None, T]:
        """The same steps, each taken only while the engine watches what it watched; nothing else is installed there
        while one is taken, since both are jobs of its thread.
        """
        with closing(steps):
            while True:
                try:
                    self._unless_replaced(watchlists, partial(next, steps))
                except StopIteration as end:
                    result: T = end.value
                    return result
                yield

    def _unless_replaced(self, watchlists: WatchlistSet, work: Callable[[], T]) -> T:
        self._expect(watchlists)
        return work()

    def _expect(self, watchlists: WatchlistSet) -> None:
        """While watchlists are replaced the engine watches what the old and the new ones read, under names that may
        mean something else: what is told then would be of both.

        Raises:
            NotReady: Other watchlists judge, or the engine watches something else, than when the explanation began.
        """
        if self._running() is not watchlists or self._watched() is not watchlists.engine:
            raise NotReady("the watchlists are being replaced; ask again", retry_after_s=_REPLACING_S)


def _behind(caller: Caller) -> Caller:
    """Who reads for an explanation of this caller's: its tenant, whose cache it shares, behind everybody."""
    return replace(caller, name=_LANE, weight=caller.weight / RESTS, behind=True)
