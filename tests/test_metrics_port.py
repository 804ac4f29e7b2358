"""The metrics port: what it answers, whom it lets in, and that nobody who is slow or rude can hold it."""

import asyncio
import gzip
import http.client
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority, Files
from scopewatch.doors.http import http_port, metrics_port
from scopewatch.doors.http.metrics_port import Authorise, MetricsPort, everybody
from scopewatch.doors.tls import Certificates
from scopewatch.metrics import Metrics, Page
from servers import eventually

GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


@asynccontextmanager
async def listening(
    metrics: Metrics | None = None, certificates: Certificates | None = None, authorise: Authorise = everybody
) -> AsyncIterator[tuple[str, int]]:
    """A metrics port, in the event loop of the test; its host and port."""
    port = MetricsPort("127.0.0.1:0", metrics=metrics or Metrics(), certificates=certificates, authorise=authorise)
    address = await port.listen()
    try:
        yield address.rpartition(":")[0], int(address.rpartition(":")[2])
    finally:
        await port.close()


async def said(at: tuple[str, int], sent: bytes, *, half_closed: bool = False) -> bytes:
    """All that comes back until the port closes the connection, or breaks it off."""
    reader, writer = await asyncio.open_connection(*at)
    writer.write(sent)
    if half_closed:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def parts(reply: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a reply."""
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize("path", ["/", "/metrics", "/metrics?x=1"])
async def test_the_page_is_served(path: str) -> None:
    """GET answers with all instruments as text, says how long the page is, and closes the connection."""
    async with listening() as at:
        status, headers, body = parts(await said(at, GET.replace(b"/metrics", path.encode())))

    assert status == 200
    assert b"scopewatch_ready 0.0" in body
    assert headers["content-type"].startswith("text/plain; version=")
    assert headers["content-length"] == str(len(body))
    assert headers["connection"] == "close"


async def test_head_is_the_page_without_the_page() -> None:
    """HEAD answers with the headers alone."""
    async with listening() as at:
        status, headers, body = parts(await said(at, GET.replace(b"GET", b"HEAD")))

    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 1000


@pytest.mark.parametrize(
    ("accept", "content_type", "ends"),
    [
        ("", "text/plain; version=", b"\n"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0", b"# EOF\n"),
    ],
)
async def test_the_format_is_the_one_asked_for(accept: str, content_type: str, ends: bytes) -> None:
    """Plain text or OpenMetrics, as the `Accept` header says."""
    async with listening() as at:
        request = GET.replace(b"Host", f"Accept: {accept}\r\nHost".encode())
        _, headers, body = parts(await said(at, request))

    assert headers["content-type"].startswith(content_type)
    assert body.endswith(ends)


@pytest.mark.parametrize("encodings", ["gzip", "deflate, GZIP;q=0.5", "br,gzip"])
async def test_the_page_is_compressed_for_whoever_takes_that(encodings: str) -> None:
    """With `Accept-Encoding: gzip` the page comes compressed."""
    async with listening() as at:
        request = GET.replace(b"Host", f"Accept-Encoding: {encodings}\r\nHost".encode())
        _, headers, body = parts(await said(at, request))

    assert headers["content-encoding"] == "gzip"
    assert b"scopewatch_ready 0.0" in gzip.decompress(body)


@pytest.mark.parametrize(
    ("encodings", "names"), [("gzip;q=0", ""), ("deflate", ""), ("gzip", "?name[]=scopewatch_ready")]
)
async def test_the_page_is_plain_otherwise(encodings: str, names: str) -> None:
    """A page that is small, or whose reader does not take gzip, is not compressed."""
    async with listening() as at:
        request = GET.replace(b"Host", f"Accept-Encoding: {encodings}\r\nHost".encode())
        _, headers, body = parts(await said(at, request.replace(b"/metrics", b"/metrics" + names.encode())))

    assert "content-encoding" not in headers
    assert b"scopewatch_ready 0.0" in body


async def test_single_series_can_be_asked_for() -> None:
    """`name[]` in the query restricts the page to these series."""
    async with listening() as at:
        _, _, body = parts(await said(at, GET.replace(b"/metrics", b"/?name[]=scopewatch_ready")))

    assert [line for line in body.splitlines() if not line.startswith(b"#")] == [b"scopewatch_ready 0.0"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (GET.replace(b"/metrics", b"/metric"), 404),
        (GET.replace(b"/metrics", b"//metrics"), 404),
        (GET.replace(b"GET", b"POST"), 405),
        (GET.replace(b"GET", b"BREW"), 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: here\r\n\r\n", 400),
        (b"GET //[ HTTP/1.1\r\nHost: here\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 8192 + b"\r\n\r\n", 431),
        (b"A" * 8196, 431),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 8000 + b"\r\nHost: a\r\n\r\n", 200),
    ],
)
async def test_other_requests_get_a_status(sent: bytes, status: int) -> None:
    """Whatever is not a request for the page is answered with the status that says why, and the port goes on."""
    async with listening() as at:
        refused, headers, _ = parts(await said(at, sent))
        after, _, _ = parts(await said(at, GET))

    assert (refused, after) == (status, 200)
    assert headers["connection"] == "close"


async def test_half_a_request_that_ends_is_no_request() -> None:
    """A caller who hangs up in the middle of a request is told so."""
    async with listening() as at:
        status, _, _ = parts(await said(at, GET[:20], half_closed=True))

    assert status == 400


async def test_half_a_request_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is not there in time is answered with 408, and its connection is closed."""
    monkeypatch.setattr(http_port, "_HEAD_S", 0.05)
    async with listening() as at:
        status, _, _ = parts(await said(at, GET[:20]))

    assert status == 408


async def test_900_half_requests_hold_nobody_up() -> None:
    """Of 900 connections that send half a request, those beyond 64 end the oldest; a scrape among them is answered.

    They cost no thread.
    """
    threads = threading.active_count()
    async with listening() as at:
        with ExitStack() as stack:
            rude = []
            for _ in range(900):
                rude.append(stack.enter_context(socket.create_connection(at)))
                rude[-1].send(GET[:20])
                await asyncio.sleep(0)
            status, _, _ = parts(await said(at, GET))
            more = threading.active_count() - threads
            await eventually(lambda: sum(map(hung_up, rude)) == 900 - 63, "not as many were ended as there had to be")
            left = list(map(hung_up, rude))

    assert status == 200
    assert more <= 2
    assert left == [True] * (900 - 63) + [False] * 63


def hung_up(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False


async def test_who_does_not_read_the_answer_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers who ask and never read the answer end when others come, and at the latest after a while."""
    metrics = Metrics()
    monkeypatch.setattr(metrics, "page", lambda *_: Page("text/plain", bytes(16 << 20)))
    monkeypatch.setattr(metrics_port, "_CONNECTIONS", 2)
    async with listening(metrics) as at:
        deaf = [await asyncio.open_connection(*at) for _ in range(2)]
        for reader, writer in deaf:
            writer.write(GET)
            await reader.read(1)
        replies = [parts(await said(at, GET)) for _ in range(3)]
        for _, writer in deaf:
            writer.close()

    assert [(status, len(body)) for status, _, body in replies] == [(200, 16 << 20)] * 3


async def test_who_waits_for_the_page_is_not_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose page is being made keeps the connection; where all are such, the new one goes."""
    metrics, held, begun = Metrics(), threading.Event(), threading.Semaphore(0)
    real = metrics.page

    def page(*args: Any) -> Page:
        begun.release()
        held.wait()
        return real(*args)

    monkeypatch.setattr(metrics, "page", page)
    monkeypatch.setattr(metrics_port, "_CONNECTIONS", 2)
    async with listening(metrics) as at:
        waiting = [asyncio.create_task(said(at, GET)) for _ in range(2)]
        for _ in waiting:
            await asyncio.to_thread(begun.acquire)
        refused = await said(at, b"")
        held.set()
        replies = [parts(await reply) for reply in waiting]

    assert refused == b""
    assert [status for status, _, _ in replies] == [200, 200]


async def test_two_pages_at_most_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask, two threads make pages, and the event loop goes on meanwhile."""
    metrics, lock, running, most = Metrics(), threading.Lock(), 0, 0
    real = metrics.page

    def page(*args: Any) -> Page:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return real(*args)

    monkeypatch.setattr(metrics, "page", page)
    async with listening(metrics) as at:
        replies = await asyncio.gather(*[said(at, GET) for _ in range(20)])

    assert {parts(reply)[0] for reply in replies} == {200}
    assert most == 2


async def test_a_page_that_cannot_be_made_is_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure while the page is made is 500 without its text, with a line in the log, and the port goes on."""
    metrics = Metrics()
    monkeypatch.setattr(metrics, "page", lambda *_: 1 / 0)
    async with listening(metrics) as at:
        reply = await said(at, GET)
        monkeypatch.undo()
        after, _, _ = parts(await said(at, GET))

    assert (parts(reply)[0], after) == (500, 200)
    assert b"division" not in reply
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("status", [401, 403])
async def test_who_may_not_read_is_refused(status: int) -> None:
    """The `Authorization` header decides, by the callable that is passed in; 401 says how to come again."""
    async with listening(authorise=lambda header, _: 200 if header == "Bearer right" else status) as at:
        refused, headers, body = parts(await said(at, GET.replace(b"Host", b"Authorization: Bearer wrong\r\nHost")))
        let_in, _, _ = parts(await said(at, GET.replace(b"Host", b"Authorization: Bearer right\r\nHost")))

    assert (refused, let_in) == (status, 200)
    assert b"scopewatch_" not in body
    assert headers.get("www-authenticate") == ("bearer" if status == 401 else None)


def over_tls(at: tuple[str, int], authority: Authority, shown: Files | None = None) -> int:
    """The status of a GET over TLS."""
    context = ssl.create_default_context(cafile=str(authority.file))
    if shown:
        context.load_cert_chain(shown.cert, shown.key)
    connection = http.client.HTTPSConnection(*at, context=context, timeout=30)
    try:
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        assert b"scopewatch_ready" in reply.read()
        return reply.status
    finally:
        connection.close()


async def test_the_page_is_served_over_tls(tmp_path: Path) -> None:
    """With certificates the page is there for whoever trusts their signer, and not in plaintext."""
    authority, forger = Authority(tmp_path / "right"), Authority(tmp_path / "forger")
    files = authority.sign()
    certificates = Certificates(files.cert, files.key, None, metrics=Metrics())
    async with listening(certificates=certificates) as at:
        status = await asyncio.to_thread(over_tls, at, authority)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(over_tls, at, forger)
        plain = await said(at, GET)

    assert status == 200
    assert b"HTTP" not in plain


async def test_the_certificate_of_the_caller_is_asked_for_and_passed_on(tmp_path: Path) -> None:
    """With signers of callers nobody comes in without a certificate of theirs, and who may read is asked about it."""
    authority, clients = Authority(tmp_path / "server"), Authority(tmp_path / "clients")
    files = authority.sign()
    certificates = Certificates(files.cert, files.key, clients.file, metrics=Metrics())
    seen: list[Mapping[str, Any] | None] = []

    def authorise(_: str, certificate: Mapping[str, Any] | None) -> int:
        seen.append(certificate)
        return 200

    async with listening(certificates=certificates, authorise=authorise) as at:
        status = await asyncio.to_thread(over_tls, at, authority, clients.sign("prometheus"))
        for wrong in (None, Authority(tmp_path / "forger").sign("prometheus")):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(over_tls, at, authority, wrong)

    assert status == 200
    (certificate,) = seen
    assert certificate is not None
    assert certificate["subject"] == ((("commonName", "prometheus"),),)


async def test_a_handshake_that_stalls_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects to a TLS port and says nothing is sent away."""
    monkeypatch.setattr(http_port, "_HEAD_S", 0.05)
    files = Authority(tmp_path).sign()
    async with listening(certificates=Certificates(files.cert, files.key, None, metrics=Metrics())) as at:
        assert await said(at, b"") == b""
