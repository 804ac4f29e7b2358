"""An indicator's score as the sum that it is, its digits chosen so that what is shown adds up to the last of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from scopewatch.explanation import IndicatorExplained, Term

_DIGITS, _MOST_DIGITS = 3, 9
_MOST_TERMS = 12
"""How many summands are shown one by one; the rest is one row."""
_NARROWEST = 0.6
"""The width of a bar that would hardly be seen, as a percentage of the picture."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a waterfall. Numbers are shown as text; bars lie between 0 and 100."""

    adds: str
    total: str
    """The sum of this row and of those above."""
    start: float
    width: float
    raises: bool
    term: Term | None = None
    """The summand; None for the bias and for rows that hold several summands."""
    name: str = ""
    """What the row is, where it is no single summand."""


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A sum in steps, from 0 to the score."""

    steps: tuple[Step, ...]
    score: str
    threshold: str
    threshold_at: float
    """Where the threshold lies in the picture, 0 to 100."""


def waterfall(indicator: IndicatorExplained) -> Waterfall:
    """The sum of an indicator that was scored."""
    digits = _digits(indicator)
    one_by_one, others = indicator.terms[:_MOST_TERMS], indicator.terms[_MOST_TERMS:]
    rows: list[tuple[float | Fraction, Term | None, str]] = [(indicator.bias, None, "where every sum begins (bias)")]
    rows += [(term.contribution, term, "") for term in one_by_one]
    if others:
        rows.append((_exact([term.contribution for term in others]), None, f"{len(others):,} smaller ones together"))
    missing = Fraction(indicator.score) - _exact([row[0] for row in rows])
    if abs(missing) > Fraction(1, 10 ** (digits + 2)):
        rows.append((missing, None, "what is not told one by one"))
    units = shares([row[0] for row in rows], indicator.score, digits)
    totals = [sum(units[: number + 1]) for number in range(len(units))]
    low, high = _bounds([0, *totals, _units(indicator.threshold, digits)])
    return Waterfall(
        tuple(
            _step(row[1], row[2], adds, total, digits, (low, high))
            for row, adds, total in zip(rows, units, totals, strict=True)
        ),
        f"{indicator.score:.{digits}f}",
        f"{indicator.threshold:.{digits}f}",
        _at(_units(indicator.threshold, digits), low, high),
    )


def shares(summands: Sequence[float | Fraction], total: float, digits: int) -> list[int]:
    """Summands in units of the last digit shown, so that they add up to the total as it is shown.

    Each is rounded down, and what is missing then is given, a unit each, to those that lost most: the method of the
    largest remainder. No summand is off by a unit or more.

    Args:
        summands: The summands, whose sum is the total but for its rounding.
        total: The total.
        digits: The number of decimals that are shown.
    """
    exact = [Fraction(summand) * 10**digits for summand in summands]
    units = [math.floor(number) for number in exact]
    missing = _units(total, digits) - sum(units)
    lost_most = sorted(range(len(exact)), key=lambda at: units[at] - exact[at])
    for at in lost_most[:missing]:
        units[at] += 1
    return units


def _digits(indicator: IndicatorExplained) -> int:
    """As many decimals as tell the score from 0 and from its threshold."""
    for digits in range(_DIGITS, _MOST_DIGITS):
        shown = f"{indicator.score:.{digits}f}"
        small = indicator.score != 0 and abs(_units(indicator.score, digits)) < 10
        same = indicator.score != indicator.threshold and shown == f"{indicator.threshold:.{digits}f}"
        if not (small or same):
            return digits
    return _MOST_DIGITS


def _units(number: float, digits: int) -> int:
    """A number as it is shown, in units of its last digit."""
    return int(Decimal(f"{number:.{digits}f}").scaleb(digits))


def _exact(numbers: Sequence[float | Fraction]) -> Fraction:
    return sum(map(Fraction, numbers), Fraction())


def _bounds(numbers: Sequence[int]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    edge = max(high - low, 1) * 0.02
    return low - edge, high + edge


def _at(number: float, low: float, high: float) -> float:
    return round(100 * (number - low) / (high - low), 2)


def _step(term: Term | None, name: str, adds: int, total: int, digits: int, bounds: tuple[float, float]) -> Step:
    ends = sorted((_at(total - adds, *bounds), _at(total, *bounds)))
    return Step(
        adds=f"{Decimal(adds).scaleb(-digits):+.{digits}f}",
        total=f"{Decimal(total).scaleb(-digits):.{digits}f}",
        start=ends[0],
        width=round(max(ends[1] - ends[0], _NARROWEST), 2),
        raises=adds >= 0,
        term=term,
        name=name,
    )
