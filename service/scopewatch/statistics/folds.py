"""Folds for cross-validation, which never have a group on both sides."""

from collections.abc import Sequence

import numpy as np

from scopewatch.errors import DataError, TooLittleData
from scopewatch.statistics.scores import Bool, Rows

try:
    from sklearn.model_selection import StratifiedGroupKFold
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None

Places = Rows
"""The number of the fold in which each pair is left out, shape (n_pairs,)."""
Folds = Sequence[tuple[Rows, Rows]]
"""For each fold, the rows that are fitted and the rows that are left out."""
FOLDS = 5
_LEAST_OF_A_SOURCE = 20


def folds_of(labels: Bool, groups: Sequence[str], folds: int = FOLDS, fewest: int = 2) -> Places:
    """Parts pairs by group into folds that all have both labels, in about equal shares.

    Args:
        labels: The label of each pair.
        groups: The group of each pair.
        folds: The most folds that are made.
        fewest: The fewest folds that will do.

    Raises:
        TooLittleData: Fewer than `fewest` folds can be made.
    """
    names = np.array(groups, dtype=object)
    positive, negative = len(set(names[labels])), len(set(names[~labels]))
    for count in range(min(folds, positive, negative), fewest - 1, -1):
        place = np.empty(len(labels), np.intp)
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
        for fold, (_, out) in enumerate(splitter.split(labels, labels, names)):
            place[out] = fold
        if all(len(np.unique(labels[place == fold])) == 2 for fold in range(count)):
            return place
    raise TooLittleData(
        f"label 1 is in {positive} groups and label 0 in {negative}: cross-validation needs {fewest} parts that have "
        "both labels and share no group; give more groups",
        n=min(positive, negative),
        needed=fewest,
    )


def grouped_folds(labels: Bool, groups: Sequence[str]) -> Folds:
    """The folds of `folds_of` as rows to fit and rows left out.

    Raises:
        TooLittleData: There cannot be two folds.
    """
    place = folds_of(labels, groups)
    return [(np.flatnonzero(place != fold), np.flatnonzero(place == fold)) for fold in range(place.max() + 1)]


def source_folds(labels: Bool, sources: Sequence[str], groups: Sequence[str]) -> Folds:
    """A fold for each source that has enough pairs of both labels: what does well on it is what carries over.

    A group that stands in several sources is never on both sides: its pairs elsewhere are not fitted.

    Raises:
        TooLittleData: There are not two such sources.
    """
    names = np.array(sources, dtype=object)
    rarer = {name: min(labels[names == name].sum(), (~labels[names == name]).sum()) for name in sorted(set(sources))}
    large = [name for name, n in rarer.items() if n >= _LEAST_OF_A_SOURCE]
    if len(large) < 2:
        raise TooLittleData(
            f"{len(large)} sources have {_LEAST_OF_A_SOURCE} pairs to fit of either label; leaving one out needs two",
            n=len(large),
            needed=2,
        )
    members = np.array(groups, dtype=object)
    folds = []
    for name in large:
        out = names == name
        folds.append((np.flatnonzero(~out & ~np.isin(members, np.unique(members[out]))), np.flatnonzero(out)))
    return folds
