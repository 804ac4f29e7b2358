"""The JSON files that are published beside an SAE's weights."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scopewatch.errors import SaeError

_MAX_SETTINGS_BYTES = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON file of a release. Null counts as absent; every mistake names the file and the field."""

    file: Path
    values: Mapping[str, Any]
    prefix: str = ""
    """Where in the file the values stand, for messages: names that each end in a point."""

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        return self._value(name, "text", lambda value: isinstance(value, str), default)

    def flag(self, name: str, default: bool | None = None) -> bool:
        return self._value(name, "true or false", lambda value: isinstance(value, bool), default)

    def integer(self, name: str, default: int | None = None) -> int:
        return self._value(name, "a whole number", _is_integer, default)

    def number(self, name: str, default: float | None = None) -> float:
        return float(self._value(name, "a number", _is_number, default))

    def nested(self, name: str) -> "Settings":
        """An object in these settings; an empty one if it is absent."""
        empty: dict[str, Any] = {}
        values = self._value(name, "an object", lambda value: isinstance(value, dict), empty)
        return Settings(self.file, values, f"{self.prefix}{name}.")

    def wrong(self, name: str, expected: str) -> SaeError:
        """The error that says that a field is not what it should be."""
        return SaeError(f"{self.file}: {self.prefix}{name} is {self.values.get(name)!r}; expected {expected}")

    def agree(self, name: str, found: int) -> None:
        """Checks a number that may be absent against the arrays.

        Raises:
            SaeError: The settings and the arrays differ.
        """
        if name in self and self.integer(name) != found:
            raise self.wrong(name, f"{found}, as in the weights file; they do not belong together")

    def _value(self, name: str, expected: str, fits: Callable[[object], bool], default: T | None) -> T:
        value: Any = self.values.get(name)
        if value is None and default is not None:
            return default
        if not fits(value):
            raise self.wrong(name, expected)
        found: T = value
        return found


def read_settings(file: Path) -> Settings:
    """Reads a JSON object.

    Raises:
        SaeError: The file is missing, too long, or no JSON object.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_SETTINGS_BYTES + 1)
        if len(raw) > _MAX_SETTINGS_BYTES:
            raise SaeError(f"{file}: longer than {_MAX_SETTINGS_BYTES} bytes, which no release's settings are")
        values = json.loads(raw, object_pairs_hook=without_repetition)
    except FileNotFoundError:
        raise SaeError(f"{file}: no such file; without it the weights beside it cannot be read right") from None
    except OSError as error:
        raise SaeError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SaeError(f"{file}: not valid JSON ({error}); download it again") from None
    if not isinstance(values, dict):
        raise SaeError(f"{file}: not a JSON object")
    return Settings(file, values)


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object for `json.loads`, and refuses a name that stands twice rather than guess which is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def _is_number(value: object) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))
