"""What can be shown as heat on the texts of a pair, and what the script of the page is told of every piece."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from scopewatch.explanation import Explanation, Heat, IndicatorExplained, TokenFeatures
from scopewatch.report.phrases import by_weight
from scopewatch.report.pieces import MOST_PIECES, Piece
from scopewatch.report.visible import one_line

_LEVELS = 9
_MOST_CHOICES = 60
_MOST_HEATED = 50_000
"""How many heated pieces all choices have together at most."""
_MOST_TOLD = 60_000
"""How many features are told of all pieces together at most."""
_MOST_OF_PIECE = 5
_MOST_LABELS = 1000
"""How many features of an SAE are told with their labels at most."""
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Choice:
    """Something whose heat can be shown."""

    name: str
    kind: str
    """`indicator`, `feature` or `reader`: whose heat it is."""
    meaning: str
    """What its numbers are."""
    heat: Mapping[int, float]
    """The value at each token where it is not 0."""
    highest: float
    """The magnitude that is shown hottest."""
    adds: bool = False
    """Whether the values of the tokens of a piece are added up; otherwise the largest of them counts."""

    def at(self, piece: Piece) -> float:
        """The value of a piece; 0 where nothing is."""
        values = [self.heat[token] for token in piece.tokens if token in self.heat]
        return math.fsum(values) if self.adds else max(values, key=abs, default=0.0)

    def level(self, value: float) -> int:
        """How hot a value is shown, -9 to 9."""
        if not value or not self.highest:
            return 0
        level = min(_LEVELS, math.ceil(_LEVELS * abs(value) / self.highest))
        return level if value > 0 else -level


def choices(explanation: Explanation) -> list[Choice]:
    """What can be shown, as much as there is room for; the default first.

    Indicators come first, the flagged before the others, then what the reader made of the pair, then features.
    """
    kept: list[Choice] = []
    left = _MOST_HEATED
    for choice in chain(_indicators(explanation), _reader(explanation), _features(explanation)):
        left -= min(len(choice.heat), MOST_PIECES)
        if left < 0 or len(kept) == _MOST_CHOICES:
            break
        kept.append(choice)
    return kept


def for_script(explanation: Explanation, choosable: Sequence[Choice], pieces: Sequence[Piece]) -> dict[str, object]:
    """What the script of the page needs of the pieces that the page holds, in their order."""
    told = []
    for choice in choosable:
        hot = [(at, value) for at, piece in enumerate(pieces) if (value := choice.at(piece))]
        told.append(
            {
                "name": choice.name,
                "meaning": choice.meaning,
                "at": [at for at, _ in hot],
                "value": [_rounded(value) for _, value in hot],
                "level": [choice.level(value) for _, value in hot],
            }
        )
    return {"choices": told, "saes": list(_dictionaries(explanation, pieces))}


def _indicators(explanation: Explanation) -> Iterator[Choice]:
    for indicator in by_weight(explanation.indicators):
        if any(indicator.heat.value):
            yield _of_heat(indicator.heat, _name(indicator), "indicator", "what is added to its score there")


def _features(explanation: Explanation) -> Iterator[Choice]:
    strongest = sorted(explanation.features, key=lambda one: -max(one.heat.value, default=0.0))
    for feature in strongest:
        if any(feature.heat.value):
            name = f"{feature.label} ({feature.feature})" if feature.label else feature.feature
            yield _of_heat(feature.heat, one_line(name, _LONGEST_NAME), "feature", "its activation")


def _reader(explanation: Explanation) -> Iterator[Choice]:
    if any(explanation.tokens.logprob):
        nats = {token: -value for token, value in enumerate(explanation.tokens.logprob) if value}
        meaning = "how little the reader expected the word: minus its log-probability, in nats"
        yield Choice("surprise of the reader", "reader", meaning, nats, max(nats.values()), adds=True)
    for sae in explanation.saes:
        if any(sae.unexplained):
            shares = dict(enumerate(sae.unexplained))
            name = one_line(f"not explained by {sae.sae}", _LONGEST_NAME)
            yield Choice(name, "reader", "the share of the activation that the SAE does not reconstruct", shares, 1.0)


def _of_heat(heat: Heat, name: str, kind: str, meaning: str) -> Choice:
    values = {token: value for token, value in zip(heat.token, heat.value, strict=True) if value}
    return Choice(name, kind, meaning, values, max(map(abs, values.values())))


def _name(indicator: IndicatorExplained) -> str:
    return one_line(indicator.label or indicator.name, _LONGEST_NAME)


def _dictionaries(explanation: Explanation, pieces: Sequence[Piece]) -> Iterator[dict[str, object]]:
    """Of each SAE what it makes of every piece: the features that fired most strongly, and the share not explained."""
    labels = {one.feature: one.label for one in explanation.features}
    most = max(1, min(_MOST_OF_PIECE, _MOST_TOLD // max(1, len(pieces) * len(explanation.saes))))
    for sae in explanation.saes:
        named = {f"{sae.sae}/{one.feature}": one.label for part in sae.segments for one in part.features} | labels
        top, seen = [], set[int]()
        for piece in pieces:
            strongest = _strongest(sae.tokens, piece, most)
            seen |= strongest.keys()
            top.append([number for feature, value in strongest.items() for number in (feature, _rounded(value))])
        yield {
            "name": one_line(sae.sae, _LONGEST_NAME),
            "top": top,
            "unexplained": [
                _rounded(fmean(sae.unexplained[token] for token in piece.tokens)) for piece in pieces if sae.unexplained
            ],
            "labels": {
                feature: one_line(named[key], _LONGEST_NAME)
                for feature in sorted(seen)[:_MOST_LABELS]
                if named.get(key := f"{sae.sae}/{feature}")
            },
        }


def _strongest(tokens: Sequence[TokenFeatures], piece: Piece, most: int) -> dict[int, float]:
    """The features that fired most strongly on a piece, with their activations."""
    found: dict[int, float] = {}
    for token in piece.tokens:
        if token < len(tokens):
            fired = tokens[token]
            for feature, value in zip(fired.feature, fired.activation, strict=True):
                found[feature] = max(value, found.get(feature, 0.0))
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0]))[:most])


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
