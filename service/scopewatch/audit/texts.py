"""The texts of scored pairs, kept for some days where the operator asks for it."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

from scopewatch.audit.days import Days
from scopewatch.audit.kept_lines import chars, id_in_line, kept_job, line_of, lines_with
from scopewatch.audit.ledger import utc_now
from scopewatch.audit.writer import Writer
from scopewatch.errors import ConfigError, NotKept
from scopewatch.events import PairScored
from scopewatch.types import Caller, ScoreJob
from scopewatch.verdicts import Verdict

log = logging.getLogger(__name__)

PREFIX = "texts"
_SAY_AGAIN_S = 60.0
_WRITTEN_S = 1.0
"""How long a search waits for what is about to be written."""
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
            if not self._writer.put((now, event), chars(event.job.pair)):
                self._drop(1, "more text waits than the disk takes")

    def find(self, request_id: str, caller: Caller) -> ScoreJob:
        """The pair that was scored under this id and is kept, of several the last one. Blocks.

        Args:
            request_id: The id.
            caller: Who asks: only pairs of its own tenant are looked for.

        Raises:
            NotKept: There is none.
        """
        # A pair that was answered just now may wait for the disk still.
        self._writer.wait(_WRITTEN_S)
        for file in reversed(self._days.files()):
            for line in lines_with(file, id_in_line(request_id)):
                if job := kept_job(line, request_id, caller):
                    return job
        raise NotKept("no texts of a pair with this id are kept")

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
                self._days.append(file, line_of(*one))
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
