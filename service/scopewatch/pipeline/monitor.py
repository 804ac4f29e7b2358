"""The spine: remember, tokenise, look up, encode what is missing, score."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import EngineError, FieldViolation, ScopewatchError, UnknownWatchlist
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import Cache
from scopewatch.pipeline.cached_value import CacheKeys, CorruptValue, dump, load
from scopewatch.pipeline.judgements import Judged, Memory
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
    recalled: bool = False
    """Whether the cache holds the very value that the remembered judgement was made from."""
    value: bytes | None = None
    tokens: TokenisedPair | None = None
    activations: Activations | None = None
    cached: bool = False
    tokenise_s: float = 0.0
    cache_s: float = 0.0
    queue_s: float = 0.0
    forward_s: float = 0.0
    encode_s: float = 0.0
    score_s: float = 0.0


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
        new = [journey for journey in journeys if not journey.recalled]
        if new:
            new = await self._read(new, outcomes)
            await self._look_up([journey for journey in new if not journey.asked])
            self._unpack(new)
            await self._judge_each(new, outcomes)
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
        for journey, value in zip(journeys, values, strict=True):
            journey.asked, journey.value, journey.cache_s = True, value, cache_s
            journey.recalled = journey.cached = journey.judged is not None and value == journey.judged.value
        self._metrics.cache_read("hit", sum(journey.recalled for journey in journeys))

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

    async def _judge_each(self, journeys: Sequence[_Journey], outcomes: list[Outcome | None]) -> None:
        """Judges pairs one by one as their activations come, while the engine reads those behind them."""
        encoding = self._encode_missing(journeys)
        try:
            for place, journey in enumerate(journeys):
                if place:
                    # Other calls, and health checks, are answered in between.
                    await asyncio.sleep(0)
                if journey.index in encoding and (error := await encoding[journey.index]):
                    outcomes[journey.index] = error
                else:
                    journey.judged = self._judge(journey)
        finally:
            for task in encoding.values():
                task.cancel()

    def _encode_missing(self, journeys: Sequence[_Journey]) -> dict[int, asyncio.Task[ScopewatchError | None]]:
        """Begins to encode what was not in the cache; tasks by `_Journey.index`."""
        tasks: dict[int, asyncio.Task[ScopewatchError | None]] = {}
        # What a pair waits for in its own call, so that the batcher can let other calls in between.
        ahead_tokens = 0
        for journey in journeys:
            if journey.activations is None:
                assert journey.tokens is not None
                tasks[journey.index] = asyncio.create_task(self._encode(journey, journey.tokens.ids, ahead_tokens))
                ahead_tokens += len(journey.tokens.ids)
        return tasks

    async def _encode(self, journey: _Journey, ids: NDArray[np.int32], ahead_tokens: int) -> ScopewatchError | None:
        try:
            encoded = await self._submit(ids, journey.job.deadline_s, ahead_tokens)
        except ScopewatchError as error:
            return error
        except Exception:
            log.exception("unexpected failure while encoding")
            return EngineError("the reader failed on this pair")
        journey.activations = encoded.activations
        journey.queue_s, journey.forward_s, journey.encode_s = encoded.queue_s, encoded.forward_s, encoded.encode_s
        journey.value = dump(journey.key, encoded.activations)
        self._cache.put_many({journey.key: journey.value})
        return None

    def _answer(self, journeys: Sequence[_Journey], outcomes: list[Outcome | None], started_s: float) -> None:
        if not journeys:
            return
        pairs: list[ScoredPair] = []
        moves: list[NDArray[np.intp]] = []
        total_s = time.monotonic() - started_s
        for journey in journeys:
            judged = journey.judged
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
                    score_s=journey.score_s,
                    total_s=total_s,
                ),
                cached=journey.cached,
                body=judged.body,
            )
            outcomes[journey.index] = pair
            pairs.append(pair)
            moves.append(judged.moves)
        self._metrics.pairs_scored(pairs, moves)

    def _judge(self, journey: _Journey) -> Judged:
        clock, tokens = _Stopwatch(), journey.tokens
        assert tokens is not None
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
            moves=self._metrics.moves(watchlist, judgement.indicators, journey.activations.column[read]),
        )
        if self._memory:
            self._memory.put(journey.name, judged)
        journey.score_s = clock.lap()
        return judged


class _Stopwatch:
    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def lap(self) -> float:
        return time.monotonic() - self._started_s
