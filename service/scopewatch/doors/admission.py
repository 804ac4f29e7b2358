"""How many calls are let in at once, and how much they may hold, over all callers together; no protobuf.

A call is let in before its request is read, so what is refused costs nothing but a header. Requests are read a few at a
time, since until they are there nobody knows how large they are; what they hold then counts until they are answered.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from scopewatch.errors import DeadlineExpired, NotReady, Overloaded

_PAUSES_S = 0.1, 0.5
"""The shortest and longest pause that a refused caller is asked to make; a random one, or all would come together."""
_ELSEWHERE_S = 0.02
"""The pause before a call that meets a closed service is tried again, on another server."""


class Readers:
    """Lets requests arrive, a few at a time; each may be as large as the transport takes.

    A place that becomes free goes to who came last, and who has had one for a while makes room where others wait. So
    requests that come a byte at a time, however many they are, keep out nobody whose request comes at once.

    Args:
        at_once: The number of requests that arrive at once.
        read_s: The longest that one may take, in seconds.
        crowded_s: The longest that one may take while others wait, in seconds.
    """

    def __init__(self, at_once: int, read_s: float, crowded_s: float) -> None:
        self._free = at_once
        self._read_s = read_s
        self._crowded_s = crowded_s
        self._reading: dict[asyncio.Timeout, float] = {}
        """When each that arrives has to be there, and since when it arrives; the oldest first."""
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """The time in which a call's request is read.

        Raises:
            DeadlineExpired: The request did not arrive in time.
            Overloaded: It made room for others, or others arrived all the time.
        """
        clock = asyncio.get_running_loop().time
        until_s, reads = clock() + self._read_s, False
        try:
            async with asyncio.timeout_at(until_s) as limit:
                await self._take_place()
                self._reading[limit], reads = clock(), True
                if self._waiting:
                    self._hurry()
                try:
                    yield
                finally:
                    del self._reading[limit]
                    self._give_place()
        except TimeoutError:
            if reads and clock() >= until_s:
                raise DeadlineExpired(f"the request did not arrive within {self._read_s:g} s") from None
            raise Overloaded("too many requests are arriving; try again later", retry_after_s=_pause_s()) from None

    async def _take_place(self) -> None:
        if self._free:
            self._free -= 1
            return
        self._hurry()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(place)
            else:
                self._give_place()
            raise

    def _give_place(self) -> None:
        while self._waiting:
            place = self._waiting.pop()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _hurry(self) -> None:
        """Shortens the time of the one that has had its place for longest, of those whose time is not short yet."""
        for limit, began_s in self._reading.items():
            latest_s = began_s + self._crowded_s
            if (limit.when() or 0.0) > latest_s:
                limit.reschedule(latest_s)
                return


class Admission:
    """Lets calls in. Refuses all of them until `open` and after `close`.

    Args:
        max_calls: The most calls at once.
        max_bytes: The most bytes that the requests of all calls may hold together.
        clock: Tells the time in seconds, monotonic.
    """

    def __init__(self, *, max_calls: int, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._clock = clock
        self._refusal: NotReady | None = NotReady("warming up: the reader is being loaded", retry_after_s=1.0)
        self._calls = 0
        self._bytes = 0
        self._last_s = clock()

    def open(self) -> None:
        """Lets calls in from now on."""
        self._refusal = None

    def close(self) -> None:
        """Refuses calls from now on; those that were let in go on."""
        self._refusal = NotReady("the service is shutting down; ask another one", retry_after_s=_ELSEWHERE_S)

    async def quiet(self, for_s: float, at_most_s: float) -> bool:
        """Waits until no call runs and none has come for a while.

        Args:
            for_s: The length of that while, in seconds.
            at_most_s: How many seconds to wait for it.

        Returns:
            Whether it came.
        """
        until_s = self._clock() + at_most_s
        while self._calls or self._clock() < self._last_s + for_s:
            if self._clock() >= until_s:
                return False
            await asyncio.sleep(min(for_s, 0.02))
        return True

    @contextmanager
    def call(self) -> Iterator["Holding"]:
        """A call, from its header to its answer.

        Raises:
            NotReady: The service does not take calls.
            Overloaded: There are too many.
        """
        self._last_s = self._clock()
        if self._refusal:
            raise self._refusal
        if self._calls >= self._max_calls:
            raise Overloaded(f"{self._calls} calls are being answered; try again later", retry_after_s=_pause_s())
        self._calls += 1
        holding = Holding(self)
        try:
            yield holding
        finally:
            self._calls -= 1
            self._bytes -= holding.size
            self._last_s = self._clock()

    def hold(self, size: int) -> None:
        """Counts what a request holds.

        Raises:
            Overloaded: All requests together hold too much.
        """
        if self._bytes and self._bytes + size > self._max_bytes:
            raise Overloaded("the requests of other calls take all the room; try again later", retry_after_s=_pause_s())
        self._bytes += size


class Holding:
    """What one call's request holds; made by `Admission.call`."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.size = 0
        """In bytes."""

    def hold(self, size: int) -> None:
        """Counts bytes until the call is answered.

        Raises:
            Overloaded: There is no room for them.
        """
        self._admission.hold(size)
        self.size += size


def _pause_s() -> float:
    return random.uniform(*_PAUSES_S)  # noqa: S311 - it is no secret
