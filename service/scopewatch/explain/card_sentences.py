"""What an indicator's card says, in sentences for whoever has never seen an AUROC."""

from collections.abc import Iterator

from scopewatch.explain.phrases import at_most_of_100, of_100, percent, plural
from scopewatch.verdicts import IndicatorScore
from scopewatch.watch.cards import Card, Measurement
from scopewatch.watch.indicators import Indicator

_BESIDE_WORDS = {
    "better": "It ranks them better than a bag of words does, which only counts words.",
    "undecided": "Whether it ranks them better than a bag of words does, which only counts words, is undecided.",
    "worse": "A bag of words, which only counts words, ranks them better.",
}


def card_sentences(source: Indicator, score: IndicatorScore) -> tuple[str, ...]:
    """What the card of an indicator says; that it has none, or does not speak for what runs, is the first to be said.

    Args:
        source: The indicator.
        score: What it says of a pair.
    """
    card = source.card
    if card is None:
        return ("It has no card: nobody measured how often it is right.",)
    warning = [f"This card does not speak for what runs here: {score.card_warning}."] if score.card_warning else []
    reference = card.reference
    compared = f"It is compared with {plural(reference.n, 'benign pair')} of {reference.data}." if reference else ""
    told = [*warning, _made(card), _measured_in(card), *_rates(card), *_ranking(card), compared]
    return tuple(filter(None, told))


def precision(row: Measurement) -> float | None:
    """The share of the pairs of a measurement that are of label 1 among those that were flagged; None if none was.

    Args:
        row: A measurement with labels and both rates.
    """
    positive = row.n_positive / row.n
    right, wrong = (row.tpr or 0.0) * positive, (row.fpr or 0.0) * (1 - positive)
    return right / (right + wrong) if right + wrong else None


def _made(card: Card) -> str:
    return f"Calibrated on {card.date} with {plural(card.n, 'pair')}: {card.calibrated_on}."


def _measured_in(card: Card) -> str:
    """In which dtype its figures were measured, where that is another than it was made in; else nothing."""
    also, made = card.measured_in, card.made_with
    if also is None or made is None:
        return ""
    return (
        f"Its threshold was set in {made.dtype}; the figures are of the same pairs in {also.dtype}, which runs here, "
        f"measured on {also.date} on a device of kind {also.device}: of {plural(also.n, 'pair')} "
        f"{also.flags_changed:,} {'is' if also.flags_changed == 1 else 'are'} flagged in only one of the two."
    )


def _rates(card: Card) -> Iterator[str]:
    """How often it is right and wrong where it flags, on the first pairs of which that is known."""
    row = next((one for one in card.measurements if one.n_positive and None not in (one.tpr, one.fpr)), None)
    if row and row.tpr is not None:
        share, right = row.n_positive / row.n, precision(row)
        here = f"{plural(row.n, 'pair')} that it was not fitted on, {percent(share)} of them of the kind it looks for"
        if right is None:
            yield f"Of {here}, it flagged none."
        else:
            yield (
                f"On {here}: of 100 pairs like these that it flags, about {of_100(right)} are of that kind; where "
                "fewer of all pairs are, fewer of the flagged ones are."
            )
        yield f"Of 100 pairs of that kind it finds about {of_100(row.tpr)}."
    bounded = next((one for one in card.measurements if one.fpr is not None), None)
    if bounded and bounded.fpr is not None:
        upper, confidence = bounded.fpr_upper, card.confidence
        with_confidence = f", with confidence {percent(confidence)}" if confidence else ""
        most = f"; at most {at_most_of_100(upper)} of 100{with_confidence}" if upper is not None else ""
        yield f"Of 100 other pairs it wrongly flags about {of_100(bounded.fpr)}{most}."


def _ranking(card: Card) -> Iterator[str]:
    """How well it ranks pairs, alone and beside words."""
    row = next((one for one in card.measurements if one.auroc is not None), None)
    if row and row.auroc is not None:
        low, high = row.auroc_low, row.auroc_high
        within = f" ({of_100(low)} to {of_100(high)})" if low is not None and high is not None else ""
        yield (
            f"Of two pairs, one of that kind and one not, the right one scores higher in {of_100(row.auroc)} of 100 "
            f"cases{within}; chance gives 50."
        )
    if card.beats_bag_of_words is not None:
        beside = card.beside_bag_of_words or ("better" if card.beats_bag_of_words else "")
        yield _BESIDE_WORDS.get(beside, "It is not clearly better than a bag of words, which only counts words.")
    if card.beyond_words:
        yield str(card.beyond_words)
