"""Every Prometheus instrument; only this room knows prometheus_client."""

from scopewatch.metrics.funnel import UNKNOWN, reason_of
from scopewatch.metrics.instruments import Metrics, Page

__all__ = ["UNKNOWN", "Metrics", "Page", "reason_of"]
