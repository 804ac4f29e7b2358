"""Where activations are kept between requests: in this process, or in Redis. Neither can fail a request."""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from scopewatch.metrics import Metrics
from scopewatch.pipeline.breaker import Breaker
from scopewatch.pipeline.lru import Lru

if TYPE_CHECKING:
    from scopewatch.pipeline.redis_client import RedisClient

log = logging.getLogger(__name__)

KEY_PREFIX = "scopewatch:1:"
"""Before every Redis key. Entries expire because weights and watchlists move on; see `cache_ttl_s`."""


class Cache(Protocol):
    """Values by key; it may forget any of them at any time."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys; None for whatever is not to be had now. Counts all but hits."""

    def put_many(self, items: Mapping[bytes, bytes]) -> None:
        """Stores values some time soon, perhaps."""

    async def close(self) -> None: ...


class LocalCache:
    """Least recently used values in this process.

    Args:
        max_bytes: Bound on the size of keys and values together; 0 keeps nothing.
        metrics: Counts misses and writes.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._values = Lru[bytes](max_bytes, len)
        self._metrics = metrics

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values = [self._values.get(key) for key in keys]
        self._metrics.cache_read("miss", values.count(None))
        return values

    def put_many(self, items: Mapping[bytes, bytes]) -> None:
        for key, value in items.items():
            self._values.put(key, value)
        self._metrics.cache_written("ok", len(items))

    async def close(self) -> None:
        self._values.clear()


class RedisCache:
    """Values in Redis: one MGET per call under a short timeout, writes behind the reply.

    Args:
        client: The connection to Redis.
        timeout_s: Longest wait for one operation.
        ttl_s: Life of an entry, jittered by 10 percent so that entries do not expire together.
        metrics: Counts misses, errors, skips and writes.
        breaker: Shared by reads and writes.
        max_waiting_writes: Values that may wait to be written; more are dropped and counted.
    """

    def __init__(
        self,
        client: "RedisClient",
        *,
        timeout_s: float,
        ttl_s: int,
        metrics: Metrics,
        breaker: Breaker | None = None,
        max_waiting_writes: int = 4096,
    ) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._ttl_s = ttl_s
        self._metrics = metrics
        self._breaker = breaker or Breaker()
        # One connection is the writer's.
        self._readers = asyncio.Semaphore(client.max_connections - 1)
        self._writes: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue(max_waiting_writes)
        self._writer = asyncio.create_task(self._write_behind(), name="redis-writer")

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        nothing: list[bytes | None] = [None] * len(keys)
        if not self._breaker.allows():
            self._metrics.cache_read("skipped", len(keys))
            return nothing
        names = [_name(key) for key in keys]
        try:
            async with asyncio.timeout(self._timeout_s), self._readers:
                values = await self._client.get_many(names)
        except Exception as error:  # redis-py has several roots of errors, and no cache may fail a request
            self._failed(error)
            self._metrics.cache_read("error", len(keys))
            return nothing
        self._succeeded()
        self._metrics.cache_read("miss", values.count(None))
        return values

    def put_many(self, items: Mapping[bytes, bytes]) -> None:
        for item in items.items():
            try:
                self._writes.put_nowait(item)
            except asyncio.QueueFull:
                self._metrics.cache_written("dropped")

    async def close(self) -> None:
        """Gives waiting writes one timeout to finish."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._writes.join()
        except TimeoutError:
            self._metrics.cache_written("dropped", self._writes.qsize())
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.close()
        except Exception as error:  # nothing is left to do
            log.debug("Redis connection did not close cleanly", extra=self._described(error))

    async def _write_behind(self) -> None:
        while True:
            items = [await self._writes.get()]
            while len(items) < 256 and not self._writes.empty():
                items.append(self._writes.get_nowait())
            try:
                await self._write(items)
            finally:
                for _ in items:
                    self._writes.task_done()

    async def _write(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        if not self._breaker.allows():
            self._metrics.cache_written("skipped", len(items))
            return
        try:
            # Writing may take longer than a reader would wait: nobody waits for it.
            async with asyncio.timeout(4 * self._timeout_s):
                await self._client.set_many([(_name(key), value, self._jittered_ttl_s()) for key, value in items])
        except Exception as error:  # likewise, or the writer would end
            self._failed(error)
            self._metrics.cache_written("error", len(items))
        else:
            self._succeeded()
            self._metrics.cache_written("ok", len(items))

    def _jittered_ttl_s(self) -> int:
        return max(1, round(self._ttl_s * random.uniform(0.9, 1.1)))  # noqa: S311 - it is no secret

    def _failed(self, error: Exception) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed()
        self._metrics.cache_breaker_open.set(self._breaker.is_open)
        if self._breaker.is_open and not was_open:
            log.warning("Redis is not asked for a while", extra=self._described(error))

    def _described(self, error: Exception) -> dict[str, str]:
        return {"error": type(error).__name__, "error_message": self._client.loggable(error)}

    def _succeeded(self) -> None:
        if self._breaker.is_open:
            log.info("Redis answers again")
        self._breaker.succeeded()
        self._metrics.cache_breaker_open.set(0)


def _name(key: bytes) -> str:
    return KEY_PREFIX + key.hex()
