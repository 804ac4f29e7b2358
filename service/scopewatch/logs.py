"""One JSON object a line, or plain text; never request text."""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # `scopewatch --help` waits for no numpy.
    from scopewatch.events import PairScored

verdict_log = logging.getLogger("scopewatch.verdicts")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={_plain(value)}" for key, value in vars(record).items() if key not in _STANDARD)
        line = f"{record.levelname.lower():7} {record.getMessage()}{' ' + extra if extra else ''}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _plain(value: object) -> object:
    return f"({', '.join(f'{k} {v}' for k, v in value.items())})" if isinstance(value, Mapping) else value


def log_flags(scored: "Sequence[PairScored]") -> None:
    """Logs a line for each pair that was flagged: ids and names, never text."""
    for event in scored:
        job, pair = event.job, event.pair
        if pair.verdict == "flag":
            flagged = [score.name for score in pair.indicators if score.flagged and score.severity != "info"]
            verdict_log.info(
                "flagged",
                extra={
                    "request_id": job.request_id,
                    "watchlist": pair.watchlist,
                    "indicators": flagged,
                    "labels": dict(job.labels),
                },
            )


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


def configure(level: str, fmt: str) -> None:
    """Sends all logging to standard error as `json` or `text`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if fmt == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("transformers", "httpx", "httpx2", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
