"""Records of the audit log: one JSON object a line, each with a digest over itself and the digest of the one before."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

NOTHING = "0" * 64
"""What stands for the record before the first one."""
SEGMENT = "segment"
"""The action of the first record of every file, which says from which digest the file goes on."""
DELETED = "deleted"
"""The action of the record that names files that were too old, with the digest of the last record of each."""
PREFIX = "audit"
_KEYS = ("seq", "time", "action", "caller", "outcome", "detail", "previous", "hash")


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did or asked for."""

    time: datetime
    action: str
    caller: str
    """The name in the role file; empty for the service itself, or for anybody where there is no such file."""
    outcome: str
    detail: dict[str, Any]
    """What else is to be said, as JSON has it."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain of records."""

    seq: int = 0
    """The number of the last record; records are counted from 1."""
    hash: str = NOTHING


def line_of(act: Act, before: Head) -> tuple[bytes, Head]:
    """The line of a record, with its line feed, and the chain's new end."""
    record = {
        "seq": before.seq + 1,
        "time": act.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "action": act.action,
        "caller": act.caller,
        "outcome": act.outcome,
        "detail": act.detail,
        "previous": before.hash,
    }
    head = Head(before.seq + 1, _digest(record))
    return _canonical(record | {"hash": head.hash}) + b"\n", head


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its line feed; None where the line is not as it was written."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or tuple(record) != _KEYS or _canonical(record) != line:
            return None
    except (ValueError, RecursionError):
        return None
    sealed = record.pop("hash")
    of_types = type(record["seq"]) is int and isinstance(record["detail"], dict) and isinstance(record["previous"], str)
    return record | {"hash": sealed} if of_types and sealed == _digest(record) else None


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(record)).hexdigest()


def _canonical(record: dict[str, Any]) -> bytes:
    """The one way to write a record: its keys in their order, ASCII alone, no spaces."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
