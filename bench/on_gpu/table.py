"""The results as a table for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from on_gpu.goals import JudgedGoal
from on_gpu.sections import Outcome


def as_markdown(machine: Mapping[str, Any], outcomes: Mapping[str, Outcome], goals: Sequence[JudgedGoal]) -> str:
    """Goals first, then every figure by its section, then what is not right."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [f"Measured with {facts}."]
    if goals:
        lines += ["", "| goal | measured | wanted | |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(goal.cells())} |" for goal in goals]
    lines += ["", "| section | figure | |", "|---|---|---|"]
    for name, outcome in outcomes.items():
        lines += [f"| {name} | {figure} | {value} |" for figure, value in _rows(outcome.figures)]
        if outcome.failure:
            lines.append(f"| {name} | | did not come to its end: {outcome.failure} |")
    wrong = [f"- {name}: {rule}" for name, outcome in outcomes.items() for rule in outcome.broken]
    return "\n".join(
        [*lines, "", *(["Not right:", "", *wrong] if wrong else ["Everything that was compared is right."])]
    )


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each figure with what is in it, on one line; long lists of kernels are for the JSON file."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            inner = {key: found for key, found in value.items() if not isinstance(found, Mapping) or key == "ms"}
            if inner:
                yield name, ", ".join(f"{key} {_short(found)}" for key, found in inner.items())
        else:
            yield name, _short(value)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_short(found)}" for key, found in value.items())
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(value).replace("|", "/")
