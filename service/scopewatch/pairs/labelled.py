"""Pairs on file: JSONL with `response`, and where they have them `prompt`, `history`, `label`, `group`, `source`, `id`.

`label` is 1 where the indicator should fire, else 0. Pairs of one `group` (one question, one template, one author) are
never parted by a split, since what is learnt of one would be tested on its sibling. `split`, `fit` or `held_out`, says
on which side of a calibration's split a pair has to be. Other keys are ignored.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from scopewatch.errors import DataError
from scopewatch.statistics.scores import Bool
from scopewatch.types import Pair, Turn

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """The pair on one line of a file, and what the file says of it."""

    pair: Pair
    label: int | None
    """0, 1, or None where the file gives none."""
    line: int
    group: str = ""
    """The group that the file gives; where it gives none, one made from the texts, so that copies stay together."""
    source: str = ""
    """The source that the file gives; the file's name where it gives none."""
    id: str = ""
    """The id that the file gives; the line's number where it gives none."""
    split: str = ""
    """`fit`, `held_out`, or empty where the file leaves it to the group's name."""
    file: str = field(default="", compare=False)
    """The path of the file; empty where the pair is of none."""

    @property
    def place(self) -> str:
        """Where a user finds the pair: the file and the line."""
        return f"{self.file}:{self.line}" if self.file else f"{self.source}, line {self.line}"


def read_pairs(*files: Path) -> list[LabelledPair]:
    """Reads labelled files, one after the other.

    Raises:
        DataError: Lines are wrong, of which the first few are named, or all pairs have one label.
    """
    pairs = [pair for file in files for pair in _read(file, labelled=True)]
    if len({pair.label for pair in pairs}) < 2:
        only = f", all of label {pairs[0].label}" if pairs else ""
        raise DataError(f"{', '.join(map(str, files))}: {len(pairs)} pairs{only}; both labels, 0 and 1, are needed")
    return pairs


def read_texts(file: Path) -> list[LabelledPair]:
    """Reads a file whose labels do not matter; the label of a pair that has none is None.

    Raises:
        DataError: Lines are wrong, of which the first few are named, or there are no pairs.
    """
    pairs = _read(file, labelled=False)
    if not pairs:
        raise DataError(f"{file}: holds no pairs")
    return pairs


def labels_of(pairs: Sequence[LabelledPair]) -> Bool:
    """Whether the label of each pair, which must have one, is 1; shape (n_pairs,)."""
    assert all(pair.label is not None for pair in pairs)
    return np.array([pair.label for pair in pairs], bool)


def groups_of(pairs: Sequence[LabelledPair]) -> list[str]:
    """The group of each pair."""
    return [pair.group for pair in pairs]


def fraction(group: str, salt: str) -> float:
    """A number in [0, 1) fixed by the group's name, whatever its case: 8 bytes of the SHA-256 of `salt:group`."""
    digest = hashlib.sha256(f"{salt}:{group.strip().lower()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def parse_row(row: object, number: int, source: str, *, labelled: bool) -> LabelledPair:
    """Makes a pair of one row of a file.

    Args:
        row: What the row holds, as JSON has it.
        number: The number of the row in the file, counted from 1.
        source: The source of a row that names none.
        labelled: Whether the row must have a label.

    Raises:
        ValueError: Names the field that is wrong.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with response{' and label' * labelled}")  # noqa: TRY004 - one kind for the caller
    prompt, response = _text(row, "prompt"), _text(row, "response")
    if not response.strip():
        raise ValueError("response: expected text that is not empty")
    label = _label(row, needed=labelled)
    if (split := _text(row, "split")) not in {"", "fit", "held_out"}:
        raise ValueError(f"split: expected fit or held_out, not {split!r}")
    texts = hashlib.sha256(json.dumps([prompt, response]).encode()).hexdigest()[:16]
    return LabelledPair(
        Pair(prompt, response, _history(row.get("history"))),
        label,
        number,
        group=_name(row, "group") or texts,
        source=_name(row, "source") or source,
        id=_name(row, "id") or str(number),
        split=split,
    )


def _read(file: Path, *, labelled: bool) -> list[LabelledPair]:
    try:
        # Not splitlines: JSON may hold its other line ends, such as U+2028, inside a text.
        # A byte order mark, as some editors write it, is no part of the first line.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    pairs: list[LabelledPair] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pair = parse_row(json.loads(line), number, file.stem, labelled=labelled)
                pairs.append(replace(pair, file=str(file)))
            except json.JSONDecodeError as error:
                problems.append(f"{file}:{number}: not JSON: {error.msg} at column {error.colno}")
            except RecursionError:
                problems.append(f"{file}:{number}: nested too deeply")
            except ValueError as error:
                problems.append(f"{file}:{number}: {error}")
    if problems:
        hint = "" if pairs or ": not JSON: " not in problems[0] else "\nexpected JSONL: one JSON object on each line"
        raise DataError(_first_few(problems) + hint)
    return pairs


def _first_few(problems: Sequence[str]) -> str:
    more = f"\nand {len(problems) - _SHOWN} more lines" if len(problems) > _SHOWN else ""
    return "\n".join(problems[:_SHOWN]) + more


def _label(row: dict[str, object], *, needed: bool) -> int | None:
    label = row.get("label")
    if label is None and not needed:
        return None
    if isinstance(label, bool) or label not in (0, 1):
        raise ValueError(f"label: expected 0 or 1, {'but there is none' if label is None else f'not {label!r}'}")
    return 1 if label == 1 else 0


def _text(row: dict[str, object], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected text")  # noqa: TRY004
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name}: half a surrogate pair is no text")
    if (at := value.find("\0")) >= 0:
        # The server refuses it likewise.
        raise ValueError(f"{name}: holds a NUL character at offset {at}; remove it")
    return value


def _name(row: dict[str, object], key: str) -> str:
    """A name of the row, which may be a number in the file."""
    value = row.get(key)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(row, key)


def _history(value: object) -> tuple[Turn, ...]:
    turns = [] if value is None else value
    if not isinstance(turns, list):
        raise ValueError("history: expected a list of turns with role and content")  # noqa: TRY004
    found = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise ValueError("history: expected a list of turns with role and content")  # noqa: TRY004
        if not (role := _text(turn, "role")):
            raise ValueError("history: a turn has no role; write user, assistant or system")
        found.append(Turn(role, _text(turn, "content")))
    return tuple(found)
