"""The pairs that were flagged lately, as whoever is on call wants to see them: in memory, and without their texts."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from scopewatch.audit.ledger import utc_now
from scopewatch.events import PairScored
from scopewatch.verdicts import Verdict

MOST_FLAGS = 200
"""How many flags are remembered of each tenant; for a new one the oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class RaisedIndicator:
    """An indicator that was flagged."""

    name: str
    score: float
    threshold: float
    severity: str


@dataclass(frozen=True, slots=True)
class Flag:
    """A pair with the verdict FLAG."""

    time: datetime
    """When it was scored, in UTC."""
    request_id: str
    watchlist: str
    indicators: tuple[RaisedIndicator, ...]
    """The indicators that were flagged, in the order of the watchlist."""
    text_kept: bool
    """Whether the operator keeps the texts of such pairs, so that it can be explained."""


class RecentFlags:
    """Remembers pairs that were flagged. It can be used on any thread.

    Args:
        text_kept: Whether the operator keeps their texts.
        now: Tells the time.
    """

    def __init__(self, *, text_kept: bool, now: Callable[[], datetime] = utc_now) -> None:
        self._text_kept = text_kept
        self._now = now
        self._lock = Lock()
        self._by_tenant: dict[str, deque[Flag]] = {}

    def remember(self, scored: Sequence[PairScored]) -> None:
        """Remembers those that were flagged; listens to `PairsScored`."""
        now = self._now()
        for job, pair in scored:
            if pair.verdict is not Verdict.FLAG:
                continue
            raised = tuple(
                RaisedIndicator(one.name, one.score, one.threshold, one.severity)
                for one in pair.indicators
                if one.flagged
            )
            flag = Flag(now, job.request_id, pair.watchlist, raised, self._text_kept)
            with self._lock:
                self._by_tenant.setdefault(job.caller.tenant, deque(maxlen=MOST_FLAGS)).append(flag)

    def of(self, tenant: str) -> tuple[Flag, ...]:
        """The flags of a tenant's pairs, the newest first."""
        with self._lock:
            return tuple(reversed(self._by_tenant.get(tenant, ())))
