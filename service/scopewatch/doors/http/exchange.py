"""One request for the metrics page and its answer, as bytes."""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import h11

from scopewatch.metrics import Page

HEAD_MAX_BYTES = 8 << 10
"""The longest head of a request: its first line and its headers."""
_GZIP_MIN_BYTES = 1 << 10
"""Below it the headers of a compressed page are about as long as what compression saves."""
_TAKES_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:,|$|;\s*q=(?:1|0?\.0*[1-9]))", re.IGNORECASE)
"""In an `Accept-Encoding` header: gzip, with a weight above 0 if it has one."""
_PATHS = ("/", "/metrics")


class Refused(Exception):
    """A request that gets a status in place of the page."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    authorization: str
    """The header of that name, empty where there is none."""
    accept: str
    """The formats that the caller takes, as its `Accept` header says."""
    takes_gzip: bool
    names: Sequence[str]
    """The series that the caller wants, all of them if it names none."""


class Exchange:
    """Reads the one request of a connection, and writes the one answer that it gets."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER)
        self._takes_body = True

    def asked(self, head: bytes) -> Asked:
        """Reads the head of a request.

        Args:
            head: Its first line and headers, with the empty line that ends them.

        Raises:
            Refused: It is no request in HTTP/1, or asks for something else than the page.
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
        if target.path not in _PATHS:
            raise Refused(HTTPStatus.NOT_FOUND)
        if request.method not in {b"GET", b"HEAD"}:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED)
        self._takes_body = request.method != b"HEAD"
        headers = {name: value.decode("latin-1") for name, value in request.headers}
        return Asked(
            authorization=headers.get(b"authorization", ""),
            accept=headers.get(b"accept", ""),
            takes_gzip=bool(_TAKES_GZIP.search(headers.get(b"accept-encoding", ""))),
            names=parse_qs(target.query).get("name[]", ()),
        )

    def answer(self, page: Page, asked: Asked) -> bytes:
        """The page, compressed where the caller takes that and it is worthwhile."""
        headers, body = [("Content-Type", page.content_type), ("Vary", "Accept, Accept-Encoding")], page.body
        if asked.takes_gzip and len(body) >= _GZIP_MIN_BYTES:
            headers.append(("Content-Encoding", "gzip"))
            body = gzip.compress(body, compresslevel=1, mtime=0)
        return self._written(HTTPStatus.OK, headers, body)

    def refusal(self, status: HTTPStatus) -> bytes:
        """A status in place of the page."""
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD"))
        if status is HTTPStatus.UNAUTHORIZED:
            headers.append(("WWW-Authenticate", "Bearer"))
        return self._written(status, headers, f"{status.phrase}\n".encode())

    def _written(self, status: HTTPStatus, headers: list[tuple[str, str]], body: bytes) -> bytes:
        headers = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
        response = h11.Response(status_code=status, reason=status.phrase.encode(), headers=headers)
        events = (response, h11.Data(data=body if self._takes_body else b""), h11.EndOfMessage())
        return b"".join(self._connection.send(event) or b"" for event in events)
