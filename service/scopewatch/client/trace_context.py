"""The trace that a call is part of, where its caller traces with OpenTelemetry."""

import sys


def trace_context() -> tuple[tuple[str, str], ...]:
    """The metadata by which a call says of which span it is a child: `traceparent` and, if it has one, `tracestate`.

    As W3C Trace Context has it (https://www.w3.org/TR/trace-context/). The caller's baggage is not sent.

    Returns:
        The metadata; empty where no span is open, or the program does not use OpenTelemetry.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    sent: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(sent)
    return tuple(sent.items())
