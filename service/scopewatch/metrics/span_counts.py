"""What became of the spans of traces."""

from prometheus_client import CollectorRegistry, Counter

from scopewatch.metrics.series import Bound

RESULTS = ("sent", "failed", "dropped")
"""What can become of a span: `failed` were given to a collector that did not take them, `dropped` were one too many."""


class SpanCounts:
    """Counts spans; safe to count with from several threads.

    Args:
        registry: Where the instrument is collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._spans = Bound(
            Counter("scopewatch_trace_spans_total", "Spans of traces.", ["result"], registry=registry),
        )

    def start(self) -> None:
        """Starts every series at 0, so that rates have a first point; nobody does where nothing is traced."""
        for result in RESULTS:
            self._spans[result,]

    def sent(self, spans: int) -> None:
        self._spans["sent",].inc(spans)

    def failed(self, spans: int) -> None:
        self._spans["failed",].inc(spans)

    def dropped(self, spans: int) -> None:
        self._spans["dropped",].inc(spans)
