"""Has watchlists judge canary pairs, outside of everything that is done for callers.

Nothing is taken from the cache or put there, nobody is told of the pairs, and each text is read anew in a pass of its
own: what is judged is what the reader computes now.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scopewatch.app.canaries.definitions import definition_digests, definitions
from scopewatch.app.canaries.pairs import PASSES
from scopewatch.engine.worker import Worker
from scopewatch.errors import EngineError, InvalidRequest, WatchlistError
from scopewatch.explain.turns import Turns
from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.types import Cleaning, CoveredActivations, Pair, TokenIds, TokenisedPair, in_a_row
from scopewatch.verdicts import IndicatorScore

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine
    from scopewatch.engine.watching import Watching

Encode = Callable[[Sequence[TokenIds]], Awaitable[Sequence[CoveredActivations]]]
"""Reads texts: token ids in, what fired out, all of it of the same features."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an indicator says of the canary pairs."""

    where: str
    """`file:line: path` of the indicator."""
    watchlist: str
    indicator: str
    definition: Hashable
    """As of `definitions`."""
    digest: str
    """As of `definition_digests`."""
    scores: dict[int, float | None] = field(default_factory=dict)
    """By the number of the pair, of those that could be read; None where the indicator was skipped."""

    @property
    def name(self) -> str:
        """`watchlist/indicator`."""
        return f"{self.watchlist}/{self.indicator}"


@dataclass(frozen=True, slots=True)
class Read:
    """A canary pair as it was read: once, or as it is and cleaned."""

    readings: tuple[TokenisedPair, ...]
    covered: tuple[CoveredActivations, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """What watchlists say of canary pairs, and by what."""

    told: list[Told] = field(default_factory=list)
    read: dict[Cleaning, dict[int, Read]] = field(default_factory=dict)
    """By whether texts are cleaned and by the number of the pair; what the chat template does not take is left out."""


class Hearing:
    """Has watchlists judge canary pairs.

    Args:
        engine: Tokenises and reads them.
        worker: Where the engine runs.
        tokenisers: Where the tokeniser runs.
        turns: When the engine may read one of them while it serves.
    """

    def __init__(self, engine: "Engine", worker: Worker, tokenisers: Executor, turns: Turns) -> None:
        self._engine = engine
        self._worker = worker
        self._tokenisers = tokenisers
        self._turns = turns

    async def hear(
        self, pairs: Sequence[Pair], watchlists: Sequence[CompiledWatchlist], encode: Encode, *, pass_tokens: int
    ) -> Heard:
        """Has watchlists judge pairs.

        Args:
            pairs: The pairs.
            watchlists: The watchlists.
            encode: Reads their texts: `at_once`, `in_turns`, or `together`.
            pass_tokens: The most tokens of one pass over them.

        Raises:
            WatchlistError: A score is no finite number.
            EngineError: The engine fails on a pair.
        """
        cleanings = dict.fromkeys(one.source.cleaned for one in watchlists)
        tokenised = {cleaning: await self._readings(pairs, cleaning, pass_tokens) for cleaning in cleanings}
        windows = {
            window.tobytes(): window
            for readings in tokenised.values()
            for one in readings.values()
            for reading in one
            for window in reading.windows
        }
        encoded = dict(zip(windows, await encode(list(windows.values())), strict=True))
        read = {
            cleaning: {
                number: Read(one, tuple(_covered(reading, encoded) for reading in one))
                for number, one in readings.items()
            }
            for cleaning, readings in tokenised.items()
        }
        return Heard([told for one in watchlists for told in _told(one, read[one.source.cleaned])], read)

    def at_once(self, watching: "Watching") -> Encode:
        """Reads one text after the other while the engine watches this, between two batches."""
        engine = self._engine

        def read(texts: Sequence[TokenIds]) -> list[CoveredActivations]:
            held = engine.watching
            try:
                if watching is not held:
                    engine.install(watching)
                return [CoveredActivations(engine.runner.alone(ids), watching.table) for ids in texts]
            finally:
                if watching is not held:
                    engine.install(held)

        return lambda texts: self._worker.run(lambda: read(texts))

    async def in_turns(self, texts: Sequence[TokenIds]) -> list[CoveredActivations]:
        """Reads one text after the other, each when nobody scores, or else in a twentieth of the engine's time."""
        engine = self._engine

        def read(ids: TokenIds) -> CoveredActivations:
            return CoveredActivations(engine.runner.alone(ids), engine.watching.table)

        while True:
            encoded = [await self._turns.run(lambda ids=ids: read(ids)) for ids in texts]  # type: ignore[misc]
            # Where it began to watch other features in between, what was read does not belong together.
            if len({id(one.table) for one in encoded}) <= 1:
                return encoded

    async def together(self, texts: Sequence[TokenIds]) -> list[CoveredActivations]:
        """Reads all texts as batches, as callers' are read: what kernels round otherwise then, shows."""
        encoded = await self._worker.encode(texts)
        failures = [one for one in encoded.activations if isinstance(one, Exception)]
        if failures:
            raise failures[0]
        return [CoveredActivations(one, encoded.table) for one in encoded.activations if not isinstance(one, Exception)]

    async def _readings(
        self, pairs: Sequence[Pair], cleaning: Cleaning, pass_tokens: int
    ) -> dict[int, tuple[TokenisedPair, ...]]:
        """The pairs as a watchlist has them read, without those that the chat template does not take."""
        # Not as settings have it, which may be others where the pairs are judged again.
        tokeniser = self._engine.tokeniser.for_passes(min(pass_tokens, self._engine.reader.context), PASSES)
        loop = asyncio.get_running_loop()
        outcomes = await loop.run_in_executor(self._tokenisers, tokeniser.readings, pairs, [cleaning] * len(pairs))
        return {number: one for number, one in enumerate(outcomes) if not isinstance(one, InvalidRequest)}


def _told(watchlist: CompiledWatchlist, read: Mapping[int, Read]) -> list[Told]:
    """What each indicator of a watchlist says of the pairs."""
    source = watchlist.source
    about = zip(source.indicators, definitions(watchlist), definition_digests(watchlist), strict=True)
    told = [
        Told(source.where("indicators", place), source.name, indicator.name, definition, digest)
        for place, (indicator, definition, digest) in enumerate(about)
    ]
    for number, one in read.items():
        for each, score in zip(told, _judged(watchlist, one), strict=True):
            each.scores[number] = None if score.skipped_reason else score.score
    return told


def _judged(watchlist: CompiledWatchlist, read: Read) -> Sequence[IndicatorScore]:
    """What each indicator of a watchlist says of a pair.

    Raises:
        WatchlistError: One of them scores what is no number.
    """
    try:
        return judge(watchlist, read.readings, read.covered, max_evidence=0).indicators
    except EngineError as error:
        raise WatchlistError(f"{watchlist.source.where('indicators')}: on a canary pair: {error}") from None


def _covered(reading: TokenisedPair, encoded: Mapping[bytes, CoveredActivations]) -> CoveredActivations:
    windows = [encoded[window.tobytes()] for window in reading.windows]
    return CoveredActivations(in_a_row([one.activations for one in windows]), windows[0].table)
