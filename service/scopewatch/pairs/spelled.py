"""Texts in a script that a reader's vocabulary lacks, which it reads by parts of characters."""

from scopewatch.types import Segment, TokenisedPair

_SPELLED = 0.25
"""The share of a text's tokens. A character of a script that a vocabulary lacks takes as many tokens as bytes, two to
four, so that half to three quarters of them carry on."""


def is_spelled(pair: TokenisedPair, segment: Segment) -> bool:
    """Whether many of a segment's tokens only carry on the character that the token before them began."""
    inside = pair.segments == segment
    starts, ends = pair.starts[inside], pair.ends[inside]
    carried_on = (ends[1:] == ends[:-1]) & (starts[1:] < ends[1:])
    return bool(carried_on.sum() >= _SPELLED * len(ends) > 0)
