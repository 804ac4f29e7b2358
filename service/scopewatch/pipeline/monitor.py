"""The spine: tokenise, look up, encode what is missing, score."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import EngineError, FieldViolation, ScopewatchError, UnknownWatchlist
from scopewatch.metrics import Metrics
from scopewatch.pipeline.activations import CacheKeys, CorruptValue, dump, load
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import Cache
from scopewatch.pipeline.scoring import CompiledWatchlist, judge
from scopewatch.types import Activations, FeatureKey, Pair, ScoredPair, ScoreJob, Timings, TokenisedPair

log = logging.getLogger(__name__)

Tokenise = Callable[[Sequence[Pair]], Awaitable[list[TokenisedPair | ScopewatchError]]]
Submit = Callable[[NDArray[np.int32], float | None], Awaitable[Encoded]]


@dataclass(slots=True)
class _Journey:
    """One job on its way; each stage fills in its part."""

    job: ScoreJob
    watchlist: CompiledWatchlist
    tokens: TokenisedPair
    key: bytes
    activations: Activations | None = None
    cached: bool = False
    timings: Timings = field(default_factory=Timings)


class Monitor:
    """Scores pairs. One code path for one pair and for many.

    Args:
        tokenise: Pairs in, tokens or the caller's mistake out.
        submit: The batcher's door to the engine.
        cache: Where activations are kept.
        keys: Names them.
        watchlists: Bound to the engine, by name; the first is the default.
        features: The engine's watched features, in the order of `Activations.column`.
        metrics: Counts everything.
        max_evidence: Spans per indicator.
    """

    def __init__(
        self,
        *,
        tokenise: Tokenise,
        submit: Submit,
        cache: Cache,
        keys: CacheKeys,
        watchlists: Mapping[str, CompiledWatchlist],
        features: Sequence[FeatureKey],
        metrics: Metrics,
        max_evidence: int,
    ) -> None:
        self._tokenise = tokenise
        self._submit = submit
        self._cache = cache
        self._keys = keys
        self._watchlists = watchlists
        self._features = features
        self._metrics = metrics
        self._max_evidence = max_evidence
        self._default = next(iter(watchlists))

    async def score(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        """Scores jobs; each succeeds or fails alone, in the order given."""
        started_s = time.monotonic()
        outcomes: list[ScoredPair | ScopewatchError | None] = [None] * len(jobs)
        journeys = await self._start(jobs, outcomes)
        await self._look_up(list(journeys.values()))
        await self._encode_missing(journeys, outcomes)
        for index, journey in journeys.items():
            if outcomes[index] is None:
                outcomes[index] = self._judge(journey, started_s)
        answered = [outcome for outcome in outcomes if outcome is not None]
        for outcome in answered:
            if isinstance(outcome, ScopewatchError):
                self._metrics.pair_failed(outcome.reason)
        return answered

    async def _start(
        self, jobs: Sequence[ScoreJob], outcomes: list[ScoredPair | ScopewatchError | None]
    ) -> dict[int, _Journey]:
        clock = _Stopwatch()
        tokenised = await self._tokenise([job.pair for job in jobs])
        tokenise_s = clock.lap()
        journeys: dict[int, _Journey] = {}
        for index, (job, tokens) in enumerate(zip(jobs, tokenised, strict=True)):
            watchlist = self._watchlists.get(job.watchlist or self._default)
            if watchlist is None:
                known = ", ".join(self._watchlists)
                outcomes[index] = UnknownWatchlist(
                    FieldViolation("watchlist", f"no watchlist of this name is loaded; there are: {known}")
                )
            elif isinstance(tokens, ScopewatchError):
                outcomes[index] = tokens
            else:
                timings = Timings(tokenise_s=tokenise_s)
                journeys[index] = _Journey(job, watchlist, tokens, self._keys.key(tokens), timings=timings)
        return journeys

    async def _look_up(self, journeys: Sequence[_Journey]) -> None:
        if not journeys:
            return
        clock = _Stopwatch()
        values = await self._cache.get_many([journey.key for journey in journeys])
        cache_s = clock.lap()
        for journey, value in zip(journeys, values, strict=True):
            journey.timings = replace(journey.timings, cache_s=cache_s)
            if value is None:
                continue
            try:
                n_tokens = len(journey.tokens.ids)
                journey.activations = load(journey.key, value, n_tokens, len(self._features))
                journey.cached = True
                self._metrics.cache_read("hit")
            except CorruptValue as problem:
                log.warning("a cached value is not what was written", extra={"problem": str(problem)})
                self._metrics.cache_read("corrupt")

    async def _encode_missing(
        self, journeys: Mapping[int, _Journey], outcomes: list[ScoredPair | ScopewatchError | None]
    ) -> None:
        missing = {index: journey for index, journey in journeys.items() if journey.activations is None}
        encoded = await asyncio.gather(
            *(self._submit(journey.tokens.ids, journey.job.deadline_s) for journey in missing.values()),
            return_exceptions=True,
        )
        fresh: dict[bytes, bytes] = {}
        for (index, journey), answer in zip(missing.items(), encoded, strict=True):
            if isinstance(answer, ScopewatchError):
                outcomes[index] = answer
            elif isinstance(answer, BaseException):
                log.error("unexpected failure while encoding", exc_info=answer)
                outcomes[index] = EngineError("the reader failed on this pair")
            else:
                journey.activations = answer.activations
                journey.timings = replace(
                    journey.timings,
                    queue_s=answer.queue_s,
                    forward_s=answer.forward_s,
                    encode_s=answer.encode_s,
                )
                fresh[journey.key] = dump(journey.key, answer.activations)
        if fresh:
            self._cache.put_many(fresh)

    def _judge(self, journey: _Journey, started_s: float) -> ScoredPair:
        assert journey.activations is not None
        clock = _Stopwatch()
        judgement = judge(
            journey.watchlist,
            journey.tokens,
            journey.activations,
            max_evidence=self._max_evidence if journey.job.include_evidence else 0,
        )
        timings = replace(journey.timings, score_s=clock.lap(), total_s=time.monotonic() - started_s)
        pair = ScoredPair(
            verdict=judgement.verdict,
            indicators=judgement.indicators,
            coverage=journey.tokens.coverage,
            watchlist=journey.watchlist.source.name,
            timings=timings,
            cached=journey.cached,
        )
        read = journey.tokens.segments[journey.activations.token] != 0
        columns = np.unique(journey.activations.column[read])
        self._metrics.pair_scored(pair, [self._features[column] for column in columns])
        return pair


class _Stopwatch:
    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def lap(self) -> float:
        return time.monotonic() - self._started_s
