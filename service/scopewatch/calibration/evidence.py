"""What held-out pairs say of a fitted detector: ranking, threshold with its bound, calibration error, leaks.

The pairs are split once, by group, with a fixed hash: one part fits every detector, the other measures them. What is
written is what was measured; nothing is fitted again on all pairs. The held-out benign pairs, one of each group, set
the threshold, so that its bound holds exactly (`statistics.bounds.threshold_for`). Where the threshold goes by length,
its slope comes from the benign pairs of the other part, and the held-out ones set it on their scores less what the
slope adds: the slope is given before they are looked at, and the bound is as exact.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np

from scopewatch.calibration.beyond_words import beyond_words
from scopewatch.calibration.source_aurocs import at_chance, source_aurocs
from scopewatch.calibration.split import Split, split
from scopewatch.calibration.thresholds import Lengths, added_by_length, benign_threshold, fitted_by_length
from scopewatch.calibration.wanted import Wanted
from scopewatch.errors import Unsupported
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.statistics.bounds import Threshold
from scopewatch.statistics.calibration_error import Bin, calibration_error, reliability
from scopewatch.statistics.ranking import auroc_difference, auroc_interval
from scopewatch.statistics.scores import Bool, Interval, Scores
from scopewatch.watch.cards import Beside, BeyondWords
from scopewatch.watch.indicators import ByLength, Probability

BAG_OF_WORDS = "bag_of_words"
_BESIDE_WORDS: dict[Beside, str] = {
    "better": "It is better than a bag of words",
    "undecided": "Whether it is better than a bag of words is undecided",
    "worse": "It is worse than a bag of words",
}
_CLEARLY_BEATEN = {
    BAG_OF_WORDS: "a bag of words",
    "single_feature": "its best single feature, which --terms 1 gives",
}
"""What an indicator has to stand beside to be written, in words."""
_LEAKY_LENGTH = 0.7
_LEAKY_WORDS = 0.95


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another detector on the same held-out pairs."""

    scores: Scores
    auroc: Interval
    lead: Interval
    """AUROC of the calibrated detector less that of this one, on the same resamplings."""

    @property
    def beside(self) -> Beside:
        """How the calibrated detector does beside this one."""
        return "better" if self.lead.low > 0 else "worse" if self.lead.high < 0 else "undecided"

    @property
    def said(self) -> str:
        """The lead in words."""
        return f"by {abs(self.lead.value):.3f} ({self.lead.low:+.3f} to {self.lead.high:+.3f})"


@dataclass(frozen=True, slots=True)
class HeldOutEvidence:
    """What the held-out pairs say of a detector."""

    labels: Bool
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    scores: Scores
    auroc: Interval
    cv_auroc: float
    """The mean AUROC of cross-validation on the part that was fitted."""
    threshold: Threshold
    """Where it goes by length, the threshold at the reference length."""
    by_length: ByLength | None
    thresholds: Scores
    """The threshold of each pair."""
    max_fpr: float
    """The false-positive rate that was asked for."""
    probability: Probability
    tpr: float
    """The share of label 1 that scores above the threshold."""
    fpr: float
    """The share of label 0 that scores above the threshold."""
    ece: float
    """The expected calibration error of the probability."""
    bins: tuple[Bin, ...]
    alternatives: Mapping[str, Alternative]
    """Other detectors on the same pairs, by name."""
    by_source: Mapping[str, Interval]
    """The AUROC on each source that has both labels, by its name; empty where there is one source only."""
    leaks: tuple[str, ...]
    """Sentences that say by what form alone the data give the label away."""
    n_fit: int
    n_fit_positive: int
    skipped: int
    """How many pairs could not be read or have no token in the segment; they are in no number."""
    remarks: tuple[str, ...] = ()
    """Sentences that say how the detectors were made."""

    beyond_words: BeyondWords | None = None
    """What the detector adds to words; None for one of words."""

    def as_fields(self) -> dict[str, object]:
        """What an indicator has of this: its threshold and the map from its score to a probability."""
        return {
            "threshold": self.threshold.value,
            "threshold_by_length": self.by_length,
            "probability": self.probability,
        }

    @property
    def flagged(self) -> Bool:
        """Whether each pair scores above its threshold."""
        return self.scores > self.thresholds

    @property
    def beside_words(self) -> Beside:
        """How the detector ranks the pairs beside a bag of words."""
        return self.alternatives[BAG_OF_WORDS].beside

    @property
    def conclusions(self) -> tuple[str, ...]:
        """Plain sentences: which detector wins, what leaks, what could not be kept."""
        best = max(self.alternatives, key=lambda name: self.alternatives[name].auroc.value)
        other, words = self.alternatives[best], self.alternatives[BAG_OF_WORDS]
        who = f"It ranks above every alternative, {best} next," if other.lead.value > 0 else f"{best} ranks better,"
        undecided = "; the interval holds 0, so that nothing is decided" if other.beside == "undecided" else ""
        told = [f"{who} {other.said}{undecided}.", f"{_BESIDE_WORDS[words.beside]}, {_signed(words.lead)}."]
        told += at_chance(self.by_source)
        if self.threshold.fpr_upper > self.max_fpr:
            told.append(
                f"Too little data for a false-positive rate of {self.max_fpr:g}: "
                f"{self.threshold.n} benign groups bound it by {self.threshold.fpr_upper:.3g} at best."
            )
        if self.beyond_words:
            told.append(str(self.beyond_words))
        return (*told, *self.remarks, *(f"Leaky data: {leak}." for leak in self.leaks))


class Fitted(Protocol):
    """A detector that was fitted, with what cross-validation on the fitted part says of it."""

    @property
    def cv_auroc(self) -> float: ...
    @property
    def probability(self) -> Probability: ...


def assert_enough(pairs: Sequence[LabelledPair], wanted: Wanted) -> None:
    """Refuses pairs that are too few however they are read, before they are read.

    Raises:
        TooLittleData, DataError: What `split` and `benign_threshold` would raise.
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
    alternatives: Callable[[], Mapping[str, Scores]],
    wanted: Wanted,
    remarks: tuple[str, ...] = (),
    lengths: Lengths | None = None,
) -> HeldOutEvidence:
    """Measures a detector on the held-out pairs.

    Args:
        pairs: All labelled pairs, fitted and held out.
        parts: Which of them were fitted and which are held out.
        scores: The detector's scores of the held-out pairs.
        fitted: The detector's cross-validation.
        alternatives: Makes the scores of other detectors on the held-out pairs, by name; `bag_of_words` is among them.
        wanted: What was asked for.
        remarks: Sentences that say how the detectors were made.
        lengths: What a threshold that goes by length is made of; None for one threshold for all lengths.

    Raises:
        TooLittleData: There are too few benign pairs for the bound, and `force` was not asked for.
        Unsupported: There is no signal; or a bag of words or a single feature is clearly better, and `force` was not
            asked for.
    """
    labels, groups = labels_of(pairs)[parts.held_out], tuple(pairs[row].group for row in parts.held_out)
    fit_labels = labels_of(pairs)[parts.fit]
    auroc = auroc_interval(labels, scores, groups)
    _assert_signal(auroc, fitted.cv_auroc, fit_labels, len(labels))
    by_length = fitted_by_length(pairs, parts, lengths, wanted) if lengths else None
    added = added_by_length(by_length, lengths.n_tokens[parts.held_out]) if lengths else np.zeros(len(labels))
    benign = np.flatnonzero(~labels)
    threshold = benign_threshold((scores - added)[benign], [groups[row] for row in benign], wanted)
    flagged = scores > threshold.value + added
    probabilities = 1 / (1 + np.exp(-(fitted.probability.slope * scores + fitted.probability.intercept)))
    measured = {
        name: Alternative(other, auroc_interval(labels, other, groups), auroc_difference(labels, scores, other, groups))
        for name, other in alternatives().items()
    }
    sources = tuple(pairs[row].source for row in parts.held_out)
    evidence = HeldOutEvidence(
        labels=labels,
        groups=groups,
        sources=sources,
        scores=scores,
        auroc=auroc,
        cv_auroc=fitted.cv_auroc,
        threshold=threshold,
        by_length=by_length,
        thresholds=threshold.value + added,
        max_fpr=wanted.max_fpr,
        probability=fitted.probability,
        tpr=float(flagged[labels].mean()),
        fpr=float(flagged[~labels].mean()),
        ece=calibration_error(labels, probabilities),
        bins=tuple(reliability(labels, probabilities)),
        alternatives=measured,
        by_source=source_aurocs(labels, scores, groups, sources),
        leaks=_leaks(measured),
        n_fit=len(parts.fit),
        n_fit_positive=int(fit_labels.sum()),
        skipped=len(pairs) - len(parts.fit) - len(parts.held_out),
        remarks=remarks,
        beyond_words=None
        if wanted.kind == "words"
        else beyond_words(labels, scores, {name: each.scores for name, each in measured.items()}, groups),
    )
    # A detector that only counts words costs no pass of the reader.
    if not wanted.force and wanted.kind != "words":
        _assert_not_beaten(evidence)
    return evidence


def _signed(lead: Interval) -> str:
    """A difference of AUROCs in words, with its sign."""
    return f"by a difference of {lead.value:+.3f} ({lead.low:+.3f} to {lead.high:+.3f})"


def _assert_signal(auroc: Interval, cv_auroc: float, fit_labels: Bool, n_held_out: int) -> None:
    """Refuses a detector that chance explains, on the held-out pairs or in cross-validation."""
    chance = 0.5 + 2 * _standard_error(fit_labels)
    if auroc.low <= 0.5 or cv_auroc <= chance:
        raise Unsupported(
            f"no signal: AUROC {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f}) on {n_held_out} held-out "
            f"pairs, {cv_auroc:.3f} in cross-validation (chance reaches {chance:.3f}); nothing is written"
        )


def _assert_not_beaten(evidence: HeldOutEvidence) -> None:
    """Refuses a detector where something simple is better, and the interval of the difference leaves out 0."""
    for name, described in _CLEARLY_BEATEN.items():
        other = evidence.alternatives.get(name)
        if other and other.beside == "worse":
            ranked = sorted(evidence.alternatives.items(), key=lambda item: -item[1].auroc.value)
            raise Unsupported(
                f"AUROC {evidence.auroc.value:.3f} is worse than that of {described} ({other.auroc.value:.3f}), "
                f"{other.said}, on the same held-out pairs; --force writes it all the same, and its card says so. "
                "All on these pairs: " + ", ".join(f"{name} {each.auroc.value:.3f}" for name, each in ranked)
            )


def _leaks(alternatives: Mapping[str, Alternative]) -> tuple[str, ...]:
    """How the form of the texts gives the label away, in sentences without a full stop."""
    length, words = alternatives["response_length"].auroc.value, alternatives[BAG_OF_WORDS].auroc.value
    found = []
    if max(length, 1 - length) >= _LEAKY_LENGTH:
        found.append(f"the response's length alone gives the label away (AUROC {max(length, 1 - length):.3f})")
    if words >= _LEAKY_WORDS:
        found.append(f"its words alone give the label away (AUROC {words:.3f})")
    return tuple(found)


def _standard_error(labels: Bool) -> float:
    """The standard error of an AUROC where there is nothing to find (Mann and Whitney 1947)."""
    positive = int(labels.sum())
    return sqrt((len(labels) + 1) / (12 * positive * (len(labels) - positive)))
