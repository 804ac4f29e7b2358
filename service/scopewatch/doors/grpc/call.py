"""One call: who makes it, and until when its caller waits."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from scopewatch.doors.auth import Roles, needed
from scopewatch.doors.quota import Quota
from scopewatch.doors.role_file import Account
from scopewatch.errors import Unauthenticated
from scopewatch.types import Trace

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_IDENTITIES = {"peer_spiffe_id": "", "x509_dns": "DNS:", "x509_common_name": "CN="}
"""What gRPC tells of a verified certificate, and how role files write it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that its caller may make."""

    account: Account
    """The caller, and what the role file grants it."""
    quota: Quota
    """What the caller has taken so far."""
    deadline_s: float | None
    """When the caller stops waiting, on the clock of `time.monotonic`; None for never."""
    trace: Trace | None = None
    """Where in its trace it stands; None where it is not traced."""


def call_of(context: Context, path: str, roles: Roles, trace: Trace | None = None) -> Call:
    """Who makes a call, once it is known that they may.

    Args:
        context: The call.
        path: The path of its method, `/package.Service/Method`.
        roles: Who may ask for what.
        trace: Where in its trace it stands; None where it is not traced.

    Raises:
        Unauthenticated: The caller is not known.
        NotAllowed: It may not ask for this.
    """
    # Without a role file nobody's credentials are looked for: that costs as much as letting the call in.
    account = roles.everybody or roles.of(_authorization(context), list(_identities(context)))
    account.require(*needed(path))
    remaining_s = context.time_remaining()
    deadline_s = None if remaining_s is None else time.monotonic() + remaining_s
    return Call(account, roles.quota(account), deadline_s, trace)


def _authorization(context: Context) -> str | None:
    shown = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(shown) > 1:
        raise Unauthenticated("the metadata `authorization` came more than once")
    return str(shown[0]) if shown else None


def _identities(context: Context) -> Iterator[str]:
    """Whom the caller's certificate names; nobody where there is none. gRPC has verified it."""
    for name, values in context.auth_context().items():
        if (prefix := _IDENTITIES.get(name)) is not None:
            for value in values:
                yield prefix + value.decode(errors="replace")
