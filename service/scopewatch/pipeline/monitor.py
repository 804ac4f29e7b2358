"""The spine: remember, tokenise, look up, encode what is missing, score."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import EngineError, FieldViolation, ScopewatchError, UnknownWatchlist
from scopewatch.metrics import Metrics
from scopewatch.pipeline.activations import CacheKeys, CorruptValue, dump, load
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import Cache
from scopewatch.pipeline.memory import Judged, Memory
from scopewatch.pipeline.scoring import CompiledWatchlist, judge
from scopewatch.types import (
    Activations,
    Coverage,
    FeatureKey,
    IndicatorScore,
    Pair,
    ScoredPair,
    ScoreJob,
    Timings,
    TokenisedPair,
    Verdict,
)

log = logging.getLogger(__name__)

Tokenise = Callable[[Sequence[Pair]], Awaitable[list[TokenisedPair | ScopewatchError]]]
Submit = Callable[[NDArray[np.int32], float | None, int], Awaitable[Encoded]]
Render = Callable[[str, Verdict, Sequence[IndicatorScore], Coverage], bytes]
Outcome = ScoredPair | ScopewatchError


@dataclass(slots=True)
class _Journey:
    """One job on its way; each stage fills in its part."""

    index: int
    """Its place among the jobs."""
    job: ScoreJob
    watchlist: CompiledWatchlist
    name: bytes
    """Of its judgement in memory."""
    judged: Judged | None
    """Remembered, and true as long as the cache holds the same value; at last, what is answered."""
    key: bytes
    """Under which the cache keeps the activations; empty until the tokens are known."""
    asked: bool = False
    value: bytes | None = None
    tokens: TokenisedPair | None = None
    activations: Activations | None = None
    cached: bool = False
    tokenise_s: float = 0.0
    cache_s: float = 0.0
    queue_s: float = 0.0
    forward_s: float = 0.0
    encode_s: float = 0.0


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
        memory: Keeps the last judgements; none without it.
        render: Makes `ScoredPair.body` of a watchlist's name, verdict, indicators and coverage, once per judgement.
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
        memory: Memory | None = None,
        render: Render = lambda *_: b"",
    ) -> None:
        self._tokenise = tokenise
        self._submit = submit
        self._cache = cache
        self._keys = keys
        self._watchlists = watchlists
        self._features = features
        self._metrics = metrics
        self._max_evidence = max_evidence
        self._memory = memory
        self._render = render
        self._default = next(iter(watchlists))

    async def score(self, jobs: Sequence[ScoreJob]) -> list[Outcome]:
        """Scores jobs; each succeeds or fails alone, in the order given."""
        started_s = time.monotonic()
        outcomes: list[Outcome | None] = [None] * len(jobs)
        journeys = self._start(jobs, outcomes)
        await self._look_up([journey for journey in journeys if journey.key])
        new = [journey for journey in journeys if not _recalled(journey)]
        if new:
            new = await self._read(new, outcomes)
            await self._look_up([journey for journey in new if not journey.asked])
            self._unpack(new)
            await self._encode_missing(new, outcomes)
        self._answer([journey for journey in journeys if outcomes[journey.index] is None], outcomes, started_s)
        answered = [outcome for outcome in outcomes if outcome is not None]
        for outcome in answered:
            if isinstance(outcome, ScopewatchError):
                self._metrics.pair_failed(outcome.reason)
        return answered

    def _start(self, jobs: Sequence[ScoreJob], outcomes: list[Outcome | None]) -> list[_Journey]:
        journeys: list[_Journey] = []
        for index, job in enumerate(jobs):
            watchlist = self._watchlists.get(job.watchlist or self._default)
            if watchlist is None:
                known = ", ".join(self._watchlists)
                outcomes[index] = UnknownWatchlist(
                    FieldViolation("watchlist", f"no watchlist of this name is loaded; there are: {known}")
                )
                continue
            name, judged = b"", None
            if self._memory:
                name = self._memory.name(job, watchlist.source.name)
                judged = self._memory.get(name)
            journeys.append(_Journey(index, job, watchlist, name, judged, judged.key if judged else b""))
        return journeys

    async def _read(self, journeys: Sequence[_Journey], outcomes: list[Outcome | None]) -> list[_Journey]:
        clock = _Stopwatch()
        tokenised = await self._tokenise([journey.job.pair for journey in journeys])
        tokenise_s = clock.lap()
        readable: list[_Journey] = []
        for journey, tokens in zip(journeys, tokenised, strict=True):
            if isinstance(tokens, ScopewatchError):
                outcomes[journey.index] = tokens
                continue
            journey.tokens, journey.tokenise_s = tokens, tokenise_s
            journey.key = self._keys.key(tokens)
            readable.append(journey)
        return readable

    async def _look_up(self, journeys: Sequence[_Journey]) -> None:
        if not journeys:
            return
        clock = _Stopwatch()
        values = await self._cache.get_many([journey.key for journey in journeys])
        cache_s = clock.lap()
        recalled = 0
        for journey, value in zip(journeys, values, strict=True):
            journey.asked, journey.value, journey.cache_s = True, value, cache_s
            if _recalled(journey):
                journey.cached = True
                recalled += 1
        self._metrics.cache_read("hit", recalled)

    def _unpack(self, journeys: Sequence[_Journey]) -> None:
        for journey in journeys:
            if journey.value is None:
                continue
            assert journey.tokens is not None
            try:
                journey.activations = load(journey.key, journey.value, len(journey.tokens.ids), len(self._features))
                journey.cached = True
                self._metrics.cache_read("hit")
            except CorruptValue as problem:
                log.warning("a cached value is not what was written", extra={"problem": str(problem)})
                self._metrics.cache_read("corrupt")

    async def _encode_missing(self, journeys: Sequence[_Journey], outcomes: list[Outcome | None]) -> None:
        missing = [journey for journey in journeys if journey.activations is None]
        sizes = [len(journey.tokens.ids) for journey in missing if journey.tokens]
        # What a pair waits for in its own call, so that the batcher can let other calls in between.
        ahead_tokens = accumulate(sizes[:-1], initial=0)
        encoded = await asyncio.gather(
            *(
                self._submit(journey.tokens.ids, journey.job.deadline_s, ahead)
                for journey, ahead in zip(missing, ahead_tokens, strict=False)
                if journey.tokens
            ),
            return_exceptions=True,
        )
        fresh: dict[bytes, bytes] = {}
        for journey, answer in zip(missing, encoded, strict=True):
            if isinstance(answer, ScopewatchError):
                outcomes[journey.index] = answer
            elif isinstance(answer, BaseException):
                log.error("unexpected failure while encoding", exc_info=answer)
                outcomes[journey.index] = EngineError("the reader failed on this pair")
            else:
                journey.activations = answer.activations
                journey.queue_s, journey.forward_s, journey.encode_s = answer.queue_s, answer.forward_s, answer.encode_s
                journey.value = fresh[journey.key] = dump(journey.key, answer.activations)
        if fresh:
            self._cache.put_many(fresh)

    def _answer(self, journeys: Sequence[_Journey], outcomes: list[Outcome | None], started_s: float) -> None:
        if not journeys:
            return
        pairs: list[ScoredPair] = []
        fired: list[NDArray[np.intp]] = []
        for journey in journeys:
            clock = _Stopwatch()
            judged = journey.judged if journey.tokens is None else self._judge(journey, journey.tokens)
            assert judged is not None
            pair = ScoredPair(
                verdict=judged.verdict,
                indicators=judged.indicators,
                coverage=judged.coverage,
                watchlist=journey.watchlist.source.name,
                timings=Timings(
                    tokenise_s=journey.tokenise_s,
                    cache_s=journey.cache_s,
                    queue_s=journey.queue_s,
                    forward_s=journey.forward_s,
                    encode_s=journey.encode_s,
                    score_s=clock.lap(),
                    total_s=time.monotonic() - started_s,
                ),
                cached=journey.cached,
                body=judged.body,
            )
            outcomes[journey.index] = pair
            pairs.append(pair)
            fired.append(judged.fired)
        self._metrics.pairs_scored(pairs, fired)

    def _judge(self, journey: _Journey, tokens: TokenisedPair) -> Judged:
        assert journey.activations is not None
        assert journey.value is not None
        judgement = judge(
            journey.watchlist,
            tokens,
            journey.activations,
            max_evidence=self._max_evidence if journey.job.include_evidence else 0,
        )
        watchlist = journey.watchlist.source.name
        read = tokens.segments[journey.activations.token] != 0
        judged = Judged(
            key=journey.key,
            value=journey.value,
            verdict=judgement.verdict,
            indicators=judgement.indicators,
            coverage=tokens.coverage,
            body=self._render(watchlist, judgement.verdict, judgement.indicators, tokens.coverage),
            fired=self._metrics.series_of(journey.activations.column[read]),
        )
        if self._memory:
            self._memory.put(journey.name, judged)
        return judged


def _recalled(journey: _Journey) -> bool:
    """Whether the cache holds the very value that the remembered judgement was made from."""
    return journey.judged is not None and journey.value == journey.judged.value


class _Stopwatch:
    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def lap(self) -> float:
        return time.monotonic() - self._started_s
