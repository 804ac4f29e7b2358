"""What a cell of a row may hold, and what is said of one that holds something else."""

import datetime as dt
import json
import re
from typing import Any

_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ].*)?", re.DOTALL)
_MOST_TOKEN_ID = 2**31 - 1


def text(value: object, name: str) -> str:
    """The text of a cell, empty where it holds nothing.

    Args:
        value: What the cell holds.
        name: The cell's place in the row, for messages.

    Raises:
        ValueError: The cell holds something else, or half a surrogate pair, or a NUL character.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected text")  # noqa: TRY004 - one kind for the caller
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name}: half a surrogate pair is no text")
    if (at := value.find("\0")) >= 0:
        # The server refuses it likewise.
        raise ValueError(f"{name}: holds a NUL character at offset {at}; remove it")
    return value


def name_or_number(value: object, name: str) -> str:
    """A name, which may be a number in the file."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value, name)


def parsed(value: object, name: str) -> Any:
    """A value that tables and databases often hold as JSON text, parsed where it is text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"{name}: is text, but not JSON") from None


def parsed_object(value: object) -> dict[str, Any]:
    """An object, which may be written as JSON text; an empty one where the cell holds something else."""
    try:
        found = json.loads(value) if isinstance(value, str) and value.lstrip().startswith("{") else value
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def json_array(value: object, name: str) -> str:
    """A list of objects as JSON text; empty where there is none."""
    found = parsed(value, name)
    if found is None:
        return ""
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise ValueError(f"{name}: expected a list of objects, as the chat template takes it; else rename the column")
    return json_text(found, name)


def json_object(value: object, name: str) -> str:
    """An object as JSON text; empty where there is none."""
    found = parsed(value, name)
    if found is None:
        return ""
    if not isinstance(found, dict):
        raise ValueError(f"{name}: expected an object, as the template takes it; else rename the column")  # noqa: TRY004
    return json_text(found, name)


def json_text(value: object, name: str) -> str:
    """A value as JSON text."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise ValueError(f"{name}: holds NaN or an infinite number, which JSON has not") from None
    return text(written, name)


def day(value: object, name: str) -> str:
    """The day of a date or of a time, `YYYY-MM-DD`; empty where there is none."""
    if value is None:
        return ""
    found = _DAY.fullmatch(value.isoformat() if isinstance(value, dt.date) else str(value))
    try:
        return dt.date.fromisoformat(found[1]).isoformat() if found else _no_day(name)
    except ValueError:
        return _no_day(name)


def _no_day(name: str) -> str:
    raise ValueError(f"{name}: expected YYYY-MM-DD, the day that the model was told; else rename the column")


def token_ids(value: object, name: str) -> tuple[int, ...]:
    """Token ids; none where the cell holds nothing."""
    found = [] if value is None else parsed(value, name)
    if not isinstance(found, list) or not all(type(part) is int and 0 <= part <= _MOST_TOKEN_ID for part in found):
        raise ValueError(f"{name}: expected a list of token ids, whole numbers from 0")
    return tuple(found)
