"""Whether two contenders found the same activations, and whether the service scored what they found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contenders import Dense
from scopewatch.client import pb
from scopewatch.types import Segment, TokenisedPair
from subjects import INDICATORS

TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1}
"""Largest difference allowed between two activations, as a share of the largest activation."""


@dataclass(slots=True)
class Difference:
    """The worst seen so far."""

    worst: float = 0.0
    """Share of the largest activation."""
    flips: int = 0
    """Activations that one found and the other not, their pre-activation within the tolerance of the threshold."""
    activations: int = 0
    """How many the reference found."""


def compare(
    into: Difference, reference: Sequence[Dense], found: Sequence[Dense], thresholds: Dense, tolerance: float
) -> None:
    """Adds the difference between two contenders on the same pairs; all are of shape (n_tokens, features)."""
    ours, theirs = np.concatenate(reference), np.concatenate(found)
    if ours.shape != theirs.shape:
        raise SystemExit(f"a contender gave activations of shape {theirs.shape}, the reference {ours.shape}")
    largest = ours.max()
    flipped = (ours > 0) != (theirs > 0)
    at_threshold = flipped & (np.maximum(ours, theirs) - thresholds <= tolerance * largest)
    apart = np.abs(ours - theirs)[~at_threshold]
    into.worst = max(into.worst, float(apart.max() / largest))
    into.flips += int(at_threshold.sum())
    into.activations += int((ours > 0).sum())


def worst_score(
    tokens: Sequence[TokenisedPair], reference: Sequence[Dense], replies: Sequence[pb.ScoreResponse]
) -> float:
    """Largest difference between a score of the service and the reference's, as a share of the largest score."""
    wanted = scores(tokens, reference)
    got = [[found.score for found in sorted(reply.indicators, key=lambda found: found.name)] for reply in replies]
    return float(np.abs(wanted - np.array(got)).max() / wanted.max())


def scores(tokens: Sequence[TokenisedPair], activations: Sequence[Dense]) -> Dense:
    """Scores of a subject's indicators, shape (pairs, indicators)."""
    peaks = [
        dense[pair.segments == Segment.RESPONSE].max(axis=0) for pair, dense in zip(tokens, activations, strict=True)
    ]
    return np.array([[own[i::INDICATORS].sum() for i in range(INDICATORS)] for own in peaks])
