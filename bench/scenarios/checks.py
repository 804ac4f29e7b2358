"""What a scenario finds: cases, each with its numbers and with checks that hold or do not."""

import operator
from dataclasses import dataclass, field
from typing import Any

_RELATIONS = {"≤": operator.le, "≥": operator.ge, "=": operator.eq}


@dataclass(frozen=True, slots=True)
class Check:
    """A measured number and its bound.

    Args:
        name: What was measured, with its unit.
        measured: The number; NaN, where nothing could be measured, holds no bound.
        relation: `≤`, `≥` or `=`.
        bound: What it may be at most, or must be at least or just.
    """

    name: str
    measured: float
    relation: str
    bound: float

    @property
    def held(self) -> bool:
        return bool(_RELATIONS[self.relation](self.measured, self.bound))

    def as_json(self) -> dict[str, Any]:
        return {"measured": float(self.measured), "bound": f"{self.relation} {self.bound:g}", "held": self.held}


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was done to a server.

    Args:
        name: What was done.
        checks: What had to hold.
        numbers: What else was measured, for the file.
    """

    name: str
    checks: list[Check]
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        return all(check.held for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "held": self.held,
            "checks": {check.name: check.as_json() for check in self.checks},
            "numbers": self.numbers,
        }


def none_of(name: str, count: float) -> Check:
    """Something that may not happen once."""
    return Check(name, count, "=", 0)


def at_most(name: str, measured: float, bound: float) -> Check:
    return Check(name, measured, "≤", bound)


def at_least(name: str, measured: float, bound: float) -> Check:
    return Check(name, measured, "≥", bound)


def exactly(name: str, measured: float, bound: float) -> Check:
    return Check(name, measured, "=", bound)
