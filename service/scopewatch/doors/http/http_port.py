"""A port for a few pages over HTTP: one request a connection, and nobody who is slow holds it.

It has an event loop of its own, in a thread: what happens there takes no turn of the calls that are scored, and when
their event loop hangs, the port is still there to show it.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeAlias, cast

from scopewatch.config import host_and_port
from scopewatch.doors.http.exchange import HEAD_MAX_BYTES, Exchange, Headers, Refused, Reply, Request
from scopewatch.doors.tls import Certificates
from scopewatch.errors import ConfigError

log = logging.getLogger(__name__)

Answer: TypeAlias = Callable[[Request], Awaitable[Reply]]
"""Makes the answer to a request, on the event loop of the port; it may raise `Refused`."""

_BACKLOG = 1024
"""Connections that the system holds until they are looked at; beyond it, callers try again after a second."""
_HEAD_S = 5.0
"""What a caller has to shake hands and send the head of its request."""
_REPLY_S = 10.0
"""What a caller has to take the answer."""
_PAUSE_S = 0.5
"""The wait before the next attempt, where the system has no room for one more connection."""


class HttpPort:
    """Serves GET and HEAD of a few paths.

    Args:
        name: What is served, as in the setting `{name}_address`.
        address: `host:port` to listen on; port 0 picks a free one.
        answers: What makes the answer to a request, by its path.
        connections: Connections at once. For a new one, the one goes that has kept us waiting longest.
        headers: Headers that every answer has, a refusal too.
        certificates: What is shown to callers and asked of them; None for plaintext.
    """

    def __init__(
        self,
        name: str,
        address: str,
        answers: Mapping[str, Answer],
        *,
        connections: int,
        headers: Headers = (),
        certificates: Certificates | None = None,
    ) -> None:
        self._name = name
        self._address = address
        self._answers = answers
        self._headers = headers
        self._most = connections
        self._certificates = certificates
        self._connections: set[asyncio.Task[None]] = set()
        self._waits: dict[asyncio.Task[None], None] = {}
        """Connections on which it is the caller's turn, the one first that has been waited for longest."""
        self._stop: Callable[[], object] | None = None
        self._ended = Future[None]()

    async def listen(self) -> str:
        """Begins to serve.

        Returns:
            The address it listens on.

        Raises:
            ConfigError: The address cannot be bound.
        """
        host, port = host_and_port(self._address)
        try:
            family, *_, name = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
            listener = socket.create_server(name, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            # Python adds the address to the system's own words.
            why = os.strerror(error.errno) if error.errno else error
            raise ConfigError(f"{self._name}_address {self._address}: {why}") from None
        listener.setblocking(False)
        begun = Future[Callable[[], object]]()
        threading.Thread(target=self._run, args=(listener, begun), name=self._name, daemon=True).start()
        self._stop = await asyncio.wrap_future(begun)
        return f"{self._address.rpartition(':')[0]}:{listener.getsockname()[1]}"

    async def close(self) -> None:
        """Stops listening, and ends every connection. Harmless when it never listened, or was closed before."""
        if self._stop:
            self._stop()
            self._stop = None
            await asyncio.wrap_future(self._ended)

    def _run(self, listener: socket.socket, begun: Future[Callable[[], object]]) -> None:
        async def run() -> None:
            accepting = asyncio.create_task(self._accept(listener))
            loop = asyncio.get_running_loop()
            begun.set_result(lambda: loop.call_soon_threadsafe(accepting.cancel))
            await accepting

        try:
            # When it leaves, it cancels the connections that are still there.
            with suppress(asyncio.CancelledError):
                asyncio.run(run())
        finally:
            self._ended.set_result(None)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    log.warning("%s_address takes no connection: %s", self._name, error.strerror or error)
                    await asyncio.sleep(_PAUSE_S)
                    continue
                if len(self._connections) >= self._most:
                    self._end_the_slowest()
                if len(self._connections) >= self._most:
                    connection.close()
                    continue
                task = asyncio.create_task(self._serve(connection))
                self._connections.add(task)
                self._waits[task] = None
                task.add_done_callback(self._forget)
                # Connections that are there at once would be taken without a turn for anybody else.
                await asyncio.sleep(0)

    def _end_the_slowest(self) -> None:
        if slowest := next(iter(self._waits), None):
            slowest.cancel()
            self._forget(slowest)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._waits.pop(task, None)

    async def _serve(self, connection: socket.socket) -> None:
        loop, reader, exchange = asyncio.get_running_loop(), asyncio.StreamReader(HEAD_MAX_BYTES), Exchange()
        writer: asyncio.StreamWriter | None = None
        until_s = loop.time() + _HEAD_S
        try:
            async with asyncio.timeout_at(until_s):
                transport, protocol = await loop.connect_accepted_socket(
                    lambda: asyncio.StreamReaderProtocol(reader),
                    connection,
                    ssl=self._certificates.current.context if self._certificates else None,
                )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            reply = await self._reply(exchange, reader, until_s, writer.get_extra_info("peercert") or None)
            async with asyncio.timeout(_REPLY_S):
                writer.write(exchange.answer(reply, self._headers))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            log.debug("a connection for %s broke off: %s", self._name, type(error).__name__)
        finally:
            writer.transport.abort() if writer else connection.close()

    async def _reply(
        self, exchange: Exchange, reader: asyncio.StreamReader, until_s: float, certificate: Mapping[str, Any] | None
    ) -> Reply:
        """The answer to the request that arrives until then, on the clock of the event loop."""
        try:
            request = exchange.request(await self._head(reader, until_s), certificate)
            answer = self._answers.get(request.path)
            if not answer:
                raise Refused(HTTPStatus.NOT_FOUND)
            if request.method not in {"GET", "HEAD"}:
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("Allow", "GET, HEAD"),))
            with self._our_turn():
                return await answer(request)
        except Refused as refused:
            return Reply.of(refused)
        except Exception:
            log.exception("unexpected failure on the %s port", self._name)
            return Reply.of(Refused(HTTPStatus.INTERNAL_SERVER_ERROR))

    async def _head(self, reader: asyncio.StreamReader, until_s: float) -> bytes:
        """The head of a request.

        Raises:
            Refused: It is not there in time, or too long, or half of one.
        """
        try:
            async with asyncio.timeout_at(until_s):
                return await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT) from None
        except asyncio.LimitOverrunError:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
        except (asyncio.IncompleteReadError, OSError):
            raise Refused(HTTPStatus.BAD_REQUEST) from None

    @contextmanager
    def _our_turn(self) -> Iterator[None]:
        """While it lasts, the caller of this connection waits for us, and does not lose it to a new one."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._waits.pop(task, None)
        yield
        self._waits[task] = None
