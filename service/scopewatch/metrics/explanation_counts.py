"""What became of explanations, and how long they took."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from scopewatch.metrics.series import Bound

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class ExplanationCounts:
    """Instruments of explanations.

    Args:
        registry: Where the instruments are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        explanations = Counter(
            "scopewatch_explanations_total", "Explanations asked for.", ["outcome"], registry=registry
        )
        self._explanations = Bound(explanations, ("ok", "cancelled", "engine_error", "failed"))
        self._seconds = Histogram(
            "scopewatch_explanation_seconds",
            "Seconds from asking for an explanation until it was made, waiting included.",
            buckets=_SECONDS,
            registry=registry,
        )

    def explained(self, outcome: str, seconds: float) -> None:
        """Counts an explanation, and of those that were made how long they took.

        Args:
            outcome: `ok`, `cancelled`, the reason of an error, or `failed`.
            seconds: From asking on.
        """
        self._explanations[outcome,].inc()
        if outcome == "ok":
            self._seconds.observe(seconds)
