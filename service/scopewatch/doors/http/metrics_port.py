"""The port of the metrics page."""

import asyncio
import gzip
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, TypeAlias

from scopewatch.doors.http.exchange import Refused, Reply, Request
from scopewatch.doors.http.http_port import HttpPort
from scopewatch.doors.tls import Certificates
from scopewatch.metrics import Metrics

Authorise: TypeAlias = Callable[[str, Mapping[str, Any] | None], int]
"""Whether a caller may read the page: its `Authorization` header, empty where there is none, and its certificate as
`ssl.SSLSocket.getpeercert` gives it, None without one; 200, 401 or 403 as an HTTP status."""

_CONNECTIONS = 64
_RENDERED_AT_ONCE = 2
_GZIP_MIN_BYTES = 1 << 10
"""Below it the headers of a compressed page are about as long as what compression saves."""
_TAKES_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:,|$|;\s*q=(?:1|0?\.0*[1-9]))", re.IGNORECASE)
"""In an `Accept-Encoding` header: gzip, with a weight above 0 if it has one."""


def everybody(_authorization: str, _certificate: Mapping[str, Any] | None) -> int:
    """Lets whoever asks read the page."""
    return HTTPStatus.OK


class MetricsPort:
    """Serves the metrics page over HTTP.

    Args:
        address: `host:port` to listen on; port 0 picks a free one.
        metrics: What is shown.
        certificates: What is shown to callers and asked of them; None for plaintext.
        authorise: Who may read the page; it is called from the thread of the port.
    """

    def __init__(
        self,
        address: str,
        *,
        metrics: Metrics,
        certificates: Certificates | None = None,
        authorise: Authorise = everybody,
    ) -> None:
        self._metrics = metrics
        self._authorise = authorise
        self._rendering = ThreadPoolExecutor(_RENDERED_AT_ONCE, thread_name_prefix="metrics")
        answers = dict.fromkeys(("/", "/metrics"), self._answer)
        self._port = HttpPort("metrics", address, answers, connections=_CONNECTIONS, certificates=certificates)

    async def listen(self) -> str:
        """Begins to serve.

        Returns:
            The address it listens on.

        Raises:
            ConfigError: The address cannot be bound.
        """
        return await self._port.listen()

    async def close(self) -> None:
        """Stops listening, and ends every connection. Harmless when it never listened."""
        await self._port.close()
        self._rendering.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, request: Request) -> Reply:
        status = HTTPStatus(self._authorise(request.header("authorization"), request.certificate))
        if status is HTTPStatus.UNAUTHORIZED:
            raise Refused(status, headers=(("WWW-Authenticate", "Bearer"),))
        if status is not HTTPStatus.OK:
            raise Refused(status)
        return await asyncio.get_running_loop().run_in_executor(self._rendering, self._page, request)

    def _page(self, request: Request) -> Reply:
        """The page, compressed where the caller takes that and it is worthwhile."""
        page = self._metrics.page(request.header("accept"), request.query.get("name[]", ()))
        vary = ("Vary", "Accept, Accept-Encoding")
        if not _TAKES_GZIP.search(request.header("accept-encoding")) or len(page.body) < _GZIP_MIN_BYTES:
            return Reply(page.content_type, page.body, (vary,))
        compressed = gzip.compress(page.body, compresslevel=1, mtime=0)
        return Reply(page.content_type, compressed, (vary, ("Content-Encoding", "gzip")))
