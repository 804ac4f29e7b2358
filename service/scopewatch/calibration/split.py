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
    unread = f"; {(~usable).sum()} pairs have nothing to read in the segment" if not usable.all() else ""
    labels = labels_of(pairs)
    for part, inside in (("to fit on", ~out & usable), ("held out", out & usable)):
        for label in (True, False):
            n = int((labels[inside] == label).sum())
            if n < _LEAST:
                raise TooLittleData(
                    f"{n} pairs {part} have label {int(label)}; at least {_LEAST} are needed. "
                    f"{len(set(names))} groups were split, {held_out:.0%} held out" + unread,
                    n=n,
                    needed=_LEAST,
                )
    return Split(np.flatnonzero(~out & usable), np.flatnonzero(out & usable))


def _check_groups_are_whole(pairs: Sequence[LabelledPair], names: Sequence[str], out: Bool) -> None:
    sides = dict(zip(names, out, strict=True))
    for pair, name, inside in zip(pairs, names, out, strict=True):
        if sides[name] != inside:
            raise DataError(
                f"{pair.source} line {pair.line}: split parts the group {pair.group!r}; keep it on one side"
            )
