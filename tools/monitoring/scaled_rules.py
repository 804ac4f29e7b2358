"""The rules of deploy/monitoring with every duration made shorter or longer, and nothing else changed.

    python tools/monitoring/scaled_rules.py --by 0.0166667 --out build/rules

A rule that looks at an hour then looks at a minute: what takes a day in production can be watched within minutes.
Names keep the window that they had.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parents[2] / "deploy" / "monitoring" / "rules"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(?<=\[)(\d+)([smhdw])(?=\])|(?<=offset )(\d+)([smhdw])\b")


def scaled_duration(duration: str, by: float) -> str:
    """A Prometheus duration of one unit, such as `30m`, times a factor, in whole milliseconds."""
    return f"{max(1, round(int(duration[:-1]) * _SECONDS[duration[-1]] * 1000 * by))}ms"


def scaled_expression(expression: str, by: float) -> str:
    """A PromQL expression whose ranges and offsets are so many times as long."""
    return _DURATION.sub(lambda found: scaled_duration(found[0], by), expression)


def scaled(rules: dict[str, Any], by: float) -> dict[str, Any]:
    """A file of rules whose ranges, offsets and waiting times are so many times as long."""
    return {"groups": [{**group, "rules": [_rule(rule, by) for rule in group["rules"]]} for group in rules["groups"]]}


def _rule(rule: dict[str, Any], by: float) -> dict[str, Any]:
    waiting = {"for": scaled_duration(rule["for"], by)} if "for" in rule else {}
    return {**rule, "expr": scaled_expression(rule["expr"], by), **waiting}


def write(out: Path, by: float) -> list[Path]:
    """Writes every file of rules with its durations scaled; the files."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for file in sorted(RULES.glob("*.yaml")):
        rules = yaml.safe_load(file.read_text(encoding="utf-8"))
        written.append(out / file.name)
        written[-1].write_text(yaml.safe_dump(scaled(rules, by), sort_keys=False, width=1000), encoding="utf-8")
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--by", type=float, required=True, help="factor of every duration")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    arguments = parser.parse_args()
    print(*write(arguments.out, arguments.by), sep="\n")
