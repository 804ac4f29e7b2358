"""The log of the process: one record a line, as JSON or as plain text; never request text."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from scopewatch.logs.lines import JsonLines, TextLines


class Laps:
    """Consecutive parts of one piece of work, which leave no time out.

    Args:
        since_s: When it began, on the monotonic clock; by default, now.
    """

    def __init__(self, since_s: float | None = None) -> None:
        self._last_s = time.monotonic() if since_s is None else since_s
        self.seconds: dict[str, float] = {}
        """What each part took, in order."""

    def end(self, part: str) -> None:
        """Counts the time since the last end as this part's."""
        self.take({part: time.monotonic() - self._last_s})

    def take(self, parts: Mapping[str, float]) -> None:
        """Counts parts, in seconds, that someone else measured since the last end."""
        for part, seconds in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
            self._last_s += seconds


class _RecordWriter(logging.StreamHandler[TextIO]):
    """Writes records; a stream that fails is not complained of, since the complaint would become a record itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging calls it so
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def configure(level: str, fmt: str, stream: TextIO | None = None) -> None:
    """Sends all logging to standard error, or to another stream, as `json` or `text`."""
    handler = _RecordWriter(stream or sys.stderr)
    handler.setFormatter(JsonLines() if fmt == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("transformers", "httpx", "httpx2", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
