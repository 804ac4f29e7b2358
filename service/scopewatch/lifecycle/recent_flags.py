"""What the watch page of a running server lists."""

import json
from base64 import b64encode
from datetime import datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from scopewatch.audit.recent_flags import Flag, RaisedIndicator
from scopewatch.config import host_and_port, is_loopback_host
from scopewatch.errors import ConfigError, NotReady, Unauthenticated

_TIMEOUT_S = 10.0
_MOST_BYTES = 8 << 20
_LONGEST_SAID = 200


def recent_flags(address: str, token: str | None = None) -> list[Flag]:
    """The flags that a server remembers, the newest first.

    Args:
        address: The loopback `host:port` of its watch page.
        token: The token of a caller with the role `explain`; None where the server has no role file.

    Raises:
        ConfigError: The address is not one of this machine's.
        Unauthenticated: The server wants to know who asks, and the token is not of such a caller.
        NotReady: No watch page is there.
    """
    try:
        host, port = host_and_port(address)
    except ValueError as error:
        raise ConfigError(f"--address {error}") from None
    if not is_loopback_host(address):
        raise ConfigError(
            f"--address {address}: a watch page is on its own machine alone; forward its port, with `ssh -L` or "
            "`kubectl port-forward`, and name that"
        )
    shown = {"Authorization": f"Basic {b64encode(f'scopewatch:{token}'.encode()).decode()}"} if token else {}
    connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/flags.json", headers=shown)
        reply = connection.getresponse()
        body = reply.read(_MOST_BYTES)
    except ConnectionRefusedError:
        raise NotReady(f"nothing listens on {address}; start the server with --watch-address {address}") from None
    except (OSError, HTTPException) as error:
        raise NotReady(f"{address} does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if reply.status == HTTPStatus.UNAUTHORIZED:
        raise Unauthenticated("the server wants to know who asks; give --token-file of a caller with the role explain")
    try:
        if reply.status != HTTPStatus.OK:
            raise ValueError(f"HTTP status {reply.status}")
        return [_flag(**row) for row in json.loads(body)["flags"]]
    except (ValueError, LookupError, TypeError) as error:
        raise NotReady(f"{address} is no watch page: {str(error)[:_LONGEST_SAID]}") from None


def _flag(*, time: str, indicators: list[dict[str, float | str]], **others: object) -> Flag:
    raised = tuple(RaisedIndicator(**one) for one in indicators)  # type: ignore[arg-type]
    return Flag(time=datetime.fromisoformat(time), indicators=raised, **others)  # type: ignore[arg-type]
