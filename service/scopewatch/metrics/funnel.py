"""What became of the pairs that came in: each is in flight until it leaves, with a verdict or for a named reason."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from threading import Lock
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from scopewatch.errors import ScopewatchError
from scopewatch.metrics.series import Named
from scopewatch.verdicts import ScoredPair, Verdict

UNKNOWN = "unknown"
"""The label of the pairs whose watchlist is not known: there is none of the name, or nobody could read the name."""
CANCELLED = "cancelled"
"""Why a pair left whose caller hung up, or which the service gave up when it stopped."""
FAILED = "failed"
"""Why a pair left on which something failed that nobody foresaw."""
# fmt: off
REASONS = (
    CANCELLED, "deadline_expired", "engine_died", "engine_error", FAILED, "invalid_request", "not_allowed", "not_ready",
    "overloaded", "unauthenticated", "unknown_watchlist",
)
# fmt: on
"""Why a pair may leave without a verdict."""


class Funnel(Named):
    """Counts pairs where they come in and where they leave, by the watchlist that they name.

    At every moment received = scored + failed + in flight, for each watchlist; a page shows all of them at one moment,
    whatever the event loop counts meanwhile. So none is worked out from the others: where they do not add up, a pair
    was lost or counted twice.

    Args:
        registry: Where the pairs' counts are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = Lock()
        self._received = Counter[str]()
        self._in_flight = Counter[str]()
        self._scored = Counter[tuple[str, str]]()
        self._failed = Counter[tuple[str, str]]()
        self.start([])
        registry.register(self)

    def start(self, watchlists: Iterable[str]) -> None:
        """Starts every series of these watchlists at 0, so that rates have a first point; what is counted stays."""
        with self._lock:
            for watchlist in watchlists:
                self._start(watchlist)
                self._scored.update({(watchlist, verdict): 0 for verdict in Verdict})
            self._start(UNKNOWN)

    def _start(self, watchlist: str) -> None:
        self._received[watchlist] += 0
        self._in_flight[watchlist] += 0
        self._failed.update({(watchlist, reason): 0 for reason in REASONS})

    def pairs(self, watchlists: Sequence[str]) -> "PairsInFlight":
        """The pairs of a call, which come in when the context is entered and have left when it is left.

        Args:
            watchlists: The watchlist of each pair, or `UNKNOWN`.
        """
        return PairsInFlight(self, watchlists)

    def refused(self, watchlists: Sequence[str], error: BaseException) -> None:
        """Pairs came in, and left at once without a verdict."""
        self.came(watchlists)
        self.left(watchlists, [reason_of(error)] * len(watchlists))

    def came(self, watchlists: Sequence[str]) -> None:
        """Pairs came in, and are in flight from now on."""
        with self._lock:
            for watchlist in watchlists:
                self._received[watchlist] += 1
                self._in_flight[watchlist] += 1

    def left(self, watchlists: Sequence[str], ways: Sequence[str]) -> None:
        """Pairs that were in flight left, each with its verdict or for a reason."""
        with self._lock:
            for watchlist, way in zip(watchlists, ways, strict=True):
                self._in_flight[watchlist] -= 1
                (self._scored if isinstance(way, Verdict) else self._failed)[watchlist, way] += 1

    def collect(self) -> Iterable[Metric]:
        received = CounterMetricFamily("scopewatch_received_pairs", "Pairs that came in.", labels=["watchlist"])
        scored = CounterMetricFamily("scopewatch_pairs", "Pairs scored.", labels=["watchlist", "verdict"])
        failed = CounterMetricFamily(
            "scopewatch_failed_pairs", "Pairs that got no verdict.", labels=["watchlist", "reason"]
        )
        in_flight = GaugeMetricFamily(
            "scopewatch_pairs_in_flight", "Pairs that came in and did not leave yet.", labels=["watchlist"]
        )
        with self._lock:
            by_watchlist = ((received, {**self._received}), (in_flight, {**self._in_flight}))
            by_way = ((scored, {**self._scored}), (failed, {**self._failed}))
        for family, counts in by_watchlist:
            for watchlist, count in counts.items():
                family.add_metric([watchlist], count)
        for family, ways in by_way:
            for labels, count in ways.items():
                family.add_metric(labels, count)
        return received, scored, failed, in_flight


class PairsInFlight:
    """The pairs of one call; made by `Funnel.pairs`. Whatever ends the context, each pair leaves once."""

    def __init__(self, funnel: Funnel, watchlists: Sequence[str]) -> None:
        self._funnel = funnel
        self._watchlists = watchlists
        self._ways: Sequence[str] | None = None

    def leave(self, outcomes: Sequence[ScoredPair | ScopewatchError]) -> None:
        """Says what each pair leaves with, unless the call fails yet."""
        self._ways = [one.verdict if isinstance(one, ScoredPair) else one.reason for one in outcomes]

    def __enter__(self) -> Self:
        self._funnel.came(self._watchlists)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ways is None or error is not None:
            self._ways = [reason_of(error)] * len(self._watchlists)
        self._funnel.left(self._watchlists, self._ways)


def reason_of(error: BaseException | None) -> str:
    """Why pairs get no verdict that an error ends, as metrics name it."""
    if isinstance(error, ScopewatchError):
        return error.reason
    return CANCELLED if isinstance(error, asyncio.CancelledError) else FAILED
