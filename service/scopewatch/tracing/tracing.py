"""Traces: a span a call, below it one a pair, below that one a stage, with the times that the reply tells."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_span_id, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scopewatch.errors import ScopewatchError
from scopewatch.events import PairFailed, PairScored
from scopewatch.metrics.span_counts import SpanCounts
from scopewatch.tracing import names
from scopewatch.tracing.heard import Heard
from scopewatch.tracing.pair_spans import failed_span, scored_span
from scopewatch.tracing.sending import Sending
from scopewatch.types import ScoreJob, Trace

MOST_PAIR_SPANS = 32
"""Pairs of a call that get spans of their own: making those of one takes the event loop about 0.2 ms."""
_PARENT, _STATE = "traceparent", "tracestate"
_MAX_CHARS = 512
"""A header that is longer counts as malformed."""
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that say that the server failed; other refusals are answers that it meant to give."""


class OpenSpan:
    """The span of a call, which is sampled and has not ended."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._pairs = 0
        context = span.get_span_context()
        self.trace = Trace(format_trace_id(context.trace_id), format_span_id(context.span_id))
        """Where in its trace it stands."""
        self.below = set_span_in_context(span)
        """The context of spans below it."""

    def room(self, pairs: int) -> int:
        """How many of so many pairs more may have spans of their own."""
        room = min(pairs, max(0, MOST_PAIR_SPANS - self._pairs))
        self._pairs += pairs
        return room

    def end(self, status: str) -> None:
        """Ends the span.

        Args:
            status: The name of the call's status.
        """
        self._span.set_attribute(names.RPC_STATUS, status)
        if self._pairs:
            self._span.set_attribute(names.PAIRS, self._pairs)
        if self._pairs > MOST_PAIR_SPANS:
            self._span.set_attribute(names.PAIRS_LEFT_OUT, self._pairs - MOST_PAIR_SPANS)
        if status in _FAULTS:
            _fail(self._span, status)
        self._span.end()


class Tracing:
    """Makes spans, and sends them to a collector. It is used on one event loop.

    Args:
        url: Where the collector takes spans, in protobuf over HTTP.
        share: The share of the calls that are traced of those whose callers send no context, which would decide it.
        version: The program's version.
        counts: Counts what becomes of spans.

    Raises:
        ConfigError: A variable of the library is not in order.
    """

    def __init__(self, url: str, *, share: float, version: str, counts: SpanCounts) -> None:
        heard = Heard()
        self._sending = Sending(url, counts, heard)
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=_resource(version), shutdown_on_exit=False
        )
        heard.check_variables()
        provider.add_span_processor(self._sending)
        self._tracer = provider.get_tracer("scopewatch", version)
        self._open: dict[str, OpenSpan] = {}
        """The calls that are traced now, by the ids of their spans."""

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> OpenSpan | None:
        """Begins the span of a call.

        Args:
            method: `package.Service/Method`.
            metadata: The call's metadata, which may hold its caller's context; a malformed one counts as none.

        Returns:
            The span; None where the call is not sampled.
        """
        about = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: method}
        span = self._tracer.start_span(method, _context_in(metadata), SpanKind.SERVER, about)
        if not span.is_recording():
            return None
        opened = OpenSpan(span)
        self._open[opened.trace.span_id] = opened
        return opened

    def end(self, span: OpenSpan, status: str) -> None:
        """Ends the span of a call, whose status has this name."""
        del self._open[span.trace.span_id]
        span.end(status)

    @contextmanager
    def page(self, route: str) -> Iterator[None]:
        """The span of a page that is made while the block runs. A browser sends no context."""
        about = {names.HTTP_METHOD: "GET", names.HTTP_ROUTE: route}
        span = self._tracer.start_span(f"GET {route}", Context(), SpanKind.SERVER, about)
        try:
            yield
        except ScopewatchError as error:
            _fail(span, error.reason)
            raise
        finally:
            span.end()

    def pairs_scored(self, scored: Sequence[PairScored]) -> None:
        """Makes the spans of pairs; listens to `PairsScored`."""
        if call := self._call_of(scored[0].job):
            now_ns = time.time_ns()
            # If they are too many, those that passed are left out.
            ordered = sorted(scored, key=lambda event: event.pair.verdict == "pass")
            for event in ordered[: call.room(len(ordered))]:
                scored_span(self._tracer, call.below, event, now_ns)

    def pairs_failed(self, failed: Sequence[PairFailed]) -> None:
        """Makes the spans of pairs; listens to `PairsFailed`."""
        if call := self._call_of(failed[0].job):
            now_ns = time.time_ns()
            for event in failed[: call.room(len(failed))]:
                failed_span(self._tracer, call.below, event, now_ns)

    def close(self, timeout_s: float) -> None:
        """Sends what is left, for so many seconds at the most. Blocks."""
        self._sending.close(timeout_s)

    def _call_of(self, job: ScoreJob) -> OpenSpan | None:
        """The span of the call that a pair came by; None where it is not traced."""
        return self._open.get(job.trace.span_id) if job.trace else None


def _fail(span: Span, reason: str) -> None:
    span.set_attribute(names.ERROR_TYPE, reason)
    span.set_status(Status(StatusCode.ERROR))


def _context_in(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """The caller's context, read as https://www.w3.org/TR/trace-context/ says; empty where there is none or two."""
    found: dict[str, list[str]] = {_PARENT: [], _STATE: []}
    for key, value in metadata:
        if key in found and isinstance(value, str):
            found[key].append(value)
    if len(found[_PARENT]) != 1 or len(found[_PARENT][0]) > _MAX_CHARS:
        return Context()
    return TraceContextTextMapPropagator().extract(found, Context())


def _resource(version: str) -> Resource:
    """What all spans are of: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say more, and go first."""
    found = Resource.create()
    ours = {SERVICE_VERSION: version}
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        ours[SERVICE_NAME] = "scopewatch"
    return found.merge(Resource(ours))
