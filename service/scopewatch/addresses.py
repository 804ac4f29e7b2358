"""Addresses to listen on: `host:port`, or `unix:` and the absolute path of a socket."""

import re
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

_SOCKET_MAX_BYTES = 107
"""What the kernel takes as the path of a socket (unix(7)), less its closing zero."""
_UNIX = "unix:"


def socket_file(address: str) -> Path | None:
    """The file of a `unix:` address; None of other addresses."""
    return Path(address.removeprefix(_UNIX)) if address.startswith(_UNIX) else None


def host_and_port(address: str) -> tuple[str, int]:
    """The host, without the brackets of an IPv6 address, and the port of `host:port`.

    Raises:
        ValueError: The address is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r}: expected host:port, for instance 127.0.0.1:50051")
    return host.strip("[]"), int(port)


def check_socket(address: str) -> None:
    """Checks a `unix:` address.

    Raises:
        ValueError: No socket can have this path.
    """
    path = address.removeprefix(_UNIX)
    # gRPC reads the address as a URI.
    if not re.fullmatch(r"/[^%?#\0]+", path):
        raise ValueError(f"{address!r}: expected unix: and an absolute path without %, ? and #")
    if len(path.encode()) > _SOCKET_MAX_BYTES:
        raise ValueError(f"{address!r}: the path of a socket has at most {_SOCKET_MAX_BYTES} bytes; take a shorter one")


def is_loopback(address: str) -> bool:
    """Whether nothing but this machine reaches an address: a `unix:` one, `localhost`, 127.0.0.0/8 or ::1."""
    return bool(socket_file(address)) or is_loopback_host(address)


def is_loopback_host(address: str) -> bool:
    """Whether the host of `host:port`, or of `host` alone, is `localhost`, in 127.0.0.0/8, or ::1 in brackets."""
    try:
        host = urlsplit(f"//{address}").hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
