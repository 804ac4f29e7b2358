"""The Redis cache against real servers: standalone, cluster, sentinel, TLS; healthy, dead, slow and lying."""

import asyncio
import logging
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis
from redis.exceptions import RedisError

from conftest import RedisServer, free_port, need, wait_until
from proxy import Proxy
from scopewatch.app.caching import cache_of
from scopewatch.config import Config
from scopewatch.errors import ConfigError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.breaker import Breaker
from scopewatch.pipeline.cache import KEY_PREFIX, RedisCache
from scopewatch.pipeline.redis_client import redis_client
from scopewatch.types import Pair, ScoreJob
from scopewatch.verdicts import ScoredPair
from spine import VALUES, FakeReader, build_monitor, read

pytestmark = pytest.mark.system

PATIENT_S = 20.0
"""A timeout that no healthy answer needs."""
SHORT_S = 0.2
Open = Callable[..., RedisCache]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def name(number: int) -> str:
    return KEY_PREFIX + key(number).hex()


def value(number: int) -> bytes:
    return f"value of {number} ".encode() * (1 + number % 7)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def open_cache(metrics: Metrics) -> AsyncIterator[Open]:
    """Opens caches as the server does, and closes them."""
    caches: list[RedisCache] = []

    def open_cache(url: str, *, mode: str = "standalone", timeout_s: float = PATIENT_S, **keys: Any) -> RedisCache:
        client = redis_client(
            url, mode=mode, sentinel_service="mymaster", timeout_s=timeout_s, password=keys.pop("password", "")
        )
        caches.append(RedisCache(client, timeout_s=timeout_s, **({"ttl_s": 3600, "metrics": metrics} | keys)))
        return caches[-1]

    yield open_cache
    for cache in caches:
        await cache.close()


@pytest.fixture(scope="module")
def one_server() -> Iterator[RedisServer]:
    need("redis-server")
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture
def healthy(one_server: RedisServer) -> RedisServer:
    """An empty Redis that no test kills; `redis_server` is one for those who do."""
    with Redis(port=one_server.port) as client:
        client.flushall()
        client.config_resetstat()
    return one_server


@pytest.fixture
def plain(healthy: RedisServer) -> Iterator[Redis]:
    """A client of its own, to look behind the cache's back."""
    with Redis(port=healthy.port) as client:
        yield client


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)


class Count:
    """Reads the cache's counters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def reads(self, result: str) -> float:
        return self._registry.get_sample_value("scopewatch_cache_requests_total", {"result": result}) or 0

    def writes(self, result: str) -> float:
        return self._registry.get_sample_value("scopewatch_cache_writes_total", {"result": result}) or 0

    @property
    def breaker_open(self) -> float | None:
        return self._registry.get_sample_value("scopewatch_cache_breaker_open")

    async def written(self, result: str, count: int) -> None:
        """Waits until so many writes had a result."""
        await eventually(lambda: self.writes(result) >= count)


@pytest.fixture
def count(registry: CollectorRegistry) -> Count:
    return Count(registry)


async def fill(cache: RedisCache, count: Count, numbers: range) -> None:
    before = count.writes("ok")
    cache.put_many({key(n): value(n) for n in numbers})
    await count.written("ok", int(before) + len(numbers))


class TestHealthy:
    async def test_what_was_put_is_got_in_the_order_asked(
        self, healthy: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """One look-up answers many keys in their order, None where there is nothing."""
        cache = open_cache(healthy.url)
        await fill(cache, count, range(3))
        assert await cache.get_many([key(2), key(9), key(0), key(2), key(1)]) == [
            value(2),
            None,
            value(0),
            value(2),
            value(1),
        ]
        assert count.reads("miss") == 1

    async def test_replicas_share_entries(self, healthy: RedisServer, open_cache: Open, count: Count) -> None:
        """What one process wrote another finds."""
        await fill(open_cache(healthy.url), count, range(1))
        assert await open_cache(healthy.url).get_many([key(0)]) == [value(0)]

    async def test_entries_expire_around_the_ttl(
        self, healthy: RedisServer, open_cache: Open, count: Count, plain: Redis
    ) -> None:
        """Every entry lives the configured time give or take ten percent, and not all the same time."""
        await fill(open_cache(healthy.url, ttl_s=1_000_000), count, range(200))
        lives = [plain.ttl(name(n)) for n in range(200)]
        assert 900_000 - 600 <= min(lives) < 930_000
        assert 1_070_000 < max(lives) <= 1_100_000

    async def test_a_second_passes_for_no_time_at_all(
        self, healthy: RedisServer, open_cache: Open, count: Count, plain: Redis
    ) -> None:
        """The shortest life there is stays a life: an entry is never written without expiry or with none left."""
        await fill(open_cache(healthy.url, ttl_s=1), count, range(20))
        assert plain.info("commandstats")["cmdstat_set"]["failed_calls"] == 0
        assert all(plain.ttl(name(n)) in {1, 0, -2} for n in range(20))

    async def test_closing_flushes_what_waits(
        self, healthy: RedisServer, open_cache: Open, plain: Redis, count: Count
    ) -> None:
        """Values put just before closing are written."""
        cache = open_cache(healthy.url)
        cache.put_many({key(n): value(n) for n in range(600)})
        await cache.close()
        assert plain.dbsize() == 600
        assert count.writes("ok") == 600

    async def test_a_full_write_queue_drops_and_counts(
        self, healthy: RedisServer, open_cache: Open, plain: Redis, count: Count
    ) -> None:
        """Values that do not fit the write queue are dropped and counted; nobody waits."""
        cache = open_cache(healthy.url, max_waiting_writes=5)
        cache.put_many({key(n): value(n) for n in range(12)})
        assert count.writes("dropped") == 7
        await cache.close()
        assert sorted(plain.keys("*")) == [name(n).encode() for n in range(5)]

    async def test_many_callers_at_once_are_all_answered(
        self, healthy: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """More callers than connections wait for one; none is turned away as if Redis had failed."""
        cache = open_cache(healthy.url)
        await fill(cache, count, range(200))
        found = await asyncio.gather(*(cache.get_many([key(n)]) for n in range(200)))
        assert found == [[value(n)] for n in range(200)]
        assert count.reads("error") == 0

    async def test_a_unix_socket_will_do(self, tmp_path: Path, open_cache: Open, count: Count) -> None:
        """A unix:// URL reaches a Redis beside the process."""
        need("redis-server")
        server = RedisServer("--unixsocket", str(tmp_path / "redis.sock"))
        try:
            cache = open_cache(f"unix://{tmp_path / 'redis.sock'}")
            await fill(cache, count, range(2))
            assert await cache.get_many([key(1)]) == [value(1)]
        finally:
            server.kill()


class TestDead:
    async def test_a_dead_redis_is_a_miss_then_left_alone_then_found_again(
        self, redis_server: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """Killed: errors, then the breaker opens and skips; back: the next trial closes it and hits again."""
        clock = Clock()
        cache = open_cache(redis_server.url, breaker=Breaker(first_pause_s=1.0, clock=clock))
        await fill(cache, count, range(1))
        redis_server.kill()

        assert [await cache.get_many([key(0), key(1)]) for _ in range(5)] == [[None, None]] * 5
        assert (count.reads("error"), count.reads("skipped"), count.breaker_open) == (6, 4, 1)

        redis_server.start()
        assert await cache.get_many([key(0)]) == [None]
        assert (count.reads("skipped"), count.reads("miss")) == (5, 0)
        clock.now += 1.0
        assert await cache.get_many([key(0)]) == [None]
        assert (count.reads("miss"), count.breaker_open) == (1, 0)
        await fill(cache, count, range(1))
        assert await cache.get_many([key(0)]) == [value(0)]

    async def test_writes_to_a_dead_redis_are_counted_and_forgotten(
        self, redis_server: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """A write that fails is an error, the breaker that it opens skips the next, and the writer lives on."""
        clock = Clock()
        cache = open_cache(redis_server.url, breaker=Breaker(first_pause_s=1.0, clock=clock))
        redis_server.kill()
        for number in range(3):
            cache.put_many({key(number): value(number)})
            await count.written("error", number + 1)
        cache.put_many({key(3): value(3)})
        await count.written("skipped", 1)

        redis_server.start()
        clock.now += 1.0
        await fill(cache, count, range(4, 6))
        assert await cache.get_many([key(0), key(4), key(5)]) == [None, value(4), value(5)]

    async def test_closing_does_not_wait_for_a_dead_redis(self, redis_server: RedisServer, open_cache: Open) -> None:
        """Closing gives waiting writes one timeout, also when nobody takes them, and raises nothing."""
        cache = open_cache(redis_server.url, timeout_s=SHORT_S)
        redis_server.kill()
        cache.put_many({key(n): value(n) for n in range(1000)})
        async with asyncio.timeout(PATIENT_S):
            await cache.close()

    async def test_a_cluster_is_no_single_server(self, open_cache: Open, count: Count, cluster: RedisServer) -> None:
        """Keys that a cluster sends elsewhere are misses, not failures of the pair."""
        cache = open_cache(cluster.url, breaker=never_opens())
        assert await cache.get_many([key(0), key(1), key(2)]) == [None] * 3
        assert count.reads("error") == 3

    async def test_a_redis_that_was_never_there_is_a_miss(self, open_cache: Open, count: Count) -> None:
        """The service starts and answers without its Redis."""
        cache = open_cache(f"redis://127.0.0.1:{free_port()}/0")
        assert await cache.get_many([key(0)]) == [None]
        assert count.reads("error") == 1


def never_opens() -> Breaker:
    return Breaker(failures=10**9)


class TestSlowAndBroken:
    """Redis behind a proxy that misbehaves."""

    @pytest.fixture
    async def proxy(self, healthy: RedisServer) -> AsyncIterator[Proxy]:
        async with Proxy(healthy.port) as proxy:
            yield proxy

    @pytest.fixture
    async def cache(self, proxy: Proxy, open_cache: Open) -> RedisCache:
        """A patient one."""
        return open_cache(f"redis://127.0.0.1:{proxy.port}/0", breaker=never_opens())

    @pytest.fixture
    async def hasty(self, proxy: Proxy, open_cache: Open) -> RedisCache:
        return open_cache(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=SHORT_S, breaker=never_opens())

    @pytest.mark.parametrize("fault", ["delay", "black hole", "black hole from the start"])
    async def test_a_slow_or_silent_redis_costs_one_timeout(
        self, proxy: Proxy, cache: RedisCache, hasty: RedisCache, count: Count, fault: str
    ) -> None:
        """Whatever Redis does, a look-up ends after about its timeout, as a miss."""
        await fill(cache, count, range(1))
        if fault != "black hole from the start":
            await asyncio.gather(*(cache.get_many([key(0)]) for _ in range(5)))
        proxy.delay_s = 60.0
        proxy.black_hole = fault != "delay"
        async with asyncio.timeout(PATIENT_S):
            assert await hasty.get_many([key(0), key(1)]) == [None, None]
        assert count.reads("error") == 2

    async def test_connections_lost_to_timeouts_are_replaced(
        self, proxy: Proxy, hasty: RedisCache, cache: RedisCache, count: Count
    ) -> None:
        """Timeouts, many more than there are connections, use up none for ever: reads and writes work afterwards."""
        await fill(cache, count, range(1))
        proxy.black_hole = True
        for _ in range(3):
            await asyncio.gather(*(hasty.get_many([key(0)]) for _ in range(50)))
        hasty.put_many({key(7): value(7)})
        await count.written("error", 1)
        proxy.black_hole = False
        async with asyncio.timeout(PATIENT_S):
            while await hasty.get_many([key(0)]) != [value(0)]:
                pass
            while count.writes("ok") < 2:
                hasty.put_many({key(8): value(8)})
                await asyncio.sleep(0.05)

    @pytest.mark.parametrize("cut_after", [1, 3, 5, 20, 100, 3000])
    async def test_a_connection_reset_in_the_middle_of_an_answer_is_a_miss(
        self, proxy: Proxy, cache: RedisCache, count: Count, cut_after: int
    ) -> None:
        """A torn answer is an error, never part of a value; the next look-up has a new connection."""
        await fill(cache, count, range(300))
        keys = [key(n) for n in range(300)]
        await asyncio.gather(*(cache._client._connection.connection_pool.disconnect() for _ in range(1)))
        proxy.cut_after = cut_after
        assert await cache.get_many(keys) == [None] * 300
        assert count.reads("error") == 300
        proxy.cut_after = None
        assert await cache.get_many(keys) == [value(n) for n in range(300)]

    async def test_cancelled_lookups_never_leave_their_answer_to_another(
        self, proxy: Proxy, cache: RedisCache, count: Count
    ) -> None:
        """Of 500 look-ups cancelled while their answers dribble in, every finished one has its own key's value.

        The class of CVE-2023-28858: an answer left on a connection is read by whoever asks next.
        """
        dice = random.Random(7)
        await fill(cache, count, range(50))
        proxy.dribble = True
        wrong: list[tuple[int, object]] = []
        finished = cancelled = 0

        async def look(number: int) -> None:
            found = await cache.get_many([key(number), key(99)])
            if found != [value(number), None]:
                wrong.append((number, found))

        for _ in range(25):
            tasks = [asyncio.create_task(look(dice.randrange(50))) for _ in range(20)]
            await asyncio.sleep(0)
            for task in tasks[1:]:
                for _ in range(dice.randrange(30)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(task.cancelled() for task in tasks)
            finished += sum(not task.cancelled() for task in tasks)
        proxy.dribble = False
        assert [await cache.get_many([key(n)]) for n in range(50)] == [[value(n)] for n in range(50)]
        assert wrong == []
        assert finished + cancelled == 500
        assert min(finished, cancelled) >= 25
        assert count.reads("error") == 0


TWO_VALUES_LIES = [
    pytest.param(b"+OK\r\n", id="status"),
    pytest.param(b"+PONG\r\n", id="other status"),
    pytest.param(b":2\r\n", id="number"),
    pytest.param(b"$-1\r\n", id="nil"),
    pytest.param(b"*-1\r\n", id="nil list"),
    pytest.param(b"*0\r\n", id="no values"),
    pytest.param(b"*1\r\n$1\r\na\r\n", id="one value"),
    pytest.param(b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n", id="three values"),
    pytest.param(b"*2\r\n:1\r\n:2\r\n", id="numbers"),
    pytest.param(b"*2\r\n*1\r\n:1\r\n*0\r\n", id="lists"),
    pytest.param(b"*2\r\n+a\r\n-ERR b\r\n", id="an error among values"),
    pytest.param(b"%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n", id="map"),
    pytest.param(b"~2\r\n+a\r\n+b\r\n", id="set"),
    pytest.param(b"#t\r\n", id="boolean"),
    pytest.param(b",1.5\r\n", id="double"),
    pytest.param(b"_\r\n", id="null"),
    pytest.param(b"-ERR unknown\r\n", id="error"),
    pytest.param(b"-LOADING Redis is loading the dataset in memory\r\n", id="loading"),
    pytest.param(b"-NOAUTH Authentication required.\r\n", id="no auth"),
    pytest.param(b"-MOVED 1 127.0.0.1:1\r\n", id="moved"),
    pytest.param(b"-READONLY You can't write against a read only replica.\r\n", id="read only"),
    pytest.param(b"garbage\r\n", id="garbage"),
    pytest.param(b"\x00\xff\xfe\r\n", id="bytes"),
    pytest.param(b"*x\r\n", id="no length"),
    pytest.param(b"$-7\r\n", id="negative length"),
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="http"),
]


class TestLying:
    """A Redis that answers, but not what it should."""

    @pytest.mark.parametrize("lie", TWO_VALUES_LIES)
    async def test_an_odd_answer_never_fails_a_lookup(
        self, healthy: RedisServer, open_cache: Open, count: Count, lie: bytes
    ) -> None:
        """Whatever comes instead of values is no value; no error escapes, and later answers are right again."""
        async with Proxy(healthy.port) as proxy:
            cache = open_cache(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=PATIENT_S / 10, breaker=never_opens())
            await fill(cache, count, range(2))
            proxy.lies = {b"MGET": lie}
            found = await cache.get_many([key(0), key(1)])
            assert [value is None or isinstance(value, bytes) for value in found] == [True, True]
            proxy.lies = {}
            await cache.get_many([key(1), key(0)])
            assert await cache.get_many([key(1), key(0)]) == [value(1), value(0)]

    @pytest.mark.parametrize("lie", TWO_VALUES_LIES)
    async def test_an_odd_answer_never_stops_the_writer(
        self, healthy: RedisServer, open_cache: Open, count: Count, lie: bytes
    ) -> None:
        """After a write that was answered with nonsense the writer goes on writing."""
        async with Proxy(healthy.port) as proxy:
            cache = open_cache(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=PATIENT_S / 10, breaker=never_opens())
            proxy.lies = {b"SET": lie}
            cache.put_many({key(0): value(0)})
            await eventually(lambda: count.writes("error") + count.writes("ok") == 1)
            proxy.lies = {}
            async with asyncio.timeout(PATIENT_S):
                while (await cache.get_many([key(1)])) != [value(1)]:
                    cache.put_many({key(1): value(1)})
                    await asyncio.sleep(0.01)

    async def test_a_value_of_another_type_is_a_miss(
        self, healthy: RedisServer, open_cache: Open, count: Count, plain: Redis
    ) -> None:
        """A key that holds a list or a hash has no value for us."""
        cache = open_cache(healthy.url)
        await fill(cache, count, range(1))
        plain.rpush(name(1), "a")
        plain.hset(name(2), "a", "b")
        assert await cache.get_many([key(n) for n in range(3)]) == [value(0), None, None]

    @pytest.mark.parametrize("lie", ["garbage", "empty", "swapped", "truncated", "flipped"])
    async def test_wrong_values_are_counted_and_computed_again(
        self, healthy: RedisServer, open_cache: Open, count: Count, plain: Redis, lie: str
    ) -> None:
        """A value that was not written for its key is corrupt: the pair is read anew, scored right, stored again."""
        reader = FakeReader()
        cache = open_cache(healthy.url)
        monitor = build_monitor(cache, cache._metrics, reader)
        pairs = [Pair("may I ask", f"answer {number}") for number in range(4)]
        jobs = [ScoreJob(pair, "", str(number), include_evidence=True) for number, pair in enumerate(pairs)]
        first = await monitor.score(jobs)
        await count.written("ok", 4)

        names = [KEY_PREFIX + VALUES.key(read(pair), "").hex() for pair in pairs]
        stored = [plain.get(n) for n in names]
        wrong = {
            "garbage": [b"garbage" * 40] * 4,
            "empty": [b""] * 4,
            "swapped": stored[1:] + stored[:1],
            "truncated": [v[:-1] for v in stored],
            "flipped": [v[:-1] + bytes([v[-1] ^ 1]) for v in stored],
        }[lie]
        plain.mset(dict(zip(names, wrong, strict=True)))

        second = await monitor.score(jobs)
        await count.written("ok", 8)
        third = await monitor.score(jobs)
        assert [indicators(outcome) for outcome in second] == [indicators(outcome) for outcome in first]
        assert [indicators(outcome) for outcome in third] == [indicators(outcome) for outcome in first]
        assert [outcome.cached for outcome in (*first, *second, *third)] == [False] * 8 + [True] * 4
        assert (count.reads("corrupt"), count.reads("hit"), len(reader.asked)) == (4, 4, 8)
        assert [plain.get(n) for n in names] == stored


def indicators(outcome: object) -> object:
    assert isinstance(outcome, ScoredPair), outcome
    return outcome.verdict, outcome.indicators


def start_cluster(folder: Path) -> RedisServer:
    """One node that owns every slot."""
    need("redis-server")
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--dir", str(folder))
    with Redis(port=server.port) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "the cluster did not form")
    return server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cluster that no test kills."""
    server = start_cluster(tmp_path_factory.mktemp("cluster"))
    yield server
    server.kill()


@pytest.fixture
def mortal_cluster(tmp_path: Path) -> Iterator[RedisServer]:
    server = start_cluster(tmp_path)
    yield server
    server.kill()


class TestCluster:
    async def test_one_lookup_spans_slots(self, cluster: RedisServer, open_cache: Open, count: Count) -> None:
        """Keys of many slots are written and got together, in the order asked, misses included."""
        cache = open_cache(cluster.url, mode="cluster")
        await fill(cache, count, range(5000, 5100))
        numbers = [n for n in range(5000, 5150) if n % 3]
        assert await cache.get_many([key(n) for n in numbers]) == [value(n) if n < 5100 else None for n in numbers]

    async def test_many_callers_at_once_are_all_answered(
        self, cluster: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """More callers than connections wait for one, as with a single server."""
        cache = open_cache(cluster.url, mode="cluster")
        await fill(cache, count, range(200))
        found = await asyncio.gather(*(cache.get_many([key(n), key(n + 1000)]) for n in range(200)))
        assert found == [[value(n), None] for n in range(200)]
        assert count.reads("error") == 0

    async def test_a_dead_cluster_is_a_miss_then_found_again(
        self, mortal_cluster: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """A cluster whose nodes are gone fails open for reads and writes, and is used again when it is back."""
        cache = open_cache(mortal_cluster.url, mode="cluster", breaker=never_opens())
        await fill(cache, count, range(3))
        mortal_cluster.kill()
        assert [await cache.get_many([key(0), key(1)]) for _ in range(3)] == [[None, None]] * 3
        assert count.reads("error") == 6
        for number in range(2):
            cache.put_many({key(number): value(number)})
            await count.written("error", number + 1)
        mortal_cluster.start()
        async with asyncio.timeout(PATIENT_S):
            while await cache.get_many([key(0)]) != [value(0)]:
                cache.put_many({key(0): value(0)})
                await asyncio.sleep(0.05)

    async def test_a_cluster_that_was_never_there_is_a_miss(self, open_cache: Open, count: Count) -> None:
        """The service starts and answers without its cluster, and its writer survives."""
        port = free_port()
        cache = open_cache(f"redis://127.0.0.1:{port}", mode="cluster", breaker=never_opens())
        assert [await cache.get_many([key(0)]) for _ in range(2)] == [[None]] * 2
        for number in range(2):
            cache.put_many({key(number): value(number)})
            await count.written("error", number + 1)
        assert count.reads("error") == 2

    async def test_a_cluster_that_does_not_own_its_slots_is_a_miss(
        self, mortal_cluster: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """A cluster in pieces fails open: keys whose slots nobody has are misses."""
        with Redis(port=mortal_cluster.port) as client:
            client.execute_command("CLUSTER", "DELSLOTSRANGE", "0", "8000")
        cache = open_cache(mortal_cluster.url, mode="cluster", breaker=never_opens())
        assert await cache.get_many([key(n) for n in range(50)]) == [None] * 50
        cache.put_many({key(n): value(n) for n in range(50)})
        await count.written("error", 50)

    async def test_a_single_server_is_no_cluster(self, healthy: RedisServer, open_cache: Open) -> None:
        """The wrong redis_mode costs the cache, not the service."""
        cache = open_cache(healthy.url, mode="cluster", breaker=never_opens())
        assert await cache.get_many([key(0)]) == [None]


class Sentinel:
    """A redis-sentinel that watches one master.

    Args:
        folder: Where it lives.
        master_port: Whom it watches.
        lines: More of its configuration; `{port}` is its port.
        client: How to reach it.
    """

    def __init__(self, folder: Path, master_port: int, lines: str = "port {port}", **client: Any) -> None:
        self.port = free_port()
        self._client = {"port": self.port, "socket_timeout": 5, "retry": None} | client
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"bind 127.0.0.1\ndir {folder}\n{lines.format(port=self.port)}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master_port} 1\n"
        )
        self._process = subprocess.Popen(["redis-sentinel", config], stdout=subprocess.DEVNULL)
        wait_until(self._answers, "redis-sentinel did not start")

    def _answers(self) -> bool:
        with Redis(**self._client) as client:
            try:
                return bool(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"))
            except RedisError:
                return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class TestSentinel:
    @pytest.fixture
    def sentinel(self, redis_server: RedisServer, tmp_path: Path) -> Iterator[Sentinel]:
        need("redis-sentinel")
        sentinel = Sentinel(tmp_path / "sentinel", redis_server.port)
        yield sentinel
        sentinel.kill()

    async def test_the_master_is_found_through_a_sentinel(
        self, sentinel: Sentinel, redis_server: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """The cache asks the sentinels where the master is, and uses the database that the URL names."""
        cache = open_cache(f"redis://127.0.0.1:{sentinel.port}/3", mode="sentinel")
        await fill(cache, count, range(3))
        assert await cache.get_many([key(2), key(9)]) == [value(2), None]
        with Redis(port=redis_server.port, db=3) as plain:
            assert plain.dbsize() == 3

    async def test_a_dead_sentinel_is_passed_over(
        self, sentinel: Sentinel, redis_server: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """One sentinel that is down does not hide the others, within one ordinary timeout."""
        url = f"redis://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
        cache = open_cache(url, mode="sentinel", timeout_s=2.0)
        await fill(cache, count, range(1))
        assert await cache.get_many([key(0)]) == [value(0)]
        assert count.reads("error") == 0

    async def test_many_callers_at_once_are_all_answered(
        self, sentinel: Sentinel, open_cache: Open, count: Count
    ) -> None:
        """More callers than connections wait for one, as with a single server."""
        cache = open_cache(f"redis://127.0.0.1:{sentinel.port}", mode="sentinel")
        await fill(cache, count, range(200))
        found = await asyncio.gather(*(cache.get_many([key(n)]) for n in range(200)))
        assert found == [[value(n)] for n in range(200)]
        assert count.reads("error") == 0

    async def test_without_sentinel_or_master_there_are_misses(
        self, sentinel: Sentinel, redis_server: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """A dead master, and dead sentinels, fail open."""
        cache = open_cache(f"redis://127.0.0.1:{sentinel.port}", mode="sentinel", breaker=never_opens())
        redis_server.kill()
        async with asyncio.timeout(PATIENT_S):
            assert await cache.get_many([key(0)]) == [None]
            sentinel.kill()
            assert await cache.get_many([key(0)]) == [None]
        assert count.reads("error") == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed certificate for 127.0.0.1."""
    need("openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True
    )
    return folder


class TestTls:
    @pytest.fixture
    def port(self, certificate: Path) -> Iterator[int]:
        need("redis-server")
        port = free_port()
        options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
        options += ["--tls-cert-file", str(certificate / "cert.pem"), "--tls-key-file", str(certificate / "key.pem")]
        server = RedisServer(*options)
        yield port
        server.kill()

    @pytest.mark.parametrize("options", ["ssl_cert_reqs=none", "ssl_ca_certs={folder}/cert.pem"])
    async def test_values_travel_over_tls(
        self, port: int, certificate: Path, open_cache: Open, count: Count, options: str
    ) -> None:
        """A rediss:// URL works with an authority of one's own, or with checking switched off."""
        cache = open_cache(f"rediss://127.0.0.1:{port}/0?{options.format(folder=certificate)}")
        await fill(cache, count, range(3))
        assert await cache.get_many([key(1)]) == [value(1)]

    async def test_a_certificate_nobody_vouches_for_is_not_trusted(
        self, port: int, open_cache: Open, count: Count
    ) -> None:
        """Without options the server's certificate is checked: a self-signed one gets no look-up."""
        assert await open_cache(f"rediss://127.0.0.1:{port}/0").get_many([key(0)]) == [None]
        assert count.reads("error") == 1

    async def test_plain_text_is_not_spoken_to_a_tls_port(self, port: int, open_cache: Open, count: Count) -> None:
        """A redis:// URL of a TLS port is a miss, not a crash."""
        assert await open_cache(f"redis://127.0.0.1:{port}/0", timeout_s=2.0).get_many([key(0)]) == [None]
        assert count.reads("error") == 1

    @pytest.fixture
    def sentinel(self, port: int, certificate: Path, tmp_path: Path) -> Iterator[Sentinel]:
        need("redis-sentinel")
        lines = [
            "port 0",
            "tls-port {port}",
            "tls-auth-clients no",
            "tls-replication yes",
            f"tls-cert-file {certificate}/cert.pem",
            f"tls-key-file {certificate}/key.pem",
            f"tls-ca-cert-file {certificate}/cert.pem",
        ]
        sentinel = Sentinel(tmp_path / "sentinel", port, "\n".join(lines), ssl=True, ssl_cert_reqs="none")
        yield sentinel
        sentinel.kill()

    async def test_sentinel_mode_honours_tls_options(
        self, sentinel: Sentinel, certificate: Path, open_cache: Open, count: Count
    ) -> None:
        """The options of the URL hold for the sentinels and for the master that they name."""
        url = f"rediss://127.0.0.1:{sentinel.port}/0?ssl_ca_certs={certificate}/cert.pem"
        cache = open_cache(url, mode="sentinel")
        await fill(cache, count, range(1))
        assert await cache.get_many([key(0)]) == [value(0)]


class TestPassword:
    @pytest.fixture
    def locked(self) -> Iterator[RedisServer]:
        need("redis-server")
        server = RedisServer("--requirepass", "s3cret/ä")
        yield server
        server.kill()

    async def test_a_percent_encoded_password_opens_it(
        self, locked: RedisServer, open_cache: Open, count: Count
    ) -> None:
        """Characters that a URL cannot hold are percent-encoded in the password."""
        cache = open_cache(f"redis://:s3cret%2F%C3%A4@127.0.0.1:{locked.port}/0")
        await fill(cache, count, range(1))
        assert await cache.get_many([key(0)]) == [value(0)]

    @pytest.mark.parametrize("mode", ["standalone", "cluster"])
    async def test_a_password_beside_the_url_opens_it(
        self, locked: RedisServer, open_cache: Open, count: Count, mode: str
    ) -> None:
        """A password that stands in no URL needs no encoding; the URL may name the user."""
        cache = open_cache(f"redis://default@127.0.0.1:{locked.port}/0", mode=mode, password="s3cret/ä")
        assert [await cache.get_many([key(0)]), count.reads("error")] == [[None], 0 if mode == "standalone" else 1]

    @pytest.mark.parametrize("url", ["redis://:{}@host:1/0", "redis://host:1/0?password={}", "unix:///s?password={}"])
    async def test_two_passwords_are_refused(self, url: str) -> None:
        """A password in the URL and another beside it stop the process, and neither is shown."""
        with pytest.raises(ConfigError) as caught:
            redis_client(
                url.format("hunter2"), mode="standalone", sentinel_service="", timeout_s=1.0, password="hunter3"
            )
        assert str(caught.value) == "redis_password: redis_url holds a password too; give one of them"

    async def test_a_wrong_password_is_a_miss_and_is_not_logged(
        self, locked: RedisServer, open_cache: Open, count: Count, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Redis that refuses us is like Redis that is away; the log says so without the password."""
        caplog.set_level(logging.DEBUG)
        cache = open_cache(f"redis://:wr0ngone@127.0.0.1:{locked.port}/0")
        assert [await cache.get_many([key(0)]) for _ in range(4)] == [[None]] * 4
        assert (count.reads("error"), count.reads("skipped")) == (3, 1)
        assert "Redis is not asked for a while" in caplog.text
        assert "wr0ngone" not in caplog.text + "".join(str(vars(record)) for record in caplog.records)
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert (record.error, "invalid username" in record.error_message) == ("AuthenticationError", True)

    @pytest.mark.parametrize(
        ("url", "password"),
        [
            ("redis://:s3cret%2F%C3%A4@127.0.0.1:{}/0", ""),
            ("redis://127.0.0.1:{}/0?password=s3cret%2F%C3%A4", ""),
            ("redis://127.0.0.1:{}/0", "s3cret/ä"),
        ],
    )
    async def test_what_redis_says_of_an_error_is_logged_without_secrets(
        self, locked: RedisServer, open_cache: Open, caplog: pytest.LogCaptureFixture, url: str, password: str
    ) -> None:
        """The message stands beside the type, cut short, and neither URL nor password in it, though Redis says them."""
        async with Proxy(locked.port) as proxy:
            url = url.format(proxy.port)
            said = f"-ERR refused s3cret/ä of {url} " + "x" * 300
            proxy.lies = {b"MGET": said.encode() + b"\r\n"}
            cache = open_cache(url, password=password)
            for _ in range(3):
                assert await cache.get_many([key(0)]) == [None]
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert (record.error, len(record.error_message)) == ("ResponseError", 200)
        assert record.error_message.startswith("refused *** of *** x")

    @pytest.mark.parametrize("secret", ["", "s"])
    async def test_the_service_uses_the_settings_and_says_what_an_empty_secret_means(
        self, locked: RedisServer, metrics: Metrics, count: Count, caplog: pytest.LogCaptureFixture, secret: str
    ) -> None:
        """The password beside the URL opens Redis; without a secret the log says that texts and values are not safe."""
        settings = {"redis_url": f"redis://127.0.0.1:{locked.port}", "redis_password": "s3cret/ä", "redis_timeout_s": 5}
        cache = cache_of(Config.model_validate(settings | {"cache_secret": secret}), metrics)
        assert [None] == await cache.get_many([key(0)])
        await cache.close()
        assert count.reads("error") == 0
        assert [not secret] * 2 == [said in caplog.text for said in ("test which texts", "forge values")]


@pytest.mark.parametrize("mode", ["standalone", "cluster", "sentinel"])
@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@host:6379/0",
        "host:6379",
        "hunter2",
        "redis://:hunter2@host:port/0",
        "redis://:hunter2@host:99999/0",
        "redis://:hunter2/x@host:6379/0",
        "redis://user:hunter2#x@host:6379/0",
        "redis://:123/hunter2@host:6379/0",
        "redis://:123#hunter2@host:6379/0",
        "redis://host:6379/hunter2",
        "redis:hunter2",
        "redis://:hunter2@[::1/0",
        "redis://:hunter2@host/0?socket_timeout=hunter2",
        "redis://:hunter2@host/0?no_such_option=hunter2",
    ],
)
async def test_a_bad_url_is_a_setup_error_without_its_password(url: str, mode: str) -> None:
    """A URL that cannot be understood is refused at start, and the message shows nothing of it."""
    with pytest.raises(ConfigError) as caught:
        redis_client(url, mode=mode, sentinel_service="mymaster", timeout_s=1.0)
    assert str(caught.value)[: len("redis_url: ")] == "redis_url: "
    assert ("hunter2" in str(caught.value), caught.value.__suppress_context__ or not caught.value.__context__) == (
        False,
        True,
    )


async def test_a_cluster_has_no_numbered_database() -> None:
    """Database 1 of a cluster does not exist, and is refused at start."""
    with pytest.raises(ConfigError):
        redis_client("redis://host:6379/1", mode="cluster", sentinel_service="", timeout_s=1.0)
