"""Numbers and names as sentences have them."""

from collections.abc import Sequence
from math import ceil

from scopewatch.watch.indicators import Indicator


def called(source: Indicator) -> str:
    """What a sentence calls an indicator: its label, or its name."""
    return f"“{source.label or source.name}”"


def listed(names: Sequence[str]) -> str:
    """Names one after the other, with a word before the last."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def plural(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def percent(share: float) -> str:
    """A share in percent, to three digits, never rounded to all or nothing."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    if 0.999 < share < 1:
        return "more than 99.9 %"
    return f"{100 * share:.3g} %" if share < 10 else f"{100 * share:,.0f} %"


def of_100(share: float) -> str:
    """How many of 100 a share is, without false precision."""
    return f"{100 * share:.0f}" if share >= 0.1 or not share else f"{100 * share:.1g}"


def at_most_of_100(bound: float) -> str:
    """How many of 100 an upper bound is, rounded up."""
    return f"{ceil(round(100 * bound, 6))}"
