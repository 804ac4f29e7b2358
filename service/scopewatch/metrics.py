"""Every Prometheus instrument, declared once and passed in. No label carries text, an id or a caller's label."""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from scopewatch.types import HEAD, Coverage, EngineIdentity, IndicatorScore, ScoredPair, Timings
from scopewatch.watch.indicators import PROBE
from scopewatch.watch.watchlist import Watchlist

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TOKENS = tuple(2**power for power in range(3, 18))
_SCORES = (
    -100,
    -30,
    -10,
    -5,
    -3,
    -2,
    -1,
    -0.5,
    -0.2,
    -0.1,
    0,
    0.1,
    0.2,
    0.5,
    1,
    2,
    3,
    5,
    10,
    30,
    100,
    300,
    1000,
)
_RPC = ("grpc_type", "grpc_service", "grpc_method")
_STAGES = {name.removesuffix("_s"): name for name in Timings.__dataclass_fields__}
OTHER_FEATURES = "other"
"""Label of the features beyond `max_feature_series`."""

M = TypeVar("M", Counter, Histogram)


class _Bound(dict[tuple[str, ...], M], Generic[M]):
    """A metric's series by their label values, each bound once: `labels()` costs more than counting."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric

    def __missing__(self, values: tuple[str, ...]) -> M:
        series: M = self._metric.labels(*values)
        self[values] = series
        return series


class _Histograms(Collector):
    """Histograms of which every pair moves several. Only the event loop fills them, so they need no lock."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, bounds: Sequence[float], *labels: str
    ) -> None:
        self._about = (f"scopewatch_{name}", text)
        self._labels = labels
        self._bounds = bounds
        self._series: dict[tuple[str, ...], tuple[NDArray[np.int64], list[float]]] = {}
        registry.register(self)

    @property
    def buckets(self) -> int:
        """Of each series."""
        return len(self._bounds) + 1

    def start(self, counts: NDArray[np.int64], *labels: str) -> None:
        """A series whose counts are these; whoever moves them without `observe` leaves its sum where it is."""
        self._series[labels] = counts, [0.0]

    def bucket(self, value: float) -> int:
        return bisect_left(self._bounds, value)

    def observe(self, value: float, times: int, *labels: str) -> None:
        counts, total = self._series[labels]
        counts[self.bucket(value)] += times
        total[0] += value * times

    def collect(self) -> Iterable[Metric]:
        name, text = self._about
        # Not HistogramMetricFamily, which leaves out the count, too, where values may be below 0.
        family = Metric(name, text, "histogram")
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, (counts, (total,)) in list(self._series.items()):
            labels = dict(zip(self._labels, values, strict=True))
            cumulated = np.cumsum(counts).tolist()
            for bound, count in zip(bounds, cumulated, strict=True):
                family.add_sample(f"{name}_bucket", labels | {"le": bound}, count)
            family.add_sample(f"{name}_count", labels, cumulated[-1])
            if self._bounds[0] >= 0:
                family.add_sample(f"{name}_sum", labels, total)
        yield family


class _FiredFeatures(Collector):
    """In how many pairs features fired."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._names: list[str] = []
        self._counts = np.zeros(0, np.int64)
        registry.register(self)

    def start(self, names: list[str], counts: NDArray[np.int64]) -> None:
        """Series of these names, whose counts are these."""
        self._names, self._counts = names, counts

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "scopewatch_feature_fired_pairs", "Pairs in which a watched feature fired.", labels=["feature"]
        )
        for name, count in zip(self._names, self._counts.tolist(), strict=True):
            family.add_metric([name], count)
        yield family


class Metrics:
    """All instruments of one process.

    Args:
        registry: Where they live; a fresh one per process and per test.
        max_feature_series: How many features get a series of their own.
    """

    def __init__(self, registry: CollectorRegistry, *, max_feature_series: int = 200) -> None:
        self._max_feature_series = max_feature_series
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> _Bound[Counter]:
            return _Bound(Counter(f"scopewatch_{name}", text, labels, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"scopewatch_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"scopewatch_{name}", text, buckets=buckets, registry=registry)

        self._pairs = counter("pairs_total", "Pairs scored.", "watchlist", "verdict")
        self._failed = counter("failed_pairs_total", "Pairs that got an error instead of a verdict.", "reason")
        self._skipped = counter(
            "skipped_indicators_total", "Indicators not scored.", "watchlist", "indicator", "reason"
        )
        self._truncated = counter("truncated_pairs_total", "Pairs cut to fit the reader.", "segment")
        self._scores = _Histograms(registry, "indicator_score", "Indicator scores.", _SCORES, "watchlist", "indicator")
        self._flags = counter("indicator_flags_total", "Indicators flagged.", "watchlist", "indicator", "severity")
        self._fired = _FiredFeatures(registry)
        self._tokens = counter("tokens_total", "Tokens read, by segment.", "segment")
        self._batch_pairs = histogram("batch_pairs", "Pairs in one engine batch.", _TOKENS[:9])
        self._batch_tokens = histogram("batch_tokens", "Tokens in one engine batch.", _TOKENS)
        self._reused_tokens = Counter(
            "scopewatch_reused_tokens_total",
            "Tokens of batches that were known and not computed again.",
            registry=registry,
        )
        self.queue_tokens = gauge("queue_tokens", "Tokens that wait for the engine.")
        self._dropped = counter("queue_dropped_pairs_total", "Pairs dropped before they cost device time.", "reason")
        self._stages = _Histograms(registry, "stage_seconds", "Time per stage and pair.", _SECONDS, "stage")
        for stage in _STAGES:
            self._stages.start(np.zeros(self._stages.buckets, np.int64), stage)
        self._cache_reads = counter("cache_requests_total", "Cache look-ups.", "result")
        self._cache_writes = counter("cache_writes_total", "Cache writes.", "result")
        self.cache_breaker_open = gauge("cache_breaker_open", "1 while the cache is not asked because it failed.")
        self.ready = gauge("ready", "1 while the service accepts pairs.")
        self._startup = gauge("startup_seconds", "What each part of the start took, one after another.", "part")
        self._build = Info("scopewatch_build", "Versions.", registry=registry)
        self._reader = Info("scopewatch_reader", "The reader as it runs.", registry=registry)
        self._sae = gauge("sae_info", "SAEs in use.", "sae", "hookpoint", "architecture", "digest")
        self._watchlist = gauge("watchlist_info", "Watchlists loaded.", "watchlist", "digest")
        self._uncalibrated = gauge(
            "uncalibrated_indicators", "Indicators whose threshold was not measured on what runs.", "watchlist"
        )
        self._misfits = gauge(
            "card_mismatches",
            "Indicators whose card was made with another reader, SAE, dtype or template.",
            "watchlist",
        )

        def rpc(name: str, text: str, *labels: str) -> _Bound[Counter]:
            return _Bound(Counter(f"grpc_server_{name}", text, (*_RPC, *labels), registry=registry))

        self._rpc_started = rpc("started_total", "RPCs started.")
        self._rpc_handled = rpc("handled_total", "RPCs completed.", "grpc_code")
        self._rpc_seconds = _Bound(
            Histogram("grpc_server_handling_seconds", "RPC latency.", _RPC, buckets=_SECONDS, registry=registry)
        )
        self._rpc_received = rpc("msg_received_total", "RPC messages received.")
        self._rpc_sent = rpc("msg_sent_total", "RPC messages sent.")
        self._moved = np.zeros(0, np.int64)
        """All that `moves` counts: features that fired, then the buckets of each indicator's scores."""
        self._series = np.empty(0, np.intp)
        self._buckets: dict[tuple[str, str], int] = {}
        """Where those of an indicator begin, by watchlist and indicator."""

    def describe(self, identity: EngineIdentity, watchlists: Iterable[Watchlist], versions: dict[str, str]) -> None:
        """Publishes what runs, and starts every series at 0 so that rates have a first point."""
        self._build.info(versions)
        reader = identity.reader
        self._reader.info(
            {
                "reader": reader.name,
                "revision": reader.revision,
                "digest": reader.digest[:12],
                "dtype": reader.dtype,
                "device": reader.device,
                "attention": reader.attention,
            }
        )
        for sae in identity.saes:
            self._sae.labels(sae.name, sae.hookpoint, sae.architecture, sae.digest[:12]).set(1)
        # Probes and the reader's head have a value on every token; that they do is no news.
        dense = {HEAD, *(sae.name for sae in identity.saes if sae.architecture == PROBE)}
        fires = np.array([feature.sae not in dense for feature in identity.features], bool)
        sparse = [str(feature) for feature in identity.features if feature.sae not in dense]
        named = sparse[: self._max_feature_series]
        self._series = np.where(fires, np.minimum(np.cumsum(fires) - 1, self._max_feature_series), -1)
        named += [OTHER_FEATURES] * (len(named) < len(sparse))
        watchlists = list(watchlists)
        scored = [(watchlist.name, indicator.name) for watchlist in watchlists for indicator in watchlist.indicators]
        size = self._scores.buckets
        self._buckets = {labels: len(named) + number * size for number, labels in enumerate(scored)}
        self._moved = np.zeros(len(named) + len(scored) * size, np.int64)
        self._fired.start(named, self._moved[: len(named)])
        for labels, begin in self._buckets.items():
            self._scores.start(self._moved[begin : begin + size], *labels)
        for watchlist in watchlists:
            self._watchlist.labels(watchlist.name, watchlist.digest[:12]).set(1)
            misfits = len(watchlist.card_problems(identity))
            without = sum(not indicator.calibrated for indicator in watchlist.indicators)
            self._uncalibrated.labels(watchlist.name).set(without + misfits)
            self._misfits.labels(watchlist.name).set(misfits)
            for verdict in ("pass", "flag"):
                self._pairs[watchlist.name, verdict]
            for indicator in watchlist.indicators:
                self._flags[watchlist.name, indicator.name, indicator.severity]

    def moves(
        self, watchlist: str, indicators: Sequence[IndicatorScore], columns: NDArray[np.int32]
    ) -> NDArray[np.intp]:
        """Indices of what a judgement counts, for `pairs_scored`: found once, since most pairs move a hundred series.

        Args:
            watchlist: That it is by.
            indicators: Their scores.
            columns: That fired on text; each counts once.
        """
        scored = [
            self._buckets[watchlist, score.name] + self._scores.bucket(score.score)
            for score in indicators
            if not score.skipped_reason
        ]
        fired = np.unique(self._series[columns])
        return np.concatenate([fired[fired >= 0], np.array(scored, np.intp)])

    def pairs_scored(self, pairs: Sequence[ScoredPair], moved: Sequence[NDArray[np.intp]]) -> None:
        """Counts verdicts with their tokens, stages, indicators and features that fired.

        Args:
            pairs: At least one.
            moved: What `moves` says of each.
        """
        self._moved += np.bincount(np.concatenate(moved), minlength=len(self._moved))
        for (watchlist, verdict), count in Tally((pair.watchlist, pair.verdict) for pair in pairs).items():
            self._pairs[watchlist, verdict].inc(count)
        for timings, count in Tally(pair.timings for pair in pairs).items():
            self._observe(timings, count)
        self._count_indicators(pairs)
        self._count_tokens([pair.coverage for pair in pairs])

    def started(self, parts_s: Mapping[str, float]) -> None:
        """Publishes what each part of the start took."""
        for part, seconds in parts_s.items():
            self._startup.labels(part).set(seconds)

    def pair_failed(self, reason: str) -> None:
        self._failed[reason,].inc()

    def batch_encoded(self, pairs: int, tokens: int, reused_tokens: int) -> None:
        self._batch_pairs.observe(pairs)
        self._batch_tokens.observe(tokens)
        self._reused_tokens.inc(reused_tokens)

    def queue_dropped(self, reason: str) -> None:
        self._dropped[reason,].inc()

    def cache_read(self, result: str, count: int = 1) -> None:
        """`hit`, `miss`, `error` (timeout or connection), `corrupt`, or `skipped` by the breaker."""
        if count:
            self._cache_reads[result,].inc(count)

    def cache_written(self, result: str, count: int = 1) -> None:
        """`ok`, `error`, `skipped` by the breaker, or `dropped` because the write queue was full."""
        if count:
            self._cache_writes[result,].inc(count)

    def rpc_started(self, kind: str, service: str, method: str) -> None:
        self._rpc_started[kind, service, method].inc()
        self._rpc_received[kind, service, method].inc()

    def rpc_handled(self, kind: str, service: str, method: str, code: str, seconds: float) -> None:
        self._rpc_handled[kind, service, method, code].inc()
        self._rpc_seconds[kind, service, method].observe(seconds)
        if code == "OK":
            self._rpc_sent[kind, service, method].inc()

    def _count_indicators(self, pairs: Sequence[ScoredPair]) -> None:
        skipped: Tally[tuple[str, str, str]] = Tally()
        flagged: Tally[tuple[str, str, str]] = Tally()
        for pair in pairs:
            for score in pair.indicators:
                if score.skipped_reason:
                    skipped[pair.watchlist, score.name, score.skipped_reason] += 1
                elif score.flagged:
                    flagged[pair.watchlist, score.name, score.severity] += 1
        for metric, counts in ((self._skipped, skipped), (self._flags, flagged)):
            for labels, count in counts.items():
                metric[labels].inc(count)

    def _count_tokens(self, coverages: Sequence[Coverage]) -> None:
        tokens = prompt = response = history = 0
        for coverage in coverages:
            tokens += coverage.tokens
            prompt += coverage.prompt_tokens
            response += coverage.response_tokens
            history += coverage.history_tokens
            if coverage.truncated:
                self._count_truncation(coverage)
        template = tokens - prompt - response - history
        counts = {"prompt": prompt, "response": response, "history": history, "template": template}
        for segment, count in counts.items():
            self._tokens[segment,].inc(count)

    def _count_truncation(self, coverage: Coverage) -> None:
        for segment in ("prompt", "response", "history"):
            if getattr(coverage, f"{segment}_tokens_dropped"):
                self._truncated[segment,].inc()

    def _observe(self, timings: Timings, pairs: int) -> None:
        for stage, name in _STAGES.items():
            if seconds := getattr(timings, name):
                self._stages.observe(seconds, pairs, stage)
