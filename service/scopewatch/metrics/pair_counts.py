"""What a scored pair counts: its tokens, script, stages, indicators and the features that fired on it."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter

from scopewatch.events import PairScored
from scopewatch.identity import HEAD, EngineIdentity, FeatureId, FeatureTable
from scopewatch.metrics.drift import Drift
from scopewatch.metrics.series import Bound, Counts, Histograms, Totals
from scopewatch.scripts import SCRIPTS
from scopewatch.types import Coverage, Trace
from scopewatch.verdicts import Judgement, Timings
from scopewatch.watch.indicators import PROBE
from scopewatch.watch.watchlist import Watchlist

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Bounds of histograms of durations."""
TOKENS = tuple(2**power for power in range(3, 18))
"""Bounds of histograms of numbers of tokens."""
_SEGMENTS = ("prompt", "response", "history")
# fmt: off
_SCORES = (
    -100, -30, -10, -5, -3, -2, -1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 30, 100, 300, 1000,
)
# fmt: on
_STAGES = {name.removesuffix("_s"): name for name in Timings.__dataclass_fields__}
_ODD = {"invisible": "invisible_chars", "lookalike": "lookalike_chars"}
"""Kinds of odd characters, and where a pair's coverage counts them."""
_REWRITTEN = ("unlocated", "shortened", "folded")
"""What a pair's coverage says of what the chat template did."""
OTHER_FEATURES = "other"
"""The label of the features beyond `max_feature_series`."""

T = TypeVar("T", bound=Hashable)


class PairCounts:
    """Listens to scored pairs.

    Args:
        registry: Where the instruments are collected.
        max_feature_series: How many features get a series of their own.
    """

    def __init__(self, registry: CollectorRegistry, *, max_feature_series: int) -> None:
        self._max_feature_series = max_feature_series

        def counter(name: str, text: str, *labels: str) -> Bound[Counter]:
            return Bound(Counter(f"scopewatch_{name}", text, labels, registry=registry))

        def one_label(name: str, text: str, label: str, starts: Iterable[str]) -> Bound[Counter]:
            return Bound(Counter(f"scopewatch_{name}", text, [label], registry=registry), starts)

        self._counts = Counts()
        self._skipped = counter(
            "skipped_indicators_total", "Indicators not scored.", "watchlist", "indicator", "reason"
        )
        self._truncated = one_label("truncated_pairs_total", "Pairs cut to fit the reader.", "segment", _SEGMENTS)
        self._odd = one_label("odd_characters_total", "Characters that hide or imitate letters.", "kind", _ODD)
        self._rewritten = one_label(
            "rewritten_pairs_total", "Pairs whose texts the chat template changed.", "how", _REWRITTEN
        )
        self._windows = Counter("scopewatch_windows_total", "Passes over pairs.", registry=registry)
        self._scores = Histograms(
            registry, self._counts, "indicator_score", "Indicator scores.", _SCORES, "watchlist", "indicator"
        )
        self._flags = counter("indicator_flags_total", "Indicators flagged.", "watchlist", "indicator", "severity")
        self._fired = Totals(
            registry, self._counts, "feature_fired_pairs", "Pairs in which a watched feature fired.", "feature"
        )
        self._drift = Drift(registry, self._counts, max_feature_series=max_feature_series)
        self._tokens = one_label("tokens_total", "Tokens read, by segment.", "segment", (*_SEGMENTS, "template"))
        self._pair_tokens = Histograms(
            registry, self._counts, "pair_tokens", "Tokens of a pair, by segment.", (0, *TOKENS), "segment"
        )
        for segment in _SEGMENTS:
            self._pair_tokens.start(segment)
        self._scripts = Totals(registry, self._counts, "pair_scripts", "Pairs by the script of the response.", "script")
        for script in SCRIPTS:
            self._scripts.place(script)
        self._stages = Histograms(registry, self._counts, "stage_seconds", "Time per stage and pair.", SECONDS, "stage")
        for stage in _STAGES:
            self._stages.start(stage)
        self._series: dict[FeatureId, list[int]] = {}
        """Where each watched feature is counted; in several places if several SAE names have it."""
        self._places: WeakKeyDictionary[FeatureTable, NDArray[np.intp]] = WeakKeyDictionary()
        self._moved: WeakKeyDictionary[Judgement, NDArray[np.intp]] = WeakKeyDictionary()

    def describe(self, engine: EngineIdentity, watchlists: Sequence[Watchlist]) -> None:
        """Starts every series of these watchlists at 0, so that rates have a first point; what is counted stays."""
        # Probes and the reader's head have a value on every token; that they do is no news.
        dense = {HEAD, *(sae.name for sae in engine.saes if sae.architecture == PROBE)}
        self._series = {}
        for feature, made_by in zip(engine.features, engine.feature_ids, strict=True):
            if feature.sae not in dense:
                self._series.setdefault(made_by, []).append(self._fired.place(self._series_name(str(feature))))
        self._places.clear()
        self._moved.clear()
        self._drift.start(watchlists)
        for watchlist in watchlists:
            for indicator in watchlist.indicators:
                self._scores.start(watchlist.name, indicator.name, bound=indicator.threshold)
                self._flags[watchlist.name, indicator.name, indicator.severity]

    def count(self, scored: Sequence[PairScored]) -> None:
        """Counts pairs.

        Args:
            scored: At least one.
        """
        judgements = [event.pair.judgement for event in scored]
        self._counts.add(np.concatenate([self._moves(judgement) for judgement in judgements]))
        for timings, times in _tally([event.pair.timings for event in scored]).items():
            self._count_stages(timings, times, scored[0].job.trace)
        self._count_indicators(judgements)
        self._count_tokens([one.coverage for one in judgements])

    def _series_name(self, feature: str) -> str:
        """The feature's own name, or that of all that are one too many."""
        own = len(self._fired) - (OTHER_FEATURES in self._fired)
        return feature if feature in self._fired or own < self._max_feature_series else OTHER_FEATURES

    def _moves(self, judgement: Judgement) -> NDArray[np.intp]:
        """Indices of all that a judgement counts: found once, since most pairs move a hundred series."""
        moved = self._moved.get(judgement)
        if moved is None:
            watchlist, read = judgement.made_by.watchlist, judgement.coverage
            tokens = zip(_SEGMENTS, (read.prompt_tokens, read.response_tokens, read.history_tokens), strict=True)
            places = [self._scripts.place(read.script), *self._drift.places(judgement)]
            places += [self._pair_tokens.place(count, segment) for segment, count in tokens]
            places += [
                self._scores.place(score.score, watchlist, score.name)
                for score in judgement.indicators
                if not score.skipped_reason
            ]
            fired = np.unique(self._places_of(judgement.table)[judgement.fired])
            moved = self._moved[judgement] = np.concatenate([fired[fired >= 0], np.array(places, np.intp)])
        return moved

    def _places_of(self, table: FeatureTable) -> NDArray[np.intp]:
        """Where each column is counted, shape (n_columns, most places); -1 for nowhere."""
        places = self._places.get(table)
        if places is None:
            series = [self._series.get(feature, []) for feature in table.features]
            places = np.full((len(series), max(map(len, series), default=0)), -1)
            for column, found in enumerate(series):
                places[column, : len(found)] = found
            self._places[table] = places
        return places

    def _count_stages(self, timings: Timings, times: int, trace: Trace | None) -> None:
        for stage, name in _STAGES.items():
            if seconds := getattr(timings, name):
                self._stages.observe(seconds, times, stage, trace=trace)

    def _count_indicators(self, judgements: Sequence[Judgement]) -> None:
        skipped: list[tuple[str, str, str]] = []
        flagged: list[tuple[str, str, str]] = []
        for judgement in judgements:
            watchlist = judgement.made_by.watchlist
            for score in judgement.indicators:
                if score.skipped_reason:
                    skipped.append((watchlist, score.name, score.skipped_reason))
                elif score.flagged:
                    flagged.append((watchlist, score.name, score.severity))
        for metric, found in ((self._skipped, skipped), (self._flags, flagged)):
            for labels, times in _tally(found).items():
                metric[labels].inc(times)

    def _count_tokens(self, coverages: Sequence[Coverage]) -> None:
        tokens = prompt = response = history = windows = 0
        for coverage in coverages:
            tokens += coverage.tokens
            windows += coverage.windows
            prompt += coverage.prompt_tokens
            response += coverage.response_tokens
            history += coverage.history_tokens
            if coverage.truncated:
                self._count_truncation(coverage)
            if coverage.remarkable:
                self._count_rendering(coverage)
        self._windows.inc(windows)
        template = tokens - prompt - response - history
        counts = {"prompt": prompt, "response": response, "history": history, "template": template}
        for segment, count in counts.items():
            self._tokens[segment,].inc(count)
        for segment in _SEGMENTS:
            self._pair_tokens.add_to_sum(counts[segment], segment)

    def _count_rendering(self, coverage: Coverage) -> None:
        """Counts what is said of few pairs."""
        for kind, odd in _ODD.items():
            if count := getattr(coverage, odd):
                self._odd[kind,].inc(count)
        for how in _REWRITTEN:
            if getattr(coverage, how):
                self._rewritten[how,].inc()

    def _count_truncation(self, coverage: Coverage) -> None:
        for segment in ("prompt", "response", "history"):
            if getattr(coverage, f"{segment}_tokens_dropped"):
                self._truncated[segment,].inc()


def _tally(items: Iterable[T]) -> dict[T, int]:
    """How often each item stands there. `collections.Counter` takes 2 microseconds to be made, and most calls have one
    pair.
    """
    times: dict[T, int] = {}
    for item in items:
        times[item] = times.get(item, 0) + 1
    return times
