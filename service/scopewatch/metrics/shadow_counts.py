"""What shadow watchlists would have said, and where the live ones said otherwise."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter

from scopewatch.metrics.series import Bound
from scopewatch.verdicts import Judgement, Verdict
from scopewatch.watch.watchlist import Watchlist

SKIPPED = ("busy", "failed", "features", "reading", "remembered")
"""Why a shadow did not judge a pair of its share; docs/reload.md says what each means."""


class ShadowCounts:
    """Counters of shadow watchlists; safe to count with from several threads.

    Args:
        registry: Where the instruments are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Bound[Counter]:
            return Bound(Counter(f"scopewatch_shadow_{name}", text, labels, registry=registry))

        self._pairs = counter("pairs_total", "Pairs that shadow watchlists judged.", "watchlist", "verdict")
        self._flags = counter("flags_total", "Indicators of shadows above threshold.", "watchlist", "indicator")
        self._disagreements = counter(
            "disagreements_total", "Pairs whose live verdict was another.", "watchlist", "live", "shadow"
        )
        self._skipped = counter("skipped_total", "Judgements of shadows that were left out.", "reason")

    def describe(self, shadows: Iterable[Watchlist]) -> None:
        """Starts every series of these watchlists at 0, so that rates have a first point; what is counted stays."""
        for shadow in shadows:
            for reason in SKIPPED:
                self._skipped[reason,]
            for verdict in Verdict:
                self._pairs[shadow.name, verdict]
                for other in set(Verdict) - {verdict}:
                    self._disagreements[shadow.name, other, verdict]
            for indicator in shadow.indicators:
                self._flags[shadow.name, indicator.name]

    def judged(self, live: Judgement, shadow: Judgement) -> None:
        """Counts what a shadow says of a pair, beside what its caller was told."""
        name = shadow.made_by.watchlist
        self._pairs[name, shadow.verdict].inc()
        if shadow.verdict != live.verdict:
            self._disagreements[name, live.verdict, shadow.verdict].inc()
        for score in shadow.indicators:
            if score.flagged:
                self._flags[name, score.name].inc()

    def skipped(self, reason: str, count: int = 1) -> None:
        """Counts judgements that were left out, by one of the reasons `SKIPPED`."""
        self._skipped[reason,].inc(count)
