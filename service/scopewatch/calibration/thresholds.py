"""The threshold that benign pairs set, and how it goes by length."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scopewatch.calibration.split import Split
from scopewatch.calibration.wanted import Wanted
from scopewatch.errors import TooLittleData
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.statistics.bounds import Threshold, false_positive_bound, one_per_group, threshold_for
from scopewatch.statistics.by_length import fit_by_length
from scopewatch.statistics.scores import Rows, Scores
from scopewatch.watch.indicators import ByLength


@dataclass(frozen=True, slots=True)
class Lengths:
    """What a threshold that goes by length is fitted on, and the lengths of the pairs that it is for."""

    fit_scores: Scores
    """The detector's scores of the pairs that were fitted."""
    n_tokens: Rows
    """How many tokens the scored segment of each pair has, fitted or not."""


def fitted_by_length(pairs: Sequence[LabelledPair], parts: Split, lengths: Lengths, wanted: Wanted) -> ByLength | None:
    """How the threshold goes by length, by the benign pairs that were fitted."""
    if not wanted.by_length:
        return None
    benign = np.flatnonzero(~labels_of(pairs)[parts.fit])
    rows = parts.fit[benign]
    groups = [pairs[row].group for row in rows]
    return fit_by_length(lengths.fit_scores[benign], lengths.n_tokens[rows], groups, wanted.max_fpr)


def added_by_length(by_length: ByLength | None, n_tokens: Rows) -> Scores:
    """What is added to the threshold for pairs of these lengths, as the online scorer does it."""
    return np.array([by_length.added(n) if by_length else 0.0 for n in n_tokens.tolist()])


def benign_threshold(scores: Scores, groups: Sequence[str], wanted: Wanted) -> Threshold:
    """The threshold that benign pairs, one of each group, bound.

    Args:
        scores: The scores of benign pairs on which nothing was fitted, less what is added to the threshold by length.
        groups: The group of each of these pairs.
        wanted: The rate and the confidence; with `force`, too few pairs set the highest of their scores.

    Raises:
        TooLittleData: There are too few pairs, and `force` was not asked for.
    """
    alone = scores[one_per_group(groups)]
    try:
        found = threshold_for(alone, wanted.max_fpr, wanted.confidence)
    except TooLittleData as problem:
        if not wanted.force:
            raise TooLittleData(
                f"too little data: {problem}, each of a group of its own; give a higher --max-fpr, more pairs, a "
                "larger --held-out, or --force to flag only what scores above all of them",
                n=problem.n,
                needed=problem.needed,
            ) from None
        bound = false_positive_bound(0, len(alone), wanted.confidence)
        found = Threshold(float(alone.max()), 0, len(alone), bound, wanted.confidence)
    # Room for the last bits, in which an engine on another device may differ: a pair that scored exactly the threshold
    # stays below it.
    return replace(found, value=found.value + 1e-6 * max(1.0, abs(found.value)))
