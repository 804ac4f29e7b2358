"""What the canary pairs say of the reader that runs: whether it is as recorded, how far off, and when it was seen."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

RESULTS = ("ok", "deviated", "failed")
"""What can become of a run of the canary pairs."""


class CanaryCounts(Collector):
    """Instruments of canary pairs; none has a value before the pairs were scored, or once there are no pairs any more.

    Args:
        registry: Where the instruments are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown = False
        self._ok = Gauge("scopewatch_canary_ok", "1 while the canary pairs score as recorded.", registry=None)
        self._runs = Counter(
            "scopewatch_canary_runs_total", "Times the canary pairs were scored.", ["result"], registry=None
        )
        for result in RESULTS:
            self._runs.labels(result)
        self._deviation = Gauge(
            "scopewatch_canary_deviation_ratio",
            "Largest deviation of a canary's score from the recorded one: |score - recorded| / max(1, |recorded|).",
            ["watchlist", "indicator"],
            registry=None,
        )
        self._last_run = Gauge(
            "scopewatch_canary_last_run_timestamp_seconds",
            "When the canary pairs were scored last, since 1970.",
            registry=None,
        )
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        for instrument in (self._ok, self._runs, self._deviation, self._last_run):
            for family in instrument.collect():
                if not self._shown:
                    family.samples.clear()
                yield family

    def hide(self) -> None:
        """There are no canary pairs any more."""
        self._shown = False

    def judged(self, ok: bool, deviations: Mapping[tuple[str, str], float]) -> None:
        """Counts a run that came to its end.

        Args:
            ok: Whether everything is as recorded.
            deviations: The largest deviation of each indicator, by watchlist and name.
        """
        self._shown = True
        self._runs.labels("ok" if ok else "deviated").inc()
        self._ok.set(ok)
        self._last_run.set_to_current_time()
        self._deviation.clear()
        for (watchlist, indicator), ratio in deviations.items():
            self._deviation.labels(watchlist, indicator).set(ratio)

    def failed(self, *, ill: bool) -> None:
        """Counts a run in which the reader failed.

        Args:
            ill: Whether that is taken for a reader that does not work, and not for a moment without memory.
        """
        self._shown = True
        self._runs.labels("failed").inc()
        self._last_run.set_to_current_time()
        if ill:
            self._ok.set(0)
