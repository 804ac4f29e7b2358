"""Who asks, and may they: tokens, certificates and roles, whichever door a caller comes by."""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from scopewatch.doors.quota import Clock, Quota
from scopewatch.doors.role_file import (
    Account,
    Role,
    RoleFile,
    anyone_may,
    load_role_file,
    parse_role_file,
    read_role_file,
    token_digest,
)
from scopewatch.errors import ConfigError, Unauthenticated

log = logging.getLogger(__name__)

_BEARER = re.compile(r"bearer ([A-Za-z0-9._~+/-]{1,512}={0,2})", re.IGNORECASE | re.ASCII)
"""A token as RFC 6750, section 2.1, writes it, but not without end."""
_MONITOR = "/scopewatch.v1.MonitorService"
NEEDED: Mapping[str, tuple[Role, ...]] = {
    "/grpc.health.v1.Health/Check": (),
    "/grpc.health.v1.Health/Watch": (),
    f"{_MONITOR}/Score": (Role.SCORE,),
    f"{_MONITOR}/BatchScore": (Role.SCORE,),
    f"{_MONITOR}/GetInfo": (Role.SCORE, Role.EXPLAIN, Role.SUBMIT, Role.ADMIN),
    f"{_MONITOR}/Explain": (Role.EXPLAIN,),
    f"{_MONITOR}/ReloadWatchlists": (Role.ADMIN,),
}
"""The roles of which each method needs one. Whoever asks for a method that needs none need not be known either."""
Refreshed = Literal["same", "loaded", "refused"]


def needed(method: str) -> tuple[Role, ...]:
    """The roles of which a method needs one: `admin` of every method that nobody thought of, reflection among them.

    Args:
        method: Its path, `/package.Service/Method`.
    """
    return NEEDED.get(method, (Role.ADMIN,))


class Roles:
    """Who may ask for what, as the role file says now. Build it with `load`.

    It is used on one thread, but for `refresh`, which reads a file and may have another.

    Args:
        file: The role file; None lets everybody ask for everything.
        round_scores: What scores are rounded to for callers of which the file does not say it.
        clock: Tells the quotas the time.
    """

    def __init__(self, file: Path | None, round_scores: float, clock: Clock) -> None:
        self._file = file
        self._round_scores = round_scores
        self._clock = clock
        self.everybody = None if file else anyone_may(round_scores=round_scores)
        """The one account that there is without a role file, whatever credentials are shown; None with one."""
        self._quotas: dict[str, Quota] = {}
        self._refused: str | None = None
        """The digest of the file that was refused last; empty if it could not be read."""
        accounts = (self.everybody,) if self.everybody else ()
        self._take(load_role_file(file, round_scores=round_scores) if file else RoleFile("", accounts, (), {}))

    @classmethod
    def load(cls, file: Path | None, *, round_scores: float = 0.0, clock: Clock = time.monotonic) -> "Roles":
        """Reads the role file.

        Raises:
            ConfigError: It is wrong; one line for every mistake.
        """
        return cls(file, round_scores, clock)

    @property
    def digest(self) -> str:
        """SHA-256 of the role file that counts; empty without one."""
        return self._current.digest

    def of(self, authorization: str | None, identities: Sequence[str] = ()) -> Account:
        """The account of whoever shows these credentials. A token counts before a certificate, and must be right.

        Args:
            authorization: The value of `authorization`, `Bearer TOKEN`; None where the caller sent none.
            identities: Whom the caller's verified certificate names: `spiffe://...`, `DNS:...`, `CN=...`.

        Raises:
            Unauthenticated: Nobody is known by them, or two callers are.
        """
        if self.everybody:
            return self.everybody
        if authorization is not None:
            return self._of_token(authorization)
        by_certificate = self._current.by_certificate
        found = {account.caller.name: account for name in identities if (account := by_certificate.get(name))}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise Unauthenticated("the certificate names several callers; it must name one")
        if identities:
            raise Unauthenticated("the certificate is of no caller that the role file names")
        raise Unauthenticated("nobody is known without credentials; send the metadata `authorization: Bearer TOKEN`")

    def quota(self, account: Account) -> Quota:
        """What an account's caller has taken so far; the same object as long as the role file names the caller."""
        return self._quotas.get(account.caller.name) or Quota(account.limits, self._clock)

    def refresh(self) -> Refreshed:
        """Reads the role file again; if it is wrong, the roles stay as they are, and the mistakes are logged once.

        Returns:
            `loaded` where other roles count from now on, `refused` where the file has become wrong, else `same`.
        """
        if not self._file:
            return "same"
        seen = ""
        try:
            raw = read_role_file(self._file)
            seen = hashlib.sha256(raw).hexdigest()
            if seen == self.digest:
                self._refused = None
            if seen in {self.digest, self._refused}:
                return "same"
            fresh = parse_role_file(raw, self._file, round_scores=self._round_scores)
        except ConfigError as error:
            known, self._refused = self._refused, seen
            if known == seen:
                return "same"
            log.error("the role file is wrong; the roles stay as they were", extra={"problem": str(error)})  # noqa: TRY400
            return "refused"
        self._refused = None
        self._take(fresh)
        log.info("roles loaded", extra={"digest": fresh.digest, "callers": len(fresh.accounts)})
        return "loaded"

    def _take(self, fresh: RoleFile) -> None:
        """Lets these roles count. What a caller owes stays with its name."""
        quotas: dict[str, Quota] = {}
        for account in fresh.accounts:
            name = account.caller.name
            quotas[name] = self._quotas.get(name) or Quota(account.limits, self._clock)
            quotas[name].limits = account.limits
        self._quotas = quotas
        self._current = fresh

    def _of_token(self, authorization: str) -> Account:
        bearer = _BEARER.fullmatch(authorization)
        if not bearer:
            raise Unauthenticated("the metadata `authorization` is not of the form `Bearer TOKEN`")
        shown, found = token_digest(bearer[1]).encode(), None
        # All are compared, so that the time says nothing of which one it was.
        for digest, account in self._current.by_token:
            if hmac.compare_digest(digest, shown):
                found = account
        if not found:
            raise Unauthenticated("the token is not known")
        return found
