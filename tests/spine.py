"""The spine over a reader that only pretends: a token is a character, and what fires follows from its code."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from conftest import activations, engine_identity, watchlist_of
from scopewatch.errors import ScopewatchError
from scopewatch.identity import EngineIdentity, FeatureTable
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import Cache
from scopewatch.pipeline.cached_value import CachedValues
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.expected import Expected
from scopewatch.pipeline.monitor import Monitor
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.types import (
    Activations,
    Caller,
    Cleaning,
    Coverage,
    CoveredActivations,
    Pair,
    ReadText,
    Segment,
    TokenisedPair,
)
from scopewatch.watch.watchlist import Watchlist

IDENTITY = engine_identity(early=(1, 4), late=(0,))
VALUES = CachedValues(IDENTITY.reader, b"secret")
TABLE = FeatureTable(IDENTITY.feature_ids)
WATCHLISTS = {
    "first": watchlist_of(
        {"name": "loud", "features": [{"feature": "early/1"}, {"feature": "late/0", "weight": -0.5}], "threshold": 3},
        {"name": "asks", "segment": "prompt", "pooling": "mean", "features": [{"feature": "early/4"}]},
        {"name": "past", "segment": "history", "features": [{"feature": "early/4"}], "severity": "low"},
        name="first",
    ),
    "second": watchlist_of({"name": "quiet", "features": [{"feature": "late/0"}], "threshold": 100}, name="second"),
}
BOS = 2


def read(pair: Pair) -> TokenisedPair:
    """One template token, then the history, the prompt and the response character by character."""
    rows = [(BOS, Segment.TEMPLATE, 0, 0, 0)]
    texts = [(Segment.HISTORY, index, turn.content) for index, turn in enumerate(pair.history)]
    all_texts = [*texts, (Segment.PROMPT, 0, pair.prompt), (Segment.RESPONSE, 0, pair.response)]
    for segment, turn, text in all_texts:
        rows += [(ord(letter), segment, turn, place, place + 1) for place, letter in enumerate(text)]
    ids, segments, turns, starts, ends = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    counts = [int((segments == segment).sum()) for segment in (Segment.PROMPT, Segment.RESPONSE, Segment.HISTORY)]
    read_texts = tuple(ReadText(segment, text, turn) for segment, turn, text in all_texts)
    coverage = Coverage(len(ids), *counts)
    return TokenisedPair(ids, segments.astype(np.int8), turns, starts, ends, coverage, texts=read_texts)


def fire(ids: np.ndarray) -> Activations:
    """Every token fires one feature, the odd ones a second, by values that only its id decides."""
    fired = [(place, code % 3, code / 16) for place, code in enumerate(map(int, ids))]
    fired += [(place, (code + 1) % 3, code / 64) for place, code in enumerate(map(int, ids)) if code % 2]
    return activations(len(ids), *fired)


class FakeReader:
    """Tokeniser and engine in one; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """Texts that reached the engine."""
        self.deadlines: list[float | None] = []
        self.ahead: list[int] = []
        """Tokens of the pairs before each in its own call."""
        self.callers: list[Caller] = []
        self.refuses: dict[str, ScopewatchError] = {}
        """Responses that the tokeniser refuses."""
        self.fails: dict[str, BaseException] = {}
        """Texts on which the engine fails."""
        self.table = TABLE
        """The features that the engine watches."""

    async def tokenise(
        self, pairs: Sequence[Pair], _cleanings: Sequence[Cleaning]
    ) -> list[tuple[TokenisedPair, ...] | ScopewatchError]:
        return [self.refuses.get(pair.response) or (read(pair),) for pair in pairs]

    async def submit(self, ids: np.ndarray, deadline_s: float | None, ahead_tokens: int, caller: Caller) -> Encoded:
        self.callers.append(caller)
        self.ahead.append(ahead_tokens)
        text = "".join(map(chr, ids[1:]))
        self.asked.append(text)
        self.deadlines.append(deadline_s)
        if text in self.fails:
            raise self.fails[text]
        return Encoded(CoveredActivations(fire(ids), self.table), queue_s=0.25, forward_s=0.5, encode_s=0.125)


def build_monitor(cache: Cache, metrics: Metrics, reader: FakeReader, **more: Any) -> Monitor:
    """A monitor over two watchlists, `first` being the default, with its metrics described."""
    metrics.describe(IDENTITY, WATCHLISTS.values(), {"version": "1"})
    parts = {
        "tokenise": reader.tokenise,
        "submit": reader.submit,
        "expected": Expected(lambda *_: None),
        "cache": cache,
        "values": VALUES,
        "watchlists": watchlist_set(*WATCHLISTS.values()),
        "metrics": metrics,
        "max_evidence": 8,
        "listeners": [metrics.pairs_scored],
    }
    return Monitor(**(parts | more))


def watchlist_set(*watchlists: Watchlist, engine: EngineIdentity = IDENTITY, version: int = 1) -> WatchlistSet:
    """Watchlists bound to an engine."""
    return WatchlistSet(version, engine, {one.name: compile_watchlist(one, engine) for one in watchlists})
