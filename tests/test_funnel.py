"""Every pair that comes in leaves once, with a verdict or for a named reason; until then it is in flight."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from prometheus_client import CollectorRegistry

import scopewatch.doors.grpc.service
from conftest import House
from scopewatch.doors.grpc.call import Call
from scopewatch.doors.grpc.service import MonitorService
from scopewatch.doors.limits import Limits
from scopewatch.doors.quota import Quota, QuotaLimits
from scopewatch.doors.role_file import Account
from scopewatch.errors import (
    DeadlineExpired,
    EngineDied,
    EngineError,
    FieldViolation,
    InvalidRequest,
    Overloaded,
    ScopewatchError,
    SetupError,
)
from scopewatch.metrics import Metrics
from scopewatch.metrics.funnel import CANCELLED, FAILED, REASONS, UNKNOWN, Funnel
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.expected import Expected
from scopewatch.pipeline.judgements import Judgements
from scopewatch.pipeline.monitor import Monitor
from scopewatch.types import ANYONE, Caller, Pair, ScoreJob
from scopewatch.v1 import monitor_pb2 as pb
from servers import NO_RETRIES, Gate, LocalServer, config, direct, eventually, serving
from spine import WATCHLISTS, FakeReader, build_monitor, watchlist_set

Ways = Counter[tuple[str, str]]
"""How many pairs of each watchlist left each way: scored, or for a reason."""
FAILURES = {
    "late": DeadlineExpired("late"),
    "full": Overloaded("full", retry_after_s=1),
    "dead": EngineDied("dead"),
    "odd": ZeroDivisionError("odd"),
}
"""What the engine does to responses, by their beginning."""


class Interrupting(str):
    """A name at which another thread takes over, in the middle of whatever looks it up."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


class Broken(Exception):
    """What nobody foresaw."""


def page(registry: CollectorRegistry) -> dict[str, Counter[str]]:
    """The funnel as one page shows it: pairs by the name of the metric and by the watchlist."""
    found: dict[str, Counter[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            if "watchlist" in sample.labels and sample.name in COUNTED:
                found.setdefault(sample.name, Counter())[sample.labels["watchlist"]] += int(sample.value)
    return found


RECEIVED, SCORED, LOST, IN_FLIGHT = COUNTED = [
    f"scopewatch_{name}" for name in ("received_pairs_total", "pairs_total", "failed_pairs_total", "pairs_in_flight")
]


def check(registry: CollectorRegistry) -> Counter[str]:
    """Checks that the funnel adds up, for every watchlist; the pairs in flight."""
    found = page(registry)
    for watchlist, received in found[RECEIVED].items():
        left = found[SCORED][watchlist] + found[LOST][watchlist]
        assert received == left + found[IN_FLIGHT][watchlist], (watchlist, found)
        assert found[IN_FLIGHT][watchlist] >= 0
    return +found[IN_FLIGHT]


def ways(registry: CollectorRegistry) -> Ways:
    """How the pairs left, by the page."""
    found = Ways()
    for family in registry.collect():
        for sample in family.samples:
            if sample.name in {SCORED, LOST}:
                way = sample.labels.get("reason", "scored")
                found[sample.labels["watchlist"], way] += int(sample.value)
    return +found


class HeldReader(FakeReader):
    """A reader that holds every text until `release` says how it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[asyncio.Future[None]] = []
        self.refuses = {"bad": InvalidRequest(FieldViolation("response", "no"))}

    async def submit(self, ids: np.ndarray, deadline_s: float | None, ahead_tokens: int, caller: Caller) -> Encoded:
        waits: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held.append(waits)
        await waits
        text = "".join(map(chr, ids[1:]))
        for beginning, failure in FAILURES.items():
            if text.startswith(beginning):
                raise failure
        return await super().submit(ids, deadline_s, ahead_tokens, caller)

    def release(self) -> None:
        for one in self.held:
            if not one.done():
                one.set_result(None)
        self.held.clear()


TEXTS = ["fine", "good", "bad", *FAILURES]
NAMES = ["", "first", "second", "no such watchlist", "unknown"]
PAIRS = st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(NAMES)), min_size=1, max_size=4)


class PairsInTheFunnel(RuleBasedStateMachine):
    """Calls come, wait for the reader, are cancelled, meet a listener or a cache that breaks, and watchlists change."""

    calls: Bundle[asyncio.Task[Any]] = Bundle("calls")

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.registry, self.reader = CollectorRegistry(), HeldReader()
        metrics = Metrics(self.registry)
        self.broken = False
        self.count = 0

        def listener(_: object) -> None:
            if self.broken:
                raise Broken

        cache = LocalCache(1 << 20, metrics)
        more = {"judgements": Judgements(1 << 20), "listeners": [metrics.pairs_scored, listener]}
        self.monitor = build_monitor(cache, metrics, self.reader, **more)

    def settle(self) -> None:
        for _ in range(12):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule(target=calls, pairs=PAIRS, again=st.booleans())
    def score(self, pairs: list[tuple[str, str]], *, again: bool) -> "asyncio.Task[Any]":
        self.count += not again
        jobs = [ScoreJob(Pair("", f"{text} {self.count}" * (text != "bad") or text), name, "i") for text, name in pairs]
        task = self.loop.create_task(self.monitor.score(jobs))
        self.settle()
        return task

    @rule(call=calls)
    def cancel(self, call: "asyncio.Task[Any]") -> None:
        call.cancel()
        self.settle()

    @rule()
    def read(self) -> None:
        self.reader.release()
        self.settle()

    @rule()
    def break_or_mend_a_listener(self) -> None:
        self.broken = not self.broken

    @rule(names=st.sampled_from([["first"], ["second", "first"], ["first", "second"]]))
    def replace(self, names: list[str]) -> None:
        replaced = self.monitor.replace(watchlist_set(*(WATCHLISTS[name] for name in names)))
        self.loop.create_task(replaced)
        self.settle()

    @invariant()
    def adds_up(self) -> None:
        check(self.registry)

    def teardown(self) -> None:
        for _ in range(8):
            self.reader.release()
            self.settle()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.settle()
        assert check(self.registry) == Counter()
        self.loop.close()


TestPairsInTheFunnel = PairsInTheFunnel.TestCase
TestPairsInTheFunnel.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture
def monitor(metrics: Metrics, reader: FakeReader) -> Monitor:
    return build_monitor(LocalCache(1 << 20, metrics), metrics, reader)


def job(response: str, watchlist: str = "", **more: Any) -> ScoreJob:
    return ScoreJob(Pair("", response), watchlist, "id", **more)


class TestSpine:
    async def test_every_way_to_leave_has_its_name(
        self, monitor: Monitor, reader: FakeReader, registry: CollectorRegistry
    ) -> None:
        """Pairs of one call are counted by their own watchlist and by what became of each."""
        reader.fails = {"late": DeadlineExpired("l"), "dead": EngineDied("d"), "ill": EngineError("i"), "odd": Broken()}
        reader.refuses["bad"] = InvalidRequest(FieldViolation("response", "no"))
        texts = ["fine", "late", "dead", "ill", "odd", "bad"]
        await monitor.score(
            [*map(job, texts), job("fine", "second"), job("fine", "no such one"), job("fine", "x" * 99)]
        )
        reasons = ["deadline_expired", "engine_died", "invalid_request"]
        expected = {("first", way): 1 for way in ["scored", *reasons]} | {("first", "engine_error"): 2}
        assert ways(registry) == expected | {("second", "scored"): 1, (UNKNOWN, "unknown_watchlist"): 2}
        assert check(registry) == Counter()

    async def test_pairs_that_would_be_late_are_refused_by_name(
        self, metrics: Metrics, reader: FakeReader, registry: CollectorRegistry
    ) -> None:
        """A pair that is refused before its tokens are made leaves as overloaded."""

        def refuse(*_: object) -> None:
            raise Overloaded("late", retry_after_s=1)

        monitor = build_monitor(LocalCache(1 << 20, metrics), metrics, reader, expected=Expected(refuse))
        await monitor.score([job("fine")])
        await monitor.score([job("other", deadline_s=1.0), job("another")])
        assert ways(registry) == {("first", "scored"): 2, ("first", "overloaded"): 1}

    @pytest.mark.parametrize("where", ["tokenise", "listeners", "cache", "judge"])
    async def test_what_nobody_foresaw_is_counted(
        self,
        metrics: Metrics,
        reader: FakeReader,
        registry: CollectorRegistry,
        monkeypatch: pytest.MonkeyPatch,
        where: str,
    ) -> None:
        """All pairs of a call that breaks, wherever it does, leave as failed, those with a verdict already too."""

        def breaks(*_: object, **__: object) -> Any:
            raise Broken

        cache = LocalCache(1 << 20, metrics)
        more: dict[str, Any] = {"tokenise": {"tokenise": breaks}, "listeners": {"listeners": [breaks]}}.get(where, {})
        if where == "cache":
            monkeypatch.setattr(cache, "get_many", breaks)
        if where == "judge":
            monkeypatch.setattr("scopewatch.pipeline.monitor.judge", breaks)
        monitor = build_monitor(cache, metrics, reader, **more)
        with pytest.raises(Broken):
            await monitor.score([job("fine"), job("good", "second"), job("fine", "no such one")])
        assert ways(registry) == {("first", FAILED): 1, ("second", FAILED): 1, (UNKNOWN, FAILED): 1}
        assert check(registry) == Counter()

    async def test_a_cancelled_call_leaves_whole(self, metrics: Metrics, registry: CollectorRegistry) -> None:
        """While a call waits its pairs are in flight; once its caller hangs up all of them are cancelled, also those that were
        refused already."""
        reader = HeldReader()
        monitor = build_monitor(LocalCache(1 << 20, metrics), metrics, reader)
        call = asyncio.create_task(monitor.score([job("fine"), job("bad"), job("fine", "second")]))
        await eventually(lambda: len(reader.held) == 2, "the pairs did not reach the reader")
        assert check(registry) == Counter(first=2, second=1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ways(registry) == {("first", CANCELLED): 2, ("second", CANCELLED): 1}
        assert check(registry) == Counter()

    def test_every_reason_is_there_from_the_start(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """Each error that is not the operator's has a series at 0 for each watchlist, so that its first one shows in a rate."""

        def tree(error: type[ScopewatchError]) -> Iterator[type[ScopewatchError]]:
            yield error
            for below in error.__subclasses__():
                yield from tree(below)

        wanted = {CANCELLED, FAILED}
        for error in tree(ScopewatchError):
            if error is not ScopewatchError and not issubclass(error, SetupError) and error.__name__ != "NotKept":
                wanted.add(error.reason.fget(error.__new__(error)))  # type: ignore[attr-defined]
        assert set(REASONS) == wanted
        for watchlist in ("first", "second", UNKNOWN):
            for reason in wanted:
                labels = {"watchlist": watchlist, "reason": reason}
                assert registry.get_sample_value("scopewatch_failed_pairs_total", labels) == 0
        assert registry.get_sample_value("scopewatch_pairs_total", {"watchlist": "second", "verdict": "pass"}) == 0

    def test_a_page_is_of_one_moment(self, registry: CollectorRegistry) -> None:
        """Pages that are made in another thread, while pairs come and leave, add up, every one of them."""
        funnel, wrong, done = Funnel(registry), list[str](), threading.Event()
        names, outcomes = [Interrupting("first"), Interrupting("second")], [InvalidRequest(), EngineDied()]
        funnel.start(names)

        def look() -> None:
            try:
                for _ in range(100):
                    check(registry)
            except AssertionError as error:
                wrong.append(str(error))
            done.set()

        looking = threading.Thread(target=look)
        looking.start()
        while not done.is_set():
            with funnel.pairs(names) as pairs:
                pairs.leave(outcomes)
        looking.join()
        assert not wrong


LIMITS = Limits(1 << 20, 1000, 4, 4, 40, 4, 512, 8, 1 << 20)
Asking = Callable[[MonitorService, Call], Awaitable[object]]


def batch(*items: pb.ScoreRequest) -> pb.BatchScoreRequest:
    return pb.BatchScoreRequest(requests=items)


GOOD, EMPTY = pb.ScoreRequest(response="fine"), pb.ScoreRequest(response="", watchlist="second")
NOWHERE = pb.ScoreRequest(response="fine", watchlist="no such one")
ASKED: list[tuple[str, Asking, dict[tuple[str, str], int]]] = [
    ("one", lambda s, c: s.Score(GOOD, c), {("first", "scored"): 1}),
    ("empty", lambda s, c: s.Score(EMPTY, c), {("second", "invalid_request"): 1}),
    ("no watchlist", lambda s, c: s.Score(NOWHERE, c), {(UNKNOWN, "unknown_watchlist"): 1}),
    (
        "batch",
        lambda s, c: s.BatchScore(batch(GOOD, EMPTY, NOWHERE), c),
        {("first", "scored"): 1, ("second", "invalid_request"): 1, (UNKNOWN, "unknown_watchlist"): 1},
    ),
    ("bad batch", lambda s, c: s.BatchScore(batch(EMPTY, EMPTY), c), {("second", "invalid_request"): 2}),
    ("too many", lambda s, c: s.BatchScore(batch(*[GOOD] * 5), c), {("first", "invalid_request"): 5}),
    ("none", lambda s, c: s.BatchScore(batch(), c), {}),
]


class TestDoor:
    def service(self, monitor: Monitor, metrics: Metrics) -> MonitorService:
        service = MonitorService(metrics)
        service.open(monitor, LIMITS)
        return service

    def call(self, limits: QuotaLimits = QuotaLimits()) -> Call:  # noqa: B008 - frozen
        return Call(Account(ANYONE, frozenset(), limits), Quota(limits), None)

    @pytest.mark.parametrize(("asking", "expected"), [row[1:] for row in ASKED], ids=[row[0] for row in ASKED])
    async def test_pairs_of_requests_are_counted_once(
        self,
        monitor: Monitor,
        metrics: Metrics,
        registry: CollectorRegistry,
        asking: Asking,
        expected: dict[tuple[str, str], int],
    ) -> None:
        """What is wrong with a request or with one item of a batch is found before the spine has it, and counts all the same."""
        with suppress(ScopewatchError):
            await asking(self.service(monitor, metrics), self.call())
        assert ways(registry) == expected
        assert check(registry) == Counter()

    @pytest.mark.parametrize("number", [0, 3], ids=["one", "batch"])
    async def test_a_quota_refuses_every_pair(
        self, monitor: Monitor, metrics: Metrics, registry: CollectorRegistry, number: int
    ) -> None:
        """A call that its caller's quota refuses holds so many pairs, and each of them leaves as overloaded."""
        call = self.call(QuotaLimits(pairs_per_s=1e-9))
        call.quota.take(1)
        with pytest.raises(Overloaded):
            await ASKED[number][1](self.service(monitor, metrics), call)
        received = sum(ASKED[number][2].values())
        assert sum(ways(registry).values()) == received == page(registry)[LOST].total()
        assert {reason for _, reason in ways(registry)} == {"overloaded"}

    @pytest.mark.parametrize("number", [0, 3], ids=["one", "batch"])
    async def test_what_nobody_foresaw_in_the_door_is_counted(
        self,
        monitor: Monitor,
        metrics: Metrics,
        registry: CollectorRegistry,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
    ) -> None:
        """Where the door breaks on one item of a batch, all of its pairs leave as failed, each of them once."""
        real = scopewatch.doors.grpc.service.to_job

        def breaks(item: pb.ScoreRequest, *rest: Any) -> ScoreJob:
            if number == 0 or item.watchlist == "no such one":
                raise Broken
            return real(item, *rest)

        monkeypatch.setattr(scopewatch.doors.grpc.service, "to_job", breaks)
        with pytest.raises(Broken):
            await ASKED[number][1](self.service(monitor, metrics), self.call())
        assert ways(registry) == {(watchlist, FAILED): 1 for watchlist, _ in ASKED[number][2]}


def left(server: LocalServer, watchlist: str) -> Sequence[float]:
    """Received, scored, failed and in flight pairs of a watchlist, as a server's page shows them."""
    return [server.metric(name, watchlist=watchlist) for name in COUNTED]


async def test_the_funnel_of_a_real_server(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the network: answers, refusals, an unreadable request, a caller who hangs up, and a shutdown; at the end none is in
    flight, and before it those that wait are."""
    gate = Gate(monkeypatch)
    async with serving(config(house.watchlist), gate) as server, direct(server.grpc_address) as stub:
        await stub.Score(GOOD, timeout=120)
        await stub.BatchScore(batch(GOOD, pb.ScoreRequest(response=""), NOWHERE), timeout=120)
        assert left(server, "test") == [3, 2, 1, 0]
        assert left(server, UNKNOWN) == [1, 0, 1, 0]
        async with grpc.aio.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/scopewatch.v1.MonitorService/Score")(b"\xff\xff\xff\xff", timeout=120)
        gate.close()
        hangs_up = stub.Score(pb.ScoreRequest(response="waits"), timeout=120)
        stays = asyncio.ensure_future(stub.BatchScore(batch(pb.ScoreRequest(response="stays"), GOOD), timeout=120))
        await eventually(lambda: left(server, "test") == [6, 2, 1, 3], "the pairs are not in flight")
        hangs_up.cancel()
        await eventually(lambda: left(server, "test") == [6, 2, 2, 2], "the server did not notice")
        assert server.metric(LOST, watchlist="test", reason=CANCELLED) == 1
        gate.open()
        await stays
        assert left(server, "test") == [6, 4, 2, 0]
        assert left(server, UNKNOWN) == [2, 0, 2, 0]
        assert server.metric(LOST, watchlist=UNKNOWN, reason="invalid_request") == 1
