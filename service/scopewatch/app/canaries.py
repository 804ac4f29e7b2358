"""Fixed pairs that the watchlists that run and those that are to take their place both judge before one does.

Whatever both define alike has to score alike, and every score has to be a number: else what was loaded beside is not
what its files say, and callers shall not find that out.
"""

import asyncio
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from math import isclose, isfinite
from typing import TYPE_CHECKING

import numpy as np

from scopewatch.engine.worker import Worker
from scopewatch.errors import EngineDied, EngineError, InvalidRequest, ScopewatchError, WatchlistError
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.compiled import (
    Compiled,
    CompiledCombination,
    CompiledIndicator,
    CompiledWatchlist,
    CompiledWords,
)
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.windows import encode_windows
from scopewatch.types import ANYONE, CoveredActivations, EncodedBatch, Pair, TokenIds, TokenisedPair, Turn
from scopewatch.verdicts import IndicatorScore

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine
    from scopewatch.engine.watching import Watching

log = logging.getLogger(__name__)

PAIRS = (
    Pair("What is the capital of Australia?", "It is Canberra, which was founded in 1913."),
    Pair("Will it rain tomorrow?", "It might, perhaps in the evening; I am not sure, and nobody can be."),
    Pair(
        "And the cheaper one?",
        "The cheaper one may be enough for you, but ask the shop whether it takes it back.",
        (Turn("user", "Which of the two lamps is brighter?"), Turn("assistant", "The second, by about a third.")),
    ),
    # Longer than one pass of `PASS_TOKENS` tokens.
    Pair(
        "How do I keep a sourdough starter?",
        "Feed it once a day with as much flour as water. If you bake once a week, it may stay in the refrigerator, and "
        "then one feeding a week seems to be enough. Grey liquid on top is probably only alcohol: pour it off. Pink "
        "streaks are another matter; throw it away, clean the jar, and begin again. Bread made with too young a "
        "starter is dense, so wait until it has doubled within six hours or so. In winter that could take a day longer. "
        "Rye flour usually helps, although opinions differ on how much of it one needs. Keep a spoonful apart.",
    ),
)
"""None is a caller's, and none stands in any data set."""
PASS_TOKENS = 96
"""The most tokens of one pass over these pairs: a long answer is read in several passes, and still costs little."""
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
"""How far scores of one definition may lie apart. The same columns are multiplied; beside others, a product may be
rounded otherwise."""


@dataclass(slots=True)
class Told:
    """What an indicator says of the canary pairs."""

    where: str
    """`file:line: path` of the indicator."""
    name: str
    """`watchlist/indicator`."""
    scores: list[float | None] = field(default_factory=list)
    """One for each pair that could be read; None where the indicator was skipped."""


Scores = Mapping[Hashable, Told]
"""What indicators say of the canary pairs, by all that decides their scores."""


class Canaries:
    """Judges the canary pairs.

    Args:
        engine: Tokenises and reads them.
        worker: Where the engine runs.
        tokenisers: Where the tokeniser runs.
    """

    def __init__(self, engine: "Engine", worker: Worker, tokenisers: Executor) -> None:
        self._engine = engine
        self._worker = worker
        self._tokenisers = tokenisers
        self._tokeniser = engine.tokeniser.narrowed(PASS_TOKENS)

    async def of_running(self, watchlists: Sequence[CompiledWatchlist]) -> Scores:
        """What the watchlists that run say; nothing if that fails, for then others may mend it.

        Raises:
            EngineDied: The engine is dead.
        """
        try:
            return await self._scores(watchlists, self._engine.watching)
        except EngineDied:
            raise
        except ScopewatchError as error:
            log.warning("the watchlists that run fail on the canary pairs", extra={"problem": str(error)})
            return {}

    async def compare(self, before: Scores, watchlists: Sequence[CompiledWatchlist], watching: "Watching") -> None:
        """Has other watchlists judge the pairs as they will when they run.

        Args:
            before: What those say that run.
            watchlists: Those that are to take their place.
            watching: What the engine will watch for them.

        Raises:
            WatchlistError: Names every indicator whose score is no number, or another than before though it is
                defined alike.
            EngineError: The engine fails on a pair.
        """
        after = await self._scores(watchlists, watching)
        mistakes = [
            f"{told.where}: {told.name} scores {score} on canary pair {number}, and {known.name}, which is defined "
            f"alike, scores {expected}; a file was not loaded as it is: try again, or restart the service"
            for definition, told in after.items()
            if (known := before.get(definition))
            for number, (expected, score) in enumerate(zip(known.scores, told.scores, strict=True))
            if not _alike(expected, score)
        ]
        if mistakes:
            raise WatchlistError("\n".join(mistakes))

    async def _scores(self, watchlists: Sequence[CompiledWatchlist], watching: "Watching") -> Scores:
        read = {one.source.cleaned: await self._readings(one) for one in watchlists}
        windows = {
            window.tobytes(): window
            for readings in read.values()
            for one in readings
            for reading in one
            for window in reading.windows
        }
        batches = await self._worker.run(lambda: self._encode(list(windows.values()), watching))
        encoded = dict(zip(windows, batches, strict=True))
        told: dict[Hashable, Told] = {}
        for watchlist in watchlists:
            definitions = _definitions(watchlist)
            source = watchlist.source
            for i, (definition, indicator) in enumerate(zip(definitions, source.indicators, strict=True)):
                told[definition] = Told(source.where("indicators", i), f"{source.name}/{indicator.name}")
            for readings in read[watchlist.source.cleaned]:
                covered = [await _covered(reading, encoded) for reading in readings]
                scores = _judged(watchlist, readings, covered)
                # Indicators that are defined alike within one set tell the same.
                for definition, score in dict(zip(definitions, scores, strict=True)).items():
                    told[definition].scores.append(None if score.skipped_reason else score.score)
        return told

    async def _readings(self, watchlist: CompiledWatchlist) -> list[tuple[TokenisedPair, ...]]:
        """The pairs as a watchlist has them read, without those that the chat template takes none of."""
        wanted = [watchlist.source.cleaned] * len(PAIRS)
        loop = asyncio.get_running_loop()
        outcomes = await loop.run_in_executor(self._tokenisers, self._tokeniser.readings, PAIRS, wanted)
        return [one for one in outcomes if not isinstance(one, InvalidRequest)]

    def _encode(self, windows: Iterable[TokenIds], watching: "Watching") -> list[EncodedBatch]:
        """Reads texts one by one while the engine watches this; runs on the engine's thread, between two batches."""
        engine = self._engine
        held = engine.watching
        try:
            if watching is not held:
                engine.install(watching)
            return [engine.runner([ids]) for ids in windows]
        finally:
            if watching is not held:
                engine.install(held)


def _judged(
    watchlist: CompiledWatchlist, readings: Sequence[TokenisedPair], covered: Sequence[CoveredActivations]
) -> Sequence[IndicatorScore]:
    """What each indicator of a watchlist says of a pair.

    Raises:
        WatchlistError: One of them scores what is no number.
    """
    try:
        # What overflows is told of by the error.
        with np.errstate(over="ignore", invalid="ignore"):
            return judge(watchlist, readings, covered, max_evidence=0).indicators
    except EngineError as error:
        raise WatchlistError(f"{watchlist.source.where('indicators')}: on a canary pair: {error}") from None


async def _covered(reading: TokenisedPair, encoded: Mapping[bytes, EncodedBatch]) -> CoveredActivations:
    async def submit(ids: TokenIds, *_: object) -> Encoded:
        batch = encoded[ids.tobytes()]
        (outcome,) = batch.activations
        if isinstance(outcome, Exception):
            raise outcome
        return Encoded(CoveredActivations(outcome, batch.table), 0.0, 0.0, 0.0)

    return (await encode_windows(reading.windows, submit, None, 0, ANYONE)).covered


def _alike(expected: float | None, score: float | None) -> bool:
    if expected is None or score is None:
        return expected is score
    return not isfinite(expected) or isclose(expected, score, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _definitions(watchlist: CompiledWatchlist) -> list[Hashable]:
    """All that decides each indicator's score but the pair: not its name, nor what becomes of the score."""
    ids = {slot: feature for feature, slot in watchlist.slot_of.items()}
    ids |= {twin: ids[original] for twin, original in watchlist.twins}
    found: dict[str, Hashable] = {}

    def parts(indicator: Compiled) -> Hashable:
        if isinstance(indicator, CompiledIndicator):
            rows = zip(indicator.slots.tolist(), indicator.weights.tolist(), indicator.terms, strict=True)
            return tuple(sorted((ids[slot], weight, term.pooling) for slot, weight, term in rows))
        if isinstance(indicator, CompiledWords):
            return indicator.counts_by.digest
        if isinstance(indicator, CompiledCombination):
            return tuple((part.term.weight, part.term.signal or found[part.term.name]) for part in indicator.parts)
        return ()

    # Combinations are of others, and of no combinations.
    for indicator in sorted(watchlist.indicators, key=lambda one: isinstance(one, CompiledCombination)):
        source = indicator.source
        common = (watchlist.source.cleaned, source.kind, source.segment, source.bias)
        found[source.name] = (common, parts(indicator))
    return [found[indicator.source.name] for indicator in watchlist.indicators]
