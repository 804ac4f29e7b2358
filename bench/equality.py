"""Whether two contenders found the same activations, and whether the service judged what they found, by stated rules.

A feature whose value lies at its threshold fires here and not there when only rounding differs. Such a *flip* moves a
score by the whole threshold, so it is counted, and what flips is not compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from contenders import Dense
from scopewatch.client import pb
from scopewatch.types import Segment, TokenisedPair
from subjects import INDICATORS


@dataclass(frozen=True, slots=True)
class Rules:
    """What may lie between two contenders that compute in one dtype."""

    apart: float
    """The largest difference between two activations of which both fired, as a share of the largest activation."""
    spread: float
    """The root mean square of these differences, as a share of the activations' own."""
    scale: float
    """How far from 1 the factor may be by which one contender's activations are the other's, all in all."""
    beside_threshold: float
    """How far over its threshold a feature may be that fires for one contender alone, as a share of the largest
    activation."""
    flips: float
    """The number of such features and tokens, as a share of all that fired."""
    verdicts: float
    """The share of the pairs of which the service gives another verdict."""


RULES = {
    "float32": Rules(apart=1e-5, spread=1e-5, scale=1e-6, beside_threshold=1e-5, flips=1e-3, verdicts=0.0),
    "bfloat16": Rules(apart=0.06, spread=0.025, scale=0.005, beside_threshold=0.03, flips=0.05, verdicts=0.05),
}
"""The rules for each dtype; `docs/benchmarks.md` tells them, and what faults they were tried on."""


@dataclass(slots=True)
class Difference:
    """What lay between two contenders in all rounds so far."""

    worst: float = 0.0
    """The largest difference of which `Rules.apart` speaks."""
    farthest_flip: float = 0.0
    """The largest distance of which `Rules.beside_threshold` speaks."""
    flips: int = 0
    """Activations that one found and the other not."""
    activations: int = 0
    """How many the reference found."""
    not_finite: int = 0
    """How many of the found ones are no finite numbers."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Of what both found: the reference's squares, its products with the other's, and the squared differences."""

    @property
    def spread(self) -> float:
        """The share of which `Rules.spread` speaks."""
        return float(np.sqrt(self.sums[2] / self.sums[0])) if self.sums[0] else 0.0

    @property
    def scale(self) -> float:
        """The distance from 1 of which `Rules.scale` speaks: of the least-squares factor."""
        return abs(self.sums[1] / self.sums[0] - 1) if self.sums[0] else 0.0

    @property
    def flipped(self) -> float:
        """The share of which `Rules.flips` speaks."""
        return self.flips / max(1, self.activations)

    def broken(self, rules: Rules) -> list[str]:
        """The rules that do not hold, each with what was measured and its bound."""
        found = [] if self.activations else ["fired: the reference found no activation, so nothing was compared"]
        if self.not_finite:
            found.append(f"finite: {self.not_finite} activations are no finite numbers")
        measured = {
            "apart": self.worst,
            "spread": self.spread,
            "scale": self.scale,
            "beside_threshold": self.farthest_flip,
            "flips": self.flipped,
        }
        return found + _over(measured, rules)

    def figures(self) -> dict[str, float]:
        """What the results keep."""
        return {
            "worst": self.worst,
            "spread": self.spread,
            "scale": self.scale,
            "farthest_flip": self.farthest_flip,
            "flips": self.flips,
            "activations": self.activations,
        }


def compare(into: Difference, reference: Sequence[Dense], found: Sequence[Dense], thresholds: Dense) -> None:
    """Adds the difference between two contenders on the same pairs; all are of shape (n_tokens, features)."""
    ours, theirs = (np.concatenate(arrays).astype(np.float64) for arrays in (reference, found))
    if ours.shape != theirs.shape:
        raise SystemExit(f"a contender gave activations of shape {theirs.shape}, the reference {ours.shape}")
    finite = np.isfinite(theirs)
    into.not_finite += int((~finite).sum())
    theirs = np.where(finite, theirs, 0.0)
    largest = ours.max(initial=0.0) or 1.0
    one, both = (ours > 0) != (theirs > 0), (ours > 0) & (theirs > 0)
    over = (np.maximum(ours, theirs) - thresholds)[one]
    into.farthest_flip = max(into.farthest_flip, float(over.max(initial=0.0) / largest))
    into.flips += int(one.sum())
    into.activations += int((ours > 0).sum())
    apart = (theirs - ours)[both]
    into.worst = max(into.worst, float(np.abs(apart).max(initial=0.0) / largest))
    added = ((ours[both] ** 2).sum(), (ours[both] * theirs[both]).sum(), (apart**2).sum())
    into.sums = [before + float(more) for before, more in zip(into.sums, added, strict=True)]


@dataclass(slots=True)
class Judged:
    """What lay between the service's replies and what the engine found, in all rounds so far."""

    peaks: Difference = field(default_factory=Difference)
    """Of the features' pooled activations, which are maxima over the response."""
    pairs: int = 0
    changed: int = 0
    """Pairs whose verdict is not the one that the engine's activations give."""

    def broken(self, rules: Rules) -> list[str]:
        """The rules that do not hold."""
        verdicts = self.changed / max(1, self.pairs)
        return [f"pooled {said}" for said in self.peaks.broken(rules)] + _over({"verdicts": verdicts}, rules)


def judge(
    into: Judged,
    pairs: Sequence[tuple[TokenisedPair, Dense, pb.ScoreResponse]],
    feature_keys: Sequence[str],
    thresholds: Dense,
) -> None:
    """Adds what lies between replies and activations.

    Args:
        into: What lay between them so far.
        pairs: Each pair with its activations, in the order of `feature_keys`, and the reply.
        feature_keys: The watched features as the watchlist writes them.
        thresholds: The features' own, in this order.
    """
    place = {key: column for column, key in enumerate(feature_keys)}
    wanted = peaks([pair for pair, _, _ in pairs], [dense for _, dense, _ in pairs])
    got = np.zeros_like(wanted)
    for row, (_, _, reply) in zip(got, pairs, strict=True):
        for indicator in reply.indicators:
            for feature in indicator.features:
                row[place[feature.feature]] = feature.pooled
    compare(into.peaks, [wanted], [got], thresholds)
    for scores, (_, _, reply) in zip(scores_of(wanted), pairs, strict=True):
        found = sorted(reply.indicators, key=lambda indicator: indicator.name)
        flags = scores > np.array([indicator.threshold for indicator in found])
        into.changed += bool(flags.any()) != (reply.verdict == pb.VERDICT_FLAG)
    into.pairs += len(pairs)


def peaks(tokens: Sequence[TokenisedPair], activations: Sequence[Dense]) -> Dense:
    """Each feature's greatest activation on a pair's response, shape (pairs, features)."""
    return np.array(
        [dense[pair.segments == Segment.RESPONSE].max(axis=0) for pair, dense in zip(tokens, activations, strict=True)]
    )


def scores_of(pooled: Dense) -> Dense:
    """Scores of a subject's indicators from the features' pooled activations, shape (pairs, indicators)."""
    return np.stack([pooled[:, i::INDICATORS].sum(axis=1) for i in range(INDICATORS)], axis=1)


def _over(measured: dict[str, float], rules: Rules) -> list[str]:
    """What is measured over its rule's bound."""
    bounds = {name: getattr(rules, name) for name in measured}
    return [
        f"{name}: {value:.3g}, at most {bounds[name]:g}" for name, value in measured.items() if value > bounds[name]
    ]
