"""The spine: each pair is tokenised, its activations are looked up or computed, and a watchlist judges them.

A pair passes three stages, each of which knows all that the one before it knows: `Asked`, `Tokenised`, `Read`. A
pair that was judged lately goes from the first to its answer, if the cache still holds what it was judged by.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import islice

from scopewatch.errors import EngineError, InvalidRequest, ScopewatchError
from scopewatch.events import PairFailed, PairScored, PairsFailed, PairsScored
from scopewatch.metrics import Metrics, reason_of
from scopewatch.pipeline.cache import Cache
from scopewatch.pipeline.cached_value import CachedValues
from scopewatch.pipeline.expected import Expected
from scopewatch.pipeline.judgements import Judgements, Remembered
from scopewatch.pipeline.reading import Reading
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.shadows import Shadows
from scopewatch.pipeline.stages import Asked, Judged, LookedUp, Read, Tokenised
from scopewatch.pipeline.watchlist_set import RunningSet, WatchlistSet
from scopewatch.pipeline.windows import Submit
from scopewatch.types import Cleaning, Pair, ScoreJob, TokenisedPair
from scopewatch.verdicts import Judgement, ScoredPair, Timings

log = logging.getLogger(__name__)

Tokenise = Callable[[Sequence[Pair], Sequence[Cleaning]], Awaitable[list[tuple[TokenisedPair, ...] | InvalidRequest]]]
Outcome = ScoredPair | ScopewatchError


class Monitor:
    """Scores pairs. One code path for one pair and for many.

    Args:
        tokenise: Pairs in, and how each is to be cleaned; for each its readings, or what is wrong with it.
        submit: Token ids, deadline, tokens ahead and caller in, activations out: the batcher's way to the engine.
        expected: Refuses pairs before their tokens are made, if they will be late.
        cache: Where activations are kept.
        values: Makes the cache's keys and values.
        watchlists: The watchlists to begin with.
        metrics: Counts look-ups, and what becomes of every pair.
        max_evidence: The most evidence spans of one indicator.
        judgements: Keeps the last judgements; without it none is kept.
        shadows: Has shadow watchlists judge beside; without it none does.
        listeners: Are told of every pair that is scored.
        failure_listeners: Are told of every pair that got an error.
    """

    def __init__(
        self,
        *,
        tokenise: Tokenise,
        submit: Submit,
        expected: Expected,
        cache: Cache,
        values: CachedValues,
        watchlists: WatchlistSet,
        metrics: Metrics,
        max_evidence: int,
        judgements: Judgements | None = None,
        shadows: Shadows | None = None,
        listeners: Sequence[PairsScored] = (),
        failure_listeners: Sequence[PairsFailed] = (),
    ) -> None:
        self._tokenise_pairs = tokenise
        self._reading = Reading(submit, cache, values, metrics)
        self._expected = expected
        self._cache = cache
        self._values = values
        self._running = RunningSet(watchlists)
        self._metrics = metrics
        self._max_evidence = max_evidence
        self._judgements = judgements
        self._shadows = shadows
        self._listeners = listeners
        self._failure_listeners = failure_listeners
        self._refusal: ScopewatchError | None = None

    @property
    def watchlists(self) -> WatchlistSet:
        """The watchlists that the next call is judged by."""
        return self._running.watchlists

    def refuse(self, refusal: ScopewatchError | None) -> None:
        """Refuses every pair from now on with this error; with None, judges pairs again."""
        self._refusal = refusal

    async def replace(self, watchlists: WatchlistSet) -> None:
        """Judges every call from now on by other watchlists, and waits for those that began before."""
        before, self._running = self._running, RunningSet(watchlists)
        await before.answered()

    async def score(self, jobs: Sequence[ScoreJob]) -> list[Outcome]:
        """Scores jobs; each succeeds or fails alone, in the order given."""
        known_as = self.watchlists.known_as
        names = [known_as(job.watchlist) for job in jobs]
        started_s = time.monotonic()
        with self._metrics.funnel.pairs(names) as in_flight:
            try:
                outcomes = await self._outcomes(jobs)
            except BaseException as error:
                took_s = time.monotonic() - started_s
                rows = zip(jobs, names, strict=True)
                self.tell_failed([PairFailed(job, reason_of(error), name, took_s) for job, name in rows])
                raise
            self._tell(jobs, names, outcomes, time.monotonic() - started_s)
            in_flight.leave(outcomes)
        return outcomes

    async def _outcomes(self, jobs: Sequence[ScoreJob]) -> list[Outcome]:
        started_s = time.monotonic()
        failed: dict[int, ScopewatchError] = {}
        running = self._running
        watchlists = running.watchlists
        running.begin()
        try:
            asked = self._ask(jobs, watchlists, failed)
            recalled, unjudged, cache_s = await self._look_up(asked, failed)
            judged = await self._judge_each(unjudged, cache_s, failed) if unjudged else []
        finally:
            running.end()
        total_s = time.monotonic() - started_s
        outcomes: dict[int, Outcome] = {**failed}
        at_once = Timings(cache_s=cache_s, total_s=total_s)
        for place, judgement in recalled:
            outcomes[place] = ScoredPair(judgement, at_once, True, watchlists.version)
        for done in judged:
            timings = replace(done.timings, total_s=total_s)
            outcomes[done.asked.place] = ScoredPair(done.judgement, timings, done.read.cached, watchlists.version)
        if self._shadows and watchlists.shadows:
            self._shadows.judge_later(watchlists.shadows, judged, [jobs[place] for place, _ in recalled])
        return [outcomes[place] for place in range(len(jobs))]

    async def read(self, job: ScoreJob) -> Judged:
        """Reads and judges one pair, with all that it was judged by; nobody is told of it.

        Its numbers are those of `score`: what the cache holds is judged; what it does not hold is read and put there.

        Raises:
            ScopewatchError: The pair cannot be scored.
        """
        failed: dict[int, ScopewatchError] = {}
        running = self._running
        running.begin()
        try:
            asked = self._ask([job], running.watchlists, failed)
            _, unjudged, cache_s = await self._look_up([one._replace(remembered=None) for one in asked], failed)
            judged = await self._judge_each(unjudged, cache_s, failed) if unjudged else []
        finally:
            running.end()
        for error in failed.values():
            raise error
        return judged[0]

    def _ask(
        self, jobs: Sequence[ScoreJob], watchlists: WatchlistSet, failed: dict[int, ScopewatchError]
    ) -> list[Asked]:
        """Finds each job's watchlist, and its judgement if it was made lately; errors go into `failed`, by place."""
        asked: list[Asked] = []
        for place, job in enumerate(jobs):
            try:
                if self._refusal:
                    raise self._refusal
                watchlist = watchlists.named(job.watchlist)
            except ScopewatchError as error:
                failed[place] = error
                continue
            name, remembered = b"", None
            if self._judgements:
                name = self._judgements.name(job, watchlist.digest)
                remembered = self._judgements.get(name)
            asked.append(Asked(place, job, watchlist, name, remembered))
        return asked

    async def _look_up(self, asked: Sequence[Asked], failed: dict[int, ScopewatchError]) -> LookedUp:
        """Asks the cache, once for all jobs; those that were judged lately know their key without their tokens."""
        tokenised = await self._tokenise([one for one in asked if not one.remembered], failed)
        keys = {one.place: one.remembered.keys for one in asked if one.remembered}
        keys |= {one.asked.place: one.keys for one in tokenised}
        if not keys:
            return LookedUp([], [], 0.0)
        clock = _Stopwatch()
        found = iter(await self._cache.get_many([key for own in keys.values() for key in own]))
        values = {place: tuple(islice(found, len(own))) for place, own in keys.items()}
        cache_s = clock.lap()
        recalled: list[tuple[int, Judgement]] = []
        forgotten: list[Asked] = []
        for one in asked:
            if one.remembered and values[one.place] == one.remembered.values:
                recalled.append((one.place, one.remembered.judgement))
            elif one.remembered:
                forgotten.append(one)
        self._metrics.cache_read("hit", sum(len(keys[place]) for place, _ in recalled))
        if forgotten:
            tokenised += await self._tokenise(forgotten, failed)
            tokenised.sort(key=lambda one: one.asked.place)
        return LookedUp(recalled, [(one, values[one.asked.place]) for one in tokenised], cache_s)

    async def _tokenise(self, asked: Sequence[Asked], failed: dict[int, ScopewatchError]) -> list[Tokenised]:
        if not asked:
            return []
        clock = _Stopwatch()
        refusals, expected = self._expected.expect([one.job for one in asked])
        failed |= {one.place: refusal for one, refusal in zip(asked, refusals, strict=True) if refusal}
        let_in = [one for one in asked if one.place not in failed]
        tokenised: list[Tokenised] = []
        try:
            cleanings = [one.watchlist.source.cleaned for one in let_in]
            outcomes = await self._tokenise_pairs([one.job.pair for one in let_in], cleanings) if let_in else []
            tokenise_s = clock.lap()
            for one, readings in zip(let_in, outcomes, strict=True):
                if isinstance(readings, ScopewatchError):
                    failed[one.place] = readings
                else:
                    keys = tuple(self._values.key(reading, one.job.caller.tenant) for reading in readings)
                    tokenised.append(Tokenised(one, readings, keys, tokenise_s))
        finally:
            lengths = [(one.asked.job.pair, sum(len(reading.ids) for reading in one.readings)) for one in tokenised]
            self._expected.arrived(expected, lengths)
        return tokenised

    async def _judge_each(
        self,
        unjudged: Sequence[tuple[Tokenised, tuple[bytes | None, ...]]],
        cache_s: float,
        failed: dict[int, ScopewatchError],
    ) -> list[Judged]:
        """Judges pairs one by one as their activations come, while the engine reads those behind them."""
        reading = self._reading.begin(unjudged, cache_s)
        judged: list[Judged] = []
        try:
            for number, (one, _) in enumerate(unjudged):
                if number:
                    # Other calls, and health checks, are answered in between.
                    await asyncio.sleep(0)
                begun = reading[number]
                read = begun if isinstance(begun, Read) else await begun
                outcome = read if isinstance(read, ScopewatchError) else self._judge(read)
                if isinstance(outcome, ScopewatchError):
                    failed[one.asked.place] = outcome
                else:
                    judged.append(outcome)
        finally:
            for begun in reading:
                if not isinstance(begun, Read):
                    begun.cancel()
        return judged

    def _judge(self, read: Read) -> Judged | EngineError:
        clock = _Stopwatch()
        asked = read.tokenised.asked
        max_evidence = self._max_evidence if asked.job.include_evidence else 0
        try:
            judgement = judge(asked.watchlist, read.tokenised.readings, read.covered, max_evidence=max_evidence)
        except EngineError as error:
            return error
        if self._judgements:
            self._judgements.put(asked.name, Remembered(read.tokenised.keys, read.values, judgement))
        return Judged(read, judgement, replace(read.timings, score_s=clock.lap()))

    def tell_failed(self, failed: Sequence[PairFailed]) -> None:
        """Tells whoever listens that pairs got an error: here, or on their way here."""
        if failed:
            for listener in self._failure_listeners:
                listener(failed)

    def _tell(self, jobs: Sequence[ScoreJob], names: Sequence[str], outcomes: Sequence[Outcome], took_s: float) -> None:
        rows = list(zip(jobs, names, outcomes, strict=True))
        failed = [
            PairFailed(job, one.reason, name, took_s) for job, name, one in rows if isinstance(one, ScopewatchError)
        ]
        scored = [PairScored(job, one) for job, _, one in rows if isinstance(one, ScoredPair)]
        self.tell_failed(failed)
        if scored:
            for listener in self._listeners:
                listener(scored)


class _Stopwatch:
    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def lap(self) -> float:
        return time.monotonic() - self._started_s
