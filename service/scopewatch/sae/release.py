"""What a format's module is given: the opened weights file, the settings beside it, and what the caller adds."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scopewatch.errors import SaeError
from scopewatch.sae.tensors import TensorFile, without_repetition

_MAX_SETTINGS_BYTES = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON file of a release. Null counts as absent; every mistake names the file and the field."""

    file: Path
    values: Mapping[str, Any]
    prefix: str = ""

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
        """An object in it; empty if it is absent."""
        empty: dict[str, Any] = {}
        values = self._value(name, "an object", lambda value: isinstance(value, dict), empty)
        return Settings(self.file, values, f"{self.prefix}{name}.")

    def wrong(self, name: str, expected: str) -> SaeError:
        """That a field is not what it should be."""
        return SaeError(f"{self.file}: {self.prefix}{name} is {self.values.get(name)!r}; expected {expected}")

    def agree(self, name: str, found: int) -> None:
        """Checks a number that may be absent against the arrays.

        Raises:
            SaeError: They differ.
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
        SaeError: Missing, too long, or no JSON object.
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


class Release:
    """A weights file and what the caller says of it; each such word is used or refused."""

    def __init__(self, weights: TensorFile, *, norm_factor: float | None = None, k: int | None = None) -> None:
        self.weights = weights
        self._told = {name: value for name, value in (("norm_factor", norm_factor), ("k", k)) if value is not None}

    @property
    def file(self) -> Path:
        return self.weights.file

    @property
    def parts(self) -> tuple[str, ...]:
        """The names on the file's path, nearest first; never resolved, since a hub cache is made of links."""
        return self.file.absolute().parts[::-1]

    def settings(self, name: str) -> Settings:
        """A JSON file in the folder of the weights."""
        return read_settings(self.file.parent / name)

    def settle(self, name: str, stated: float | None, mend: str) -> tuple[float, str]:
        """The value of `norm_factor` or `k`: the files', or else the caller's.

        Args:
            name: Which.
            stated: What the files say; None if nothing.
            mend: Said when nobody says it.

        Returns:
            The value, and if it is the caller's word alone, that as a recipe for `Sae`.

        Raises:
            SaeError: Nobody says it, or they contradict each other, or it cannot be.
        """
        told = self._told.pop(name, None)
        value = stated if stated is not None else told
        if value is None:
            raise SaeError(f"{self.file}: {mend}")
        if not (math.isfinite(value) and value > 0):
            raise SaeError(f"{self.file}: {name} is {value:g}; expected a positive number")
        if told is not None and not math.isclose(told, value, rel_tol=1e-3):
            raise SaeError(f"{self.file}: {name} {told:g} was given, but the files say {value:g}; leave it out")
        return value, "" if stated is not None else f"{name}={value!r}"

    def all_used(self) -> None:
        """Checks that nothing the caller said was in vain.

        Raises:
            SaeError: Something was.
        """
        for name, value in self._told.items():
            raise SaeError(f"{self.file}: {name} {value:g} was given, but this SAE has no use for it; leave it out")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def _is_number(value: object) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))
