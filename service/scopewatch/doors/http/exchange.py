"""One request and its answer, as bytes of HTTP/1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import h11

HEAD_MAX_BYTES = 8 << 10
"""The longest head of a request: its first line and its headers."""
Headers: TypeAlias = Sequence[tuple[str, str]]
"""Headers of an answer: the name and the value of each."""


class Refused(Exception):
    """A request that gets a status in place of what it asks for.

    Args:
        status: The status.
        said: What the caller is told beside it; by default the status in words.
        headers: Headers of the answer.
    """

    def __init__(self, status: HTTPStatus, said: str = "", headers: Headers = ()) -> None:
        super().__init__(said or status.phrase)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for."""

    method: str
    path: str
    """The path as it was sent, without the query."""
    query: Mapping[str, Sequence[str]]
    """The values of each name in the query."""
    headers: Mapping[str, str]
    """The last value of each header, by its name in small letters."""
    certificate: Mapping[str, Any] | None
    """The caller's verified certificate, as `ssl.SSLSocket.getpeercert` gives it; None without one."""

    def header(self, name: str) -> str:
        """A header by its name in small letters; empty where there is none."""
        return self.headers.get(name, "")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a caller gets."""

    content_type: str
    body: bytes
    headers: Headers = ()
    status: HTTPStatus = HTTPStatus.OK

    @classmethod
    def of(cls, refused: Refused) -> "Reply":
        """A refusal, as text."""
        return cls("text/plain; charset=utf-8", f"{refused}\n".encode(), refused.headers, refused.status)


class Exchange:
    """Reads the one request of a connection, and writes the one answer that it gets."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER)
        self._takes_body = True

    def request(self, head: bytes, certificate: Mapping[str, Any] | None = None) -> Request:
        """Reads the head of a request.

        Args:
            head: Its first line and headers, with the empty line that ends them.
            certificate: The caller's verified certificate; None without one.

        Raises:
            Refused: It is no request in HTTP/1.
        """
        try:
            self._connection.receive_data(head)
            request = self._connection.next_event()
        except h11.RemoteProtocolError:
            raise Refused(HTTPStatus.BAD_REQUEST) from None
        if not isinstance(request, h11.Request):
            raise Refused(HTTPStatus.BAD_REQUEST)
        try:
            target = urlsplit(request.target.decode("ascii"))
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST) from None
        self._takes_body = request.method != b"HEAD"
        return Request(
            method=request.method.decode("ascii"),
            path=target.path,
            query=parse_qs(target.query),
            headers={name.decode("ascii"): value.decode("latin-1") for name, value in request.headers},
            certificate=certificate,
        )

    def answer(self, reply: Reply, headers: Headers = ()) -> bytes:
        """The bytes of an answer.

        Args:
            reply: The answer.
            headers: Headers that it has beside its own.
        """
        closing = (("Content-Length", str(len(reply.body))), ("Connection", "close"))
        response = h11.Response(
            status_code=reply.status,
            reason=reply.status.phrase.encode(),
            headers=[("Content-Type", reply.content_type), *reply.headers, *headers, *closing],
        )
        events = (response, h11.Data(data=reply.body if self._takes_body else b""), h11.EndOfMessage())
        return b"".join(self._connection.send(event) or b"" for event in events)
