"""Where in the texts features fire: pairs are read again for the spans that pooling does not keep."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scopewatch.engine.dictionary import DictionaryEngine, SegmentActivations
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.types import Segment, TokenisedPair

AROUND_CHARS = 24
"""How many characters of the text on either side an example shows."""


@dataclass(frozen=True, slots=True)
class Example:
    """The token of a pair on which a feature is strongest, with the text around it."""

    line: int
    id: str
    activation: float
    start: int
    """Where the token begins in the segment's text, in code points."""
    before: str
    token: str
    after: str


def strongest_tokens(
    pairs: Sequence[LabelledPair], features: Sequence[Sequence[int]], dictionary: DictionaryEngine, segment: Segment
) -> dict[int, tuple[Example, ...]]:
    """Each feature's strongest token in each of the pairs that are read for it, the strongest of these first.

    Args:
        pairs: Pairs that the reader can read.
        features: The features that each pair is read for; where one does not fire there is no example.
        dictionary: The reader and the SAE.
        segment: The part of a pair that is looked at: the prompt or the response.

    Raises:
        EngineDied: The device is lost.
    """
    tokens = [
        read for read in dictionary.tokeniser.tokenise([item.pair for item in pairs]) if isinstance(read, TokenisedPair)
    ]
    found: dict[int, list[Example]] = {feature: [] for wanted in features for feature in wanted}
    for item, wanted, pair, read in zip(pairs, features, tokens, dictionary.encode(tokens, segment), strict=True):
        if isinstance(read, SegmentActivations):
            text = item.pair.prompt if segment is Segment.PROMPT else item.pair.response
            for feature in set(wanted) & set(read.fired.column.tolist()):
                found[feature].append(_example(item, text, pair, read, feature))
    return {feature: tuple(sorted(here, key=lambda example: -example.activation)) for feature, here in found.items()}


def _example(item: LabelledPair, text: str, tokens: TokenisedPair, read: SegmentActivations, feature: int) -> Example:
    mine = np.flatnonzero(read.fired.column == feature)
    peak = mine[np.argmax(read.fired.value[mine])]
    position = read.positions[read.fired.token[peak]]
    start, end = int(tokens.starts[position]), int(tokens.ends[position])
    return Example(
        line=item.line,
        id=item.id,
        activation=float(read.fired.value[peak]),
        start=start,
        before=text[max(0, start - AROUND_CHARS) : start],
        token=text[start:end],
        after=text[end : end + AROUND_CHARS],
    )
