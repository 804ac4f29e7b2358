"""The one split of the pairs: a part that fits every detector, and a part that measures all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scopewatch.errors import DataError, TooLittleData
from scopewatch.pairs.labelled import LabelledPair, fraction, groups_of, labels_of
from scopewatch.statistics.scores import Bool, Rows

SPLIT_SALT = "scopewatch-half"
_LEAST = 10
"""Pairs of each label in each part: with fewer, no number means anything."""


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of the two parts; pairs without a token in the segment are in neither."""

    fit: Rows
    held_out: Rows


def split(pairs: Sequence[LabelledPair], held_out: float, usable: Bool) -> Split:
    """Parts the usable pairs by their group's name, save where the data themselves say what is held out.

    Args:
        pairs: Labelled pairs.
        held_out: The share of the groups that is held out.
        usable: Whether each pair has anything to read in the segment, shape (n_pairs,).

    Raises:
        DataError: The data's own split parts a group.
        TooLittleData: A part has too few pairs of a label.
    """
    out = np.array(
        [pair.split == "held_out" if pair.split else fraction(pair.group, SPLIT_SALT) < held_out for pair in pairs]
    )
    # Names that differ by case are one group, as they are for `fraction`.
    names = [group.strip().lower() for group in groups_of(pairs)]
    _check_groups_are_whole(pairs, names, out)
    found = Split(np.flatnonzero(~out & usable), np.flatnonzero(out & usable))
    unread = f"; {(~usable).sum()} pairs cannot be read, or have no token in the segment" if not usable.all() else ""
    _check_enough(labels_of(pairs), found, f"{len(set(names))} groups were split, {held_out:.0%} held out{unread}")
    return found


def _check_enough(labels: Bool, parts: Split, how: str) -> None:
    """Refuses parts that lack pairs of a label; `how` says how they came about."""
    for part, rows in (("to fit on", parts.fit), ("held out", parts.held_out)):
        for label in (True, False):
            n = int((labels[rows] == label).sum())
            if n < _LEAST:
                raise TooLittleData(
                    f"{n} pairs {part} have label {int(label)}; at least {_LEAST} are needed. {how}",
                    n=n,
                    needed=_LEAST,
                )


def _check_groups_are_whole(pairs: Sequence[LabelledPair], names: Sequence[str], out: Bool) -> None:
    sides = dict(zip(names, out, strict=True))
    for pair, name, inside in zip(pairs, names, out, strict=True):
        if sides[name] != inside:
            raise DataError(f"{pair.place}: split parts the group {pair.group!r}; keep it on one side")
