"""JSON that a caller gives a chat template: whether a template can take what it says."""

import json
import math
from collections.abc import Callable
from typing import Any

from scopewatch.sources import is_taken

MAX_NESTING = 32
"""How deep lists and objects may lie in each other; whoever renders them descends them by recursion."""
_FIELDS_TAKEN = frozenset({"role", "content"})
"""Fields of a message that a turn has by themselves."""


def list_mistake(text: str) -> str:
    """Why a text is not a JSON array of objects, as the rest of a sentence; empty if it is one, or is empty."""
    try:
        listed = _parsed(text) if text else []
    except ValueError as error:
        return str(error)
    fits = isinstance(listed, list) and all(isinstance(item, dict) for item in listed)
    return "" if fits else "is not a JSON array of objects"


def arguments_mistake(text: str) -> str:
    """Why a text is not a JSON object of arguments for a chat template; empty if it is one, or is empty."""
    return _object_mistake(text, is_taken)


def fields_mistake(text: str) -> str:
    """Why a text is not a JSON object of a message's other fields; empty if it is one, or is empty."""
    return _object_mistake(text, _FIELDS_TAKEN.__contains__)


def _object_mistake(text: str, taken: Callable[[str], bool]) -> str:
    try:
        named = _parsed(text) if text else {}
    except ValueError as error:
        return str(error)
    if not isinstance(named, dict):
        return "is not a JSON object"
    names = sorted(filter(taken, named))
    return f"must not hold {', '.join(names[:3])[:100]}; it is given otherwise" if names else ""


def _parsed(text: str) -> Any:
    """The value of a JSON text, with 0 for every number.

    Raises:
        ValueError: The text is not JSON, or holds what a chat template cannot be given; says which.
    """
    try:
        value = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"is nested deeper than {MAX_NESTING}") from None
    level = [value]
    for _ in range(MAX_NESTING + 1):
        for item in level:
            if isinstance(item, str) and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in item):
                raise ValueError("holds a NUL character or half of a surrogate pair; remove it")
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return value
    raise ValueError(f"is nested deeper than {MAX_NESTING}")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []


def _number(digits: str) -> int:
    # Python reads `NaN`, `Infinity` and `1e999` from JSON, and writes what no other program reads.
    if not math.isfinite(float(digits)):
        raise ValueError("holds a number that is not finite")
    return 0
