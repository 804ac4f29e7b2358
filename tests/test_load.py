"""The load generator keeps its schedule, the raw peer speaks HTTP/2, and the observer sees what happens meanwhile."""

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

BENCH = Path(__file__).parents[1] / "bench"
METHOD = "/scopewatch.v1.MonitorService/Score"
SERVING = b"\x08\x01"


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the benchmark's modules importable."""
    monkeypatch.syspath_prepend(str(BENCH))


class Answers(grpc.GenericRpcHandler):
    """Answers every method with one coroutine, messages being bytes."""

    def __init__(self, answer) -> None:
        self._answer = answer

    def service(self, handler_call_details):
        return grpc.unary_unary_rpc_method_handler(self._answer)


@asynccontextmanager
async def serving(answer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Answers(answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def a_load(address: str, **changes):
    from load import Load

    settings = {"rate_per_s": 400, "seconds": 0.25, "deadline_s": 60, "requests": [b"a", b"b"], **changes}
    return Load(address, **settings)


async def test_calls_come_whether_or_not_any_is_answered() -> None:
    """No call waits for another's answer: a server that answers none before the last has come gets all of them."""
    from load import run_load

    expected, arrived, all_there = len(a_load("").schedule()), [], asyncio.Event()

    async def answer(request: bytes, _) -> bytes:
        arrived.append(request)
        if len(arrived) == expected:
            all_there.set()
        await all_there.wait()
        return request

    async with serving(answer) as address:
        outcomes = await asyncio.to_thread(run_load, a_load(address))
    assert {"OK"} == set(outcomes.codes)
    assert sorted(arrived) == sorted(b"ab"[number % 2 : number % 2 + 1] for number in range(expected))
    # The first call waited for the last to come, and is charged for it.
    assert outcomes.latency_s[0] >= outcomes.due_s[-1] - outcomes.due_s[0] - outcomes.lag_s[0]


async def test_processes_share_the_rate() -> None:
    """Two processes send what one would, on schedules of their own, and every call is accounted for."""
    from load import run_load

    async def answer(request: bytes, _) -> bytes:
        return request

    async with serving(answer) as address:
        outcomes = await asyncio.to_thread(run_load, a_load(address, processes=2))
    halves = [len(a_load("", rate_per_s=200, seed=seed).schedule()) for seed in (0, 1)]
    assert sum(halves) == len(outcomes.codes) == outcomes.summary()["codes"]["OK"]["calls"]


async def test_refusals_are_counted_by_code_and_pushback() -> None:
    """What the server refuses is refused: no retry hides it, and whether it said when to come again is counted."""
    from load import run_load

    async def answer(request: bytes, context) -> bytes:
        if request == b"b":
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "10"),))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        raise AssertionError

    async with serving(answer) as address:
        outcomes = await asyncio.to_thread(run_load, a_load(address))
    calls = len(outcomes.codes)
    refused = outcomes.summary()["codes"].pop("UNAVAILABLE")
    assert (calls, calls // 2) == (refused["calls"], refused["with_pushback"])


def test_goodput_counts_good_answers_in_the_measured_time() -> None:
    """An answer counts when it is good and comes after the warm-up and before the schedule ends."""
    from load import Outcomes

    columns = [("OK", 0.2, 0.5), ("OK", 0.9, 0.5), ("OK", 1.0, 0.9), ("OK", 1.9, 0.5), ("UNAVAILABLE", 1.1, 0.1)]
    codes, due_s, latency_s = (np.array(column) for column in zip(*columns, strict=True))
    outcomes = Outcomes(a_load("", seconds=2.0), codes, due_s, np.zeros(5), latency_s, np.zeros(5, bool))
    assert 2.0 == outcomes.goodput_per_s(warm_up_s=1.0)
    assert 1.5 == outcomes.goodput_per_s()


async def test_a_raw_peer_gets_answers_and_may_stop_half_way() -> None:
    """A whole call on a raw connection is answered as any other, a body beyond the server's first window included; a
    call that is never finished is not."""
    from attacks.peer import Peer, grpc_message

    large = b"x" * 300_000

    async def answer(request: bytes, _) -> bytes:
        return request

    def call(address: str):
        with Peer(address) as peer:
            half = peer.open_call(METHOD)
            peer.send_data(half, grpc_message(large)[:10], end=False)
            whole = peer.open_call(METHOD)
            peer.send_data(whole, grpc_message(large))
            peer.read_until(lambda: peer.calls[whole].ended, 60)
            return peer.calls[whole], peer.calls[half]

    async with serving(answer) as address:
        whole, half = await asyncio.to_thread(call, address)
    assert ("grpc-status 0", len(large) + 5) == (whole.outcome, whole.received_bytes)
    assert "nothing" == half.outcome


async def test_the_observer_sees_memory_and_silence() -> None:
    """What a process held at most is seen though it is gone again, and so is a time in which health did not answer."""
    from attacks.watch import watch

    silent = threading.Event()

    async def answer(_, context) -> bytes:
        if silent.is_set():
            await asyncio.Event().wait()
        return SERVING

    def observed(address: str):
        with watch(os.getpid(), address, settle_s=0.3) as seen:
            assert len(bytes([1]) * (64 << 20)), "held for less than the time between two samples"
            silent.set()
        return seen

    async with serving(answer) as address:
        seen = await asyncio.to_thread(observed, address)
    assert seen["alive"]
    assert seen["resident_mib"]["most"] >= seen["resident_mib"]["rest"] + 60
    assert seen["liveness"]["failed"] >= 1
    assert seen["liveness"]["longest_silence_s"] >= 1
    assert seen["threads"]["most"] >= seen["threads"]["rest"] > 0


async def test_the_observer_says_that_a_process_is_gone() -> None:
    """A process that ended while it was watched is not alive, and what was seen of it before is kept."""
    from attacks.watch import watch

    async def answer(_, context) -> bytes:
        return SERVING

    def observed(address: str):
        with subprocess.Popen(["sleep", "60"]) as process, watch(process.pid, address) as seen:
            process.kill()
            time.sleep(0.1)
        return seen

    async with serving(answer) as address:
        seen = await asyncio.to_thread(observed, address)
    assert not seen["alive"]
    assert 1 == seen["threads"]["most"]
