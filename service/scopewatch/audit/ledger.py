"""The audit log: who changed or asked for what, in files that nobody can change unseen."""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from scopewatch.audit.days import Days, end_of, sync_folder
from scopewatch.audit.records import DELETED, PREFIX, SEGMENT, Act, Head, line_of, record_of
from scopewatch.audit.writer import Writer
from scopewatch.errors import ConfigError, NotReady
from scopewatch.events import PairScored

log = logging.getLogger(__name__)

_MOST_WAITING = 10_000
_DISK_S = 10.0
"""Longest wait for the disk."""
_SAY_AGAIN_S = 60.0
"""How often at most it is said that the disk takes nothing."""
_TORN = ".torn"
_Waiting = tuple[Act, "Future[None]"]


def utc_now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


class Audit:
    """A folder of audit files that one process writes. Opening it records `start`, closing it `stop`.

    Every record is on the disk before `record` returns. The chain goes on where the last process left it, however that
    ended; half a line that it left is kept aside.

    Args:
        folder: The folder; made if it is not there.
        instance: The name of this process among its replicas, such as its host's.
        days: Files of days that are longer ago than this are deleted; 0 for never.
        now: Tells the time.

    Raises:
        ConfigError: The folder cannot be written, another process writes it, or the end of its chain was changed.
    """

    def __init__(self, folder: Path, *, instance: str, days: int = 0, now: Callable[[], datetime] = utc_now) -> None:
        self.failures = 0
        """How many records could not be written."""
        self._folder = folder
        self._instance = instance
        self._keep = timedelta(days=days) if days else None
        self._now = now
        self._head = self._said = Head()
        self._newest: date | None = None
        self._tended: date | None = None
        self._head_said_s = self._failure_said_s = -_SAY_AGAIN_S
        self._days = Days(folder, PREFIX, guarded=True)
        with ExitStack() as opened:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                opened.enter_context(_locked(folder))
                opened.callback(self._days.close)
                self._go_on()
                self._delete_old()
            except OSError as error:
                raise ConfigError(f"audit_dir {folder}: cannot be written: {error.strerror or error}") from None
            self._opened = opened.pop_all()
        self._say_head()
        self._writer = Writer[_Waiting]("audit", self._write, self._tend, _MOST_WAITING)

    @property
    def head(self) -> str:
        """The digest of the last record: kept elsewhere, it shows later that no record after it is missing."""
        return self._head.hash

    def record(self, action: str, caller: str = "", outcome: str = "ok", **detail: Any) -> None:
        """Records an act and waits for the disk, so call it off the event loop. Where it raises, refuse the act.

        Where the disk answers too late the record may be there all the same.

        Args:
            action: What was done or asked for, one word.
            caller: Who did; empty for the service itself.
            outcome: `ok`, or how it failed.
            detail: What else is to be said, as JSON has it; no text of a pair.

        Raises:
            NotReady: It could not be written.
        """
        done = self._hand_over(action, caller, outcome, detail)
        try:
            done.result(_DISK_S)
        except TimeoutError:
            raise NotReady("refused, since the disk of the audit log does not answer") from None
        except OSError:
            raise NotReady("refused, since the audit log cannot be written; the server's log says why") from None

    def note(self, action: str, caller: str = "", outcome: str = "ok", **detail: Any) -> None:
        """Records an act that nobody may be refused; where it cannot be written, that is logged and counted.

        Args:
            action: As in `record`.
            caller: As in `record`.
            outcome: As in `record`.
            detail: As in `record`.
        """
        self._hand_over(action, caller, outcome, detail)

    def evidence_given(self, scored: Sequence[PairScored]) -> None:
        """Notes each scored pair whose caller asked for evidence; listens to `PairsScored`."""
        for job, pair in scored:
            if job.include_evidence:
                self.note("evidence", job.caller.name, request_id=job.request_id, watchlist=pair.watchlist)

    def close(self, outcome: str = "ok") -> None:
        """Records `stop` with an outcome, waits for the disk, and lets others write the folder. Blocks."""
        self.note("stop", outcome=outcome, instance=self._instance)
        if not self._writer.close(_DISK_S):
            log.error("the audit log was not written to its end: the disk does not answer")
            return
        self._say_head()
        self._opened.close()

    def _act(self, action: str, caller: str = "", outcome: str = "ok", **detail: Any) -> Act:
        return Act(self._now(), action, caller, outcome, detail)

    def _hand_over(self, action: str, caller: str, outcome: str, detail: dict[str, Any]) -> "Future[None]":
        # Copied, and known to be JSON, before another thread looks at it.
        copied = json.loads(json.dumps(detail, allow_nan=False))
        done: Future[None] = Future()
        if not self._writer.put((self._act(action, caller, outcome, **copied), done)):
            problem = OSError(None, f"more than {_MOST_WAITING} records wait, or the log is closed")
            self._failed(1, problem)
            done.set_exception(problem)
        return done

    # From here on, on the writer's thread alone, once there is one.

    def _write(self, waiting: Sequence[_Waiting]) -> None:
        problem: OSError | None = None
        try:
            self._append([act for act, _ in waiting])
        except OSError as error:
            problem = error
            self._failed(len(waiting), error)
        for _, done in waiting:
            done.set_exception(problem) if problem else done.set_result(None)

    def _append(self, acts: Sequence[Act]) -> None:
        """Writes records to the file of today; of no file before the newest, should the clock be set back."""
        day = self._now().date()
        if self._newest is None or day > self._newest:
            before = self._days.file_of(self._newest).name if self._newest else ""
            acts = [self._act(SEGMENT, instance=self._instance, after=before), *acts]
        else:
            day = self._newest
        lines, head = bytearray(), self._head
        for act in acts:
            line, head = line_of(act, head)
            lines += line
        self._days.append(self._days.file_of(day), bytes(lines))
        self._head, self._newest = head, day

    def _failed(self, count: int, error: OSError) -> None:
        self.failures += count
        if time.monotonic() - self._failure_said_s >= _SAY_AGAIN_S:
            self._failure_said_s = time.monotonic()
            problem = error.strerror or str(error)
            log.error("AUDIT RECORDS ARE LOST", extra={"failures": self.failures, "problem": problem})

    def _tend(self) -> None:
        if time.monotonic() - self._head_said_s >= _SAY_AGAIN_S:
            self._say_head()
        try:
            self._delete_old()
        except OSError as error:
            self._failed(1, error)

    def _say_head(self) -> None:
        """Logs the end of the chain, to where whoever can change these files cannot change it."""
        if self._head != self._said:
            self._said, self._head_said_s = self._head, time.monotonic()
            log.info("audit head", extra={"seq": self._head.seq, "hash": self._head.hash})

    def _delete_old(self) -> None:
        """Once a day, deletes the files of days that are too long ago, after a record from where the chain goes on."""
        day = self._now().date()
        if day == self._tended:
            return
        if old := self._days.before(day - self._keep) if self._keep else []:
            ends = [record_of(end_of(file)[0].rstrip(b"\n")) for file in old]
            names = [file.name for file in old]
            self._append([self._act(DELETED, files=names, last=[end["hash"] for end in ends if end])])
        # A file that cannot be deleted is tried again tomorrow: a record for every try would fill the disk.
        self._tended = day
        for file in old:
            for part in self._folder.glob(f"{file.name}*"):
                part.unlink()

    def _go_on(self) -> None:
        """Finds the end of the chain that is there, and goes on from it."""
        for file in self._days.files():
            line, torn = end_of(file)
            if torn:
                _set_aside(file, torn)
            if not line:
                # A process ended after it made a file and before it wrote a line.
                continue
            record = record_of(line.rstrip(b"\n"))
            if record is None:
                raise ConfigError(
                    f"audit_dir {self._folder}: the last record of {file.name} was changed; keep the folder, see "
                    "`scopewatch audit verify`, and name another one"
                )
            self._head, self._newest = Head(record["seq"], record["hash"]), self._days.day_of(file)
        self._append([self._act("start", instance=self._instance)])
        for pending in sorted(self._folder.glob(f"{PREFIX}-*{_TORN}")):
            torn = pending.read_bytes()
            digest = hashlib.sha256(torn).hexdigest()
            kept = pending.with_name(f"{pending.name}-{digest[:16]}")
            self._append([self._act("torn", file=kept.name, bytes=len(torn), sha256=digest)])
            pending.rename(kept)


def _set_aside(file: Path, torn: bytes) -> None:
    """Takes half a line from the end of a file into a file of its own, of which no record tells yet."""
    aside = file.with_name(file.name + _TORN)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as stream:
        stream.write(torn)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(file.parent)
    os.truncate(file, file.stat().st_size - len(torn))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps every other process from writing a folder.

    Raises:
        ConfigError: Another process does.
    """
    with os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"audit_dir {folder}: another process writes there; every replica needs a folder of its own"
            ) from None
        yield
