"""Tables of what an indicator's card says."""

from scopewatch.report.tables import Cell, Table
from scopewatch.watch.cards import Card, MadeWith

_LONGEST_SAID = 1000
"""The most characters that are shown of what a card says."""


def card_tables(card: Card | None) -> list[Table]:
    """The tables of what the indicator's card says; none without a card."""
    if card is None:
        return []
    return [
        Table("Its card", ("", ""), _said(card), longest=_LONGEST_SAID),
        _measured(card),
        *([fragility_table(card)] if card.fragility else []),
    ]


def fragility_table(card: Card) -> Table:
    """What is left of the indicator's ranking where something is changed that it should not depend on."""
    rows = [(row.change, row.n, row.auroc, row.survival) for row in card.fragility]
    note = "Survival: the share of its features that correlate above 0.9 with what they were."
    return Table("How fragile it is", ("held-out pairs", "pairs", "AUROC", "survival"), rows, note)


def _said(card: Card) -> list[tuple[Cell, ...]]:
    """What the card says, row by row; rows without a value are left out."""
    said: dict[str, Cell] = {
        "calibrated on": card.calibrated_on,
        "date": card.date,
        "pairs": card.n,
        "false-positive rate asked for": card.max_fpr,
        "confidence": card.confidence,
        "beats a bag of words": _beats_words(card),
        "beyond words": str(card.beyond_words) if card.beyond_words else None,
        "stands on one word": card.stands_on or None,
        "leaks": "; ".join(card.leaks) or None,
        "note": card.note or None,
        **_made_with(card.made_with),
        "measured in": _measured_in(card),
    }
    return [(name, value) for name, value in said.items() if value is not None]


def _measured(card: Card) -> Table:
    columns = ("data", "pairs", "label 1", "AUROC", "low", "high", "TPR", "FPR", "FPR, groups", "at most", "ECE")
    rows = [
        (m.data, m.n, m.n_positive, m.auroc, m.auroc_low, m.auroc_high, m.tpr, m.fpr, m.fpr_groups, m.fpr_upper, m.ece)
        for m in card.measurements
    ]
    note = "FPR of all pairs; then of one pair of each group, which is what the bound is of."
    return Table("What its card measured", columns, rows, note)


def _measured_in(card: Card) -> str | None:
    """What its measurements are of, where that is another dtype than it was made in."""
    also = card.measured_in
    if also is None:
        return None
    changed = f"{also.flags_changed:,} of {also.n:,} pairs are flagged in only one of the two"
    return f"{also.dtype}, on {also.device}, {also.date}, at the same threshold: {changed}"


def _beats_words(card: Card) -> str | None:
    """Whether the indicator is better than a bag of words; None where the card does not know."""
    if card.beats_bag_of_words is None:
        return None
    return {"better": "yes", "worse": "no", "undecided": "undecided"}.get(
        card.beside_bag_of_words, "yes" if card.beats_bag_of_words else "no"
    )


def _made_with(made: MadeWith | None) -> dict[str, Cell]:
    if made is None:
        return {}
    return {
        "scopewatch": made.scopewatch,
        "reader": f"{made.reader} {made.reader_revision}".strip(),
        "reader digest": made.reader_digest,
        "dtype": made.dtype,
        "SAEs": ", ".join(f"{name} {digest[:12]}" for name, digest in made.saes.items()) or None,
        "words": ", ".join(f"{name} {digest[:12]}" for name, digest in made.words.items()) or None,
    }
