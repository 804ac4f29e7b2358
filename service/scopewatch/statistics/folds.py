"""Parts for cross-validation: never on both sides of one is a group."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import DataError, TooLittleData
from scopewatch.statistics.detection import Bool

try:
    from sklearn.model_selection import StratifiedGroupKFold
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None

Places = NDArray[np.intp]
"""Shape (n,): the fold in which each pair is left out."""
Folds = Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]
"""Rows to fit and rows left out."""
FOLDS = 5
_LEAST_OF_A_SOURCE = 20


def folds_of(labels: Bool, groups: Sequence[str], folds: int = FOLDS, fewest: int = 2) -> Places:
    """Parts pairs by group into folds that all have both labels, in about equal shares.

    Raises:
        TooLittleData: `fewest` folds cannot be made.
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
    """Rows to fit and rows left out, by `folds_of`.

    Raises:
        TooLittleData: As there.
    """
    place = folds_of(labels, groups)
    return [(np.flatnonzero(place != fold), np.flatnonzero(place == fold)) for fold in range(place.max() + 1)]


def source_folds(labels: Bool, sources: Sequence[str], groups: Sequence[str]) -> Folds:
    """Each source left out in turn that has enough of both labels: what does well then is what carries over.

    A group that stands in several sources is never on both sides: its pairs elsewhere are not fitted.

    Raises:
        TooLittleData: There are not two of them.
    """
    names = np.array(sources, dtype=object)
    large = [
        name
        for name in sorted(set(sources))
        if min(labels[names == name].sum(), (~labels[names == name]).sum()) >= _LEAST_OF_A_SOURCE
    ]
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
