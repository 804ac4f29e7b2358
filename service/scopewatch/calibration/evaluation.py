"""How well an indicator separates labelled pairs, and how well simple detectors do on the same pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from scopewatch.calibration.beyond_words import beyond_words
from scopewatch.calibration.promises import held_against
from scopewatch.calibration.source_aurocs import at_chance, source_aurocs
from scopewatch.pairs.labelled import LabelledPair, groups_of, labels_of
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.scored import IndicatorScores
from scopewatch.statistics.bounds import false_positive_bound, one_per_group
from scopewatch.statistics.calibration_error import Bin, calibration_error, reliability
from scopewatch.statistics.ranking import auroc, auroc_difference, auroc_interval
from scopewatch.statistics.scores import Bool, Interval, Scores
from scopewatch.watch.cards import Card

_MOST_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class Baselines:
    """Other detectors on the same pairs."""

    scores: Mapping[str, Scores]
    """The scores of the n pairs, shape (n,), by the detector's name."""
    fitted_on: str
    """A sentence that says what the detectors learnt from."""
    notes: tuple[str, ...] = ()
    """Sentences that say what is odd about how the reader reads the pairs."""


@dataclass(frozen=True, slots=True)
class Part:
    """The pairs of one group or one source; a rate is None where the part has no pair to count it on."""

    name: str
    n: int
    n_positive: int
    auroc: float | None
    tpr: float | None
    fpr: float | None
    mean_score: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result; rates are at the watchlist's threshold, intervals hold 95 % and are drawn over groups."""

    indicator: str
    watchlist: str
    n: int
    n_positive: int
    n_groups: int
    auroc: float
    auroc_low: float
    auroc_high: float
    threshold: float
    """The median of the thresholds that pairs were held against: the same for all, unless it goes by length."""
    threshold_low: float
    """The lowest of these thresholds; `threshold_high` is the highest."""
    threshold_high: float
    tpr: float
    """The share of label 1 that is flagged."""
    tpr_groups: float
    """Likewise, of one pair drawn from each group."""
    tpr_low: float
    """`tpr_groups` is at least this with 95 % confidence."""
    fpr: float
    """The share of label 0 that is flagged."""
    fpr_groups: float
    """Likewise, of one pair drawn from each group: a bound is for independent pairs."""
    fpr_upper: float
    """`fpr_groups` is at most this with 95 % confidence (one-sided, Clopper-Pearson)."""
    fpr_low: float
    """`fpr_groups` is at least this with 95 % confidence."""
    broken_promises: tuple[str, ...]
    """What the indicator's card promises and does not hold on these pairs, in sentences."""
    fpr_upper_n: int
    """How many groups have label 0, and so how many pairs count for `fpr_groups`."""
    precision: float | None
    """The share of flagged pairs that have label 1; None when nothing is flagged."""
    truncated: int
    """How many pairs did not fit the reader whole."""
    incomplete: int
    """How many pairs have the verdict INCOMPLETE."""
    rows: int
    """How many rows of the files were read."""
    left_out: dict[str, int]
    """How many of these are in no number, by the reason."""
    notes: tuple[str, ...]
    """Sentences that say what else is odd about the rows."""
    calibrated: bool
    card_warning: str
    ece: float | None
    """The expected calibration error of the probability; None where the indicator maps its score to none."""
    reliability: list[Bin]
    sources: list[Part]
    source_intervals: dict[str, tuple[float, float]]
    """The interval of the AUROC of each source that has both labels, by its name, where there are several sources."""
    groups: list[Part]
    """The groups of at least two pairs, the largest first."""
    groups_left_out: int
    """How many such groups are not listed."""
    baselines: dict[str, float]
    """The AUROC of each baseline, by its name."""
    baseline_intervals: dict[str, tuple[float, float]]
    baselines_fitted_on: str
    differences: dict[str, Interval]
    """The AUROC of the indicator less that of each baseline, by the baseline's name."""
    beyond_words: dict[str, float | str] | None
    """What the indicator adds to words, as a card says it; None for one of words, and without baselines."""

    def document(self) -> dict[str, object]:
        """The evaluation as `evaluate --json` prints it."""
        whole = asdict(self)
        whole |= {kind + "s": [_renamed(part, kind) for part in whole[kind + "s"]] for kind in ("group", "source")}
        differences = {name: _renamed(lead, "difference", "value") for name, lead in whole["differences"].items()}
        return whole | {
            "interval": [self.auroc_low, self.auroc_high],
            "differences": differences,
            "beats_bag_of_words": differences.get("bag_of_words"),
        }


def evaluate(
    pairs: Sequence[LabelledPair],
    scored: IndicatorScores,
    baselines: Baselines | None = None,
    tally: Tally | None = None,
    *,
    is_words: bool = False,
    card: Card | None = None,
) -> Evaluation:
    """Compares scores with labels.

    Args:
        pairs: Labelled pairs; both labels must occur.
        scored: What the online scorer says of these pairs.
        baselines: Other detectors on the same pairs.
        tally: What was left out of the rows that were read; None for nothing.
        is_words: Whether the indicator counts words itself, to which it then adds nothing.
        card: The indicator's card, whose promises are held against these pairs.

    Raises:
        DataError: A score is no finite number.
    """
    baselines, tally = baselines or Baselines({}, ""), tally or Tally(len(pairs))
    labels, groups, sources = labels_of(pairs), groups_of(pairs), [pair.source for pair in pairs]
    aurocs = source_aurocs(labels, scored.scores, groups, sources)
    whole = _part("", labels, scored)
    interval = auroc_interval(labels, scored.scores, groups)
    benign_groups = [group for group, label in zip(groups, labels, strict=True) if not label]
    promises = held_against(card, scored.flagged[~labels], benign_groups, interval)
    rivals = {name: auroc_interval(labels, scores, groups) for name, scores in baselines.scores.items()}
    parts = sorted(
        (part for part in _parts(groups, labels, scored) if part.n > 1), key=lambda part: (-part.n, part.name)
    )
    alarmed, missed = _wrong(scored.flagged[~labels], groups, ~labels), _wrong(~scored.flagged[labels], groups, labels)
    beyond = None if is_words else beyond_words(labels, scored.scores, baselines.scores, groups)
    assert whole.tpr is not None
    assert whole.fpr is not None
    return Evaluation(
        indicator=scored.indicator,
        watchlist=scored.watchlist,
        n=whole.n,
        n_positive=whole.n_positive,
        n_groups=len(set(groups)),
        auroc=interval.value,
        auroc_low=interval.low,
        auroc_high=interval.high,
        threshold=float(np.median(scored.thresholds)),
        threshold_low=float(scored.thresholds.min()),
        threshold_high=float(scored.thresholds.max()),
        tpr=whole.tpr,
        tpr_groups=1 - float(missed.mean()),
        tpr_low=1 - false_positive_bound(int(missed.sum()), len(missed)),
        fpr=whole.fpr,
        fpr_groups=float(alarmed.mean()),
        fpr_upper=false_positive_bound(int(alarmed.sum()), len(alarmed)),
        fpr_upper_n=len(alarmed),
        fpr_low=promises.fpr_low,
        broken_promises=promises.broken,
        precision=_mean(labels[scored.flagged]),
        truncated=scored.truncated,
        incomplete=scored.incomplete,
        rows=tally.read,
        left_out=dict(tally.reasons),
        notes=(*tally.notes, *at_chance(aurocs), *baselines.notes),
        calibrated=scored.calibrated,
        card_warning=scored.card_warning,
        ece=None if scored.probabilities is None else calibration_error(labels, scored.probabilities),
        reliability=[] if scored.probabilities is None else reliability(labels, scored.probabilities),
        sources=_parts(sources, labels, scored),
        source_intervals={name: (found.low, found.high) for name, found in aurocs.items()},
        groups=parts[:_MOST_GROUPS],
        groups_left_out=len(parts[_MOST_GROUPS:]),
        baselines={name: rival.value for name, rival in rivals.items()},
        baseline_intervals={name: (rival.low, rival.high) for name, rival in rivals.items()},
        baselines_fitted_on=baselines.fitted_on,
        differences={
            name: auroc_difference(labels, scored.scores, scores, groups) for name, scores in baselines.scores.items()
        },
        beyond_words=beyond.model_dump() if beyond else None,
    )


def _wrong(wrong: Bool, groups: Sequence[str], mine: Bool) -> Bool:
    """Whether each of a label's pairs is wrong, of one pair drawn from each group.

    Args:
        wrong: Whether each pair of the label is on the wrong side of the threshold.
        groups: The group of every pair, of either label.
        mine: Whether each of these pairs has the label.
    """
    return wrong[one_per_group([group for group, is_mine in zip(groups, mine, strict=True) if is_mine])]


def _parts(names: Sequence[str], labels: Bool, scored: IndicatorScores) -> list[Part]:
    """The pairs of each group or source, in the order of its name, given the name for every pair."""
    found, member = np.unique(np.array(names, dtype=object), return_inverse=True)
    members = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    return [_part(str(name), labels, scored, rows) for name, rows in zip(found, members, strict=True)]


def _part(name: str, labels: Bool, scored: IndicatorScores, rows: "slice | np.ndarray" = slice(None)) -> Part:
    mine, scores, flagged = labels[rows], scored.scores[rows], scored.flagged[rows]
    return Part(
        name=name,
        n=len(mine),
        n_positive=int(mine.sum()),
        auroc=auroc(mine, scores) if 0 < mine.sum() < len(mine) else None,
        tpr=_mean(flagged[mine]),
        fpr=_mean(flagged[~mine]),
        mean_score=float(scores.mean()),
    )


def _mean(values: Bool) -> float | None:
    return float(values.mean()) if values.size else None


def _renamed(row: dict[str, object], key: str, was: str = "name") -> dict[str, object]:
    return {key if name == was else name: value for name, value in row.items()}
