"""Addresses that the service listens on: loopback, others, sockets in files, and the port for health alone."""

import asyncio
import re
import socket
from pathlib import Path

import grpc
import pytest

from certificates import Authority
from conftest import House
from listening import listening, outcome
from scopewatch.client import AsyncClient
from scopewatch.config import load_config
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.doors.tls import Certificates
from scopewatch.errors import ConfigError
from scopewatch.metrics import Metrics
from scopewatch.v1 import monitor_pb2 as pb
from servers import ServerProcess, config, direct, health, serving

# Who reaches an address


@pytest.mark.parametrize("setting", ["grpc_address", "metrics_address"])
@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.9.1:1", "localhost:1", "[::1]:1"])
def test_plaintext_is_served_on_loopback(setting: str, address: str) -> None:
    """Where only this machine can come from, plaintext needs no word."""
    assert getattr(load_config({setting: address}, {}), setting) == address


@pytest.mark.parametrize("setting", ["grpc_address", "metrics_address"])
@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "scopewatch.example:1", "localhost.example:1", "128.0.0.1:1"]
)
def test_plaintext_for_others_has_to_be_asked_for(setting: str, address: str) -> None:
    """An address that others reach is refused without TLS, and the refusal names both ways out; each of them works."""
    with pytest.raises(ConfigError, match=re.escape(f"settings: {setting} {address}: other machines")) as refused:
        load_config({setting: address}, {})
    for way_out in ("tls_cert and tls_key", "insecure"):
        assert way_out in str(refused.value)

    for settings in ({"insecure": True}, {"tls_cert": "cert.pem", "tls_key": "key.pem"}):
        assert getattr(load_config({setting: address, **settings}, {}), setting) == address


def test_health_may_be_told_to_others() -> None:
    """The address for health alone is in plaintext by purpose, and needs no word."""
    assert load_config({"health_address": "0.0.0.0:1"}, {}).health_address == "0.0.0.0:1"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("unix:relative", "an absolute path"),
        ("unix:", "an absolute path"),
        ("unix:/with%20escape", "without %"),
        ("unix:/" + "a" * 107, "at most 107 bytes"),
    ],
)
def test_a_path_that_no_socket_can_have_is_refused(address: str, said: str) -> None:
    """A relative path, one that gRPC would read otherwise, or one that is too long is refused with the reason."""
    with pytest.raises(ConfigError, match=f"--grpc-address: .*{said}"):
        load_config({"grpc_address": address}, {})
    assert load_config({"grpc_address": "unix:/" + "a" * 106}, {})


@pytest.mark.parametrize("setting", ["metrics_address", "health_address"])
def test_only_grpc_is_served_on_a_socket(setting: str) -> None:
    """Prometheus and probes come over TCP; a socket for them is refused with that reason."""
    with pytest.raises(ConfigError, match="only gRPC is served on sockets"):
        load_config({setting: "unix:/run/a.sock:1"}, {})


async def test_plaintext_for_others_is_said_loudly(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """With `insecure` one warning names the addresses that others reach, and only those."""
    async with serving(config(house.watchlist, grpc_address="0.0.0.0:0", insecure=True)) as server:
        pass

    (line,) = [record for record in caplog.records if record.getMessage().startswith("insecure: ")]
    assert line.levelname == "WARNING"
    assert line.grpc_address == server.grpc_address
    assert not hasattr(line, "metrics_address")


# Sockets


async def test_pairs_are_scored_over_a_socket(house: House, tmp_path: Path) -> None:
    """On a `unix:` address the service answers, to its own user alone, and leaves no file behind."""
    file = tmp_path / "scopewatch.sock"
    async with serving(config(house.watchlist, grpc_address=f"unix:{file}")) as server:
        mode = file.stat().st_mode & 0o777
        async with AsyncClient(f"unix:{file}", timeout_s=60) as client:
            reply = await client.score(response="a")

    assert server.grpc_address == f"unix:{file}"
    assert reply.verdict
    assert mode == 0o600
    assert not file.exists()


async def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    """A file that a killed process left behind does not stop the next one."""
    file = tmp_path / "scopewatch.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(file))
    async with listening(address=f"unix:{file}"):
        assert await outcome(f"unix:{file}", None) == "answered"


async def test_the_socket_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """A path where somebody listens, or that is another kind of file, is refused and stays as it is."""
    file, text = tmp_path / "scopewatch.sock", tmp_path / "text"
    text.write_text("kept")
    async with listening(address=f"unix:{file}"):
        with pytest.raises(ConfigError, match=f"grpc_address unix:{file}: .*another process listens there"):
            async with listening(address=f"unix:{file}"):
                pass
        assert await outcome(f"unix:{file}", None) == "answered"
    with pytest.raises(ConfigError, match="no socket"):
        async with listening(address=f"unix:{text}"):
            pass
    with pytest.raises(ConfigError, match="does its folder exist"):
        async with listening(address=f"unix:{tmp_path}/nowhere/a.sock"):
            pass

    assert text.read_text() == "kept"


# The port for health alone


async def test_a_plaintext_probe_works_under_mutual_tls(tmp_path: Path) -> None:
    """The second port tells the health of the service to whoever asks, in plaintext, and knows nothing else."""
    authority = Authority(tmp_path)
    files = authority.sign()
    certificates = Certificates(files.cert, files.key, authority.file, metrics=Metrics())
    async with listening(certificates, health_address="127.0.0.1:0") as at:
        states = [await health(at["health_address"], service) for service in ("", SERVICE_NAME)]
        async with direct(at["health_address"]) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.GetInfo(pb.GetInfoRequest(), timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as large:
            await health(at["health_address"], "a" * 5000)
        plaintext = await outcome(at["grpc_address"], None)

    assert states == ["SERVING", "NOT_SERVING"]
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert large.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert plaintext == "UNAVAILABLE"


def test_probes_are_answered_while_the_service_drains(house: House) -> None:
    """After SIGTERM the second port goes on to say that the process lives and takes nothing new, to the end."""
    flags = ("--health-address", "127.0.0.1:0", "--drain-delay-s", "30")
    with ServerProcess("--watchlist", str(house.watchlist), *flags) as process:
        address = str(process.wait_for("serving")["health_address"])
        ready = asyncio.run(health(address, SERVICE_NAME))
        process.process.terminate()
        process.wait_for("draining")
        states = [asyncio.run(health(address, service)) for service in ("", SERVICE_NAME)]

    assert (ready, states) == ("SERVING", ["SERVING", "NOT_SERVING"])
