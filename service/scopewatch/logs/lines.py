"""A record as one line of printable ASCII, whatever its values hold: none can break a line, or steer a terminal.

Text has a traceback behind the record, each of its lines indented; a record never begins with a space.
"""

import json
import logging
import re
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN_VALUE = re.compile(r"[!#-'*+\--<>-Z^-~]+")
"""Printable ASCII without what has a meaning in a line of text: spaces, quotes, backslashes, `=`, `,` and brackets."""
_PLAIN_MESSAGE = re.compile(r"[ !#-<>-\[\]-~]*")
"""Printable ASCII without quotes, backslashes and `=`, which values alone have."""


_SPEAK = "scopewatch.", "torch"
"""Where exceptions are from whose messages are logged; another's may quote what it was raised over, a caller's text."""
_MOST_CAUSES = 8


class JsonLines(logging.Formatter):
    """Each record is a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= _added(record)
        if record.exc_info:
            line["traceback"] = _traceback(record.exc_info[1])
        return _escaped(line)


class TextLines(logging.Formatter):
    """Each record is its level, its message and `name=value` for the rest, for people."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        shown = message if _PLAIN_MESSAGE.fullmatch(message) else _escaped(message)
        values = "".join(f" {name}={_shown(value)}" for name, value in _added(record).items())
        below = _traceback(record.exc_info[1]).split("\n") if record.exc_info else []
        return "\n    ".join([f"{record.levelname.lower():7} {shown}{values}", *map(_in_ascii, below)])


def _traceback(error: BaseException | None) -> str:
    """Where an exception came from, and those before it: their types, and their messages where those quote no text."""
    parts: list[str] = []
    while error and len(parts) < _MOST_CAUSES:
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        said = f": {error}" if isinstance(error, OSError) or kind.__module__.startswith(_SPEAK) else ""
        parts.append(f"{''.join(traceback.format_tb(error.__traceback__))}{name}{said}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\n".join(reversed(parts))


def _added(record: logging.LogRecord) -> dict[str, object]:
    """What a record has beside what every record has."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{_shown(name)} {_shown(each)}' for name, each in value.items())})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    text = str(value)
    return text if _PLAIN_VALUE.fullmatch(text) else _escaped(text)


def _escaped(value: object) -> str:
    """JSON in printable ASCII."""
    return json.dumps(value, default=str)


def _in_ascii(line: str) -> str:
    """A line of a traceback, which keeps its quotes and backslashes for people who read it."""
    return re.sub(r"[^ -~]", lambda found: _escaped(found[0])[1:-1], line)
