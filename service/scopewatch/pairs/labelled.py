"""Pairs on file, and what the file says of them: `label`, `group`, `source`, `id`, `split`.

`label` is 1 where the indicator should fire, else 0. Pairs of one `group` (one question, one template, one author) are
never parted by a split, since what is learnt of one would be tested on its sibling. `split`, `fit` or `held_out`, says
on which side of a calibration's split a pair has to be. Other keys are ignored.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import numpy as np

from scopewatch.pairs import cells
from scopewatch.pairs.columns import Columns, Row, find
from scopewatch.pairs.conversation import pair_of
from scopewatch.statistics.scores import Bool
from scopewatch.types import Pair

_MEANT = dict.fromkeys(("true", "yes", "1", "1.0"), 1) | dict.fromkeys(("false", "no", "0", "0.0"), 0)
"""What other ways of writing a label mean."""


class Labels(Enum):
    """What is asked of the labels in a file."""

    NEEDED = auto()
    """Every row must have one."""
    IF_THERE = auto()
    """A row may have one."""
    IGNORED = auto()
    """What stands in their place may be anything."""


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

    @property
    def known_as(self) -> str:
        """What a card calls the pair: the id that the file gives; where it gives none, the file's name and the line."""
        return self.id if self.id != str(self.line) else f"{Path(self.file).name or self.source}:{self.line}"


def parse_row(
    row: object,
    number: int,
    source: str,
    *,
    labels: Labels,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    file: str = "",
) -> LabelledPair:
    """Makes a pair of one row of a file.

    Args:
        row: What the row holds, as JSON has it.
        number: The number of the row in the file, counted from 1.
        source: The source of a row that names none.
        labels: What is asked of its label.
        columns: Where in the row the parts of the pair stand.
        file: The path of the file.

    Raises:
        NoText: The row holds no text to judge.
        ValueError: Names the field that is wrong.
    """
    pair = pair_of(row, columns)
    assert isinstance(row, dict), "else it is no pair"
    return LabelledPair(
        pair,
        _label(row, columns.label, labels),
        number,
        group=_name(row, columns.group) or _group_of_copies(pair),
        source=_name(row, columns.source) or source,
        id=_name(row, columns.id) or str(number),
        split=_split(row) if labels is Labels.NEEDED else "",
        file=file,
    )


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


def _group_of_copies(pair: Pair) -> str:
    """The name of a group that all pairs of the same texts, or tokens, have."""
    ids = [pair.prompt_token_ids, pair.response_token_ids] if pair.response_token_ids else []
    return hashlib.sha256(json.dumps([pair.prompt, pair.response, *ids]).encode()).hexdigest()[:16]


def _name(row: Row, column: str) -> str:
    return cells.name_or_number(find(row, column), column)


def _label(row: Row, column: str, labels: Labels) -> int | None:
    label = find(row, column)
    if labels is Labels.IGNORED or (label is None and labels is Labels.IF_THERE):
        return None
    if isinstance(label, bool) or label not in (0, 1):
        meant = _MEANT.get(str(label).strip().lower())
        hint = "" if meant is None else f"; write the number {meant} for it"
        said = "but there is none" if label is None else f"not {label!r}{hint}"
        raise ValueError(f"{column}: expected 0 or 1, {said}")
    return 1 if label == 1 else 0


def _split(row: Row) -> str:
    if (split := cells.text(row.get("split"), "split")) not in {"", "fit", "held_out"}:
        raise ValueError(f"split: expected fit or held_out, not {split!r}")
    return split
