"""What every way in has in common: it listens, opens before a spine, drains, closes."""

from collections.abc import Sequence
from typing import Protocol

from scopewatch.doors.limits import Limits
from scopewatch.errors import ScopewatchError
from scopewatch.events import PairFailed
from scopewatch.explanation import Explanation, Wants
from scopewatch.pipeline.watchlist_set import Reloaded, WatchlistSet
from scopewatch.types import Caller, ScoreJob
from scopewatch.verdicts import ScoredPair


class Spine(Protocol):
    """What a door asks of the inside."""

    @property
    def watchlists(self) -> WatchlistSet:
        """The watchlists that the next call is judged by, and what they run on."""

    async def score(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        """Scores jobs; each succeeds or fails alone, in the order given."""

    def tell_failed(self, failed: Sequence[PairFailed]) -> None:
        """Tells whoever listens that pairs got an error on their way to be scored."""

    async def explain(self, job: ScoreJob, wants: Wants) -> Explanation:
        """Tells why a pair gets its verdict, when the engine has time for it.

        Raises:
            Overloaded: As many explanations wait as may.
            ScopewatchError: The pair cannot be scored.
        """

    def kept_pair(self, request_id: str, caller: Caller) -> ScoreJob:
        """The pair that was scored under this id, from the texts that are kept; of several the last one. Blocks.

        Raises:
            NotKept: There is none, or it is another tenant's.
        """

    async def reload_watchlists(self, caller: str) -> Reloaded:
        """Reads the watchlist files again, and judges by what they say from now on.

        Args:
            caller: The name of who asks.

        Raises:
            SetupError: Names every mistake; nothing has changed.
            EngineError: The engine failed on what was loaded; nothing has changed.
            NotReady: The service is shutting down.
        """


class Door(Protocol):
    """One way for callers to come in. The methods are called once each, in this order, but for `ready`."""

    async def listen(self) -> dict[str, str]:
        """Begins to listen, and refuses pairs until the door is open, so that whoever asks learns that it will be.

        Returns:
            The addresses it listens on, by their settings.

        Raises:
            ConfigError: The address cannot be bound.
        """

    async def open(self, spine: Spine, limits: Limits) -> None:
        """Takes pairs from now on, and says so to whoever asks whether the service is ready.

        Args:
            spine: Scores the pairs.
            limits: What a request may hold.
        """

    async def ready(self, ready: bool) -> None:
        """Says from now on, between `open` and `drain`, that the service is ready or not; takes pairs either way."""

    async def drain(self) -> None:
        """Says that the service is not ready, so that balancers look elsewhere; still takes pairs."""

    async def close(self, grace_s: float) -> None:
        """Refuses from now on, waits for running calls, and stops listening. Harmless when it never listened.

        Args:
            grace_s: How many seconds running calls have.
        """
