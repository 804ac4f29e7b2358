"""An evaluation in words, tables and figures, for the terminal and for a page."""

from collections.abc import Mapping, Sequence

from scopewatch.calibration.evaluation import Evaluation, Part
from scopewatch.pairs.left_out import Tally
from scopewatch.report.card_tables import card_tables
from scopewatch.report.figures import Figure, distributions, reliability_diagram, roc
from scopewatch.report.looks import looks_of
from scopewatch.report.page import Number, html_page
from scopewatch.report.tables import Table, table_as_text
from scopewatch.statistics.scores import Bool, Interval, Scores
from scopewatch.watch.cards import BeyondWords, Card

_FEW_GROUPS = 30
_MOST_SOURCES = 20
_WORST = 5
_WORST_ON_PAGE = 20
_LARGEST_ON_PAGE = 20


def as_text(found: Evaluation, mistakes: Sequence[Table] = ()) -> str:
    """The evaluation in words and tables for a terminal; `mistakes` are the tables of what it gets most wrong."""
    numbers = Table("", ("", "", ""), [(number.name, number.value, number.detail) for number in _numbers(found)])
    tables = [numbers, *_tables(found, worst=_WORST, largest=0), *mistakes]
    return "\n\n".join([_headline(found), *map(table_as_text, tables), "\n".join(_sentences(found))])


def as_page(
    found: Evaluation,
    data: Sequence[str],
    labels: Bool,
    detectors: Mapping[str, Scores],
    *,
    thresholds: Scores,
    card: Card | None,
    mistakes: Sequence[Table] = (),
) -> str:
    """The evaluation as one HTML page.

    Args:
        found: The evaluation.
        data: The names of the data files.
        labels: The label of each of the n pairs.
        detectors: The scores of the n pairs by the indicator and then by its baselines, by name.
        thresholds: The threshold that each pair was held against.
        card: The indicator's card, if it has one.
        mistakes: The tables of what it gets most wrong.

    Raises:
        DataError: matplotlib is not installed.
    """
    return html_page(
        title=f"{found.indicator} ({found.watchlist})",
        lines=[f"{_headline(found)}, from {', '.join(data)}.", *_sentences(found)],
        numbers=_numbers(found),
        figures=_figures(found, labels, detectors, thresholds),
        tables=[*_tables(found, worst=_WORST_ON_PAGE, largest=_LARGEST_ON_PAGE), *mistakes, *card_tables(card)],
    )


def _figures(found: Evaluation, labels: Bool, detectors: Mapping[str, Scores], thresholds: Scores) -> list[Figure]:
    scores = next(iter(detectors.values()))
    figures = [
        Figure("ROC", roc(labels, detectors, thresholds), "With the AUROC. Dot: the indicator's threshold."),
        Figure(
            "Scores",
            distributions(labels, scores, thresholds),
            "The outermost bars hold what lies beyond them.",
        ),
    ]
    if found.ece is not None:
        caption = "On the line a probability means what it says."
        figures.append(Figure("Reliability", reliability_diagram(found.reliability), caption))
    return figures


def _headline(found: Evaluation) -> str:
    return (
        f"{found.indicator} of watchlist {found.watchlist} on {found.n:,} pairs "
        f"({found.n_positive:,} of label 1) in {found.n_groups:,} groups"
    )


def _numbers(found: Evaluation) -> list[Number]:
    numbers = [
        Number("AUROC", f"{found.auroc:.3f}", f"{found.auroc_low:.3f} to {found.auroc_high:.3f}"),
        Number("threshold", f"{found.threshold:.4g}", _flagged_above(found)),
        Number(
            "true positives",
            f"{found.tpr_groups:.1%}",
            f"of one pair a group, at least {found.tpr_low:.1%}; {found.tpr:.1%} of all pairs",
        ),
        Number(
            "false positives",
            f"{found.fpr_groups:.1%}",
            f"of one pair a group ({found.fpr_upper_n:,}), at most {found.fpr_upper:.1%}; {found.fpr:.1%} of all pairs",
        ),
        Number("precision", "-" if found.precision is None else f"{found.precision:.1%}", "of these pairs"),
    ]
    if found.ece is not None:
        numbers.append(Number("calibration error", f"{found.ece:.3f}", "of the probability (ECE)"))
    return numbers


def _flagged_above(found: Evaluation) -> str:
    if found.threshold_low == found.threshold_high:
        return "flagged above it"
    return f"the median; it goes by length, from {found.threshold_low:.4g} to {found.threshold_high:.4g}"


def _sentences(found: Evaluation) -> list[str]:
    told = []
    if found.baselines:
        best = max(found.baselines, key=lambda name: found.baselines[name])
        rivals = dict.fromkeys([best, *(name for name in ("bag_of_words",) if name in found.baselines)])
        told += [_versus(found.indicator, rival, found.differences[rival]) for rival in rivals]
        if found.beyond_words:
            told.append(str(BeyondWords.model_validate(found.beyond_words)))
        told.append(found.baselines_fitted_on)
    if found.n_groups < _FEW_GROUPS:
        told.append(f"Only {found.n_groups} groups: intervals drawn over so few are rough.")
    if found.truncated:
        told.append(f"{found.truncated:,} pairs did not fit the reader whole.")
    if found.incomplete:
        told.append(f"{found.incomplete:,} pairs have the verdict INCOMPLETE: a text was not read whole.")
    told += Tally(found.rows, found.left_out, notes=found.notes).sentences
    told += found.broken_promises
    if found.card_warning:
        told.append(f"Warning: {found.card_warning}.")
    elif not found.calibrated:
        told.append("Warning: the indicator is uncalibrated.")
    return told


def _versus(indicator: str, rival: str, difference: Interval) -> str:
    winner, loser = (indicator, rival) if difference.value >= 0 else (rival, indicator)
    low, high = sorted((abs(difference.low), abs(difference.high)))
    if difference.low <= 0 <= difference.high:
        return (
            f"{indicator} and {rival} cannot be told apart on these pairs: "
            f"the difference is {difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})."
        )
    return f"{winner} clearly beats {loser}, by {abs(difference.value):.3f} ({low:.3f} to {high:.3f})."


def _tables(found: Evaluation, *, worst: int, largest: int) -> list[Table]:
    rivals = [(name, value, *found.baseline_intervals[name]) for name, value in found.baselines.items()]
    own = (found.indicator, found.auroc, found.auroc_low, found.auroc_high)
    by_auroc = sorted([own, *rivals], key=lambda row: -row[1])
    tables = []
    if rivals:
        looks = looks_of([found.indicator, *found.baselines])
        tables.append(Table("Detectors on these pairs", ("detector", "AUROC", "low", "high"), by_auroc, looks=looks))
    if len(found.sources) > 1:
        by_size = sorted(found.sources, key=lambda part: -part.n)
        tables.append(_parts_table("Sources", "source", by_size[:_MOST_SOURCES], len(by_size[_MOST_SOURCES:])))
    alarming = [part for part in found.groups if _false_positives(part)]
    if alarming:
        alarming = sorted(alarming, key=_false_positives, reverse=True)[:worst]
        tables.append(_parts_table("Groups with the most false positives", "group", alarming))
    if found.groups and largest:
        tables.append(_parts_table("Largest groups", "group", found.groups[:largest]))
    return tables


def _parts_table(title: str, kind: str, parts: Sequence[Part], left_out: int = 0) -> Table:
    columns = (kind, "pairs", "label 1", "AUROC", "TPR", "FPR", "false positives", "mean score")
    rows = [(p.name, p.n, p.n_positive, p.auroc, p.tpr, p.fpr, _false_positives(p), p.mean_score) for p in parts]
    return Table(title, columns, rows, f"and {left_out:,} smaller ones" if left_out else "")


def _false_positives(part: Part) -> int:
    return round((part.fpr or 0) * (part.n - part.n_positive))
