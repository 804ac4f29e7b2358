"""Where activations are kept between requests: in this process, or in Redis. Neither can fail a request."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from scopewatch.metrics import Metrics
from scopewatch.pipeline.lru import Lru
from scopewatch.pipeline.redis_client import MAX_CONNECTIONS

log = logging.getLogger(__name__)

KEY_PREFIX = "scopewatch:1:"
"""Before every Redis key. Entries expire because weights and watchlists move on; see `cache_ttl_s`."""


class Cache(Protocol):
    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys; None for whatever is not to be had now. Counts all but hits."""

    def put_many(self, items: Mapping[bytes, bytes]) -> None:
        """Stores values some time soon, perhaps."""

    async def close(self) -> None: ...


class LocalCache:
    """Least recently used values in this process.

    Args:
        max_bytes: Bound on keys plus values; 0 keeps nothing.
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


class Breaker:
    """Stops asking a dependency that failed `failures` times in a row; tries again after a growing pause."""

    def __init__(
        self,
        *,
        failures: int = 3,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._failures = 0
        self._pause_s = first_pause_s
        self._retry_at: float | None = None
        self._on_trial = False

    @property
    def is_open(self) -> bool:
        return self._retry_at is not None

    def allows(self) -> bool:
        """Whether to ask now. While open, lets one caller through per pause."""
        if self._retry_at is None:
            return True
        if self._clock() < self._retry_at:
            return False
        self._retry_at = self._clock() + self._pause_s
        self._on_trial = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._pause_s = self._first_pause_s
        self._retry_at = None
        self._on_trial = False

    def failed(self) -> None:
        self._failures += 1
        if self._retry_at is None and self._failures >= self._limit:
            self._retry_at = self._clock() + self._pause_s
        elif self._on_trial:
            # Calls that were under way when it opened fail without a trial, and say nothing new.
            self._on_trial = False
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
            self._retry_at = self._clock() + self._pause_s


class RedisCache:
    """Values in Redis: one MGET per call under a short timeout, writes behind the reply.

    Args:
        client: Standalone, sentinel-made or cluster client, without retries of its own.
        timeout_s: Longest wait for one operation.
        ttl_s: Life of an entry, jittered by 10 percent so that entries do not expire together.
        metrics: Counts misses, errors, skips and writes.
        breaker: Shared by reads and writes.
        max_waiting_writes: Values that may wait to be written; more are dropped and counted.
    """

    def __init__(
        self,
        client: "Redis | RedisCluster",
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
        self._readers = asyncio.Semaphore(MAX_CONNECTIONS - 1)
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
                if isinstance(self._client, RedisCluster):
                    values = await self._client.mget_nonatomic(names)
                else:
                    values = await self._client.mget(names)
            if not isinstance(values, list) or len(values) != len(keys):
                raise RedisError("MGET was answered with something else than a value for each key")
        except Exception as error:  # redis-py has several roots of errors, and no cache may fail a request
            self._failed(error)
            self._metrics.cache_read("error", len(keys))
            return nothing
        self._succeeded()
        self._metrics.cache_read("miss", values.count(None))
        return [value if value is None or isinstance(value, bytes) else b"" for value in values]

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
                await self._client.aclose()
        except Exception as error:  # nothing is left to do
            log.debug("Redis connection did not close cleanly", extra={"error": type(error).__name__})

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
                pipeline = self._client.pipeline(transaction=False)
                for key, value in items:
                    pipeline.set(_name(key), value, ex=max(1, round(self._ttl_s * random.uniform(0.9, 1.1))))  # noqa: S311 - jitter
                await pipeline.execute()
        except Exception as error:  # likewise, or the writer would end
            self._failed(error)
            self._metrics.cache_written("error", len(items))
        else:
            self._succeeded()
            self._metrics.cache_written("ok", len(items))

    def _failed(self, error: Exception) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed()
        self._metrics.cache_breaker_open.set(self._breaker.is_open)
        if self._breaker.is_open and not was_open:
            log.warning("Redis is not asked for a while", extra={"error": type(error).__name__})

    def _succeeded(self) -> None:
        if self._breaker.is_open:
            log.info("Redis answers again")
        self._breaker.succeeded()
        self._metrics.cache_breaker_open.set(0)


def _name(key: bytes) -> str:
    return KEY_PREFIX + key.hex()
