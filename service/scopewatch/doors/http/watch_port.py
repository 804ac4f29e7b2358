"""The port of the watch page: which pairs were flagged lately, and why, for whoever is on call.

It listens on loopback, and people open what it shows: no page is read under another name of this machine, as a hostile
site's name that is rebound would be, nor from within another page.
"""

import asyncio
import json
from base64 import b64decode
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from scopewatch.audit.recent_flags import Flag, RecentFlags
from scopewatch.config import is_loopback_host
from scopewatch.doors.auth import Roles
from scopewatch.doors.door import Spine
from scopewatch.doors.explaining import check_sees_exact_scores, tokens_read
from scopewatch.doors.http.exchange import Headers, Refused, Reply, Request
from scopewatch.doors.http.http_port import HttpPort
from scopewatch.doors.role_file import Account, Role
from scopewatch.doors.rounding import near
from scopewatch.errors import (
    DeadlineExpired,
    NotAllowed,
    NotKept,
    NotReady,
    Overloaded,
    ScopewatchError,
    Unauthenticated,
)
from scopewatch.explanation import Explanation, Wants

if TYPE_CHECKING:
    from scopewatch.tracing.tracing import Tracing

_CONNECTIONS = 16
_EXPLAINED_AT_ONCE = 4
"""How many explanations are waited for at once, so that the list of flags can still be read."""
_EXPLAINED_S = 60.0
"""The longest wait for an explanation."""
_HEADERS: Headers = (
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_STATUS = {
    NotAllowed: HTTPStatus.FORBIDDEN,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExpired: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of errors that are the caller's, or pass; others are the service's own."""
_ASKS_WHO: Headers = (("WWW-Authenticate", 'Basic realm="scopewatch", charset="UTF-8"'),)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Pages(Protocol):
    """Writes the pages, as HTML."""

    def flags(self, flags: Sequence[Flag]) -> str:
        """The list of flags, each with a link to `/explain?id=`."""

    def explanation(self, explanation: Explanation) -> str:
        """Why a pair was flagged; the page itself says which of its scripts may run."""

    def no_text(self, request_id: str, flags: Sequence[Flag]) -> str:
        """What is known of a pair whose text is not kept.

        Args:
            request_id: Its id.
            flags: The flags that were raised under this id, if they are remembered.
        """


class WatchPort:
    """Serves the watch page over HTTP.

    Args:
        address: The loopback `host:port` to listen on; port 0 picks a free one, and empty serves nothing.
        flags: The flags that are listed.
        roles: Who may look: callers with the role `explain`, at the flags of their tenant.
        pages: Writes the pages; called from the thread of the port.
        tracing: Makes spans of explanations; None makes none.
    """

    def __init__(
        self,
        address: str,
        *,
        flags: RecentFlags,
        roles: Roles,
        pages: Pages,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._address = address
        self._flags = flags
        self._roles = roles
        self._pages = pages
        self._tracing = tracing
        self._spine: Spine | None = None
        self._explaining = 0
        answers = {"/": self._list, "/flags.json": self._json, "/explain": self._explain}
        self._port = HttpPort("watch", address, answers, connections=_CONNECTIONS, headers=_HEADERS)

    async def listen(self) -> dict[str, str]:
        """Begins to serve, if there is an address; explanations are refused until `open`.

        Returns:
            The address it listens on, by its setting.

        Raises:
            ConfigError: The address cannot be bound.
        """
        return {"watch_address": await self._port.listen()} if self._address else {}

    def open(self, spine: Spine) -> None:
        """Explains from now on. Call it on the event loop of the service.

        Args:
            spine: Explains pairs.
        """
        self._loop = asyncio.get_running_loop()
        self._spine = spine

    async def close(self) -> None:
        """Stops listening, and gives up what is explained. Harmless when it never listened, or was closed before."""
        await self._port.close()

    # From here on, on the thread of the port.

    async def _list(self, request: Request) -> Reply:
        return _html(self._pages.flags(self._flags_for(self._account(request))))

    async def _json(self, request: Request) -> Reply:
        flags = [asdict(flag) | {"time": flag.time.isoformat()} for flag in self._flags_for(self._account(request))]
        return Reply("application/json", json.dumps({"flags": flags}).encode())

    async def _explain(self, request: Request) -> Reply:
        account = self._account(request)
        request_id = (request.query.get("id") or [""])[0]
        if not request_id:
            raise Refused(HTTPStatus.BAD_REQUEST, "name a pair: /explain?id=REQUEST_ID")
        try:
            return _html(self._pages.explanation(await self._explained(request_id, account)), scripts=True)
        except NotKept:
            flags = [flag for flag in self._flags_for(account) if flag.request_id == request_id]
            return _html(self._pages.no_text(request_id, flags), HTTPStatus.OK if flags else HTTPStatus.NOT_FOUND)
        except ScopewatchError as error:
            raise Refused(
                _STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR), f"{error.reason}: {error}"
            ) from None

    async def _explained(self, request_id: str, account: Account) -> Explanation:
        """Has a pair explained on the event loop of the service."""
        if not self._spine:
            raise NotReady("the service is starting")
        if self._explaining == _EXPLAINED_AT_ONCE:
            raise Overloaded(f"{_EXPLAINED_AT_ONCE} explanations are being made for this page", retry_after_s=1.0)
        self._explaining += 1
        try:
            async with asyncio.timeout(_EXPLAINED_S):
                work = self._in_service(self._spine, request_id, account)
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        except TimeoutError:
            raise DeadlineExpired("the engine had no time for it") from None
        finally:
            self._explaining -= 1

    async def _in_service(self, spine: Spine, request_id: str, account: Account) -> Explanation:
        """Explains a pair whose text is kept; counts as a call does."""
        check_sees_exact_scores(account)
        quota = self._roles.quota(account)
        with quota.call(), self._tracing.page("/explain") if self._tracing else nullcontext():
            quota.take(1)
            job = await asyncio.to_thread(spine.kept_pair, request_id, account.caller)
            explanation = await spine.explain(job, Wants())
            quota.charge(tokens_read(explanation))
            return explanation

    def _flags_for(self, account: Account) -> list[Flag]:
        """The flags that a caller may see, with scores as it may see them."""

        def shown(flag: Flag) -> Flag:
            scores = [replace(one, score=near(one.score, account.round_scores)) for one in flag.indicators]
            return replace(flag, indicators=tuple(scores))

        return list(map(shown, self._flags.of(account.caller.tenant)))

    def _account(self, request: Request) -> Account:
        """Whoever asks, once it is known that they may.

        Raises:
            Refused: They may not, or the request is none that a person's browser sends to open this page.
        """
        if not is_loopback_host(request.header("host")):
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "this page is this machine's alone; open it as 127.0.0.1")
        if request.header("sec-fetch-dest") not in {"", "document"}:
            raise Refused(HTTPStatus.FORBIDDEN, "this page is opened by itself, never from within another one")
        try:
            account = self._roles.of(_bearer(request.header("authorization")))
            account.require(Role.EXPLAIN)
        except (Unauthenticated, NotAllowed):
            # A browser asks for another password after 401 alone.
            said = "the password of this page is the token of a caller that has the role explain"
            raise Refused(HTTPStatus.UNAUTHORIZED, said, _ASKS_WHO) from None
        return account


def _bearer(authorization: str) -> str | None:
    """The `Authorization` header with the password of one of HTTP Basic as a bearer token; None for an empty one."""
    scheme, _, shown = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization or None
    try:
        return f"Bearer {b64decode(shown, validate=True).decode().partition(':')[2]}"
    except ValueError:
        raise Unauthenticated("the header `Authorization` is not of the form of HTTP Basic") from None


def _html(page: str, status: HTTPStatus = HTTPStatus.OK, *, scripts: bool = False) -> Reply:
    """An answer that is a page; with `scripts`, those may run that the page itself names."""
    policy = f"{_POLICY}; script-src 'unsafe-inline'" if scripts else _POLICY
    return Reply("text/html; charset=utf-8", page.encode(), (("Content-Security-Policy", policy),), status)
