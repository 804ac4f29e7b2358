"""How unusual a number is beside the benign pairs of a card."""

from scopewatch.explanation import BenignPair
from scopewatch.verdicts import IndicatorScore
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.reference import Reference, percentile


def reference_of(source: Indicator, score: IndicatorScore) -> Reference | None:
    """Where the benign pairs of an indicator's card lie; None where it has none, or does not speak for what runs."""
    return source.card.reference if source.card and not score.card_warning else None


def share_below(reference: Reference | None, score: float) -> float | None:
    """The share of benign pairs whose score is below, 0 to 1; None without a reference."""
    return percentile(reference.score, score) if reference else None


def term_share_below(reference: Reference | None, key: str, pooled: float) -> float | None:
    """The share of benign pairs whose value of a term is below, 0 to 1; None where no reference knows the term.

    Args:
        reference: The reference of the indicator's card.
        key: The term as `Reference.terms` has it.
        pooled: Its value.
    """
    kept = reference.terms.get(key) if reference else None
    return None if kept is None else percentile(kept, pooled)


def benign_pairs(reference: Reference | None, score: float) -> tuple[BenignPair, ...]:
    """The benign pairs whose scores are next below, or equal, and next above a score, of those that are kept."""
    if reference is None:
        return ()
    kept = list(zip(reference.ids, reference.id_scores, strict=True))
    below = max((one for one in kept if one[1] <= score), key=lambda one: one[1], default=None)
    above = min((one for one in kept if one[1] > score), key=lambda one: one[1], default=None)
    return tuple(
        BenignPair(id=name, score=own, percentile=percentile(reference.score, own))
        for name, own in filter(None, (below, above))
    )
