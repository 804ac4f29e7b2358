"""Who may read the metrics page."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from scopewatch.doors.auth import Roles
from scopewatch.doors.role_file import Role
from scopewatch.errors import NotAllowed, Unauthenticated


def may_read(roles: Roles, authorization: str, certificate: Mapping[str, Any] | None) -> int:
    """Whether a caller may read the metrics page, as an HTTP status.

    Args:
        roles: Who may ask for what.
        authorization: The `Authorization` header; empty where there is none.
        certificate: The caller's verified certificate, as `ssl.SSLSocket.getpeercert` gives it; None without one.
    """
    try:
        roles.of(authorization or None, list(_identities(certificate or {}))).require(Role.METRICS)
    except Unauthenticated:
        return HTTPStatus.UNAUTHORIZED
    except NotAllowed:
        return HTTPStatus.FORBIDDEN
    return HTTPStatus.OK


def _identities(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Whom a certificate names, as role files write it."""
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "DNS":
            yield f"DNS:{value}"
        elif kind == "URI" and value.startswith("spiffe://"):
            yield value
    for names in certificate.get("subject", ()):
        for kind, value in names:
            if kind == "commonName":
                yield f"CN={value}"
