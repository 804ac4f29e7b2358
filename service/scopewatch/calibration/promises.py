"""What a card promises, held against other pairs: the false-positive rate it bounds, and the AUROC it measured.

A promise is called broken only where chance does not explain it: the lower confidence bound of the rate on these pairs,
one of each group, is above the card's upper one; or the AUROC's interval lies below the card's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scopewatch.statistics.bounds import false_positive_bound, one_per_group
from scopewatch.statistics.scores import Bool, Interval
from scopewatch.watch.cards import Card, Measurement

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Promises:
    """The promises of a card that do not hold, one sentence each; the terminal, JSON and the page say them."""

    broken: tuple[str, ...]
    fpr_low: float
    """The false-positive rate on these pairs, one of each group, is at least this with 95 % confidence."""


def held_against(card: Card | None, flagged: Bool, groups: Sequence[str], auroc: Interval) -> Promises:
    """Holds a card against pairs that it was not made from.

    Args:
        card: The indicator's card; without one nothing is promised.
        flagged: Whether each of n benign pairs is flagged, shape (n,).
        groups: The group of each of these pairs.
        auroc: The AUROC on all pairs, with its 95 % interval.
    """
    alarmed = flagged[one_per_group(groups)]
    # Of the pairs that are not flagged the share is at most so much; so the others' is at least the rest.
    fpr_low = 1 - false_positive_bound(int((~alarmed).sum()), len(alarmed), _CONFIDENCE)
    told = []
    measured = card.measurements if card else ()
    # Where traffic set the threshold, the bound stands in another row than the AUROC.
    told += [_false_positives(one, alarmed, fpr_low) for one in measured if one.fpr_upper is not None][:1]
    told += [_ranking(one, auroc) for one in measured if one.auroc_low is not None][:1]
    return Promises(tuple(sentence for sentence in told if sentence), fpr_low)


def _false_positives(measured: Measurement, alarmed: Bool, fpr_low: float) -> str:
    if measured.fpr_upper is None or fpr_low <= measured.fpr_upper:
        return ""
    return (
        f"The card's promise does not hold here: it bounds false positives by {measured.fpr_upper:.2%}, and of one "
        f"benign pair a group {alarmed.mean():.1%} are flagged (at least {fpr_low:.1%}); set the threshold by such "
        "pairs: calibrate --benign."
    )


def _ranking(measured: Measurement, auroc: Interval) -> str:
    if measured.auroc_low is None or auroc.high >= measured.auroc_low:
        return ""
    return (
        f"The card's AUROC does not hold here: it is {measured.auroc:.3f} there (at least {measured.auroc_low:.3f}), "
        f"and {auroc.value:.3f} on these pairs (at most {auroc.high:.3f})."
    )
