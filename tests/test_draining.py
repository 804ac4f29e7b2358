"""Leaving under load: whatever the transport took is answered, and the process ends in time, whatever hangs."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import House
from scopewatch.app.server import Server
from scopewatch.client import AsyncClient, pb
from scopewatch.contract.status import PUSHBACK
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.errors import ScopewatchError
from scopewatch.v1 import monitor_pb2_grpc
from servers import NO_RETRIES, ServerProcess, config, direct, eventually, serving
from test_lifecycle import script

OWN_CONNECTION = [*NO_RETRIES, ("grpc.use_local_subchannel_pool", 1)]
GOING = (grpc.StatusCode.UNAVAILABLE, True)
"""What a call gets that comes while the server leaves: a code that clients try elsewhere, and a push-back."""


def answer(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, bool]:
    """The code of a failed call, and whether it came with push-back."""
    return error.code(), PUSHBACK in dict(error.trailing_metadata() or ())


async def score(stub: monitor_pb2_grpc.MonitorServiceStub, text: str) -> tuple[grpc.StatusCode, bool]:
    """The outcome of one call."""
    try:
        await stub.Score(pb.ScoreRequest(response=text), timeout=60)
    except grpc.aio.AioRpcError as error:
        return answer(error)
    return grpc.StatusCode.OK, False


async def test_callers_that_come_one_after_another_are_answered_or_sent_elsewhere(house: House) -> None:
    """64 callers who call again as soon as they are answered: each gets replies, then UNAVAILABLE with push-back; exit 0."""
    outcomes: Counter[tuple[grpc.StatusCode, bool]] = Counter()
    with ServerProcess("--watchlist", str(house.watchlist)) as process:
        async with grpc.aio.insecure_channel(process.grpc_address, options=OWN_CONNECTION) as channel:
            stub = monitor_pb2_grpc.MonitorServiceStub(channel)

            async def call(number: int) -> None:
                told, turn = (grpc.StatusCode.OK, False), 0
                while told[0] is grpc.StatusCode.OK:
                    turn += 1
                    told = await score(stub, f"{number} not sure {turn}")
                    outcomes[told] += 1

            calling = [asyncio.create_task(call(number)) for number in range(64)]
            await eventually(lambda: outcomes.total() > 200, "nothing is answered")
            process.process.terminate()
            await asyncio.gather(*calling)
        code = await asyncio.to_thread(process.wait)

    assert outcomes.pop(GOING) == 64
    assert outcomes.keys() == {(grpc.StatusCode.OK, False)}
    assert code == 0


async def test_calls_that_were_just_sent_are_answered_or_sent_elsewhere(house: House) -> None:
    """400 calls that the process has not even looked at when it is told to leave are each answered one way or the other."""
    with ServerProcess("--watchlist", str(house.watchlist)) as process:
        async with direct(process.grpc_address) as stub:
            await score(stub, "connects")
            calls = [asyncio.create_task(score(stub, f"{number} not sure")) for number in range(400)]
            await asyncio.sleep(0)
            process.process.terminate()
            outcomes = Counter(await asyncio.gather(*calls))
        code = await asyncio.to_thread(process.wait)

    assert outcomes.keys() <= {(grpc.StatusCode.OK, False), GOING}
    assert code == 0


async def test_explanations_are_made_to_the_end_or_sent_elsewhere(house: House) -> None:
    """Explanations that are being made or wait when the process is told to leave are answered; later ones are sent elsewhere."""

    async def explain(stub: monitor_pb2_grpc.MonitorServiceStub, text: str) -> tuple[grpc.StatusCode, bool]:
        asked = pb.ExplainRequest(pair=pb.ScoreRequest(response=text), ablate=True)
        try:
            await stub.Explain(asked, timeout=60)
        except grpc.aio.AioRpcError as error:
            return answer(error)
        return grpc.StatusCode.OK, False

    with ServerProcess("--watchlist", str(house.watchlist)) as process:
        async with direct(process.grpc_address) as stub:
            begun = [asyncio.create_task(explain(stub, f"{number} not sure")) for number in range(8)]
            await eventually(
                lambda: process.metric("grpc_server_started_total", grpc_method="Explain") == 8, "they do not begin"
            )
            process.process.terminate()
            outcomes = Counter(await asyncio.gather(*begun))
            later = await explain(stub, "later")
        code = await asyncio.to_thread(process.wait)

    assert outcomes == {(grpc.StatusCode.OK, False): 8}
    assert later[0] is grpc.StatusCode.UNAVAILABLE
    assert code == 0


async def test_the_client_goes_on_with_another_server(house: House) -> None:
    """Callers of the shipped client who name two servers notice nothing when one of them leaves."""
    async with serving(config(house.watchlist)) as staying:
        with ServerProcess("--watchlist", str(house.watchlist)) as leaving:
            both = f"ipv4:{leaving.grpc_address},{staying.grpc_address}"
            failed: list[ScopewatchError] = []
            over = asyncio.Event()
            answered = 0
            async with AsyncClient(both, timeout_s=60) as client:

                async def call(number: int) -> None:
                    nonlocal answered
                    while not over.is_set():
                        try:
                            await client.score(response=f"{number} not sure {answered}")
                        except ScopewatchError as error:
                            failed.append(error)
                        answered += 1

                calling = [asyncio.create_task(call(number)) for number in range(64)]
                await eventually(lambda: answered > 200, "nothing is answered")
                leaving.process.terminate()
                code = await asyncio.to_thread(leaving.wait)
                before = answered
                await eventually(lambda: answered > before + 100, "the other server does not answer")
                over.set()
                await asyncio.gather(*calling)

    assert failed == []
    assert code == 0


STUCK = """
loaded = real(config)
engine = loaded.engine.runner
def runner(batch):
    global batches
    batches += 1
    if batches > 1:
        print("stuck", file=sys.stderr, flush=True)
        time.sleep(3600)
    return engine(batch)
loaded.engine.runner = runner
return loaded
"""


async def test_a_second_signal_ends_the_process_at_once(house: House, tmp_path: Path) -> None:
    """Whoever does not want to wait for running calls sends the signal again."""
    flags = ("--watchlist", str(house.watchlist), "--drain-grace-s", "3000")
    with ServerProcess(*flags, script=script(tmp_path, STUCK)) as process:
        async with direct(process.grpc_address) as stub:
            call = asyncio.create_task(score(stub, "a"))
            await eventually(lambda: any("stuck" in line for line in process.log), "the engine does not hang")
            process.process.terminate()
            await asyncio.to_thread(process.wait_for, "draining")
            process.process.send_signal(signal.SIGINT)
            code = await asyncio.to_thread(process.wait, 25)
            await call

    assert code == 128 + signal.SIGINT


async def test_what_never_closes_is_left_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a part does not close, the process ends all the same, with the code that it would have ended with."""
    monkeypatch.setattr("scopewatch.app.server._CLOSING_S", 0.05)
    left: list[int] = []
    hanging = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        hanging.set()

    server = Server(config(house.watchlist, drain_grace_s=0.01), leave=leave)
    real = server._door.close

    async def close(grace_s: float) -> None:
        await real(grace_s)
        await asyncio.to_thread(hanging.wait)

    monkeypatch.setattr(server._door, "close", close)
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0)
    server.stop()
    await running

    assert left == [0]


@pytest.mark.parametrize("after_s", [0.15, 0.4, 0.8, 1.2])
def test_sigterm_at_any_moment_of_the_start_is_no_failure(house: House, after_s: float) -> None:
    """A process that is told to leave while it imports, loads or warms up exits with 0 and shows no traceback."""
    with ServerProcess("--watchlist", str(house.watchlist)) as process:
        wait_for_python(process)
        time.sleep(after_s)
        process.process.terminate()
        code = process.wait()

    assert code == 0
    assert not any("Traceback" in line for line in process.log)


def test_sighup_while_the_service_starts_does_not_end_it(house: House) -> None:
    """Who changes a watchlist file and says so while the process imports finds it serving all the same."""
    with ServerProcess("--watchlist", str(house.watchlist)) as process:
        wait_for_python(process)
        process.process.send_signal(signal.SIGHUP)
        process.wait_for("serving")
        code = process.stop()

    assert code == 0


def wait_for_python(process: ServerProcess) -> None:
    """Waits until the interpreter has started, before which nothing can be done about a signal."""
    caught = Path(f"/proc/{process.process.pid}/status")
    mask: Callable[[], int] = lambda: int(caught.read_text().split("SigCgt:")[1].split()[0], 16)  # noqa: E731
    deadline_s = time.monotonic() + 60
    while not mask() & 1 << (signal.SIGTERM - 1):
        assert time.monotonic() < deadline_s, "the signal is never caught"
        time.sleep(0.005)


def test_other_commands_die_of_the_signal() -> None:
    """Only a server turns SIGTERM into success: whoever stops a scan is not told that it is done."""
    command = [
        sys.executable,
        "-c",
        "import sys; from scopewatch.__main__ import main; sys.argv=['x','scan','-']; main()",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    process.terminate()

    assert process.wait(60) != 0
    assert process.stdin
    process.stdin.close()


async def test_connections_are_renewed_without_a_failed_call(house: House) -> None:
    """A connection that is old is asked to come again, so that load spreads, and no call is lost over it."""
    settings = config(house.watchlist, max_connection_age_s=0.2)
    async with (
        serving(settings) as server,
        grpc.aio.insecure_channel(server.grpc_address, options=OWN_CONNECTION) as channel,
    ):
        stub = monitor_pb2_grpc.MonitorServiceStub(channel)
        renewed = 0

        async def count_renewals() -> None:
            nonlocal renewed
            while True:
                state = channel.get_state()
                await channel.wait_for_state_change(state)
                renewed += state is grpc.ChannelConnectivity.READY

        counting = asyncio.create_task(count_renewals())
        outcomes: Counter[tuple[grpc.StatusCode, bool]] = Counter()
        async with asyncio.timeout(60):
            while renewed < 3:
                outcomes[await score(stub, f"{outcomes.total()} not sure")] += 1
        counting.cancel()

    assert outcomes.keys() == {(grpc.StatusCode.OK, False)}


async def test_a_watcher_who_takes_nothing_does_not_keep_the_service_from_leaving(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who watches health and lets nothing arrive holds nobody up: others are told, and the process leaves."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    from hyperframe.frame import SettingsFrame

    from attacks.peer import Peer, grpc_message

    with ServerProcess("--watchlist", str(house.watchlist), "--drain-delay-s", "0.5") as process:
        address = process.grpc_address
        asked = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        with Peer(address) as peer:
            peer.send(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
            peer.send_data(peer.open_call("/grpc.health.v1.Health/Watch"), grpc_message(asked.SerializeToString()))
            await eventually(
                lambda: process.metric("grpc_server_started_total", grpc_method="Watch"), "it does not watch"
            )
            async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
                watching = health_pb2_grpc.HealthStub(channel).Watch(asked, timeout=20)
                told = [(await watching.read()).status]
                process.process.terminate()
                told.append((await watching.read()).status)
            code = await asyncio.to_thread(process.wait)

    assert told == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    assert code == 0
    assert not process.events("something does not end: leaving it behind")
