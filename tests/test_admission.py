"""Who is let in: so many calls, so many bytes, a few requests at a time; everybody else is told when to come again."""

import asyncio
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from conftest import House
from scopewatch.client import pb
from scopewatch.contract.status import PUSHBACK
from scopewatch.doors.admission import Admission, Readers
from scopewatch.doors.grpc import receiving
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.doors.grpc.wire import Counted
from scopewatch.errors import DeadlineExpired, NotReady, Overloaded
from servers import Gate, ServerProcess, config, direct, eventually, health, serving


def admission(**bounds: int) -> Admission:
    """One that is open."""
    made = Admission(**({"max_calls": 2, "max_bytes": 100} | bounds))
    made.open()
    return made


def test_a_call_too_many_is_refused_until_another_ends() -> None:
    """Beyond the most calls at once a call is Overloaded, with a pause; a place that is given back is taken again."""
    entrance = admission()
    with entrance.call():
        with entrance.call(), pytest.raises(Overloaded) as refused, entrance.call():
            pass
        with entrance.call():
            pass

    assert 0 < refused.value.retry_after_s < 1


def test_bytes_of_all_calls_are_bounded_together() -> None:
    """Requests that hold too much together are refused; what an answered call held is free again."""
    entrance = admission()
    with entrance.call() as first:
        first.hold(60)
        with entrance.call() as second, pytest.raises(Overloaded):
            second.hold(41)
        with entrance.call() as third:
            third.hold(40)
    with entrance.call() as fourth:
        fourth.hold(100)


def test_a_lone_large_request_is_taken() -> None:
    """A request that alone holds more than all may together is let in where nothing else is; limits say what is too large."""
    with admission().call() as only:
        only.hold(1000)


def test_nobody_comes_in_before_it_opens_nor_after_it_closes() -> None:
    """A closed service is NotReady, with a short pause after which another one may be asked; calls inside go on."""
    entrance = Admission(max_calls=1, max_bytes=1)
    with pytest.raises(NotReady, match="warming up"), entrance.call():
        pass
    entrance.open()
    with ExitStack() as inside:
        held = inside.enter_context(entrance.call())
        entrance.close()
        held.hold(1)
        with pytest.raises(NotReady, match="shutting down") as refused, entrance.call():
            pass

    assert refused.value.retry_after_s is not None


async def test_it_is_quiet_when_no_call_runs_and_none_has_come() -> None:
    """`quiet` waits for running calls and for a while without any, refused ones included, but not for ever."""
    now = [0.0]
    entrance = Admission(max_calls=1, max_bytes=1, clock=lambda: now[0])
    entrance.open()
    call = entrance.call()
    call.__enter__()
    waiting = asyncio.create_task(entrance.quiet(1.0, 10.0))
    now[0] = 5.0
    await asyncio.sleep(0.05)
    assert not waiting.done()
    call.__exit__(None, None, None)
    now[0] = 5.5
    await asyncio.sleep(0.05)
    assert not waiting.done()
    now[0] = 6.0
    assert await waiting
    entrance.close()
    waiting = asyncio.create_task(entrance.quiet(1.0, 3.0))
    for _ in range(6):
        now[0] += 0.9
        with pytest.raises(NotReady), entrance.call():
            pass
        await asyncio.sleep(0.05)
    assert not await waiting


async def test_requests_arrive_a_few_at_a_time() -> None:
    """Of more requests than places the others wait for their turn."""
    readers, inside, most = Readers(2, 60.0, 60.0), 0, 0

    async def read() -> None:
        nonlocal inside, most
        async with readers.reading():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*[read() for _ in range(20)])

    assert most == 2


async def dribble(readers: Readers) -> None:
    """A request that never arrives."""
    async with readers.reading():
        await asyncio.sleep(3600)


async def test_a_request_that_never_arrives_gives_its_place_back() -> None:
    """A request that takes too long is DeadlineExpired, and its place is free again."""
    readers = Readers(1, 0.05, 60.0)
    with pytest.raises(DeadlineExpired):
        await dribble(readers)
    async with readers.reading():
        pass


async def test_who_waits_for_a_place_all_the_time_is_overloaded() -> None:
    """Where nobody makes room, a request that is not read is refused, to be tried again."""
    readers = Readers(1, 0.05, 60.0)
    first, second = await asyncio.gather(dribble(readers), dribble(readers), return_exceptions=True)

    assert isinstance(first, DeadlineExpired)
    assert isinstance(second, Overloaded)


async def test_slow_requests_keep_nobody_out() -> None:
    """However many requests come a byte at a time, one that comes at once is read after a moment; those make room."""
    readers = Readers(4, 60.0, 0.02)
    slow = [asyncio.create_task(dribble(readers)) for _ in range(200)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        for _ in range(5):
            async with readers.reading():
                pass
    done = [task for task in slow if task.done()]
    assert 0 < len(done) < 100
    assert all(isinstance(task.exception(), Overloaded) for task in done)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_who_leaves_loses_no_place() -> None:
    """Callers who hang up while they wait, or just as they get a place, leave as many places as there were."""
    readers = Readers(2, 60.0, 60.0)
    for turns in range(8):
        tasks = [asyncio.create_task(dribble(readers)) for _ in range(10)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(30), readers.reading(), readers.reading():
        pass


async def test_who_begins_and_does_not_end_gives_way_to_who_waits() -> None:
    """A request that takes long has the time that it may take only while nobody waits for its place; the oldest goes first."""
    readers, order = Readers(2, 3600.0, 0.01), []

    async def dribble(name: str) -> None:
        try:
            async with readers.reading():
                await asyncio.sleep(3600)
        except Overloaded:
            order.append(name)

    async def read(both: asyncio.Barrier) -> None:
        async with readers.reading():
            await both.wait()

    dribbling = []
    for name in ("first", "second"):
        dribbling.append(asyncio.create_task(dribble(name)))
        await asyncio.sleep(0.05)
    assert not order
    async with readers.reading():
        assert order == ["first"]
    both = asyncio.Barrier(2)
    await asyncio.gather(read(both), read(both), *dribbling)

    assert order == ["first", "second"]


async def test_calls_too_many_are_refused_openly_and_health_answers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the engine is busy, calls beyond `max_calls` get RESOURCE_EXHAUSTED with push-back at once; health is not a call."""
    gate = Gate(monkeypatch)
    async with serving(config(house.watchlist, max_calls=3, cache_bytes=0), gate) as server:
        gate.close()
        async with direct(server.grpc_address) as stub:
            seen = len(gate.batches)
            inside = [
                asyncio.ensure_future(stub.Score(pb.ScoreRequest(response=f"{n} a"), timeout=120)) for n in range(3)
            ]
            await eventually(lambda: len(gate.batches) > seen, "no call reached the engine")
            refused = await asyncio.gather(
                *[stub.Score(pb.ScoreRequest(response="b"), timeout=120) for _ in range(20)], return_exceptions=True
            )
            states = [await health(server.grpc_address, service) for service in ("", SERVICE_NAME)]
            gate.open()
            replies = await asyncio.gather(*inside)

    assert all(reply.verdict for reply in replies)
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(int(dict(error.trailing_metadata())[PUSHBACK]) > 0 for error in refused)
    assert states == ["SERVING", "SERVING"]


async def test_more_calls_than_a_connection_may_have_wait_at_the_client(house: House) -> None:
    """A connection with more calls than it may have open loses none: they wait on the caller's side for their turn."""
    async with serving(config(house.watchlist, max_connection_calls=4)) as server, direct(server.grpc_address) as stub:
        calls = [stub.Score(pb.ScoreRequest(response=f"it may be {n}"), timeout=120) for n in range(200)]
        replies = await asyncio.gather(*calls)

    assert all(reply.verdict for reply in replies)


async def test_who_connects_and_says_nothing_is_left(server: ServerProcess) -> None:
    """A connection on which nothing comes is closed, for it holds a descriptor; nobody need know HTTP/2 to hold many."""
    host, port = server.grpc_address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(60):
        while await reader.read(1 << 16):
            pass
    writer.close()


async def test_a_call_that_leaves_while_it_is_decoded_holds_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who leaves while the other thread looks at its large request leaves no bytes behind as taken."""
    looks, go_on, real = threading.Event(), threading.Event(), receiving.counted

    def counted(*about: Any) -> Counted:
        looks.set()
        go_on.wait(30)
        return real(*about)

    monkeypatch.setattr(receiving, "counted", counted)
    large = pb.ScoreRequest(prompt="a" * 90_000, response="not sure")
    async with serving(config(house.watchlist, max_calls_bytes=90_400)) as server, direct(server.grpc_address) as stub:
        left = stub.Score(large, timeout=60)
        await eventually(looks.is_set, "it is not decoded")
        left.cancel()
        await eventually(
            lambda: server.metric("grpc_server_handled_total", grpc_method="Score", grpc_code="Canceled"), "it stays"
        )
        go_on.set()
        codes = [await stub.Score(large, timeout=60).code() for _ in range(2)]

    assert codes == [grpc.StatusCode.OK] * 2


async def test_callers_who_begin_and_do_not_end_hold_nobody_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls whose request never comes, as many as may be read at once, keep neither pairs nor probes waiting for long."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    from attacks.peer import CHECK, SCORE, Peer

    async with serving(config(house.watchlist, call_read_s=3600)) as server:
        peer = await asyncio.to_thread(Peer, server.grpc_address)
        with peer:
            for _ in range(20):
                peer.open_call(SCORE)
                peer.open_call(CHECK)
            await eventually(
                lambda: server.metric("grpc_server_started_total", grpc_method="Score") == 20, "they did not come"
            )
            alive = await health(server.grpc_address, "")
            async with direct(server.grpc_address) as stub:
                reply = await stub.Score(pb.ScoreRequest(response="not sure"), timeout=60)

    assert alive == "SERVING"
    assert reply.verdict
