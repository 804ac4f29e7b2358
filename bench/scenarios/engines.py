"""An engine that hangs, and one that fails on everything and then works again."""

import asyncio
import tempfile
import time
from pathlib import Path

import grpc

from scenarios.callers import eventually, raw_stubs, scored
from scenarios.checks import Case, at_most, exactly, none_of
from scenarios.faulty import FaultyEngine
from servers import ServerProcess, health

_SERVICE = "scopewatch.v1.MonitorService"
_STALL_S = 2.0
_NOTICED_S = 30.0
"""A batch hangs when it takes ten times as long as it should, and stall_s more."""


def engines(scale: float) -> list[Case]:
    """Runs both; there is nothing in them to be made smaller."""
    del scale
    return [asyncio.run(hangs()), asyncio.run(fails())]


async def hangs() -> Case:
    """A batch never ends: the server says so and leaves, for others to start it again."""
    with tempfile.TemporaryDirectory() as folder:
        engine = FaultyEngine(Path(folder))
        with ServerProcess("--stall-s", str(_STALL_S), script=engine.script) as server:
            address = server.grpc_address
            async with raw_stubs(address) as (stub,):
                for number in range(3):
                    await scored(stub, f"{number}: works")
                engine.hangs()
                call = asyncio.create_task(scored(stub, "It may be so."))
                unready_s = await eventually(lambda: _unready(address), "it stays ready")
                began_s = time.monotonic()
                code = await asyncio.to_thread(server.wait)
                exit_s = time.monotonic() - began_s
                told = await call
            named = len(server.events("the engine hangs"))
    checks = [
        at_most("not ready after s", round(unready_s, 2), _NOTICED_S),
        at_most("then left after s", round(exit_s, 2), 15),
        exactly("exit code", code, 1),
        none_of("callers not told UNAVAILABLE", not told.startswith("UNAVAILABLE")),
        exactly("lines that say why", named, 1),
    ]
    return Case(f"an engine that hangs, stall_s {_STALL_S:g}", checks, {"told": told})


async def fails() -> Case:
    """Every batch fails, and then none."""
    with tempfile.TemporaryDirectory() as folder:
        engine = FaultyEngine(Path(folder))
        with ServerProcess(script=engine.script) as server:
            address = server.grpc_address
            async with raw_stubs(address) as (stub,):
                await scored(stub, "works")
                engine.fails()
                outcomes = [await scored(stub, f"{number}: not sure") for number in range(3)]
                unready_s = await eventually(lambda: _unready(address), "it stays ready")
                alive = await health(address, "") == "SERVING"
                engine.works()
                ready_s = await eventually(lambda: _ready(address), "it does not recover")
                after = await scored(stub, "It may be so.")
            code = server.stop()
    checks = [
        at_most("not ready after s", round(unready_s, 2), _NOTICED_S),
        at_most("ready again after s", round(ready_s, 2), _NOTICED_S),
        none_of("liveness lost", not alive),
        none_of("calls that fail afterwards", after != "OK"),
        exactly("exit code", code, 0),
    ]
    return Case("an engine that fails on every batch, then works", checks, {"told": outcomes})


async def _ready(address: str) -> bool:
    return await health(address, _SERVICE) == "SERVING"


async def _unready(address: str) -> bool:
    """Whether a server says that it is not ready, or is gone."""
    try:
        return not await _ready(address)
    except grpc.aio.AioRpcError:
        return True
