"""One segment of a pair, as every indicator that reads it sees it: what fired on its tokens, feature by feature."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scopewatch.identity import FeatureKey
from scopewatch.pipeline.compiled import CompiledWatchlist, PooledGroup
from scopewatch.pipeline.pooling import Dense, pool
from scopewatch.sentences import SegmentSentences
from scopewatch.types import CoveredActivations, Segment, TokenisedPair


@dataclass(frozen=True, slots=True)
class SegmentView:
    """One segment of a pair as every indicator that reads it sees it."""

    tokens: TokenisedPair
    positions: NDArray[np.intp]
    """The segment's tokens, ascending."""
    features: tuple[FeatureKey, ...]
    dense: Dense
    """Shape (len(positions), len(features)); each feature's activations lie side by side in memory."""
    pooled: NDArray[np.float64]
    """What `CompiledWatchlist.pooled` makes of them; empty where the segment has no token."""
    sentences: SegmentSentences
    """The sentences that the segment's tokens make."""
    n_tokens: int
    """How many tokens the segment has in the pair's last reading, the cleaned one if there is one: thresholds may go by
    it, and odd characters, which make many tokens, shall not raise them."""
    damaged: frozenset[int]
    """The places of features with an activation that is no finite number."""


def view_of(
    watchlist: CompiledWatchlist, segment: Segment, tokens: TokenisedPair, covered: CoveredActivations, n_tokens: int
) -> SegmentView:
    """One segment of a reading, for every indicator that reads it.

    Args:
        watchlist: The watchlist.
        segment: The segment.
        tokens: The reading.
        covered: What fired on its tokens, covering every feature of the watchlist.
        n_tokens: How long the segment counts, where thresholds go by length.
    """
    sentences = SegmentSentences(tokens, segment)
    by_slot = _by_slot(watchlist, covered, sentences.positions, len(tokens.ids))
    damaged = frozenset[int]()
    if not np.isfinite(covered.activations.value).all():
        damaged = frozenset(np.flatnonzero(~np.isfinite(by_slot).all(axis=1)).tolist())
    pooled = _pooled(watchlist.pooled.get(segment, ()), by_slot, sentences) if by_slot.shape[1] else np.empty(0)
    return SegmentView(tokens, sentences.positions, watchlist.features, by_slot.T, pooled, sentences, n_tokens, damaged)


def dense_activations(
    watchlist: CompiledWatchlist, covered: CoveredActivations, positions: NDArray[np.intp], n_tokens: int
) -> Dense:
    """What fired of every feature of a watchlist on some of a pair's tokens; shape (len(positions), n_slots).

    Args:
        watchlist: The watchlist.
        covered: What fired on the pair's tokens, covering every feature of the watchlist.
        positions: The tokens, ascending.
        n_tokens: The number of the pair's tokens.
    """
    return np.ascontiguousarray(_by_slot(watchlist, covered, positions, n_tokens).T)


def _by_slot(
    watchlist: CompiledWatchlist, covered: CoveredActivations, positions: NDArray[np.intp], n_tokens: int
) -> Dense:
    """The same, of shape (n_slots, len(positions))."""
    activations, slots = covered.activations, watchlist.slots_of(covered.table)
    assert slots is not None, "whoever reads activations for a watchlist sees that they cover it"
    place_of = np.full(n_tokens, -1)
    place_of[positions] = np.arange(len(positions))
    place, slot = place_of[activations.token], slots[activations.column]
    mine = np.flatnonzero((place >= 0) & (slot >= 0))
    by_slot = np.zeros((len(watchlist.features), len(positions)))
    by_slot[slot[mine], place[mine]] = activations.value[mine]
    for twin, original in watchlist.twins:
        by_slot[twin] = by_slot[original]
    return by_slot


def _pooled(groups: Sequence[PooledGroup], by_slot: Dense, sentences: SegmentSentences) -> NDArray[np.float64]:
    """What each group makes of its features' activations, at the places of its terms."""
    pooled = np.empty(sum(len(group.terms) for group in groups))
    for group in groups:
        pooled[group.terms] = pool(group.pooling, by_slot[group.slots].T, sentences)
    return pooled
