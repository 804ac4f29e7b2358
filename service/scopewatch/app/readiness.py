"""Whether the service is ready: it is open, does not drain, and nothing that is examined again and again is ill."""

from scopewatch.doors.door import Door, Spine
from scopewatch.doors.limits import Limits
from scopewatch.metrics import Metrics


class Readiness:
    """Tells the door, and whoever reads the metrics, whether the service is ready.

    Args:
        door: Says so to callers.
        metrics: Says so to scrapers.
    """

    def __init__(self, door: Door, metrics: Metrics) -> None:
        self._door = door
        self._metrics = metrics
        self._ill: set[str] = set()
        self._open = False

    async def open(self, spine: Spine, limits: Limits) -> None:
        """Opens the door; the service is ready unless something is ill already."""
        await self._door.open(spine, limits)
        self._open = True
        await self._say()

    async def examined(self, part: str, well: bool) -> None:
        """Notes that a part, such as the engine, was found well or ill."""
        if well:
            self._ill.discard(part)
        else:
            self._ill.add(part)
        await self._say()

    async def drain(self) -> None:
        """The service is not ready any more, whatever is found from now on."""
        self._open = False
        self._metrics.ready.set(0)
        await self._door.drain()

    async def _say(self) -> None:
        if self._open:
            self._metrics.ready.set(not self._ill)
            await self._door.ready(not self._ill)
