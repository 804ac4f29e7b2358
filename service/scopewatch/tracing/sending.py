"""Spans on their way to the collector: sent in the background, bounded in number, given up rather than waited for."""

import logging
import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from scopewatch.metrics.span_counts import SpanCounts
from scopewatch.tracing.heard import Heard

log = logging.getLogger(__name__)

_MOST_WAITING = 4096
"""Spans that may wait to be sent; each takes about 2 KiB."""
_BATCH = 256
"""Spans in one message: what is encoded without a break holds Python's lock."""
_EVERY_MS = 1000


class Sending(SpanProcessor):
    """Sends spans that have ended, and counts what became of each.

    Args:
        url: Where the collector takes spans in OTLP, over HTTP and in protobuf.
        counts: Counts the spans that were sent, those that could not be, and those that were too many.
        heard: Knows why they could not be.
    """

    def __init__(self, url: str, counts: SpanCounts, heard: Heard) -> None:
        self._counts = counts
        self._places = threading.BoundedSemaphore(_MOST_WAITING)
        self._exporter = _Exporter(url, counts, heard, self._places)
        self._batches = BatchSpanProcessor(
            self._exporter,
            max_queue_size=_MOST_WAITING,
            schedule_delay_millis=_EVERY_MS,
            max_export_batch_size=_BATCH,
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Takes a span that has ended, if there is room for it; never waits."""
        if self._places.acquire(blocking=False):
            self._batches.on_end(span)
        else:
            self._counts.dropped(1)

    def close(self, timeout_s: float) -> None:
        """Sends what waits, for so many seconds at the most; what is left then is lost. Blocks."""
        ending = threading.Thread(target=self._batches.shutdown, name="last-spans", daemon=True)
        ending.start()
        ending.join(timeout_s)
        self._exporter.shutdown()


class _Exporter(SpanExporter):
    """The library's exporter, that says once, and not for every batch, that the collector takes nothing."""

    def __init__(self, url: str, counts: SpanCounts, heard: Heard, places: threading.BoundedSemaphore) -> None:
        self._url = url
        self._counts = counts
        self._heard = heard
        self._places = places
        self._failing = self._closed = False
        self._exporter = OTLPSpanExporter(url)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            if not self._closed:
                result = self._exporter.export(spans)
        finally:
            self._places.release(len(spans))
            self._tell(result, len(spans))
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _tell(self, result: SpanExportResult, spans: int) -> None:
        if result is SpanExportResult.SUCCESS:
            self._counts.sent(spans)
            if self._failing:
                log.info("spans are sent again", extra={"url": self._url})
            self._failing = False
            return
        self._counts.failed(spans)
        if not self._failing:
            self._failing = True
            about = {"url": self._url, "problem": self._heard.of_sending}
            log.warning("spans cannot be sent, and are lost until they can", extra=about)
