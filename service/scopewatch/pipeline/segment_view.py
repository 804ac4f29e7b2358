"""One segment of a pair, as every indicator that reads it sees it: what fired on its tokens, feature by feature."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scopewatch.identity import FeatureKey
from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.pooling import Dense
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
    """Shape (len(positions), len(features))."""
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
    dense = dense_activations(watchlist, covered, sentences.positions, len(tokens.ids))
    damaged = frozenset[int]()
    if not np.isfinite(covered.activations.value).all():
        damaged = frozenset(np.flatnonzero(~np.isfinite(dense).all(axis=0)).tolist())
    return SegmentView(tokens, sentences.positions, watchlist.features, dense, sentences, n_tokens, damaged)


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
    activations, slots = covered.activations, watchlist.slots_of(covered.table)
    assert slots is not None, "whoever reads activations for a watchlist sees that they cover it"
    row_of = np.full(n_tokens, -1)
    row_of[positions] = np.arange(len(positions))
    row, slot = row_of[activations.token], slots[activations.column]
    mine = (row >= 0) & (slot >= 0)
    dense = np.zeros((len(positions), len(watchlist.features)))
    dense[row[mine], slot[mine]] = activations.value[mine]
    for twin, original in watchlist.twins:
        dense[:, twin] = dense[:, original]
    return dense
