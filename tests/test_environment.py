"""Variables that others put into the environment, and what they may change."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import scopewatch
from scopewatch.client import AsyncClient, Client
from scopewatch.errors import NotReady
from servers import DEAD_PROXIES, NO_EXEMPTIONS, ServerProcess


@pytest.fixture
def no_exemptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NO_EXEMPTIONS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_exemptions")
@pytest.mark.parametrize("target", ["{0}", "localhost:{1}", "dns:///LOCALHOST:{1}", "ipv4:{0}", "0.0.0.0:{1}"])
@pytest.mark.parametrize("variable", DEAD_PROXIES)
def test_no_proxy_stands_before_this_machine(
    monkeypatch: pytest.MonkeyPatch, server: ServerProcess, variable: str, target: str
) -> None:
    """Both clients reach a server on this machine by any of its names, whatever variable leads others to a proxy."""
    monkeypatch.setenv(variable, DEAD_PROXIES[variable])
    address = target.format(server.grpc_address, server.grpc_address.rpartition(":")[2])

    async def ask_asyncio() -> bool:
        async with AsyncClient(address, timeout_s=60) as client:
            return bool((await client.score(response="a")).request_id)

    with Client(address, timeout_s=60) as client:
        assert client.score(response="a").request_id
    assert asyncio.run(ask_asyncio())


@pytest.mark.usefixtures("no_exemptions")
@pytest.mark.parametrize("target", ["scopewatch.example:50051", "localhost.example:1", "ipv4:192.0.2.1:50051"])
def test_another_machine_is_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """A server elsewhere is asked for at the proxy that the environment names."""
    asked: list[bytes] = []

    def refuse() -> None:
        connection, _ = proxy.accept()
        with connection:
            asked.append(connection.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(30)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        listening = threading.Thread(target=refuse)
        listening.start()
        with Client(target, timeout_s=5) as client, pytest.raises(NotReady):
            client.info()
        listening.join()

    assert asked[0].startswith(b"CONNECT " + target.removeprefix("ipv4:").encode())


@pytest.mark.parametrize(
    "terminal",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["encoding", "locale"],
)
def test_a_terminal_that_lacks_a_letter_shows_its_number(terminal: dict[str, str]) -> None:
    """Output that a terminal's encoding cannot write is escaped, and no command ends over it."""
    demo = Path(scopewatch.__file__).parent / "demo"
    (sae,) = (demo / "sae").rglob("params.npz")
    command = ["activations", "--reader", demo / "reader", "--sae", sae, "--hookpoint", "layers.2.resid_post"]
    command += ["--features", "1", "--response", "a - b"]
    main = "import sys; from scopewatch.cli import main; sys.argv[-1] = 'a \\u2014 \\u00e9'; main()"
    done = subprocess.run(
        [sys.executable, "-c", main, *command], capture_output=True, env=os.environ | terminal, timeout=120, check=False
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"u2014" in done.stdout
