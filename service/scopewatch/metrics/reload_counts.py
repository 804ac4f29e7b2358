"""Which version of the watchlists runs, and what became of attempts to replace them."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from scopewatch.metrics.series import Bound

RESULTS = ("ok", "unchanged", "failed")
"""What can become of a reload."""


class ReloadCounts:
    """Instruments of reloads.

    Args:
        registry: Where the instruments are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        reloads = Counter(
            "scopewatch_watchlist_reloads_total",
            "Times the watchlist files were read again.",
            ["result"],
            registry=registry,
        )
        self._reloads = Bound(reloads, RESULTS)
        self.version = Gauge("scopewatch_watchlist_version", "Version of the loaded watchlists.", registry=registry)
        self._failed = Gauge(
            "scopewatch_watchlist_reload_failed", "1 while the files are not what runs.", registry=registry
        )

    def reloaded(self, result: str) -> None:
        """Counts a reload by its result, one of `RESULTS`, and remembers whether the files run."""
        self._reloads[result,].inc()
        self._failed.set(result == "failed")
