"""The texts of scored pairs, kept for some days where the operator asks for it."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

from scopewatch.audit.days import Days
from scopewatch.audit.ledger import utc_now
from scopewatch.audit.writer import Writer
from scopewatch.errors import ConfigError
from scopewatch.events import PairScored
from scopewatch.types import Pair
from scopewatch.verdicts import Verdict

log = logging.getLogger(__name__)

PREFIX = "texts"
_SAY_AGAIN_S = 60.0
_Kept = tuple[datetime, PairScored]


class Texts:
    """Files of scored pairs with their texts, one file a day, which only the service's user can read.

    Args:
        folder: The folder; made if it is not there.
        which: Whether the pairs that were flagged are kept, or all that were scored.
        days: Files of days that are longer ago than this are deleted.
        most_chars: The number of characters that may wait to be written; pairs beyond it are dropped.
        now: Tells the time.

    Raises:
        ConfigError: The folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        which: Literal["flag", "all"],
        days: int,
        most_chars: int = 8 << 20,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.dropped = 0
        """How many pairs were not kept, since the disk was slow or full."""
        self._flagged_only = which == "flag"
        self._keep = timedelta(days=days)
        self._now = now
        self._days = Days(folder, PREFIX, guarded=False)
        self._tended: date | None = None
        self._drops_said_s = -_SAY_AGAIN_S
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._delete_old()
        except OSError as error:
            raise ConfigError(f"audit_dir {folder}: cannot be written: {error.strerror or error}") from None
        self._writer = Writer[_Kept]("texts", self._write, self._tend, most_chars)

    def keep(self, scored: Sequence[PairScored]) -> None:
        """Hands over the pairs that are to be kept, and waits for nothing; listens to `PairsScored`."""
        now = self._now()
        for event in scored:
            if self._flagged_only and event.pair.verdict != Verdict.FLAG:
                continue
            if not self._writer.put((now, event), _chars(event.job.pair)):
                self._drop(1, "more text waits than the disk takes")

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what waits. Blocks."""
        if self._writer.close(timeout_s):
            self._days.close()
        else:
            log.error("texts were not written to the end: the disk does not answer")

    def _drop(self, count: int, problem: str) -> None:
        self.dropped += count
        if time.monotonic() - self._drops_said_s >= _SAY_AGAIN_S:
            self._drops_said_s = time.monotonic()
            log.error("texts are not kept", extra={"dropped": self.dropped, "problem": problem})

    # From here on, on the writer's thread alone, once there is one.

    def _write(self, kept: Sequence[_Kept]) -> None:
        file = self._days.file_of(self._now().date())
        for one in kept:
            try:
                self._days.append(file, _line(*one))
            except OSError as error:
                self._drop(1, error.strerror or str(error))

    def _tend(self) -> None:
        try:
            self._delete_old()
        except OSError as error:
            log.error("old texts are not deleted", extra={"problem": error.strerror or str(error)})  # noqa: TRY400

    def _delete_old(self) -> None:
        """Once a day, deletes the files of days that are too long ago."""
        day = self._now().date()
        if day != self._tended:
            for file in self._days.before(day - self._keep):
                file.unlink()
            self._tended = day


def _chars(pair: Pair) -> int:
    return (
        1 + len(pair.prompt) + len(pair.response) + sum(len(turn.content) + len(turn.fields) for turn in pair.history)
    )


def _line(time: datetime, event: PairScored) -> bytes:
    job, scored = event
    turns = [{"role": turn.role, "content": turn.content} for turn in job.pair.history]
    row = {
        "time": time.isoformat(timespec="milliseconds"),
        "request_id": job.request_id,
        "caller": job.caller.name,
        "watchlist": scored.watchlist,
        "verdict": scored.verdict,
        "prompt": job.pair.prompt,
        "response": job.pair.response,
        "history": turns,
    }
    return json.dumps(row).encode() + b"\n"
