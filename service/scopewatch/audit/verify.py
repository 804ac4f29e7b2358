"""Walks the chain of an audit log and finds the first place where it was changed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scopewatch.audit.days import Days
from scopewatch.audit.records import DELETED, NOTHING, PREFIX, Head, record_of
from scopewatch.errors import DataError


@dataclass(frozen=True, slots=True)
class Broken:
    """The first place where a chain is not as it was written."""

    place: str
    """`file:line`."""
    what: Literal["changed", "missing", "reordered", "torn"]
    problem: str
    """What is wrong there, in a sentence."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a walk over an audit log found."""

    records: int
    """The number of records before the first broken place; all of them if there is none."""
    head: Head
    """The last of these records."""
    begins_after: str
    """The digest of the record before the first one, where older files were deleted in time; else empty."""
    broken: Broken | None


class _Line(NamedTuple):
    place: str
    text: bytes
    """With its line feed, if it has one."""

    @property
    def record(self) -> dict[str, Any] | None:
        return record_of(self.text.removesuffix(b"\n"))


def verify(folder: Path, head: str = "") -> Verified:
    """Walks the audit log of a folder, which may be one that a service writes.

    Args:
        folder: The folder.
        head: The digest of a record that the log must hold, from where a copy was kept; empty where there is none.

    Raises:
        DataError: There is no audit log, or it cannot be read.
    """
    files = Days(folder, PREFIX, guarded=True).files()
    if not files:
        raise DataError(f"{folder}: there is no {PREFIX}-YYYY-MM-DD.jsonl in this folder")
    try:
        return _walk(files, head)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None


def _walk(files: Sequence[Path], wanted: str) -> Verified:
    count, at, first = 0, Head(), None
    seen = not wanted
    ends: set[str] = set()
    place = f"{files[0]}:1"
    for line in _lines(files):
        record = line.record
        if first is None and record:
            # A chain whose beginning was deleted begins anywhere; whether it may is known at its end.
            first, at = line, Head(record["seq"] - 1, record["previous"])
        if broken := _broken(line, record, at, files):
            return Verified(count, at, "", broken)
        assert record
        count, at, place = count + 1, Head(record["seq"], record["hash"]), line.place
        seen = seen or at.hash == wanted
        if record["action"] == DELETED:
            ends |= {str(end) for end in record["detail"].get("last", ())}
    seen = seen or wanted in ends
    begins_after = first.record["previous"] if first and first.record else NOTHING
    broken = None
    if begins_after != NOTHING and begins_after not in ends:
        broken = Broken(
            f"{files[0]}:1", "missing", "the records before this one, and no record says that they were too old"
        )
    elif not seen:
        broken = Broken(
            place, "missing", "the record with the digest that was asked for; the log may have been cut off here"
        )
    return Verified(count, at, "" if begins_after == NOTHING else begins_after, broken)


def _broken(line: _Line, record: dict[str, Any] | None, before: Head, files: Sequence[Path]) -> Broken | None:
    """What is wrong with a line that should follow a record; None if nothing is."""
    if not line.text.endswith(b"\n"):
        return Broken(line.place, "torn", "the line has no end; the service sets it aside when it starts again")
    if record is None:
        return Broken(line.place, "changed", "the line is not as it was written: its digest does not fit")
    if record["previous"] == before.hash and record["seq"] == before.seq + 1:
        return None
    seq, expected = record["seq"], before.seq + 1
    if seq == expected:
        return Broken(line.place, "changed", "the record before this one is not the one that this one goes on from")
    if seq < expected or any(other.record and other.record["seq"] == expected for other in _lines(files)):
        return Broken(line.place, "reordered", f"record {seq} stands where record {expected} should")
    return Broken(line.place, "missing", f"record {expected} should stand here, and record {seq} does")


def _lines(files: Sequence[Path]) -> Iterator[_Line]:
    for file in files:
        with file.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                yield _Line(f"{file}:{number}", text)
