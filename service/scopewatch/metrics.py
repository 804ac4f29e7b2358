"""Every Prometheus instrument, declared once and passed in. No label carries text, an id or a caller's label."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from scopewatch.types import Coverage, EngineIdentity, FeatureKey, ScoredPair, Timings
from scopewatch.watchlist import Watchlist

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
_STAGES = ("tokenise", "cache", "queue", "forward", "encode", "score", "total")
OTHER_FEATURES = "other"
"""Label of the features beyond `max_feature_series`."""


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

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"scopewatch_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"scopewatch_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"scopewatch_{name}", text, labels, buckets=buckets, registry=registry)

        self._pairs = counter("pairs_total", "Pairs scored.", "watchlist", "verdict")
        self._failed = counter("failed_pairs_total", "Pairs that got an error instead of a verdict.", "reason")
        self._skipped = counter(
            "skipped_indicators_total", "Indicators not scored.", "watchlist", "indicator", "reason"
        )
        self._truncated = counter("truncated_pairs_total", "Pairs cut to fit the reader.", "segment")
        self._scores = histogram("indicator_score", "Indicator scores.", _SCORES, "watchlist", "indicator")
        self._flags = counter("indicator_flags_total", "Indicators flagged.", "watchlist", "indicator", "severity")
        self._fired = counter("feature_fired_pairs_total", "Pairs in which a watched feature fired.", "feature")
        self._tokens = counter("tokens_total", "Tokens read, by segment.", "segment")
        self._batch_pairs = histogram("batch_pairs", "Pairs in one engine batch.", _TOKENS[:9])
        self._batch_tokens = histogram("batch_tokens", "Tokens in one engine batch, without padding.", _TOKENS)
        self._batch_fill = histogram(
            "batch_fill_ratio",
            "Share of computed tokens that are not padding.",
            (0.25, 0.5, 0.75, 0.9, 0.95, 1),
        )
        self.queue_tokens = gauge("queue_tokens", "Tokens that wait for the engine.")
        self._dropped = counter("queue_dropped_pairs_total", "Pairs dropped before they cost device time.", "reason")
        self._stages = histogram("stage_seconds", "Time per stage and pair.", _SECONDS, "stage")
        self._stage = {stage: self._stages.labels(stage) for stage in _STAGES}
        self._cache_reads = counter("cache_requests_total", "Cache look-ups.", "result")
        self._cache_writes = counter("cache_writes_total", "Cache writes.", "result")
        self.cache_breaker_open = gauge("cache_breaker_open", "1 while the cache is not asked because it failed.")
        self.ready = gauge("ready", "1 while the service accepts pairs.")
        self._build = Info("scopewatch_build", "Versions.", registry=registry)
        self._reader = Info("scopewatch_reader", "The reader as it runs.", registry=registry)
        self._sae = gauge("sae_info", "SAEs in use.", "sae", "hookpoint", "architecture", "digest")
        self._watchlist = gauge("watchlist_info", "Watchlists loaded.", "watchlist", "digest")
        self._uncalibrated = gauge(
            "uncalibrated_indicators", "Indicators whose threshold was not measured.", "watchlist"
        )

        grpc_labels = ("grpc_type", "grpc_service", "grpc_method")
        self._rpc_started = Counter("grpc_server_started_total", "RPCs started.", grpc_labels, registry=registry)
        self._rpc_handled = Counter(
            "grpc_server_handled_total", "RPCs completed.", (*grpc_labels, "grpc_code"), registry=registry
        )
        self._rpc_seconds = Histogram(
            "grpc_server_handling_seconds", "RPC latency.", grpc_labels, buckets=_SECONDS, registry=registry
        )
        self._rpc_received = Counter(
            "grpc_server_msg_received_total", "RPC messages received.", grpc_labels, registry=registry
        )
        self._rpc_sent = Counter("grpc_server_msg_sent_total", "RPC messages sent.", grpc_labels, registry=registry)
        self._feature_label: dict[FeatureKey, str] = {}

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
        for number, feature in enumerate(identity.features):
            label = str(feature) if number < self._max_feature_series else OTHER_FEATURES
            self._feature_label[feature] = label
            self._fired.labels(label)
        for watchlist in watchlists:
            self._watchlist.labels(watchlist.name, watchlist.digest[:12]).set(1)
            uncalibrated = sum(not indicator.calibrated for indicator in watchlist.indicators)
            self._uncalibrated.labels(watchlist.name).set(uncalibrated)
            for verdict in ("pass", "flag"):
                self._pairs.labels(watchlist.name, verdict)
            for indicator in watchlist.indicators:
                self._scores.labels(watchlist.name, indicator.name)
                self._flags.labels(watchlist.name, indicator.name, indicator.severity)

    def pair_scored(self, pair: ScoredPair, fired: Iterable[FeatureKey]) -> None:
        """Counts one verdict with its tokens, stages, indicators and features that fired."""
        self._pairs.labels(pair.watchlist, pair.verdict).inc()
        for score in pair.indicators:
            if score.skipped_reason:
                self._skipped.labels(pair.watchlist, score.name, score.skipped_reason).inc()
                continue
            self._scores.labels(pair.watchlist, score.name).observe(score.score)
            if score.flagged:
                self._flags.labels(pair.watchlist, score.name, score.severity).inc()
        for label in {self._feature_label[feature] for feature in fired}:
            self._fired.labels(label).inc()
        self._count_tokens(pair.coverage)
        self._observe(pair.timings)

    def pair_failed(self, reason: str) -> None:
        self._failed.labels(reason).inc()

    def batch_encoded(self, pairs: int, tokens: int, padded_tokens: int) -> None:
        self._batch_pairs.observe(pairs)
        self._batch_tokens.observe(tokens)
        self._batch_fill.observe(tokens / max(padded_tokens, 1))

    def queue_dropped(self, reason: str) -> None:
        self._dropped.labels(reason).inc()

    def cache_read(self, result: str, count: int = 1) -> None:
        """`hit`, `miss`, `error` (timeout or connection), `corrupt`, or `skipped` by the breaker."""
        if count:
            self._cache_reads.labels(result).inc(count)

    def cache_written(self, result: str, count: int = 1) -> None:
        """`ok`, `error`, `skipped` by the breaker, or `dropped` because the write queue was full."""
        if count:
            self._cache_writes.labels(result).inc(count)

    def rpc_started(self, kind: str, service: str, method: str) -> None:
        self._rpc_started.labels(kind, service, method).inc()
        self._rpc_received.labels(kind, service, method).inc()

    def rpc_handled(self, kind: str, service: str, method: str, code: str, seconds: float) -> None:
        self._rpc_handled.labels(kind, service, method, code).inc()
        self._rpc_seconds.labels(kind, service, method).observe(seconds)
        if code == "OK":
            self._rpc_sent.labels(kind, service, method).inc()

    def _count_tokens(self, coverage: Coverage) -> None:
        read = {
            "prompt": coverage.prompt_tokens,
            "response": coverage.response_tokens,
            "history": coverage.history_tokens,
        }
        for segment, count in (read | {"template": coverage.tokens - sum(read.values())}).items():
            self._tokens.labels(segment).inc(count)
        for segment in read:
            if getattr(coverage, f"{segment}_tokens_dropped"):
                self._truncated.labels(segment).inc()

    def _observe(self, timings: Timings) -> None:
        for stage in _STAGES:
            if seconds := getattr(timings, f"{stage}_s"):
                self._stage[stage].observe(seconds)
