"""What taking features out changed, held against random features of equal norm, and what may be said of it.

The interval of the random sets is that between the quantiles .025 and .975 of what they did, by numpy's default, which
draws straight lines between the sets. Where they are few, it is nearly all of their range, and one more random set
lies outside of it more often than in 5 % of cases; the conclusion says how often.
"""

from collections.abc import Sequence

import numpy as np

from scopewatch.explanation import Change

RESPONSE = "response log-probability"
"""The name of the change of the mean log-probability of the response's tokens, in nats."""
_ENDS = (0.025, 0.975)
_ENOUGH = 100
"""From how many random sets on their number needs no word."""


def change(name: str, before: float, after: float, random: Sequence[float]) -> Change:
    """What became of a number.

    Args:
        name: The indicator, or `RESPONSE`.
        before: The number of the pair as it was scored.
        after: The number without the features.
        random: The number without each set of random features, at least one.
    """
    low, high = map(float, np.quantile(random, _ENDS))
    return Change(
        name=name,
        before=before,
        after=after,
        random_mean=float(np.mean(random)),
        random_low=low,
        random_high=high,
        beyond_random=not low <= after <= high,
    )


def conclusion(changes: Sequence[Change], by_construction: Sequence[str], *, features: int, controls: int) -> str:
    """What may be said of changes, in a few sentences.

    Args:
        changes: What changed, the score of the indicator itself among it; `RESPONSE` where the head is loaded.
        by_construction: The names of the indicators that are made of the features, the indicator itself first: that
            they change is no evidence.
        features: How many features were taken out.
        controls: How many random sets they are held against.
    """
    evidence = [one for one in changes if one.name not in by_construction]
    own = next(one for one in changes if one.name == by_construction[0])
    said = [_of_evidence(evidence, "its only feature" if features == 1 else f"its {features} features", controls)]
    if own.after < own.before:
        said.append(
            f"Its own score falls from {own.before:.3g} to {own.after:.3g} by construction, which is no evidence."
        )
    else:
        said.append("Its own score does not fall, though what raised it was taken out.")
    if evidence and not any(one.name == RESPONSE for one in evidence):
        said.append("What became of the response's log-probability is not known: the reader's head is not loaded.")
    if evidence and controls < _ENOUGH:
        few = "random set is" if controls == 1 else "random sets are"
        said.append(
            f"{controls} {few} few: of further ones about {_outside(controls):.0%} would lie outside of their interval."
        )
    return " ".join(said)


def _of_evidence(evidence: Sequence[Change], features: str, controls: int) -> str:
    if not evidence:
        return (
            f"What taking out {features} does, but for its own score, is not known: the reader's head is not loaded, "
            "and no indicator that was scored is made of other features."
        )
    more = [one for one in evidence if one.beyond_random and _is_more(one)]
    otherwise = [one for one in evidence if one.beyond_random and not _is_more(one)]
    if not more and not otherwise:
        random = "one random set" if controls == 1 else f"{controls} random sets"
        return (
            f"Taking out {features} does nothing that random features of equal norm do not do: of what was measured "
            f"({', '.join(map(_name, evidence))}) nothing leaves the interval of {random}."
        )
    said = []
    if more:
        said.append(f"more than random features of equal norm do, {', '.join(map(_told, more))}")
    if otherwise:
        said.append(f"otherwise than random features do but by no more, {', '.join(map(_told, otherwise))}")
    return f"Taking out {features} changes, {'; and, '.join(said)}."


def _is_more(one: Change) -> bool:
    """Whether the number went farther than either end of what the random features did."""
    return abs(one.after - one.before) > max(abs(one.random_low - one.before), abs(one.random_high - one.before))


def _told(one: Change) -> str:
    unit = " nats a token" if one.name == RESPONSE else ""
    by, low, high = (value - one.before for value in (one.after, one.random_low, one.random_high))
    return f"{_name(one)} by {by:+.3g}{unit} (these: {low:+.3g} to {high:+.3g})"


def _name(one: Change) -> str:
    return "the response's log-probability" if one.name == RESPONSE else f"the score of {one.name}"


def _outside(controls: int) -> float:
    """How often one more random set lies outside of the interval of so many, on average.

    Each end lies the share .025 of the way through the sets, and one more is as likely to fall into any gap.
    """
    return 2 * (1 + _ENDS[0] * (controls - 1)) / (controls + 1)
