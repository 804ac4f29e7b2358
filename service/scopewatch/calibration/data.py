"""Labelled pairs: JSONL with `prompt`, `response`, `label` (0 or 1); other keys are ignored."""

import json
from dataclasses import dataclass
from pathlib import Path

from scopewatch.errors import DataError
from scopewatch.types import Pair


@dataclass(frozen=True, slots=True)
class LabelledPair:
    pair: Pair
    label: int
    line: int


def read_pairs(file: Path) -> list[LabelledPair]:
    """Reads a labelled file.

    Raises:
        DataError: With the first few lines that are wrong, or because there is nothing to learn from.
    """
    try:
        # Not splitlines: JSON may hold its other line ends, such as U+2028, inside a text.
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}") from None
    pairs: list[LabelledPair] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(_parse(line, number))
            except ValueError as error:
                problems.append(f"{file}:{number}: {error}")
    if problems:
        more = f"\nand {len(problems) - 5} more lines" if len(problems) > 5 else ""
        raise DataError("\n".join(problems[:5]) + more)
    if len({pair.label for pair in pairs}) < 2:
        raise DataError(f"{file}: {len(pairs)} pairs; both labels, 0 and 1, are needed")
    return pairs


def _parse(line: str, number: int) -> LabelledPair:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise ValueError("expected an object with prompt, response and label")  # noqa: TRY004 - one kind for the caller
    prompt, response, label = row.get("prompt", ""), row.get("response"), row.get("label")
    if not isinstance(prompt, str):
        raise ValueError("prompt: expected text")  # noqa: TRY004
    if not isinstance(response, str) or not response.strip():
        raise ValueError("response: expected text that is not empty")
    for name, text in (("prompt", prompt), ("response", response)):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"{name}: half a surrogate pair is no text")
    if isinstance(label, bool) or label not in (0, 1):
        raise ValueError(f"label: expected 0 or 1, not {label!r}")
    return LabelledPair(Pair(prompt, response), int(label), number)
