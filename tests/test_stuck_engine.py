"""A real server over a real engine that hangs, fails on everything, or meets a pair that nobody can read."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

import scopewatch.app.server
from conftest import House, wait_until
from scopewatch.app.load import Loaded
from scopewatch.config import Config
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.errors import EngineError
from scopewatch.types import EncodedBatch
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc
from servers import LocalServer, ServerProcess, config, direct, eventually, health, serving
from test_lifecycle import script

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

HANGING = """
loaded = real(config)
engine = loaded.engine.runner
def runner(batch):
    global batches
    batches += 1
    if batches == 3:
        print("hanging", file=sys.stderr, flush=True)
        time.sleep(3600)
    return engine(batch)
loaded.engine.runner = runner
return loaded
"""
SMALL = ("--max-tokens", "64", "--max-batch-tokens", "64")


async def codes(calls: Sequence["grpc.aio.UnaryUnaryCall[pb.ScoreRequest, pb.ScoreResponse]"]) -> set[object]:
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return {outcome.code() if isinstance(outcome, grpc.aio.AioRpcError) else type(outcome) for outcome in outcomes}


async def test_an_engine_that_hangs_ends_the_process(house: House, tmp_path: Path) -> None:
    """When a batch takes far too long every caller is told UNAVAILABLE, the log says why, and the process exits with 1."""
    hanging = script(tmp_path, HANGING)
    with ServerProcess("--watchlist", str(house.watchlist), *SMALL, "--stall-s", "1", script=hanging) as process:
        async with direct(process.grpc_address) as stub:
            # The first batch was the warm-up; this is the second, and the third hangs.
            await stub.Score(pb.ScoreRequest(response="a"), timeout=60)
            calls = [stub.Score(pb.ScoreRequest(response=f"{n} not sure " * 20), timeout=600) for n in range(20)]
            found = await codes(calls)
        code = await asyncio.to_thread(process.wait)

    assert found == {grpc.StatusCode.UNAVAILABLE}
    assert code == 1
    (line,) = process.events("the engine hangs")
    assert line["level"] == "critical"
    assert float(str(line["seconds"])) >= 1
    assert int(str(line["tokens"])) > 0


LOOKS_FOR_EVER = """
from scopewatch.engine.inside import Inside
def look(self, tokens, top):
    time.sleep(3600)
    yield
Inside.look = look
return real(config)
"""


async def test_an_explanation_that_hangs_ends_the_process(house: House, tmp_path: Path) -> None:
    """Whoever scores behind it is told UNAVAILABLE as well as whoever asked for it, and the process exits with 1."""
    hanging = script(tmp_path, LOOKS_FOR_EVER)
    with ServerProcess("--watchlist", str(house.watchlist), *SMALL, "--stall-s", "1", script=hanging) as process:
        async with direct(process.grpc_address) as stub:
            explaining = stub.Explain(pb.ExplainRequest(pair=pb.ScoreRequest(response="a")), timeout=600)
            scoring = stub.Score(pb.ScoreRequest(response="not sure"), timeout=600)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await explaining
            found = await codes([scoring])
        code = await asyncio.to_thread(process.wait)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert found <= {grpc.StatusCode.UNAVAILABLE, pb.ScoreResponse}
    assert code == 1
    assert process.events("the engine hangs")


async def test_an_engine_that_hangs_does_not_keep_the_process(house: House, tmp_path: Path) -> None:
    """SIGTERM ends a process whose engine hangs and was not yet given up: nobody is left waiting, exit code 0."""
    hanging = script(tmp_path, HANGING)
    flags = (*SMALL, "--stall-s", "3000", "--drain-grace-s", "1")
    with ServerProcess("--watchlist", str(house.watchlist), *flags, script=hanging) as process:
        async with direct(process.grpc_address) as stub:
            await stub.Score(pb.ScoreRequest(response="a"), timeout=60)
            calls = [stub.Score(pb.ScoreRequest(response=f"{n} not sure " * 20), timeout=600) for n in range(5)]
            answered = asyncio.create_task(codes(calls))
            await asyncio.to_thread(
                wait_until, lambda: any("hanging" in line for line in process.log), "it does not hang", timeout_s=60
            )
            process.process.send_signal(signal.SIGTERM)
            found = await answered
            code = await asyncio.to_thread(process.wait)

    assert pb.ScoreResponse not in found
    assert code == 0


class Faulty:
    """Stands before the real engine of a server, and fails on what it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: Callable[[np.ndarray], bool] = lambda _: False
        real = scopewatch.app.load.load

        def load(settings: Config) -> Loaded:
            loaded = real(settings)
            runner = loaded.engine.runner

            def faulty(batch: Sequence[np.ndarray]) -> EncodedBatch:
                encoded = runner(batch)
                failed = [EngineError("no memory") if self.fails(ids) else None for ids in batch]
                encoded.activations[:] = [
                    failure or found for failure, found in zip(failed, encoded.activations, strict=True)
                ]
                return encoded

            loaded.engine.runner = faulty
            return loaded

        monkeypatch.setattr(scopewatch.app.server, "load", load)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    return Faulty(monkeypatch)


@pytest.fixture
async def server(house: House, faulty: Faulty) -> AsyncIterator[LocalServer]:
    async with serving(config(house.watchlist)) as local:
        yield local


@pytest.fixture
async def stub(server: LocalServer) -> AsyncIterator[monitor_pb2_grpc.MonitorServiceStub]:
    async with direct(server.grpc_address) as stub:
        yield stub


async def score(stub: monitor_pb2_grpc.MonitorServiceStub, response: str) -> grpc.StatusCode:
    call = stub.Score(pb.ScoreRequest(response=response), timeout=60)
    return await call.code()


async def test_a_server_whose_engine_fails_on_everything_is_not_ready_until_it_works(
    server: LocalServer, stub: monitor_pb2_grpc.MonitorServiceStub, faulty: Faulty
) -> None:
    """After three batches that failed whole readiness turns, in health and metrics, and it turns back by itself."""
    faulty.fails = lambda _: True
    failed = [await score(stub, f"{number} not sure") for number in range(3)]
    await eventually(lambda: server.metric("scopewatch_ready") == 0, "it is still ready")
    sick = [await health(server.grpc_address, service) for service in ("", SERVICE_NAME)]
    still_tried = await score(stub, "9 not sure")
    faulty.fails = lambda _: False
    await eventually(lambda: server.metric("scopewatch_ready") == 1, "it is not ready again")

    assert failed == [grpc.StatusCode.INTERNAL] * 3
    assert sick == ["SERVING", "NOT_SERVING"]
    assert still_tried == grpc.StatusCode.INTERNAL
    assert await health(server.grpc_address, SERVICE_NAME) == "SERVING"
    assert await score(stub, "10 not sure") == grpc.StatusCode.OK


async def test_a_pair_that_nobody_can_read_does_not_make_a_server_unready(
    server: LocalServer, stub: monitor_pb2_grpc.MonitorServiceStub, faulty: Faulty
) -> None:
    """However often one caller sends a pair that the engine fails on, the service stays ready for the others."""
    probes = 0

    def fails(ids: np.ndarray) -> bool:
        nonlocal probes
        is_probe = bool((ids == ids[0]).all())
        probes += is_probe
        return not is_probe

    faulty.fails = fails
    found = {await score(stub, "not sure") for _ in range(10)}
    await eventually(lambda: probes >= 3, "nobody looked whether the engine works")

    assert found == {grpc.StatusCode.INTERNAL}
    assert server.metric("scopewatch_ready") == 1
    assert await health(server.grpc_address, SERVICE_NAME) == "SERVING"
