"""What the device shall reach: each figure with its goal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from on_gpu.sections import Outcome


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Args:
        what: What it is of, for people.
        place: The section, and the names that lead to the figure.
        bound: The figure that is to be reached.
        at_most: Whether less is better.
        unit: Of the figure; `%` for a share.
    """

    what: str
    place: tuple[str, ...]
    bound: float
    at_most: bool = False
    unit: str = "%"

    def judged(self, outcomes: Mapping[str, Outcome]) -> "JudgedGoal":
        """The goal beside what was measured."""
        section, *names = self.place
        found: Any = outcomes[section].figures if section in outcomes else {}
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        if found is None:
            return JudgedGoal(self, None, "not measured")
        reached = found <= self.bound if self.at_most else found >= self.bound
        return JudgedGoal(self, float(found), "reached" if reached else "not reached")


@dataclass(frozen=True, slots=True)
class JudgedGoal:
    goal: Goal
    found: float | None
    said: str

    def cells(self) -> list[str]:
        """A row of the table."""
        goal = self.goal
        bound = f"{'at most' if goal.at_most else 'at least'} {_shown(goal.bound, goal.unit)}"
        return [goal.what, "" if self.found is None else _shown(self.found, goal.unit), bound, self.said]


def _shown(number: float, unit: str) -> str:
    return f"{number:.1%}" if unit == "%" else f"{number:,.{0 if number >= 1000 else 2}f} {unit}"


GOALS = (
    Goal("16,384 tokens in a pass, of the GEMM peak", ("passes", "16384 tokens", "of_peak"), 0.70),
    Goal("stream of batches through gRPC, of the GEMM peak", ("served", "stream", "of_peak"), 0.55),
    Goal("lone pair of 512 tokens in the engine, p50", ("lone", "p50_ms"), 9, at_most=True, unit="ms"),
    Goal("lone pair of 512 tokens through gRPC, p50", ("served", "lone", "p50_ms"), 14, at_most=True, unit="ms"),
    Goal("faster than SAELens", ("beside", "saelens", "engine_is_faster"), 10, unit="times"),
    Goal("faster than by hand, sorted by length", ("beside", "expert_sorted", "engine_is_faster"), 3, unit="times"),
    Goal("8 pairs of 500 tokens, 400 shared, in one batch", ("shared", "in_one_batch"), 2, unit="times"),
    Goal("the same, their beginning known before", ("shared", "known_before"), 2, unit="times"),
    Goal("TopK of 131,072 features", ("contests", "16384 tokens", "tokens_per_s"), 275_000, unit="tokens/s"),
)
