"""The role file: who may ask for what, and how much of it. Every mistake is named with its line.

    version: 1
    callers:
    - name: triage-backend
      tokens: ["sha256:..."]         # of the tokens that it may show, several while they are rotated
      certificates: ["spiffe://prod/triage", "DNS:triage.prod.svc", "CN=triage"]
      roles: [score]                 # score, explain, submit, admin, metrics
      weight: 2                      # its share of the engine where several callers wait; 1 if nothing is said
      tenant: clinic                 # callers of one tenant share cached results; the caller's own name
      max_calls: 64                  # at once; any number
      pairs_per_s: 50                # any number
      tokens_per_minute: 100000      # of the reader; any number
      shows_cached: false            # replies leave out what was cached and how long it took; true
      round_scores: 0.5              # scores in replies are multiples of this; as the setting of this name says

The file holds no token, only SHA-256 digests of tokens, which are long and random (`scopewatch token new`): nobody
finds one by trying.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from scopewatch.doors.quota import QuotaLimits
from scopewatch.errors import ConfigError, NotAllowed, WatchlistError
from scopewatch.sources import Name, Several, Strict
from scopewatch.types import ANYONE, Caller
from scopewatch.watch.mistakes import is_at_or_in, mistakes_of
from scopewatch.watch.yaml_lines import Mistake, parse_yaml

MAX_FILE_BYTES = 4 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IDENTITY = re.compile(r"(spiffe://|DNS:|CN=)[^\s\x00-\x1f][^\x00-\x1f]*")


class Role(StrEnum):
    """What a caller may ask for."""

    SCORE = "score"
    EXPLAIN = "explain"
    SUBMIT = "submit"
    ADMIN = "admin"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Account:
    """A caller, and what the role file grants it."""

    caller: Caller
    roles: frozenset[Role]
    limits: QuotaLimits
    shows_cached: bool = True
    """Whether replies say what was cached and how long each stage took."""
    round_scores: float = 0.0
    """Scores in replies are rounded to multiples of this; 0 shows them as they are."""

    def require(self, *roles: Role) -> None:
        """Checks that the caller has one of these roles; where none is named, nobody needs one.

        Raises:
            NotAllowed: It has none of them.
        """
        if roles and self.roles.isdisjoint(roles):
            one_of = "the role" if len(roles) == 1 else "one of the roles"
            raise NotAllowed(f"this needs {one_of} {', '.join(roles)}, which the role file does not give this caller")


@dataclass(frozen=True, slots=True)
class RoleFile:
    """A valid role file."""

    digest: str
    """SHA-256 of the file's bytes; empty where there is no file."""
    accounts: tuple[Account, ...]
    by_token: tuple[tuple[str, Account], ...]
    """The digest of each token, and whose it is."""
    by_certificate: dict[str, Account]
    """The account of each identity that a certificate may show."""


def token_digest(token: str) -> str:
    """What stands for a token in a role file."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def load_role_file(file: Path, *, round_scores: float) -> RoleFile:
    """Reads and validates a role file.

    Args:
        file: The file.
        round_scores: What scores are rounded to for callers of which the file does not say it.

    Raises:
        ConfigError: With one `file:line: field: problem` line for every mistake.
    """
    raw = _read(file)
    callers = _checked(raw.decode(), file).callers
    accounts = [caller.account(round_scores) for caller in callers]
    both = list(zip(callers, accounts, strict=True))
    return RoleFile(
        digest=hashlib.sha256(raw).hexdigest(),
        accounts=tuple(accounts),
        by_token=tuple((digest, account) for caller, account in both for digest in caller.tokens),
        by_certificate={identity: account for caller, account in both for identity in caller.certificates},
    )


def anyone_may(*, round_scores: float) -> Account:
    """Everybody's account where there is no role file."""
    return Account(ANYONE, frozenset(Role), QuotaLimits(), round_scores=round_scores)


def _is_digest(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError("write sha256: and 64 digits of 0-9a-f, as `scopewatch token hash` prints it; never the token")
    return value


def _is_identity(value: str) -> str:
    if not _IDENTITY.fullmatch(value):
        raise ValueError("write spiffe://..., DNS:... or CN=..., as it stands in the certificate")
    return value


class _Caller(Strict):
    name: Name
    tokens: Several[Annotated[str, AfterValidator(_is_digest)]] = Field((), max_length=16)
    certificates: Several[Annotated[str, AfterValidator(_is_identity)]] = Field((), max_length=64)
    roles: Several[Annotated[Role, Field(strict=False)]] = Field(min_length=1)
    weight: float = Field(1.0, ge=0.01, le=100)
    tenant: Name | None = None
    max_calls: int | None = Field(None, ge=1)
    pairs_per_s: float | None = Field(None, ge=0.001)
    tokens_per_minute: int | None = Field(None, ge=1)
    shows_cached: bool = True
    round_scores: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _can_come(self) -> "_Caller":
        if not self.tokens and not self.certificates:
            raise ValueError("give tokens, certificates or both; without them nobody is this caller")
        return self

    def account(self, round_scores: float) -> Account:
        own = self.round_scores
        return Account(
            Caller(self.name, self.tenant or self.name, self.weight),
            frozenset(self.roles),
            QuotaLimits(self.max_calls, self.pairs_per_s, self.tokens_per_minute),
            self.shows_cached,
            round_scores if own is None else own,
        )


class _Document(Strict):
    version: Literal[1]
    callers: Several[_Caller] = Field(min_length=1, max_length=1024)

    @field_validator("version", mode="before")
    @classmethod
    def _is_a_whole_number(cls, value: object) -> object:
        return value if type(value) is int else None  # pydantic takes 1.0 and true for a literal 1


def _read(file: Path) -> bytes:
    """The file's bytes, which are UTF-8."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_FILE_BYTES} bytes; a role file is a small file")
        raw.decode()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}") from None
    return raw


def _checked(text: str, file: Path) -> _Document:
    """The document that a text is, without a mistake."""
    try:
        value, lines, mistakes = parse_yaml(text, file)
    except WatchlistError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file}:1: a role file is a mapping with version and callers")
    mistakes += _repeated(value)
    document = None
    try:
        document = _Document.model_validate(value)
    except ValidationError as error:
        known = {lines.name(place) for place, _ in mistakes}
        mistakes += [mistake for mistake in mistakes_of(error) if not is_at_or_in(lines.name(mistake[0]), known)]
    if mistakes or document is None:
        ordered = sorted({(lines.of(place), lines.name(place), message) for place, message in mistakes})
        raise ConfigError("\n".join(f"{file}:{line}: {name}: {message}" for line, name, message in ordered))
    return document


def _repeated(document: dict[str, Any]) -> Iterator[Mistake]:
    """Mistakes of callers that have a name, a token or an identity that an earlier one has."""
    callers = document.get("callers")
    first: dict[tuple[str, str], str] = {}
    for number, caller in enumerate(callers if isinstance(callers, list) else []):
        for key in ("name", "tokens", "certificates"):
            value = caller.get(key) if isinstance(caller, dict) else None
            entries = (
                [((key, at), one) for at, one in enumerate(value)] if isinstance(value, list) else [((key,), value)]
            )
            for place, entry in entries:
                if isinstance(entry, str) and (key, entry) in first:
                    yield (
                        ("callers", number, *place),
                        f"stands at {first[key, entry]} too; nobody could tell whose it is",
                    )
                elif isinstance(entry, str):
                    first[key, entry] = f"callers[{number}]"
