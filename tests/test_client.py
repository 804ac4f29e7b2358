"""The clients: who they say they are, whom they tell it, and which of several servers they ask."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.baggage import set_baggage
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from certificates import Authority, Files
from conftest import House, free_port
from listening import listening
from scopewatch.app.server import Server
from scopewatch.cli import main
from scopewatch.client import AsyncClient, Client
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.doors.tls import Certificates
from scopewatch.errors import ConfigError, NotReady
from scopewatch.metrics import Metrics
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc
from servers import Gate, ServerProcess, config, eventually, health, serving

ELSEWHERE = "scopewatch.example:50051"


class Recorder(monitor_pb2_grpc.MonitorServiceServicer):
    """Answers GetInfo, first with the codes it is given, and keeps the metadata of every call."""

    def __init__(self, *codes: grpc.StatusCode) -> None:
        self._codes = list(codes)
        self.seen: list[dict[str, str]] = []

    async def GetInfo(self, _: pb.GetInfoRequest, context: Any) -> pb.GetInfoResponse:  # noqa: N802
        self.seen.append(dict(context.invocation_metadata()))
        if self._codes:
            await context.abort(self._codes.pop(0), "as it was told")
        return pb.GetInfoResponse()


@asynccontextmanager
async def recording(recorder: Recorder, address: str = "127.0.0.1:0", files: Files | None = None) -> AsyncIterator[str]:
    """Serves a recorder; its address."""
    server = grpc.aio.server()
    monitor_pb2_grpc.add_MonitorServiceServicer_to_server(recorder, server)
    if files:
        credentials = grpc.ssl_server_credentials([(files.key.read_bytes(), files.cert.read_bytes())])
        port = server.add_secure_port(address, credentials)
    else:
        port = server.add_insecure_port(address)
    await server.start()
    yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
    await server.stop(0)


async def ask(address: str, **options: Any) -> None:
    """Asks with both clients."""
    async with AsyncClient(address, timeout_s=30, **options) as client:
        await client.info()

    def blocking() -> None:
        with Client(address, timeout_s=30, **options) as client:
            client.info()

    await asyncio.to_thread(blocking)


# Who asks


async def test_a_token_goes_with_every_call(tmp_path: Path) -> None:
    """Over TLS, over loopback and over a socket each call of both clients carries the token as it is at that moment."""
    authority = Authority(tmp_path)
    numbers = iter(range(100))
    ways: list[tuple[str, Files | None, dict[str, Any]]] = [
        ("127.0.0.1:0", None, {}),
        (f"unix:{tmp_path}/a.sock", None, {}),
        ("127.0.0.1:0", authority.sign(), {"tls_ca": authority.file}),
    ]
    for address, files, options in ways:
        recorder = Recorder()
        async with recording(recorder, address, files) as at:
            await ask(at, token=lambda: f"token-{next(numbers)}", **options)
            await ask(at, token="fixed", **options)
            await ask(at, **options)
        fresh, fixed, none = (recorder.seen[begin : begin + 2] for begin in (0, 2, 4))
        assert all(seen["authorization"].startswith("Bearer token-") for seen in fresh)
        assert fresh[0]["authorization"] != fresh[1]["authorization"]
        assert [seen["authorization"] for seen in fixed] == ["Bearer fixed"] * 2
        assert ["authorization" in seen for seen in none] == [False, False]


async def test_a_call_names_the_span_it_is_made_in(tmp_path: Path) -> None:
    """Both clients send W3C's trace context of the caller's span, and none where no span is open; never its baggage."""
    recorder = Recorder()
    span = SpanContext(
        0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False, trace_flags=TraceFlags(1)
    )
    async with recording(recorder) as at:
        await ask(at)
        with use_span(NonRecordingSpan(span)):
            left = attach(set_baggage("customer", "secret"))
            await ask(at, token="t")
            detach(left)
    before, within = recorder.seen[:2], recorder.seen[2:]
    assert [seen.keys() & {"traceparent", "tracestate", "baggage"} for seen in before] == [set(), set()]
    expected = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert [seen["traceparent"] for seen in within] == [expected] * 2
    assert [seen["authorization"] for seen in within] == ["Bearer t"] * 2
    assert all("baggage" not in seen for seen in within)


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address", [ELSEWHERE, f"dns:///{ELSEWHERE}", "ipv4:127.0.0.1:1,10.0.0.1:1", "[2001:db8::1]:50051"]
)
async def test_a_token_does_not_go_in_plaintext(client: Callable[..., Any], address: str) -> None:
    """A token for another machine needs TLS, or the word that it does not."""
    with pytest.raises(ConfigError, match=r"token: would go to .* in plaintext.*give tls_ca, or insecure"):
        client(address, token="secret")
    closing = client(address, token="secret", insecure=True).close()
    if closing:
        await closing


@pytest.mark.parametrize("token", ["", "two\nlines", "späte", "a b"])
async def test_a_token_that_cannot_be_sent_is_refused(token: str) -> None:
    """What is no token is refused before the call, without showing it."""
    async with listening() as at, AsyncClient(at["grpc_address"], token=token) as client:
        with pytest.raises(ConfigError, match="token: is empty, or holds") as refused:
            await client.info()
    assert not token or token not in str(refused.value)


async def test_a_client_shows_its_certificate(tmp_path: Path) -> None:
    """A server that asks for certificates lets the client in that shows one, and no other."""
    authority = Authority(tmp_path)
    files, app = authority.sign(), authority.sign("app")
    certificates = Certificates(files.cert, files.key, authority.file, metrics=Metrics())
    async with listening(certificates) as at:
        address = at["grpc_address"]
        for shown, said in [
            ({"tls_cert": app.cert, "tls_key": app.key}, "warming up"),
            ({}, "no server that is ready"),
        ]:
            async with AsyncClient(address, timeout_s=30, tls_ca=authority.file, **shown) as client:
                with pytest.raises(NotReady, match=said):
                    await client.info()


def test_files_of_a_client_that_are_not_in_order_are_refused(tmp_path: Path) -> None:
    """Files that are not there, hold something else, or do not belong together are named."""
    authority = Authority(tmp_path)
    first, second, text = authority.sign("first"), authority.sign("second"), tmp_path / "text"
    text.write_text("no certificate")
    for files, said in [
        ({"tls_ca": tmp_path / "nowhere"}, "tls_ca .*nowhere: cannot be read: No such file"),
        ({"tls_ca": text}, "tls_ca .*text: holds no certificates in PEM"),
        ({"tls_cert": first.cert}, "tls_cert and tls_key belong together"),
        ({"tls_key": first.key}, "tls_cert and tls_key belong together"),
        ({"tls_cert": first.cert, "tls_key": second.key}, "tls_key .*second.key: .*key values mismatch"),
        ({"tls_cert": text, "tls_key": first.key}, "tls_cert .*text and tls_key"),
    ]:
        with pytest.raises(ConfigError, match=said):
            Client("localhost:1", **files)


async def test_score_asks_over_mutual_tls_with_a_token(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`scopewatch score` takes the files of TLS and of a token, and refuses a file that holds no token."""
    authority, token = Authority(tmp_path), tmp_path / "token"
    files, app = authority.sign(), authority.sign("app")
    shown = ["--tls-ca", authority.file, "--tls-cert", app.cert, "--tls-key", app.key, "--token-file", token]
    tls = {"tls_cert": str(files.cert), "tls_key": str(files.key), "tls_client_ca": str(authority.file)}

    def score(*flags: object) -> int:
        with pytest.raises(SystemExit) as left:
            main(["score", "--response", "a", *map(str, flags)])
        return int(str(left.value.code or 0))

    async with serving(config(house.watchlist, **tls)) as server:
        token.write_text("secret\n")
        scored = await asyncio.to_thread(score, "--address", server.grpc_address, *shown)
        token.write_text("\n")
        empty = await asyncio.to_thread(score, "--address", server.grpc_address, *shown)
    out, err = capsys.readouterr()
    token.write_text("secret\n")

    assert (scored, empty) == (0, 2)
    assert out
    assert "token: is empty" in err
    assert score("--address", ELSEWHERE, "--token-file", token) == 2
    assert "in plaintext" in capsys.readouterr().err


# Which server


async def test_servers_that_are_not_ready_get_no_calls(server: ServerProcess) -> None:
    """Of two servers of which one still loads, the other gets every call, and none fails."""
    async with listening() as at:
        target = f"ipv4:{at['grpc_address']},{server.grpc_address}"
        async with AsyncClient(target, timeout_s=60) as client:
            replies = await asyncio.gather(*[client.score(response=f"a {number}") for number in range(40)])

    assert all(reply.verdict for reply in replies)


async def test_a_server_that_becomes_ready_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to a server that still loads is tried again until it is ready."""
    recorder = Recorder(*[grpc.StatusCode.UNAVAILABLE] * 4)
    async with recording(recorder) as at, AsyncClient(at, timeout_s=30) as client:
        await client.info()

    assert len(recorder.seen) == 5


@pytest.mark.parametrize("target", ["{}", "ipv4:{}"])
async def test_a_server_that_stays_unready_is_an_error_that_says_so(target: str) -> None:
    """Where the only server does not become ready, the call fails before its deadline and says why."""
    async with listening() as at, AsyncClient(target.format(at["grpc_address"]), timeout_s=30) as client:
        with pytest.raises(NotReady, match=r"warming up|no server that is ready was reached"):
            await client.score(response="a")


@asynccontextmanager
async def started(house: House, **settings: object) -> AsyncIterator[tuple[Server, str]]:
    """A server that is ready, in the event loop of the test, and its address."""
    server = Server(config(house.watchlist, grpc_address=(address := f"127.0.0.1:{free_port()}"), **settings))
    running = asyncio.create_task(server.run())
    async with AsyncClient(address, timeout_s=60) as client:
        while not running.done():
            with suppress(NotReady):
                await client.info()
                break
    yield server, address
    server.stop()
    assert await running == 0


@pytest.mark.usefixtures("logging_as_it_was")
async def test_a_server_that_leaves_loses_no_call(house: House) -> None:
    """While one of two servers drains and leaves, callers who ask again and again see no error."""
    calls, gone = [0] * 16, asyncio.Event()

    async def caller(name: int, client: AsyncClient) -> None:
        while not gone.is_set():
            assert (await client.score(response=f"{name} {calls[name]}")).verdict
            calls[name] += 1

    async with (
        started(house, drain_delay_s=0.2) as (leaving, first),
        started(house) as (_, second),
        AsyncClient(f"ipv4:{first},{second}", timeout_s=60) as client,
    ):
        callers = [asyncio.create_task(caller(name, client)) for name in range(16)]
        await eventually(lambda: min(calls) > 1, "nobody was answered")
        leaving.stop()
        with suppress(grpc.aio.AioRpcError):
            while await health(first, ""):
                pass
        before = sum(calls)
        await eventually(lambda: sum(calls) > before + 16, "the other server answers nobody")
        gone.set()
        await asyncio.gather(*callers)


@pytest.mark.usefixtures("logging_as_it_was")
async def test_the_only_server_answers_while_it_drains(house: House) -> None:
    """Behind one address calls go on until the server leaves: whoever balances there sends no new connection to it."""
    async with started(house, drain_delay_s=1) as (server, address), AsyncClient(address, timeout_s=30) as client:
        assert (await client.score(response="a")).verdict
        server.stop()
        while await health(address, SERVICE_NAME) != "NOT_SERVING":
            pass
        assert (await client.score(response="b")).verdict


async def test_a_call_that_a_server_cancels_is_tried_again() -> None:
    """A call that reached a server at its last moment, and is cancelled there, is made again."""
    recorder = Recorder(grpc.StatusCode.CANCELLED)
    async with recording(recorder) as at, AsyncClient(at, timeout_s=30) as client:
        await client.info()

    assert len(recorder.seen) == 2


async def test_a_call_that_its_caller_cancels_is_not(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that the caller gives up is made once."""
    gate = Gate(monkeypatch)
    async with serving(config(house.watchlist), gate) as server, AsyncClient(server.grpc_address) as client:
        gate.close()
        warm_up = len(gate.batches)
        given_up = asyncio.create_task(client.score(response="given up"))
        await eventually(lambda: len(gate.batches) > warm_up, "the call did not reach the engine")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        # The first attempt after the call itself comes within 0.12 s.
        await asyncio.sleep(0.3)
        gate.open()
        calls = server.metric("grpc_server_started_total", grpc_method="Score")

    assert calls == 1
