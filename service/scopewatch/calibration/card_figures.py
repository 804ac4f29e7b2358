"""The figures of a card's rows, made again of what the online scorer says of the same pairs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from scopewatch.calibration.card_making import OF_SOURCE, rounded
from scopewatch.errors import DataError
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.scored import IndicatorScores
from scopewatch.statistics.bounds import false_positive_bound, one_per_group
from scopewatch.statistics.calibration_error import calibration_error
from scopewatch.statistics.ranking import auroc_interval
from scopewatch.statistics.scores import Bool
from scopewatch.watch.cards import Card, Measurement

_RATES = ("tpr", "fpr", "fpr_groups", "fpr_upper")
_FIGURES = ("auroc", "auroc_low", "auroc_high", *_RATES, "ece")
_APART = 0.005
"""How far a figure may lie from the card's: cards are made of features in bulk, this of what the service scores."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Some pairs, and what the online scorer says of them by one indicator."""

    pairs: list[LabelledPair]
    found: IndicatorScores


def rows_again(card: Card, held_out: Heard | None, traffic: Heard | None) -> tuple[Measurement, ...]:
    """The rows of a card's measurements, made again, with the figures that they have; without other detectors.

    Args:
        card: The card.
        held_out: The labelled pairs that the indicator was not fitted on, if there are any.
        traffic: The benign traffic that set its threshold, if there is any.

    Raises:
        DataError: A row is of other pairs than these.
    """
    rows = []
    for place, row in enumerate(card.measurements):
        heard = held_out if row.n_positive else traffic
        mine = _rows_of(row, heard) if heard else np.zeros(0, bool)
        if not heard or (int(mine.sum()), _positive(heard, mine)) != (row.n, row.n_positive):
            raise DataError(
                f"measurements[{place}] ({row.data}) is of {row.n:,} pairs, {row.n_positive:,} positive; its files "
                f"give {mine.sum():,}, {_positive(heard, mine) if heard else 0:,} positive"
            )
        figures = _figures(heard, mine, card.confidence or 0.95)
        kept = {name: rounded(figures[name]) for name in _FIGURES if getattr(row, name) is not None}
        rows.append(row.model_copy(update={**kept, "baselines": {}}))
    return tuple(rows)


def differing(card: Card, again: tuple[Measurement, ...]) -> Iterator[str]:
    """What rows say otherwise that were made again, further than another machine explains."""
    for place, (row, made) in enumerate(zip(card.measurements, again, strict=True)):
        # One pair on the other side of the threshold, of the kind that there is less of.
        one_pair = 1 / max(1, min(row.n_positive, row.n - row.n_positive) or row.n)
        for name in _FIGURES:
            was, now = getattr(row, name), getattr(made, name)
            if was is not None and abs(was - now) > _APART + one_pair * (name in _RATES):
                yield f"measurements[{place}].{name} is {was:g}, and its pairs make {now:g}"


def _rows_of(row: Measurement, heard: Heard) -> Bool:
    """Whether each pair is one of those that a row of the card is of."""
    source = row.data.removeprefix(OF_SOURCE)
    return np.array([source in (row.data, pair.source) for pair in heard.pairs], bool)


def _positive(heard: Heard, mine: Bool) -> int:
    return int(_labels(heard)[mine].sum())


def _labels(heard: Heard) -> Bool:
    """Whether each pair is positive; traffic has no labels and is benign."""
    return np.array([pair.label == 1 for pair in heard.pairs], bool)


def _figures(heard: Heard, mine: Bool, confidence: float) -> Mapping[str, float]:
    """The figures of some pairs at the indicator's threshold."""
    labels, found = _labels(heard)[mine], heard.found
    groups = [pair.group for pair, is_mine in zip(heard.pairs, mine, strict=True) if is_mine]
    flagged = found.flagged[mine]
    figures: dict[str, float] = {}
    if labels.any() and not labels.all():
        area = auroc_interval(labels, found.scores[mine], groups)
        figures |= {"auroc": area.value, "auroc_low": area.low, "auroc_high": area.high}
    if labels.any():
        figures["tpr"] = float(flagged[labels].mean())
    if not labels.all():
        benign = np.flatnonzero(~labels)
        alarmed = flagged[benign[one_per_group([groups[row] for row in benign])]]
        figures["fpr"] = float(flagged[~labels].mean())
        figures["fpr_groups"] = float(alarmed.mean())
        figures["fpr_upper"] = false_positive_bound(int(alarmed.sum()), len(alarmed), confidence)
    if found.probabilities is not None:
        figures["ece"] = calibration_error(labels, found.probabilities[mine])
    return figures
