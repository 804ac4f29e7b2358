"""Tracing, where it is asked for; where it is not, its library is not loaded."""

from typing import TYPE_CHECKING

import scopewatch
from scopewatch.config import Config
from scopewatch.errors import ConfigError
from scopewatch.metrics import Metrics

if TYPE_CHECKING:
    from scopewatch.tracing.tracing import Tracing


def tracing_of(config: Config, metrics: Metrics) -> "Tracing | None":
    """What makes spans and sends them; None where settings name no collector.

    Raises:
        ConfigError: The library is not installed, or a variable of it is not in order.
    """
    if not config.otlp_endpoint:
        return None
    try:
        from scopewatch.tracing.tracing import Tracing
    except ModuleNotFoundError as missing:
        if not str(missing.name).startswith("opentelemetry"):
            raise
        raise ConfigError(
            "otlp_endpoint: OpenTelemetry is not installed; pip install 'scopewatch[tracing]', or leave it empty"
        ) from None
    metrics.spans.start()
    url = config.otlp_endpoint.rstrip("/") + "/v1/traces"
    return Tracing(url, share=config.trace_share, version=scopewatch.__version__, counts=metrics.spans)
