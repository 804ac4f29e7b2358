"""Every failure scopewatch can name.

    ScopewatchError
    ├── InvalidRequest        the caller's pair cannot be scored; names the field
    │   └── UnknownWatchlist  the watchlist that it names is not loaded
    ├── Unauthenticated       the caller is not known
    ├── NotAllowed            the caller's roles do not hold what it asks for
    ├── Overloaded            no room for the pair now, or not before its deadline; says when to come back
    ├── DeadlineExpired       the caller's deadline passed while the pair waited
    ├── NotReady              warming up or draining
    ├── NotKept               the texts of a pair are asked for, and are not kept
    ├── EngineError           the reader failed on this pair
    │   └── EngineDied        the engine is gone; the process is about to leave
    └── SetupError            the operator's input is wrong; the process does not start
        ├── ConfigError       a setting
        ├── WatchlistError    a watchlist file; one line per mistake
        ├── HubError          a repository on the Hugging Face hub, or the local copy of it
        ├── ReaderError       a reader directory or id
        ├── SaeError          an SAE file
        │   └── NoSuchFeature a watched feature the SAE does not have
        ├── LabelError        a label index, or an export to be read into it
        └── DataError         a data file
            ├── NothingUsable   it holds rows, but none that can be used
            ├── TooLittleData   not enough of it for what is asked
            └── Unsupported     it does not support an indicator; says what was measured

InvalidRequest is the caller's fault, SetupError the operator's, the others ours. `contract.status` maps each to a
gRPC status; a test walks the tree through that table.
"""

from dataclasses import dataclass


class ScopewatchError(Exception):
    """The base of all errors that are raised on purpose. `str(error)` is safe to show: it holds no request text."""

    retry_after_s: float | None = None
    """Seconds after which to ask again, of errors that pass; None of others."""

    @property
    def reason(self) -> str:
        """The class as metrics and statuses name it: `DeadlineExpired` is `deadline_expired`."""
        name = type(self).__name__
        return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with a request."""

    field: str
    """Path of the field as the caller wrote it, for instance `history[2].role`."""
    description: str
    """What is wrong and how to mend it."""

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


class InvalidRequest(ScopewatchError):
    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(map(str, violations)))
        self.violations = violations


class UnknownWatchlist(InvalidRequest):
    pass


class Unauthenticated(ScopewatchError):
    pass


class NotAllowed(ScopewatchError):
    pass


class Overloaded(ScopewatchError):
    retry_after_s: float

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExpired(ScopewatchError):
    pass


class NotReady(ScopewatchError):
    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotKept(ScopewatchError):
    pass


class EngineError(ScopewatchError):
    pass


class EngineDied(EngineError):
    pass


class SetupError(ScopewatchError):
    pass


class ConfigError(SetupError):
    pass


class WatchlistError(SetupError):
    pass


class HubError(SetupError):
    pass


class ReaderError(SetupError):
    pass


class SaeError(SetupError):
    pass


class NoSuchFeature(SaeError):
    def __init__(self, message: str, feature: int) -> None:
        super().__init__(message)
        self.feature = feature


class LabelError(SetupError):
    pass


class DataError(SetupError):
    pass


class NothingUsable(DataError):
    pass


class TooLittleData(DataError):
    def __init__(self, message: str, *, n: int, needed: int) -> None:
        super().__init__(message)
        self.n = n
        """The number of pairs that there are."""
        self.needed = needed
        """The number of pairs that would do."""


class Unsupported(DataError):
    pass
