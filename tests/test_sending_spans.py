"""Spans on their way: which calls are sampled, and that neither a collector that fails nor the library costs a call."""

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry

from collector import collecting, log_records
from conftest import House, scored_pair, wait_until
from scopewatch.app.tracing import tracing_of
from scopewatch.config import Config, load_config
from scopewatch.errors import ConfigError
from scopewatch.events import PairScored
from scopewatch.metrics import Metrics
from scopewatch.metrics.span_counts import SpanCounts
from scopewatch.tracing import names, sending
from scopewatch.tracing.tracing import MOST_PAIR_SPANS, Tracing
from scopewatch.types import Coverage, Pair, ScoreJob
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.verdicts import Verdict
from servers import config, direct, serving

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are sent as they come, and a collector that does not answer is waited for a moment only."""
    monkeypatch.setattr(sending, "_EVERY_MS", 10)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.2")


@contextmanager
def tracing(registry: CollectorRegistry, url: str, share: float = 1.0) -> Iterator[Tracing]:
    made = Tracing(f"{url}/v1/traces", share=share, version="1", counts=SpanCounts(registry))
    try:
        yield made
    finally:
        made.close(0.5)


def call(tracing: Tracing, *metadata: tuple[str, str]) -> bool:
    """A call that ends at once; whether it is sampled."""
    span = tracing.begin("a.B/C", metadata)
    if span:
        tracing.end(span, "OK")
    return bool(span)


def counted(registry: CollectorRegistry, result: str) -> float:
    return registry.get_sample_value("scopewatch_trace_spans_total", {"result": result}) or 0


@contextmanager
def silent_collector() -> Iterator[str]:
    """One that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.3, 240, 360), (1.0, 1000, 1000)])
def test_a_share_of_the_calls_without_a_context_is_traced(
    registry: CollectorRegistry, share: float, least: int, most: int
) -> None:
    """Whoever sends a context decides instead, whatever the share; two contexts are none."""
    with collecting() as collector, tracing(registry, collector.url, share) as traces:
        assert least <= sum(call(traces) for _ in range(1000)) <= most
        assert call(traces, ("traceparent", f"{PARENT}1"))
        assert not call(traces, ("traceparent", f"{PARENT}0"))
        twice = [("traceparent", f"{PARENT}0"), ("traceparent", f"{PARENT}1")]
        assert call(traces, *twice) is (share == 1.0) or 0 < share < 1
        assert call(traces, ("traceparent-bin", b"\xff"), ("traceparent", f"{PARENT}1"))  # type: ignore[arg-type]


def test_pairs_that_passed_are_left_out_first(registry: CollectorRegistry) -> None:
    """Where a call has more pairs than have spans of their own, those have one that somebody looks for."""
    with collecting() as collector, tracing(registry, collector.url) as traces:
        span = traces.begin("a.B/C", ())
        assert span
        verdicts = [Verdict.PASS] * MOST_PAIR_SPANS + [Verdict.FLAG] * 3
        jobs = [ScoreJob(Pair("", "a"), "", str(number), trace=span.trace) for number in range(len(verdicts))]
        pairs = [scored_pair(verdict, (), Coverage(1, 0, 1, 0)) for verdict in verdicts]
        traces.pairs_scored(list(map(PairScored, jobs, pairs)))
        traces.end(span, "OK")
        wait_until(lambda: counted(registry, "sent") == MOST_PAIR_SPANS + 1, "they were not sent")
    found = [one.about[names.VERDICT] for one in collector.spans if one.name == "pair"]
    assert found == ["flag"] * 3 + ["pass"] * (MOST_PAIR_SPANS - 3)


def test_an_outage_is_said_once(registry: CollectorRegistry) -> None:
    """Not for every batch; so is its end, and spans in between are counted as lost."""
    with log_records() as records, collecting() as collector, tracing(registry, collector.url) as traces:
        collector.status = 400
        for lost in (1, 2, 3):
            call(traces)
            wait_until(lambda lost=lost: counted(registry, "failed") == lost, "it was not counted")
        collector.status = 200
        for sent in (1, 2):
            call(traces)
            wait_until(lambda sent=sent: counted(registry, "sent") == sent, "it was not sent")
    said = [
        (one.levelname, one.getMessage()) for one in records if one.name.startswith(("scopewatch", "opentelemetry"))
    ]
    assert said == [
        ("WARNING", "spans cannot be sent, and are lost until they can"),
        ("INFO", "spans are sent again"),
    ]
    (warning, _) = (one for one in records if one.name.startswith("scopewatch"))
    assert warning.url == f"{collector.url}/v1/traces"
    assert "400" in warning.problem
    assert len(collector.spans) == 2


def test_spans_that_wait_are_bounded(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they cannot be sent as fast as they come, further ones are dropped and counted; nobody waits."""
    monkeypatch.setattr(sending, "_MOST_WAITING", 8)
    monkeypatch.setattr(sending, "_BATCH", 8)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "30")
    with silent_collector() as url, tracing(registry, url) as traces:
        for _ in range(50):
            call(traces)
        assert counted(registry, "dropped") == 42


def test_spans_that_were_sent_make_room(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that a collector did not take."""
    monkeypatch.setattr(sending, "_MOST_WAITING", 2)
    monkeypatch.setattr(sending, "_BATCH", 2)
    with collecting() as collector, tracing(registry, collector.url) as traces:
        for number in range(6):
            collector.status = 200 if number % 2 else 400
            call(traces)
            wait_until(lambda n=number: counted(registry, "sent") + counted(registry, "failed") == n + 1, "it is lost")
        assert (counted(registry, "sent"), counted(registry, "dropped")) == (3, 0)


async def test_calls_do_not_need_the_collector(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, or nobody does, pairs are scored as ever, and the server ends with what it has."""
    monkeypatch.setattr("scopewatch.app.server._LAST_SPANS_S", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "60")
    with silent_collector() as url, log_records() as records:
        settings = config(house.watchlist, otlp_endpoint=url, trace_share=1)
        async with serving(settings) as server, direct(server.grpc_address) as stub:
            for number in range(20):
                reply = await stub.Score(pb.ScoreRequest(request_id=str(number), response="may be"), timeout=60)
                assert reply.request_id == str(number)
            assert server.metric("scopewatch_trace_spans_total", result="dropped") == 0
    # At the end it may say that the last ones were not sent.
    said = {one.getMessage() for one in records if one.levelno >= logging.WARNING}
    assert said <= {"spans cannot be sent, and are lost until they can"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("collector:4318", "expected http:// or https://, a host and a port"),
        ("grpc://collector:4317", "expected http:// or https://"),
        ("http://", "expected http:// or https://"),
        ("http://collector:port", "expected http:// or https://"),
        ("http://collector:4318/a b", "expected http:// or https://"),
        ("http://user:hunter2@collector:4318", "without a user"),
        ("http://collector:4318?key=hunter2", "a query"),
    ],
)
def test_what_is_no_url_is_refused(url: str, said: str) -> None:
    """The message names the setting and what it should be like, and repeats no password."""
    with pytest.raises(ConfigError, match=r"^SCOPEWATCH_OTLP_ENDPOINT: ") as caught:
        load_config({}, {"SCOPEWATCH_OTLP_ENDPOINT": url})
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, metrics: Metrics) -> None:
    """With the extra that brings it."""
    for name in [name for name in sys.modules if name.startswith("scopewatch.tracing.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"^otlp_endpoint: .*pip install 'scopewatch\[tracing\]'"):
        tracing_of(Config(otlp_endpoint="http://127.0.0.1:1"), metrics)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "Unsupported compression type"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "Invalid timeout value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Header format invalid"),
        ("OTEL_RESOURCE_ATTRIBUTES", "Invalid key value resource attribute"),
    ],
)
def test_a_variable_of_the_library_that_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, metrics: Metrics, variable: str, said: str
) -> None:
    """The library would go on without; what the variable holds, which may be a secret, is not repeated."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")
    monkeypatch.setenv(variable, "hunter2")
    with pytest.raises(ConfigError, match=f"^otlp_endpoint: a variable OTEL_.*{said}") as caught:
        tracing_of(Config(otlp_endpoint="http://127.0.0.1:1"), metrics)
    assert "hunter2" not in str(caught.value)
