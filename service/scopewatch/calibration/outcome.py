"""What a calibration came to: the indicator to write, and its evidence as text, JSON and a page."""

from collections.abc import Mapping
from dataclasses import dataclass

from scopewatch.calibration.evidence import HeldOutEvidence
from scopewatch.pairs.left_out import Tally
from scopewatch.report.card_tables import card_tables, fragility_table
from scopewatch.report.figures import Figure, distributions, reliability_diagram, roc
from scopewatch.report.looks import looks_of
from scopewatch.report.page import Number, html_page
from scopewatch.report.tables import Cell, Table, table_as_text
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.statistics.bounds import Threshold
from scopewatch.watch.indicators import Indicator


@dataclass(frozen=True, slots=True)
class Outcome:
    """A calibrated indicator, ready to be written, and what was measured of it."""

    indicator: Indicator
    reader: ReaderSource
    saes: Mapping[str, SaeSource]
    """The SAEs and probes that its features name."""
    threshold: Threshold
    evidence: HeldOutEvidence | None
    """None where benign traffic alone set the threshold."""
    tally: Tally
    """How many rows of the files were read, and what was left out of them."""
    terms: Table | None
    """What the indicator is made of; None of one that weighs nothing, or whose words are not to be told."""

    def lines(self) -> list[str]:
        """The outcome in lines for a terminal."""
        made = self.indicator.made_of
        first = f"{self.indicator.name}: {self.indicator.kind} ({made}), threshold {self.indicator.threshold_in_words}"
        tables = [table_as_text(_detectors(self.indicator.name, self.evidence))] if self.evidence else []
        card = self.indicator.card
        tables += [table_as_text(fragility_table(card))] if card and card.fragility else []
        return [first, *tables, *self._sentences()]

    def document(self) -> dict[str, object]:
        """The outcome as JSON can hold it; every number is of held-out pairs."""
        document: dict[str, object] = {
            "indicator": self.indicator.model_dump(mode="json", exclude_defaults=True),
            "threshold": self.indicator.threshold,
            "fpr_groups": self.threshold.fpr,
            "fpr_upper": self.threshold.fpr_upper,
            "fpr_upper_n": self.threshold.n,
            "confidence": self.threshold.confidence,
            "rows": self.tally.read,
            "left_out": dict(self.tally.reasons),
            "notes": list(self.tally.notes),
        }
        if card := self.indicator.card:
            document["fragility"] = [row.model_dump(mode="json") for row in card.fragility]
            document["stands_on"] = card.stands_on
        return document | _numbers(self.evidence) if self.evidence else document

    def page(self) -> str:
        """The outcome as one HTML page."""
        found = self.evidence
        title = f"Calibration of {self.indicator.name}"
        made_of = [*([self.terms] if self.terms else []), *card_tables(self.indicator.card)]
        if not found:
            return html_page(title, self._sentences(), made_of, [])
        numbers = [
            Number("AUROC", f"{found.auroc.value:.3f}", f"{found.auroc.low:.3f} to {found.auroc.high:.3f}"),
            Number("TPR", f"{found.tpr:.3f}", "at the threshold"),
            Number("FPR by groups", f"{self.threshold.fpr:.4f}", f"at most {self.threshold.fpr_upper:.4f}"),
            Number("FPR of all pairs", f"{found.fpr:.4f}", "at the threshold"),
            Number("ECE", f"{found.ece:.3f}", "of the probability"),
        ]
        tables = [_detectors(self.indicator.name, found), *made_of]
        return html_page(title, self._sentences(), tables, _figures(self.indicator, found), numbers)

    def _sentences(self) -> list[str]:
        bound = (
            f"False positives, of one benign pair a group: {self.threshold.fpr:.2%} of {self.threshold.n}, at most "
            f"{self.threshold.fpr_upper:.3%} with {self.threshold.confidence:.0%} confidence."
        )
        found = self.evidence
        if not found:
            return [bound, *self.tally.sentences]
        held_out = f"{len(found.labels)} held-out pairs, {int(found.labels.sum())} positive"
        return [
            f"Fitted on {found.n_fit} pairs ({found.n_fit_positive} positive); measured on {held_out}.",
            *self.tally.sentences,
            f"At the threshold it finds {found.tpr:.1%} of the positive, flags {found.fpr:.2%} of all others. {bound}",
            f"Its probability is off by {found.ece:.3f} on average (ECE).",
            *found.conclusions,
            *self._warnings(),
        ]

    def _warnings(self) -> list[str]:
        """What the card says of a detector that stands on too little."""
        word = self.indicator.card.stands_on if self.indicator.card else ""
        lost = f"without {word!r} its AUROC loses more than half of its way above chance"
        return [f"Warning: it stands on one word: {lost}."] if word else []


def _numbers(found: HeldOutEvidence) -> dict[str, object]:
    """The numbers of the held-out pairs, as JSON can hold them."""
    others = found.alternatives.items()
    return {
        "n": len(found.labels),
        "n_positive": int(found.labels.sum()),
        "n_groups": len(set(found.groups)),
        "n_fit": found.n_fit,
        "n_fit_positive": found.n_fit_positive,
        "skipped": found.skipped,
        "auroc": found.auroc.value,
        "interval": [found.auroc.low, found.auroc.high],
        "cv_auroc": found.cv_auroc,
        "tpr": found.tpr,
        "fpr": found.fpr,
        "ece": found.ece,
        "baselines": {name: other.auroc.value for name, other in others},
        "baseline_intervals": {name: [other.auroc.low, other.auroc.high] for name, other in others},
        "beats_bag_of_words": found.beside_words == "better",
        "beside_bag_of_words": found.beside_words,
        "beyond_words": found.beyond_words.model_dump() if found.beyond_words else None,
        "sources": {name: [each.value, each.low, each.high] for name, each in found.by_source.items()},
        "leaks": list(found.leaks),
        "findings": list(found.conclusions),
    }


def _figures(indicator: Indicator, found: HeldOutEvidence) -> list[Figure]:
    others = {name: other.scores for name, other in found.alternatives.items()}
    return [
        Figure("ROC curves", roc(found.labels, {indicator.name: found.scores} | others, found.thresholds)),
        Figure("Scores", distributions(found.labels, found.scores, found.thresholds)),
        Figure("Reliability", reliability_diagram(found.bins), f"ECE {found.ece:.3f}"),
    ]


def _detectors(name: str, found: HeldOutEvidence) -> Table:
    rows: list[tuple[Cell, ...]] = [(name, found.auroc.value, found.auroc.low, found.auroc.high, None, None)]
    rows += [
        (other, each.auroc.value, each.auroc.low, each.auroc.high, each.lead.low, each.lead.high)
        for other, each in sorted(found.alternatives.items(), key=lambda item: -item[1].auroc.value)
    ]
    columns = ("detector", "AUROC", "low", "high", "lead low", "lead high")
    note = f"Lead: AUROC of {name} less that of the other on the same pairs; 95 % intervals by a bootstrap over groups."
    return Table("On held-out pairs", columns, rows, note, looks=looks_of([name, *found.alternatives]))
