"""Servers that are told to leave: under load, while they start, with an engine that hangs, and twice."""

import asyncio
import contextlib
import itertools
import random
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from scenarios.callers import count_but, eventually, new_texts, raw_stubs, scored
from scenarios.checks import Case, at_least, at_most, exactly, none_of
from scenarios.faulty import FaultyEngine
from scopewatch.client import AsyncClient
from scopewatch.errors import ScopewatchError
from servers import ServerProcess

CALLERS = 64
_GRACE_S = 20.0
"""The default of drain_grace_s."""
_CLOSING_S = 10.0
"""What parts of the server get to close in after the grace period."""
_GOING = "UNAVAILABLE with push-back"
_START_S = 5.0
"""How long after the interpreter's start a signal comes at most."""


def draining(scale: float) -> list[Case]:
    """Tells servers to leave."""
    several = max(1, round(3 * scale))
    return [
        asyncio.run(two_servers(max(1, round(20 * scale)))),
        asyncio.run(raw_callers(several)),
        asyncio.run(just_sent(several, max(1, round(400 * scale)))),
        while_starting(max(1, round(6 * scale))),
        asyncio.run(hung()),
        asyncio.run(twice()),
    ]


def _leave(server: ServerProcess) -> tuple[int, float]:
    """Sends SIGTERM; the exit code and the seconds until the process was gone."""
    began_s = time.monotonic()
    server.process.terminate()
    code = server.wait(_GRACE_S + _CLOSING_S + 5)
    return code, time.monotonic() - began_s


def _exits(codes: list[int], seconds: list[float], within_s: float = _GRACE_S) -> list[object]:
    return [none_of("exit codes but 0", sum(map(bool, codes))), at_most("exit s", round(max(seconds), 2), within_s)]


async def two_servers(times: int) -> Case:
    """Callers of the shipped client who name two servers, of which one and then the other leaves and comes again."""
    ports = [_free_port(), _free_port()]
    texts, failures, calls = new_texts(12), Counter[str](), 0
    codes: list[int] = []
    exits_s: list[float] = []
    back_s: list[float] = []
    over = asyncio.Event()
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(_server_on(port)) for port in ports]
        for server in pair:
            await asyncio.to_thread(server.wait_for, "serving")
        async with AsyncClient(f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", timeout_s=60) as client:

            async def call() -> None:
                nonlocal calls
                while not over.is_set():
                    try:
                        await client.score(response=next(texts))
                    except ScopewatchError as error:
                        failures[f"{type(error).__name__}: {error}"] += 1
                    calls += 1

            calling = [asyncio.create_task(call()) for _ in range(CALLERS)]
            for turn in range(times):
                await eventually(lambda: _both_answer(pair), "callers do not come to both servers", 120)
                code, seconds = await asyncio.to_thread(_leave, pair[turn % 2])
                codes.append(code)
                exits_s.append(seconds)
                pair[turn % 2] = stack.enter_context(_server_on(ports[turn % 2]))
                began_s = time.monotonic()
                await asyncio.to_thread(pair[turn % 2].wait_for, "serving")
                await eventually(lambda: _both_answer(pair), "callers do not come back", 120)
                back_s.append(round(time.monotonic() - began_s, 1))
            over.set()
            await asyncio.gather(*calling)
        last = [server.stop() for server in pair]
    return Case(
        f"two servers, {CALLERS} callers of the client, SIGTERM {times} times",
        [
            none_of("failed calls", failures.total()),
            *_exits(codes + last, exits_s),
            at_least("calls", calls, 2 * times),
        ],
        {"calls": calls, "failures": dict(failures.most_common(5)), "exit_s": exits_s, "start_and_back_s": back_s},
    )


async def _both_answer(pair: list[ServerProcess]) -> bool:
    """Whether each of two servers answers calls now."""

    def handled(server: ServerProcess) -> float:
        return server.metric("grpc_server_handled_total", grpc_method="Score", grpc_code="OK")

    for server in pair:
        await asyncio.to_thread(server.wait_for, "serving")
        before = await asyncio.to_thread(handled, server)
        await asyncio.sleep(0.1)
        if await asyncio.to_thread(handled, server) == before:
            return False
    return True


async def raw_callers(times: int) -> Case:
    """Callers who never retry: each is answered, or sent elsewhere with a push-back."""
    outcomes, codes, exits_s = Counter[str](), list[int](), list[float]()
    for _ in range(times):
        with ServerProcess() as server:
            async with raw_stubs(server.grpc_address) as (stub,):
                texts, here = new_texts(12), Counter[str]()

                async def call(stub: object = stub, texts: Iterator[str] = texts, here: Counter[str] = here) -> None:
                    told = "OK"
                    while told == "OK":
                        told = await scored(stub, next(texts))
                        here[told] += 1

                calling = [asyncio.create_task(call()) for _ in range(CALLERS)]

                async def begun(here: Counter[str] = here) -> bool:
                    return here["OK"] > 2 * CALLERS

                await eventually(begun, "nothing is answered")
                code, seconds = await asyncio.to_thread(_leave, server)
                await asyncio.gather(*calling)
        outcomes += here
        codes.append(code)
        exits_s.append(seconds)
    checks = [
        none_of("CANCELLED", outcomes["CANCELLED"]),
        none_of("but OK or UNAVAILABLE with push-back", count_but(outcomes, "OK", _GOING)),
        *_exits(codes, exits_s),
    ]
    return Case(f"{CALLERS} callers without retries, SIGTERM {times} times", checks, {"outcomes": dict(outcomes)})


async def just_sent(times: int, calls: int) -> Case:
    """Calls that the process has not even looked at when it is told to leave."""
    outcomes, codes, exits_s = Counter[str](), list[int](), list[float]()
    for _ in range(times):
        with ServerProcess() as server:
            async with raw_stubs(server.grpc_address) as (stub,):
                await scored(stub, "connects")
                sent = [asyncio.create_task(scored(stub, text)) for text in itertools.islice(new_texts(12), calls)]
                await asyncio.sleep(0)
                code, seconds = await asyncio.to_thread(_leave, server)
                outcomes += Counter(await asyncio.gather(*sent))
        codes.append(code)
        exits_s.append(seconds)
    checks = [
        none_of("CANCELLED", outcomes["CANCELLED"]),
        none_of("but OK or UNAVAILABLE with push-back", count_but(outcomes, "OK", _GOING)),
        *_exits(codes, exits_s),
    ]
    return Case(f"{calls} calls just sent, SIGTERM {times} times", checks, {"outcomes": dict(outcomes)})


def while_starting(times: int) -> Case:
    """A signal at a random moment between the interpreter's start and the first call."""
    dice = random.Random(14)
    codes, exits_s, tracebacks = list[int](), list[float](), 0
    after_s = [dice.uniform(0, _START_S) for _ in range(times)]
    for pause_s in after_s:
        with ServerProcess() as server:
            _wait_for_python(server.process.pid)
            time.sleep(pause_s)
            code, seconds = _leave(server)
        codes.append(code)
        exits_s.append(seconds)
        tracebacks += any("Traceback" in line for line in server.log)
    checks = [*_exits(codes, exits_s), none_of("tracebacks", tracebacks)]
    return Case(f"SIGTERM while starting {times} times", checks, {"after_s": after_s, "exit_s": exits_s})


def _wait_for_python(pid: int) -> None:
    """Waits until the interpreter has started, before which nothing can be done about a signal."""
    status, deadline_s = Path(f"/proc/{pid}/status"), time.monotonic() + 60
    while not int(status.read_text().split("SigCgt:")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1):
        if time.monotonic() > deadline_s:
            raise TimeoutError("the signal is never caught")
        time.sleep(0.005)


async def hung(grace_s: float = 2.0) -> Case:
    """A server whose engine hangs is told to leave."""
    with tempfile.TemporaryDirectory() as folder:
        engine = FaultyEngine(Path(folder))
        with ServerProcess("--drain-grace-s", str(grace_s), script=engine.script) as server:
            async with raw_stubs(server.grpc_address) as (stub,):
                calls = await _hanging(engine, stub)
                code, seconds = await asyncio.to_thread(_leave, server)
                outcomes = Counter(await asyncio.gather(*calls))
    checks = [*_exits([code], [seconds], grace_s + _CLOSING_S), none_of("CANCELLED", outcomes["CANCELLED"])]
    return Case(
        f"SIGTERM, the engine hangs, grace {grace_s:g} s", checks, {"outcomes": dict(outcomes), "exit_s": seconds}
    )


async def twice() -> Case:
    """A server that waits for an engine that hangs is told to leave again."""
    with tempfile.TemporaryDirectory() as folder:
        engine = FaultyEngine(Path(folder))
        with ServerProcess("--drain-grace-s", "3000", script=engine.script) as server:
            async with AsyncExitStack() as stack:
                (stub,) = await stack.enter_async_context(raw_stubs(server.grpc_address))
                calls = await _hanging(engine, stub)
                server.process.terminate()
                await asyncio.to_thread(server.wait_for, "draining")
                began_s = time.monotonic()
                server.process.send_signal(signal.SIGINT)
                code = await asyncio.to_thread(server.wait, 25)
                seconds = time.monotonic() - began_s
                await asyncio.gather(*calls)
    checks = [exactly("exit code", code, 128 + signal.SIGINT), at_most("exit s", round(seconds, 2), 1)]
    return Case("a second signal, grace 3,000 s", checks)


async def _hanging(engine: FaultyEngine, stub: object) -> "list[asyncio.Task[str]]":
    """Makes the engine hang; the calls that wait for it."""
    engine.hangs()
    calls = [asyncio.create_task(scored(stub, f"{number}: it may be so")) for number in range(3)]

    async def hangs() -> bool:
        return engine.is_hanging

    await eventually(hangs, "the engine does not hang")
    return calls


def _server_on(port: int) -> ServerProcess:
    return ServerProcess("--grpc-address", f"127.0.0.1:{port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
