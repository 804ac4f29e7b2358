"""The results of a run: a file for programs, and a table for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from on_gpu.goals import JudgedGoal
from on_gpu.sections import Outcome


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has found so far."""

    machine: Mapping[str, Any]
    """Facts that the figures depend on."""
    outcomes: Mapping[str, Outcome]
    goals: Sequence[JudgedGoal]
    seconds: float
    """What it has taken."""

    def write(self, folder: Path) -> None:
        """Writes `gpu.json`, and `gpu.md` for people."""
        folder.mkdir(parents=True, exist_ok=True)
        found = {
            "machine": self.machine,
            "seconds": self.seconds,
            "goals": {judged.goal.what: {"measured": judged.found, "said": judged.said} for judged in self.goals},
            "sections": {name: asdict(outcome) for name, outcome in self.outcomes.items()},
        }
        (folder / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
        (folder / "gpu.md").write_text(self.as_markdown() + "\n")

    def as_markdown(self) -> str:
        """Goals first, then every figure by its section, then what is not right."""
        lines = [f"Measured with {', '.join(f'{name} {value}' for name, value in self.machine.items())}."]
        if self.goals:
            lines += ["", "| goal | measured | wanted | |", "|---|---|---|---|"]
            lines += [f"| {' | '.join(goal.cells())} |" for goal in self.goals]
        lines += ["", "| section | figure | |", "|---|---|---|"]
        for name, outcome in self.outcomes.items():
            lines += [f"| {name} | {figure} | {value} |" for figure, value in _rows(outcome.figures)]
            if outcome.failure:
                lines.append(f"| {name} | | did not come to its end: {outcome.failure} |")
        wrong = [f"- {name}: {rule}" for name, outcome in self.outcomes.items() for rule in outcome.broken]
        return "\n".join([*lines, "", *(["Not right:", "", *wrong] if wrong else ["All that was compared is right."])])


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
