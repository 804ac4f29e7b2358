"""Every Prometheus instrument, declared once and passed in. No label carries text, an id or a caller's label."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from scopewatch.events import PairScored
from scopewatch.identity import EngineIdentity
from scopewatch.metrics.canary_counts import CanaryCounts
from scopewatch.metrics.explanation_counts import ExplanationCounts
from scopewatch.metrics.funnel import Funnel
from scopewatch.metrics.pair_counts import SECONDS, TOKENS, PairCounts
from scopewatch.metrics.reload_counts import ReloadCounts
from scopewatch.metrics.series import Bound, exemplar_of
from scopewatch.metrics.shadow_counts import ShadowCounts
from scopewatch.metrics.span_counts import SpanCounts
from scopewatch.types import Trace
from scopewatch.watch.watchlist import Watchlist

_DROPPED = ("cancelled", "deadline", "displaced")
_CACHE_READS = ("hit", "miss", "error", "corrupt", "skipped")
_CACHE_WRITES = ("ok", "error", "skipped", "dropped")
_RPC = ("grpc_type", "grpc_service", "grpc_method")


@dataclass(frozen=True, slots=True)
class Page:
    """All instruments at one time, in a format that Prometheus reads."""

    content_type: str
    body: bytes


class Metrics:
    """All instruments of one process.

    Args:
        registry: Where the instruments are collected; by default, one of their own.
        max_feature_series: How many features get a series of their own.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, max_feature_series: int = 200) -> None:
        self._registry = registry = registry or CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.funnel = Funnel(registry)
        self._pair_counts = PairCounts(registry, max_feature_series=max_feature_series)
        self.shadows = ShadowCounts(registry)
        self.reloads = ReloadCounts(registry)
        self.explanations = ExplanationCounts(registry)
        self.spans = SpanCounts(registry)
        self.canaries = CanaryCounts(registry)

        def counter(name: str, text: str, label: str, *starts: str) -> Bound[Counter]:
            return Bound(Counter(f"scopewatch_{name}", text, [label], registry=registry), starts)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"scopewatch_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"scopewatch_{name}", text, buckets=buckets, registry=registry)

        def rpc(name: str, text: str, *labels: str) -> Bound[Counter]:
            return Bound(Counter(f"grpc_server_{name}", text, (*_RPC, *labels), registry=registry))

        self._batch_pairs = histogram("batch_pairs", "Pairs in one engine batch.", TOKENS[:9])
        self._batch_tokens = histogram("batch_tokens", "Tokens in one engine batch.", TOKENS)
        self._reused_tokens = Counter(
            "scopewatch_reused_tokens_total",
            "Tokens of batches that were known and not computed again.",
            registry=registry,
        )
        self._graph_passes = counter("graph_passes_total", "Passes that were replayed from a graph.", "bucket")
        self.queue_tokens = gauge("queue_tokens", "Tokens that wait for the engine.")
        self._dropped = counter(
            "queue_dropped_pairs_total", "Pairs dropped before they cost device time.", "reason", *_DROPPED
        )
        self._unwanted = Counter(
            "scopewatch_unwanted_pairs_total", "Pairs that were read though their callers had left.", registry=registry
        )
        self._cache_reads = counter("cache_requests_total", "Cache look-ups.", "result", *_CACHE_READS)
        self._cache_writes = counter("cache_writes_total", "Cache writes.", "result", *_CACHE_WRITES)
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
        self._certificate_expiry = gauge(
            "certificate_expiry_timestamp_seconds", "When the certificate of a setting expires, since 1970.", "setting"
        )
        self._certificate_reads = counter(
            "certificate_reads_total",
            "Times that certificate files which had changed were read.",
            "result",
            "ok",
            "refused",
        )
        self._rpc_started = rpc("started_total", "RPCs started.")
        self._rpc_handled = rpc("handled_total", "RPCs completed.", "grpc_code")
        self._rpc_seconds = Bound(
            Histogram("grpc_server_handling_seconds", "RPC latency.", _RPC, buckets=SECONDS, registry=registry)
        )
        self._rpc_received = rpc("msg_received_total", "RPC messages received.")
        self._rpc_sent = rpc("msg_sent_total", "RPC messages sent.")

    def page(self, accept: str, names: Sequence[str] = ()) -> Page:
        """The instruments as they stand now. It may be called from any thread.

        Args:
            accept: The formats that the reader takes, as an HTTP `Accept` header; empty for plain text.
            names: The series that are asked for; all of them if there are none.
        """
        encode, content_type = choose_encoder(accept)
        return Page(content_type, encode(self._registry.restricted_registry(names) if names else self._registry))

    def describe(self, engine: EngineIdentity, watchlists: Iterable[Watchlist], versions: Mapping[str, str]) -> None:
        """Publishes what runs, in place of what ran before. Counters go on; new series start at 0.

        Args:
            engine: The reader and the SAEs.
            watchlists: The watchlists that are loaded.
            versions: Versions of the program and of libraries, by name.
        """
        self._build.info(dict(versions))
        reader = engine.reader
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
        for gone in (self._sae, self._watchlist, self._uncalibrated, self._misfits):
            gone.clear()
        for sae in engine.saes:
            self._sae.labels(sae.name, sae.hookpoint, sae.architecture, sae.digest[:12]).set(1)
        watchlists = list(watchlists)
        self.funnel.start(watchlist.name for watchlist in watchlists)
        self._pair_counts.describe(engine, watchlists)
        for watchlist in watchlists:
            self._watchlist.labels(watchlist.name, watchlist.digest[:12]).set(1)
            misfits = len(watchlist.card_problems(engine))
            without = sum(not indicator.calibrated for indicator in watchlist.indicators)
            self._uncalibrated.labels(watchlist.name).set(without + misfits)
            self._misfits.labels(watchlist.name).set(misfits)

    def pairs_scored(self, scored: Sequence[PairScored]) -> None:
        """Counts pairs with their tokens, stages, indicators and the features that fired on them."""
        self._pair_counts.count(scored)

    def started(self, parts_s: Mapping[str, float]) -> None:
        """Publishes what each part of the start took."""
        for part, seconds in parts_s.items():
            self._startup.labels(part).set(seconds)

    def certificate_read(self, expires_s: float) -> None:
        """Files of a certificate were read and taken; it expires then, in seconds since 1970."""
        self._certificate_reads["ok",].inc()
        self._certificate_expiry.labels("tls_cert").set(expires_s)

    def certificate_refused(self) -> None:
        """Files of a certificate were looked at and are not in order; counted at every look while they are not."""
        self._certificate_reads["refused",].inc()

    def batch_encoded(self, pairs: int, tokens: int, reused_tokens: int, graph_tokens: Sequence[int] = ()) -> None:
        """Counts a batch that was read.

        Args:
            pairs: The number of its pairs.
            tokens: The number of their tokens.
            reused_tokens: The number of these that were not computed again.
            graph_tokens: The length of each of its passes that was replayed from a graph.
        """
        for length in graph_tokens:
            self._graph_passes[str(length),].inc()
        self._batch_pairs.observe(pairs)
        self._batch_tokens.observe(tokens)
        self._reused_tokens.inc(reused_tokens)

    def queue_dropped(self, reason: str) -> None:
        self._dropped[reason,].inc()

    def unwanted_pairs(self, count: int) -> None:
        self._unwanted.inc(count)

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

    def rpc_handled(
        self, kind: str, service: str, method: str, code: str, seconds: float, *, trace: Trace | None = None
    ) -> None:
        self._rpc_handled[kind, service, method, code].inc()
        self._rpc_seconds[kind, service, method].observe(seconds, exemplar_of(trace))
        if code == "OK":
            self._rpc_sent[kind, service, method].inc()
