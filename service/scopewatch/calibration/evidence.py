"""What held-out pairs say of a fitted detector: ranking, threshold with its bound, calibration error, company, leaks.

The pairs are split once, by group, with a fixed hash: one part fits every detector, the other measures them. What is
written is what was measured; nothing is fitted again on all pairs. The held-out benign pairs, one of each group, set
the threshold, so that its bound holds exactly (`statistics.threshold_for`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from scopewatch.calibration.sparse_fit import Weights
from scopewatch.errors import DataError, TooLittleData, Unsupported
from scopewatch.pairs.labelled import LabelledPair, fraction, groups_of, labels_of
from scopewatch.statistics.bounds import Threshold, false_positive_bound, one_per_group, threshold_for
from scopewatch.statistics.calibration_error import Bin, calibration_error, reliability
from scopewatch.statistics.ranking import auroc_difference, auroc_interval
from scopewatch.statistics.scores import Bool, Interval, Scores
from scopewatch.watch.indicators import Probability

Rows = NDArray[np.intp]
Kind = Literal["features", "probe", "combination"]

SPLIT_SALT = "scopewatch-half"
BAG_OF_WORDS = "bag_of_words"
_LEAST = 10
"""Pairs of each label in each part: with fewer, nothing here means anything."""
_LEAKY_LENGTH = 0.7
_LEAKY_WORDS = 0.95


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a calibration is asked for."""

    kind: Kind = "features"
    max_fpr: float = 0.01
    confidence: float = 0.95
    """Of the bound on the false-positive rate."""
    held_out: float = 0.5
    """Share of the groups that are not fitted."""
    terms: int | None = None
    """None chooses by cross-validation."""
    weights: Weights = "free"
    across_sources: bool = False
    """Cross-validation leaves whole sources out instead of groups."""
    force: bool = False
    """Write what does not beat a bag of words, or whose bound is above `max_fpr`."""


@dataclass(frozen=True, slots=True)
class Detector:
    """One detector's ranking of the held-out pairs."""

    scores: Scores
    auroc: Interval
    lead: Interval
    """AUROC of the calibrated detector less this one's, on the same resamplings."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the held-out pairs say of a detector."""

    labels: Bool
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    scores: Scores
    auroc: Interval
    cv_auroc: float
    threshold: Threshold
    max_fpr: float
    probability: Probability
    tpr: float
    fpr: float
    ece: float
    bins: tuple[Bin, ...]
    company: Mapping[str, Detector]
    leaks: tuple[str, ...]
    n_fit: int
    n_fit_positive: int
    skipped: int
    """Pairs without a token in the segment; they are in no number."""

    @property
    def beats_bag_of_words(self) -> bool:
        return self.company[BAG_OF_WORDS].lead.value > 0

    @property
    def findings(self) -> tuple[str, ...]:
        """In plain sentences: who wins, what leaks, what could not be kept."""
        best = max(self.company, key=lambda name: self.company[name].auroc.value)
        other = self.company[best]
        clear = other.lead.low > 0 or other.lead.high < 0
        lead = f"by {abs(other.lead.value):.3f} ({other.lead.low:+.3f} to {other.lead.high:+.3f})"
        who = f"It ranks above every alternative, {best} next," if other.lead.value > 0 else f"{best} ranks better,"
        found = [f"{who} {lead}" + ("." if clear else "; the interval holds 0, so that nothing is decided.")]
        if not self.beats_bag_of_words:
            found.append("It does not beat a bag of words.")
        if self.threshold.fpr_upper > self.max_fpr:
            found.append(
                f"Too little data for a false-positive rate of {self.max_fpr:g}: "
                f"{self.threshold.n} benign groups bound it by {self.threshold.fpr_upper:.3g} at best."
            )
        return (*found, *(f"Leaky data: {leak}." for leak in self.leaks))


class Fitted(Protocol):
    """A detector that was fitted, with what cross-validation on the fit part says of it."""

    @property
    def cv_auroc(self) -> float: ...
    @property
    def probability(self) -> Probability: ...


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of the two parts."""

    fit: Rows
    held_out: Rows


def split(pairs: Sequence[LabelledPair], held_out: float, usable: Bool) -> Split:
    """Parts the usable pairs by group, but where the data say themselves what is held out.

    Raises:
        DataError: They part a group.
        TooLittleData: A part lacks pairs of a label.
    """
    out = np.array(
        [pair.split == "held_out" if pair.split else fraction(pair.group, SPLIT_SALT) < held_out for pair in pairs]
    )
    # Names that differ by case are one group, as they are for `fraction`.
    names = [group.strip().lower() for group in groups_of(pairs)]
    sides = dict(zip(names, out, strict=True))
    for pair, name, inside in zip(pairs, names, out, strict=True):
        if sides[name] != inside:
            raise DataError(
                f"{pair.source} line {pair.line}: split parts the group {pair.group!r}; keep it on one side"
            )
    labels = labels_of(pairs)
    unread = f"; {(~usable).sum()} pairs have nothing to read in the segment" if not usable.all() else ""
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


def assert_enough(pairs: Sequence[LabelledPair], wanted: Wanted) -> None:
    """Refuses what has too few pairs however they are read, before they are.

    Raises:
        TooLittleData, DataError: As `split` and `benign_threshold` would.
    """
    held_out = split(pairs, wanted.held_out, np.ones(len(pairs), bool)).held_out
    benign = [pairs[row].group for row in held_out if not pairs[row].label]
    benign_threshold(np.zeros(len(benign)), benign, wanted)


def measure(
    pairs: Sequence[LabelledPair],
    parts: Split,
    scores: Scores,
    *,
    fitted: Fitted,
    others: Callable[[], Mapping[str, Scores]],
    wanted: Wanted,
) -> Evidence:
    """Measures a detector on the held-out pairs.

    Args:
        pairs: All.
        parts: Which were fitted.
        scores: The detector's, on the held-out pairs.
        fitted: Its cross-validation.
        others: Makes other detectors' scores of the same pairs, `bag_of_words` among them.
        wanted: What was asked for.

    Raises:
        TooLittleData: Without `force`, not enough for the bound.
        Unsupported: There is no signal, or, without `force`, none beyond a bag of words.
    """
    labels, groups = labels_of(pairs)[parts.held_out], tuple(pairs[row].group for row in parts.held_out)
    found = auroc_interval(labels, scores, groups)
    fit_labels = labels_of(pairs)[parts.fit]
    chance = 0.5 + 2 * _standard_error(fit_labels)
    if found.low <= 0.5 or fitted.cv_auroc <= chance:
        raise Unsupported(
            f"no signal: AUROC {found.value:.3f} ({found.low:.3f} to {found.high:.3f}) on {len(labels)} held-out "
            f"pairs, {fitted.cv_auroc:.3f} in cross-validation (chance reaches {chance:.3f}); nothing is written"
        )
    threshold = benign_threshold(scores[~labels], [groups[row] for row in np.flatnonzero(~labels)], wanted)
    probabilities = 1 / (1 + np.exp(-(fitted.probability.slope * scores + fitted.probability.intercept)))
    company_ = {
        name: Detector(theirs, auroc_interval(labels, theirs, groups), auroc_difference(labels, scores, theirs, groups))
        for name, theirs in others().items()
    }
    evidence = Evidence(
        labels=labels,
        groups=groups,
        sources=tuple(pairs[row].source for row in parts.held_out),
        scores=scores,
        auroc=found,
        cv_auroc=fitted.cv_auroc,
        threshold=threshold,
        max_fpr=wanted.max_fpr,
        probability=fitted.probability,
        tpr=float((scores[labels] > threshold.value).mean()),
        fpr=float((scores[~labels] > threshold.value).mean()),
        ece=calibration_error(labels, probabilities),
        bins=tuple(reliability(labels, probabilities)),
        company=company_,
        leaks=_leaks(company_),
        n_fit=len(parts.fit),
        n_fit_positive=int(fit_labels.sum()),
        skipped=len(pairs) - len(parts.fit) - len(parts.held_out),
    )
    if not evidence.beats_bag_of_words and not wanted.force:
        words = evidence.company[BAG_OF_WORDS]
        ranked = sorted(evidence.company.items(), key=lambda item: -item[1].auroc.value)
        raise Unsupported(
            f"AUROC {found.value:.3f} does not beat a bag of words ({words.auroc.value:.3f}) on the same held-out "
            "pairs; --force writes it all the same, and its card says so. All on these pairs: "
            + ", ".join(f"{name} {detector.auroc.value:.3f}" for name, detector in ranked)
        )
    return evidence


def benign_threshold(scores: Scores, groups: Sequence[str], wanted: Wanted) -> Threshold:
    """The threshold that benign pairs bound, one of each group.

    Args:
        scores: Theirs, none of them fitted on.
        groups: Theirs.
        wanted: The rate and the confidence; with `force`, the highest score where there are too few.

    Raises:
        TooLittleData: There are too few.
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
    # Room for the last bits, in which an engine on another device may differ: what scored the threshold stays below.
    return replace(found, value=found.value + 1e-6 * max(1.0, abs(found.value)))


def _leaks(others: Mapping[str, Detector]) -> tuple[str, ...]:
    length, words = others["response_length"].auroc.value, others[BAG_OF_WORDS].auroc.value
    found = []
    if max(length, 1 - length) >= _LEAKY_LENGTH:
        found.append(f"the response's length alone gives the label away (AUROC {max(length, 1 - length):.3f})")
    if words >= _LEAKY_WORDS:
        found.append(f"its words alone give the label away (AUROC {words:.3f})")
    return tuple(found)


def _standard_error(labels: Bool) -> float:
    """Of an AUROC where there is nothing to find (Mann and Whitney 1947)."""
    positive = int(labels.sum())
    return sqrt((len(labels) + 1) / (12 * positive * (len(labels) - positive)))
