"""One JSON object a line, or plain text; never request text."""

import hashlib
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
_SAID = {"pass": "passed", "flag": "flagged", "incomplete": "incomplete"}
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


def log_verdicts(scored: "Sequence[PairScored]", *, pass_share: float = 0.0) -> None:
    """Logs a line for each pair that did not pass, and for a share of those that did: ids and names, never text.

    Args:
        scored: The pairs.
        pass_share: The share of the pairs with verdict PASS that are logged. The request's id decides, so that replicas
            and repeated requests agree.
    """
    for job, pair in scored:
        if pair.verdict == "pass" and not _is_of_share(job.request_id, pass_share):
            continue
        line = {
            "request_id": job.request_id,
            "caller": job.caller.name,
            "watchlist": pair.watchlist,
            "verdict": str(pair.verdict),
            "indicators": [score.name for score in pair.indicators if score.flagged and score.severity != "info"],
            "labels": dict(job.labels),
        }
        if pair.verdict == "incomplete":
            line["incomplete"] = list(pair.judgement.incomplete)
        verdict_log.info(_SAID[pair.verdict], extra=line)


def _is_of_share(request_id: str, share: float) -> bool:
    digest = hashlib.sha256(request_id.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


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
