"""An indicator's score as the sum that it is, its digits chosen so that what is shown adds up to the last of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate

from scopewatch.explanation import IndicatorExplained, Term

_DIGITS, _MOST_DIGITS = 3, 9
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


def waterfall(indicator: IndicatorExplained, most_terms: int) -> Waterfall:
    """The sum of an indicator that was scored.

    Args:
        indicator: The indicator.
        most_terms: How many summands are shown one by one; the rest is one row.
    """
    digits = _digits(indicator)
    rows = _rows(indicator, most_terms, digits)
    units = shares([row.value for row in rows], indicator.score, digits)
    totals = [*accumulate(units)]
    threshold = _units(indicator.threshold, digits)
    scale = _Scale.around([0, threshold, *totals], digits)
    return Waterfall(
        tuple(scale.step(row, adds, total) for row, adds, total in zip(rows, units, totals, strict=True)),
        f"{indicator.score:.{digits}f}",
        f"{indicator.threshold:.{digits}f}",
        scale.at(threshold),
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


@dataclass(frozen=True, slots=True)
class _Row:
    """A summand before it is rounded; its name and term are those of `Step`."""

    value: float | Fraction
    name: str = ""
    term: Term | None = None


def _rows(indicator: IndicatorExplained, most_terms: int, digits: int) -> list[_Row]:
    """The bias, the terms, and what else it takes to come to the score."""
    one_by_one, others = indicator.terms[:most_terms], indicator.terms[most_terms:]
    rows = [_Row(indicator.bias, "where every sum begins (bias)")]
    rows += [_Row(term.contribution, term=term) for term in one_by_one]
    if others:
        rows.append(_Row(_exact([term.contribution for term in others]), f"{len(others):,} smaller ones together"))
    missing = Fraction(indicator.score) - _exact([row.value for row in rows])
    if abs(missing) > Fraction(1, 10 ** (digits + 2)):
        rows.append(_Row(missing, "what is not told one by one"))
    return rows


@dataclass(frozen=True, slots=True)
class _Scale:
    """How sums lie in the picture, in units of the last digit."""

    low: float
    high: float
    digits: int

    @classmethod
    def around(cls, units: Sequence[int], digits: int) -> "_Scale":
        """A scale on which all of these lie, with an edge on both sides."""
        low, high = min(units), max(units)
        edge = max(high - low, 1) * 0.02
        return cls(low - edge, high + edge, digits)

    def at(self, units: int) -> float:
        """Where a sum lies, 0 to 100."""
        return round(100 * (units - self.low) / (self.high - self.low), 2)

    def step(self, row: _Row, adds: int, total: int) -> Step:
        """A row as it is shown."""
        left, right = sorted((self.at(total - adds), self.at(total)))
        return Step(
            adds=f"{Decimal(adds).scaleb(-self.digits):+.{self.digits}f}",
            total=f"{Decimal(total).scaleb(-self.digits):.{self.digits}f}",
            start=left,
            width=round(max(right - left, _NARROWEST), 2),
            raises=adds >= 0,
            term=row.term,
            name=row.name,
        )


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
    return sum((Fraction(number) for number in numbers), Fraction())
