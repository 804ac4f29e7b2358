"""From the first breath to the last: starting, refusing to start, draining, and dying loudly."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import scopewatch.app.server
from conftest import House, free_port, sae_arrays, save_sae, wait_until, watchlist_document
from scopewatch.app.load import Loaded
from scopewatch.app.server import Server
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.sae.pack import write_probe
from scopewatch.v1 import monitor_pb2 as pb
from servers import NO_RETRIES, ServerProcess, config, direct, eventually, health, metric, serving

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

# Starting


async def test_nothing_is_served_before_the_reader_is_loaded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """While loading, the process is alive but not ready, and pairs are refused with UNAVAILABLE; then it is ready."""
    loading, real = threading.Event(), scopewatch.app.load.load
    address, metrics_address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"

    def load(settings: Config) -> Loaded:
        loading.wait()
        return real(settings)

    monkeypatch.setattr(scopewatch.app.server, "load", load)
    server = Server(config(house.watchlist, grpc_address=address, metrics_address=metrics_address))
    running = asyncio.create_task(server.run())
    try:
        async with direct(address) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Score(pb.ScoreRequest(response="a"), timeout=60, wait_for_ready=True)
            states = [await health(address, service) for service in ("", SERVICE_NAME)]
            loading.set()
            await eventually(lambda: metric(metrics_address, "scopewatch_ready"), "the server did not become ready")
            states.append(await health(address, SERVICE_NAME))
            reply = await stub.Score(pb.ScoreRequest(response="a"), timeout=60)
    finally:
        loading.set()
        server.stop()
        code = await running

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "warming up" in str(refused.value.details())
    assert states == ["SERVING", "NOT_SERVING", "SERVING"]
    assert reply.verdict
    assert code == 0


async def test_health_of_an_unknown_service_is_not_found(server: ServerProcess) -> None:
    """Asking for the health of a service that is not here is NOT_FOUND, and counts as that."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(server.grpc_address, "nobody")

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await eventually(
        lambda: server.metric("grpc_server_handled_total", grpc_method="Check", grpc_code="NotFound"), "not counted"
    )


async def test_a_ready_server_is_alive_and_ready(server: ServerProcess) -> None:
    """Once `serving` is logged, both health services say SERVING and the ready gauge is 1."""
    states = [await health(server.grpc_address, service) for service in ("", SERVICE_NAME)]

    assert states == ["SERVING", "SERVING"]
    assert server.metric("scopewatch_ready") == 1


def test_the_log_names_the_ports_that_were_found(server: ServerProcess) -> None:
    """Port 0 finds free ports for gRPC and metrics, and the one `serving` line names them."""
    (line,) = server.events("serving")
    ports = {int(str(line[key]).rpartition(":")[2]) for key in ("grpc_address", "metrics_address")}

    assert len(ports) == 2
    assert 0 not in ports
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass


def test_metrics_are_served_over_http(server: ServerProcess) -> None:
    """The metrics endpoint answers with Prometheus text that has every series from the first scrape on."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as page:
        text = page.read().decode()
        content_type = page.headers["Content-Type"]

    assert content_type.startswith("text/plain")
    for series in (
        'scopewatch_pairs_total{verdict="flag",watchlist="second"}',
        'scopewatch_feature_fired_pairs_total{feature="mid/11"}',
        'scopewatch_uncalibrated_indicators{watchlist="test"} 3.0',
    ):
        assert series in text


async def test_reflection_is_off_unless_asked_for(server: ServerProcess) -> None:
    """Without the flag the server tells nobody its services."""
    with grpc.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel, pytest.raises(grpc.RpcError) as no:
        await asyncio.to_thread(lambda: list(ProtoReflectionDescriptorDatabase(channel).get_services()))

    assert no.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_lists_the_services(house: House) -> None:
    """With `reflection` the server names its services and describes its messages; the streams it takes are counted."""

    def ask(address: str) -> tuple[set[str], list[str]]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("scopewatch.v1.ScoreRequest")
            return set(database.get_services()), [message.name for message in file.message_type]

    async with serving(config(house.watchlist, reflection=True)) as server:
        services, messages = await asyncio.to_thread(ask, server.grpc_address)
        streams = server.metric("grpc_server_started_total", grpc_type="bidi_stream")

    reflection = {f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")}
    assert services == {SERVICE_NAME, "grpc.health.v1.Health"} | reflection
    assert "ScoreResponse" in messages
    assert streams > 0


# Refusing to start


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What `scopewatch serve` says on standard error when it must exit with 2."""
    free = ("--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0")
    with pytest.raises(SystemExit) as left:
        main(["serve", *free, *flags])
    out, err = capsys.readouterr()

    assert (left.value.code, out) == (2, "")
    # gRPC wakes every event loop of a process for the calls of each; one that finds nothing to read says so in the log.
    return "".join(line for line in err.splitlines(keepends=True) if "PollerCompletionQueue._handle_events" not in line)


@pytest.mark.parametrize("flag", ["--grpc-address", "--metrics-address"])
def test_a_taken_port_is_one_clear_message(
    house: House, server: ServerProcess, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    """The port of another server ends the process with 2 and names setting and address, whichever of the two it is."""
    address = server.grpc_address if flag == "--grpc-address" else server.metrics_address
    err = refusal(capsys, "--watchlist", str(house.watchlist), flag, address)

    assert err.startswith(f"scopewatch: {flag[2:].replace('-', '_')} {address}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("address", ["nowhere", ":9464", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1"])
@pytest.mark.parametrize("flag", ["--grpc-address", "--metrics-address"])
def test_an_address_must_be_host_and_port(
    house: House, capsys: pytest.CaptureFixture[str], flag: str, address: str
) -> None:
    """An address without host or port is refused with an example."""
    err = refusal(capsys, "--watchlist", str(house.watchlist), flag, address)

    assert f"{flag}: {address!r}: expected host:port, for instance" in err
    assert err.count("\n") == 1


Broken = Callable[[House, Path, dict[str, Any]], str]
"""Breaks something of an installation whose watchlist document it may change; what the message must hold."""


def sae_missing(house: House, folder: Path, document: dict[str, Any]) -> str:
    document["saes"]["mid"]["path"] = "layer_1/gone.npz"
    return f"{folder}/watchlist.yaml:6: saes.mid: {folder}/layer_1/gone.npz: no such file"


def sae_misshapen(house: House, folder: Path, document: dict[str, Any]) -> str:
    file = save_sae(folder, 1, threshold=np.zeros(63, np.float32))
    document["saes"]["mid"]["path"] = str(file)
    return f"watchlist.yaml:6: saes.mid: {file}: threshold has shape (63,)"


def sae_pickled(house: House, folder: Path, document: dict[str, Any]) -> str:
    file = save_sae(folder, 1, W_enc=np.full((32, 64), None, object))
    document["saes"]["mid"]["path"] = str(file)
    return f"watchlist.yaml:6: saes.mid: {file}: W_enc is a pickled object array"


def sae_no_archive(house: House, folder: Path, document: dict[str, Any]) -> str:
    file = folder / "layer_1" / "params.npz"
    file.parent.mkdir()
    file.write_text("<html>Access denied</html>")
    document["saes"]["mid"]["path"] = str(file)
    return f"watchlist.yaml:6: saes.mid: {file}: not a complete npz archive"


def sae_for_another_model(house: House, folder: Path, document: dict[str, Any]) -> str:
    file = save_sae(folder, 1, **sae_arrays(d_in=48))
    document["saes"]["mid"]["path"] = str(file)
    return "watchlist.yaml:6: saes.mid: the SAE reads vectors of 48, layers.1.resid_post of the reader has 32"


def feature_out_of_range(house: House, folder: Path, document: dict[str, Any]) -> str:
    document["indicators"][1]["features"][0]["feature"] = "late/64"
    return f"indicators[1].features[0].feature: there is no feature 64 in {house.saes['late']}; it has 0 to 63"


def feature_called_a_probe(house: House, folder: Path, document: dict[str, Any]) -> str:
    document["indicators"][1] |= {"kind": "probe", "features": [{"feature": "late/0"}]}
    return f"{folder}/watchlist.yaml:32: indicators[1].features[0]: late is not a file of probes, and indicator beta is"


def probe_called_a_feature(house: House, folder: Path, document: dict[str, Any]) -> str:
    file = folder / "direction.safetensors"
    write_probe(file, np.ones(32, np.float32), np.zeros(1, np.float32), hookpoint="layers.1.resid_post")
    document["saes"]["late"]["path"] = str(file)
    document["indicators"][1]["features"][0]["feature"] = "late/0"
    document["indicators"][0]["features"].pop(1)
    return f"{folder}/watchlist.yaml:29: indicators[1].features[0]: late is a file of probes, and indicator beta is of"


def reader_missing(house: House, folder: Path, document: dict[str, Any]) -> str:
    document["reader"]["path"] = "gone"
    return f"reader {folder}/gone: no such directory"


def weights_missing(house: House, folder: Path, document: dict[str, Any]) -> str:
    shutil.copytree(house.reader, folder / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    document["reader"]["path"] = "bare"
    return f"reader {folder}/bare: no *.safetensors file"


def weights_damaged(house: House, folder: Path, document: dict[str, Any]) -> str:
    shutil.copytree(house.reader, folder / "torn")
    (file,) = (folder / "torn").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    document["reader"]["path"] = "torn"
    return f"reader {folder}/torn: {file.name} is damaged"


def tokenizer_missing(house: House, folder: Path, document: dict[str, Any]) -> str:
    shutil.copytree(house.reader, folder / "mute", ignore=shutil.ignore_patterns("*token*"))
    document["reader"]["path"] = "mute"
    return f"reader {folder}/mute: "


def layer_too_deep(house: House, folder: Path, document: dict[str, Any]) -> str:
    document["saes"]["late"]["hookpoint"] = "layers.4.resid_post"
    return f"reader {house.reader}: layer 4 is watched, but it has layers 0 to 3"


@pytest.mark.parametrize(
    "break_it",
    [
        sae_missing,
        sae_misshapen,
        sae_pickled,
        sae_no_archive,
        sae_for_another_model,
        feature_out_of_range,
        feature_called_a_probe,
        probe_called_a_feature,
        reader_missing,
        weights_missing,
        weights_damaged,
        tokenizer_missing,
        layer_too_deep,
    ],
    ids=lambda broken: broken.__name__,
)
def test_a_broken_installation_is_one_clear_line(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: Broken
) -> None:
    """What is wrong with weights or SAEs ends the process with 2 and one line: the file, and the watchlist's line."""
    document = absolute(house)
    expected = break_it(house, tmp_path, document)
    watchlist = tmp_path / "watchlist.yaml"
    watchlist.write_text(yaml.safe_dump(document, sort_keys=False))

    err = refusal(capsys, "--watchlist", str(watchlist))

    assert expected in err
    assert err.startswith("scopewatch: ")
    assert err.count("\n") == 1, err


def test_a_card_of_another_reader_is_refused_in_strict_mode(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--strict-cards` ends the process with 2, the line of each card that does not fit, and the mend."""
    document = absolute(house)
    measured = {"data": "held out", "n": 9, "n_positive": 3}
    made_with = {"scopewatch": "0.1", "reader": "gemma-3", "reader_digest": "a" * 64, "dtype": "float32"}
    card = {"date": "2026-11-01", "calibrated_on": "dev", "n": 9, "measurements": [measured], "made_with": made_with}
    document["indicators"][2]["card"] = card
    watchlist = tmp_path / "watchlist.yaml"
    watchlist.write_text(yaml.safe_dump(document, sort_keys=False))
    (line,) = [n for n, text in enumerate(watchlist.read_text().splitlines(), 1) if text.strip() == "card:"]

    told = refusal(capsys, "--watchlist", str(watchlist), "--strict-cards").splitlines()

    assert f"scopewatch: {watchlist}:{line}: indicators[2].card: the card was made with reader gemma-3 (oth" in told[0]
    assert "calibrate again, or switch strict_cards off" in told[1]
    assert 2 == len(told)


def absolute(house: House) -> dict[str, Any]:
    """The house's watchlist as it reads from another folder."""
    document: dict[str, Any] = watchlist_document()
    document["reader"] = {"path": str(house.reader)}
    document["saes"] = {name: {"path": str(file)} for name, file in house.saes.items()}
    return document


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("version: 1\nname: a\nreader: {path: x\n", ":4: not valid YAML", id="malformed"),
        pytest.param("", ":1: the file is empty", id="empty"),
        pytest.param("version: 1\nname: a\ntreshold: 3\n", ":3: treshold: no such key here", id="unknown key"),
        pytest.param(None, ": cannot be read: No such file or directory", id="missing"),
    ],
)
def test_a_broken_watchlist_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    """What is wrong with a watchlist ends the process with 2 and names file and line."""
    watchlist = tmp_path / "watchlist.yaml"
    if text is not None:
        watchlist.write_text(text)

    err = refusal(capsys, "--watchlist", str(watchlist))

    assert f"{watchlist}{said}" in err
    assert "Traceback" not in err


def test_a_real_process_says_the_same_and_nothing_more(tmp_path: Path) -> None:
    """A process that cannot start leaves with 2 and one line on standard error, nothing on standard output."""
    ports = ["--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    command = [sys.executable, "-m", "scopewatch", "serve", *ports, "--watchlist", str(tmp_path / "gone.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"scopewatch: {tmp_path}/gone.yaml: cannot be read: No such file or directory\n"


# Leaving


async def test_sigterm_under_load_fails_no_request(house: House) -> None:
    """After SIGTERM every accepted request is answered; while draining the process is alive and not ready; it exits with 0."""
    with ServerProcess("--watchlist", str(house.watchlist), "--drain-delay-s", "5") as process:
        address = process.grpc_address
        async with direct(address) as stub:
            calls = [
                asyncio.ensure_future(stub.Score(pb.ScoreRequest(response=f"{n} not sure " * 60), timeout=120))
                for n in range(150)
            ]
            await eventually(
                lambda: process.metric("grpc_server_started_total", grpc_method="Score") == 150, "not all have arrived"
            )
            unanswered = sum(not call.done() for call in calls)
            process.process.terminate()
            await asyncio.to_thread(process.wait_for, "draining")
            *draining, late = await asyncio.gather(
                *(health(address, service) for service in ("", SERVICE_NAME)),
                stub.Score(pb.ScoreRequest(response="late"), timeout=60),
            )
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        code = await asyncio.to_thread(process.wait)

    assert unanswered > 0
    assert {type(outcome) for outcome in outcomes} == {pb.ScoreResponse}
    assert draining == ["SERVING", "NOT_SERVING"]
    assert late.verdict
    assert code == 0
    assert process.events("stopped")


SCRIPT = """
import sys, time
import scopewatch.app.server as server
from scopewatch.cli import main

real = server.load
batches = 0

def load(config):
    {body}

server.load = load
main(sys.argv[1:])
"""


def script(folder: Path, body: str) -> Path:
    file = folder / "serve.py"
    file.write_text(SCRIPT.format(body="\n    ".join(body.strip().splitlines())))
    return file


def test_sigterm_while_loading_ends_the_process(house: House, tmp_path: Path) -> None:
    """A process that is told to leave while it loads does not load to the end; it exits with 0."""
    endless = script(tmp_path, 'print("loading", file=sys.stderr, flush=True)\ntime.sleep(3600)')
    with ServerProcess("--watchlist", str(house.watchlist), script=endless) as process:
        wait_until(lambda: any("loading" in line for line in process.log), "it does not load", timeout_s=200)
        process.process.terminate()

        assert process.wait() == 0
    assert "Traceback" not in "".join(process.log)


DYING = """
loaded = real(config)
engine = loaded.engine.runner
def runner(batch):
    global batches
    batches += 1
    if batches == 3:
        time.sleep(1)
        raise SystemExit("the device fell off the bus")
    return engine(batch)
loaded.engine.runner = runner
return loaded
"""


async def test_a_dead_engine_leaves_nobody_waiting(house: House, tmp_path: Path) -> None:
    """When the engine dies, every waiting caller gets an error at once, readiness turns, and the process exits with 1.

    The promise is one second; the machine that runs this gets five.
    """
    small = ("--max-tokens", "64", "--max-batch-tokens", "64")
    with ServerProcess("--watchlist", str(house.watchlist), *small, script=script(tmp_path, DYING)) as process:
        address = process.grpc_address
        async with direct(address) as stub, grpc.aio.insecure_channel(address, options=NO_RETRIES) as channel:
            watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
            states = [(await watched.read()).status]
            # The first batch was the warm-up; this is the second, and the third kills.
            first = await stub.Score(pb.ScoreRequest(response="a"), timeout=60)
            calls = [
                asyncio.ensure_future(stub.Score(pb.ScoreRequest(response=f"{n} not sure " * 20), timeout=600))
                for n in range(40)
            ]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            died_s = time.monotonic()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            waited_s = time.monotonic() - died_s
            states.append((await watched.read()).status)
        code = await asyncio.to_thread(process.wait, 25)

    assert first.verdict
    assert {outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)} == {
        grpc.StatusCode.UNAVAILABLE
    }
    assert {type(outcome) for outcome in outcomes} == {grpc.aio.AioRpcError}
    assert waited_s < 5
    assert states == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    assert code == 1
    (line,) = process.events("the engine died")
    assert "SystemExit" in json.dumps(line)
