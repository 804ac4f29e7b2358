"""The in-process cache and the breaker, on a clock of their own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from scopewatch.metrics import Metrics
from scopewatch.pipeline.breaker import Breaker
from scopewatch.pipeline.cache import LocalCache

A, B, C, D = b"a", b"b", b"c", b"d"


def value(letter: str) -> bytes:
    return letter.encode() * 9


class TestLocalCache:
    """Ten bytes an entry: one of the key, nine of the value."""

    async def test_it_gives_back_what_was_put_in_the_order_asked(self, metrics: Metrics) -> None:
        """Values come in the order of the keys, None for what is not there, also twice."""
        cache = LocalCache(100, metrics)
        cache.put_many({A: value("1"), B: value("2")})
        assert await cache.get_many([B, C, A, B]) == [value("2"), None, value("1"), value("2")]

    async def test_the_least_recently_used_goes_first(self, metrics: Metrics) -> None:
        """Reading keeps an entry alive: of three in a cache of three, the one not read makes room."""
        cache = LocalCache(30, metrics)
        cache.put_many({A: value("1"), B: value("2"), C: value("3")})
        await cache.get_many([A])
        cache.put_many({D: value("4")})
        assert await cache.get_many([A, B, C, D]) == [value("1"), None, value("3"), value("4")]

    async def test_writing_again_keeps_an_entry_alive(self, metrics: Metrics) -> None:
        """Replacing a value counts as use."""
        cache = LocalCache(30, metrics)
        cache.put_many({A: value("1"), B: value("2"), C: value("3")})
        cache.put_many({A: value("5")})
        cache.put_many({D: value("4")})
        assert await cache.get_many([A, B]) == [value("5"), None]

    @pytest.mark.parametrize(("max_bytes", "kept"), [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (39, 3)])
    async def test_keys_and_values_stay_within_the_bound(self, metrics: Metrics, max_bytes: int, kept: int) -> None:
        """The bound counts keys plus values; 0 keeps nothing."""
        cache = LocalCache(max_bytes, metrics)
        cache.put_many({A: value("1"), B: value("2"), C: value("3"), D: value("4")})
        found = await cache.get_many([A, B, C, D])
        assert [v is not None for v in found] == [False] * (4 - kept) + [True] * kept

    async def test_replacing_a_key_frees_its_old_value(self, metrics: Metrics) -> None:
        """A key written a hundred times takes the room of its last value."""
        cache = LocalCache(30, metrics)
        cache.put_many({A: value("1")})
        for _ in range(100):
            cache.put_many({B: value("2")})
        cache.put_many({B: b"2"})
        cache.put_many({C: value("3")})
        assert await cache.get_many([A, B, C]) == [value("1"), b"2", value("3")]

    async def test_a_value_larger_than_the_cache_pushes_nothing_out(self, metrics: Metrics) -> None:
        """One value too large to keep is not kept, and costs nobody else a place."""
        cache = LocalCache(30, metrics)
        cache.put_many({A: value("1"), B: value("2")})
        cache.put_many({C: bytes(30), B: bytes(30)})
        assert await cache.get_many([A, B, C]) == [value("1"), None, None]

    async def test_it_counts_misses_and_writes(self, metrics: Metrics, registry: CollectorRegistry) -> None:
        """Misses and writes are counted by key; hits are counted by whoever could read the value."""
        cache = LocalCache(100, metrics)
        cache.put_many({A: value("1"), B: value("2")})
        await cache.get_many([A, C, D])
        reads = [registry.get_sample_value("scopewatch_cache_requests_total", {"result": r}) for r in ("miss", "hit")]
        assert reads == [2, 0]
        assert registry.get_sample_value("scopewatch_cache_writes_total", {"result": "ok"}) == 2

    async def test_it_is_empty_after_closing(self, metrics: Metrics) -> None:
        """Closing forgets everything."""
        cache = LocalCache(100, metrics)
        cache.put_many({A: value("1")})
        await cache.close()
        assert await cache.get_many([A]) == [None]

    @given(st.lists(st.tuples(st.sampled_from([A, B, C, D]), st.integers(0, 12), st.booleans()), max_size=40))
    async def test_it_agrees_with_a_plain_list(self, steps: list[tuple[bytes, int, bool]]) -> None:
        """Any run of reads and writes leaves what a list sorted by last use, cut to the bound, would hold."""
        cache = LocalCache(25, Metrics(CollectorRegistry()))
        model: list[tuple[bytes, bytes]] = []
        for key, size, write in steps:
            held = dict(model).get(key)
            if write:
                cache.put_many({key: bytes(size)})
                held = bytes(size)
            else:
                assert await cache.get_many([key]) == [held]
            model = [entry for entry in model if entry[0] != key]
            if held is not None and 1 + len(held) <= 25:
                model.append((key, held))
            while sum(1 + len(v) for _, v in model) > 25:
                model.pop(0)
        assert await cache.get_many([A, B, C, D]) == [dict(model).get(key) for key in (A, B, C, D)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, first_pause_s=1.0, longest_pause_s=5.0, clock=clock)


def opened(breaker: Breaker) -> Breaker:
    for _ in range(3):
        breaker.failed()
    return breaker


class TestBreaker:
    """Three failures in a row open it for 1, 2, 4, 5, 5, … seconds."""

    def test_it_opens_after_failures_in_a_row(self, breaker: Breaker) -> None:
        """Two failures are tolerated, the third in a row opens it."""
        seen = []
        for _ in range(3):
            seen.append((breaker.is_open, breaker.allows()))
            breaker.failed()
        assert seen == [(False, True)] * 3
        assert (breaker.is_open, breaker.allows()) == (True, False)

    def test_a_success_starts_the_count_again(self, breaker: Breaker) -> None:
        """Failures between successes never open it."""
        opened_after = []
        for _ in range(10):
            breaker.failed()
            breaker.failed()
            opened_after.append(breaker.is_open)
            breaker.succeeded()
        assert opened_after == [False] * 10

    def test_it_lets_one_trial_through_per_pause(self, breaker: Breaker, clock: Clock) -> None:
        """Nobody asks during the pause; after it exactly one does, also when nobody ever says how it went."""
        opened(breaker)
        clock.now += 0.99
        assert breaker.allows() is False
        clock.now += 0.01
        assert [breaker.allows() for _ in range(3)] == [True, False, False]
        clock.now += 1.0
        assert [breaker.allows() for _ in range(3)] == [True, False, False]

    def test_the_pause_doubles_up_to_the_bound(self, breaker: Breaker, clock: Clock) -> None:
        """Each failed trial doubles the pause until it is as long as allowed."""
        opened(breaker)
        pauses = []
        for _ in range(6):
            asked = clock.now
            while not breaker.allows():
                clock.now += 0.25
            pauses.append(clock.now - asked)
            breaker.failed()
        assert pauses == [1, 2, 4, 5, 5, 5]

    def test_calls_under_way_when_it_opens_do_not_lengthen_the_pause(self, breaker: Breaker, clock: Clock) -> None:
        """A hundred calls that fail together are one outage: the first trial still comes after the first pause."""
        for _ in range(100):
            breaker.failed()
        clock.now += 1.0
        assert breaker.allows() is True

    def test_a_success_closes_it_and_resets_the_pause(self, breaker: Breaker, clock: Clock) -> None:
        """After a trial that succeeds everybody may ask, and the next outage begins with the first pause."""
        opened(breaker)
        for pause_s in (1, 2, 4):
            clock.now += pause_s
            breaker.allows()
            breaker.failed()
        clock.now += 5
        assert breaker.allows() is True
        breaker.succeeded()
        assert [breaker.is_open, breaker.allows(), breaker.allows()] == [False, True, True]
        opened(breaker)
        clock.now += 1
        assert breaker.allows() is True
