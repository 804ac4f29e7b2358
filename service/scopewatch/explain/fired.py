"""What fired of a watchlist's features in one reading of a pair, and where that adds to the indicators."""

from dataclasses import dataclass

import numpy as np

from scopewatch.explain.texts import ReadTexts
from scopewatch.pipeline.compiled import (
    CompiledCombination,
    CompiledIndicator,
    CompiledWatchlist,
    CompiledWords,
)
from scopewatch.pipeline.pooling import tokens_read
from scopewatch.pipeline.word_counts import words_read
from scopewatch.sentences import SegmentSentences
from scopewatch.types import CoveredActivations, Float64, Indices, Segment, TokenisedPair


@dataclass(frozen=True, slots=True)
class Fired:
    """The m activations of watched features on the caller's texts in one reading, by slot and then by token."""

    tokens: TokenisedPair
    token: Indices
    """The index of the token among the reading's; shape (m,), like the others."""
    slot: Indices
    """The slot of the feature in the watchlist."""
    value: Float64

    def weighed(self, weights: Float64) -> Float64:
        """At each token of the reading, what fires there times the weight of its slot, added up.

        Args:
            weights: The weight of each slot.
        """
        total: Float64 = np.bincount(self.token, weights[self.slot] * self.value, len(self.tokens.ids)).astype(
            np.float64
        )
        return total


def fired(watchlist: CompiledWatchlist, tokens: TokenisedPair, covered: CoveredActivations) -> Fired:
    """What fired of a watchlist's features on the caller's texts.

    Args:
        watchlist: The watchlist.
        tokens: A reading of the pair.
        covered: What fired on its tokens, covering every feature of the watchlist.
    """
    slots = watchlist.slots_of(covered.table)
    assert slots is not None, "a pair was judged by activations that cover its watchlist"
    found = covered.activations
    token, slot, value = found.token.astype(np.intp), slots[found.column], found.value.astype(np.float64)
    on_text = (slot >= 0) & (tokens.segments[token] != Segment.TEMPLATE)
    token, slot, value = token[on_text], slot[on_text], value[on_text]
    for twin, original in watchlist.twins:
        same = slot == original
        token, value = np.append(token, token[same]), np.append(value, value[same])
        slot = np.append(slot, np.full(int(same.sum()), twin))
    order = np.lexsort((token, slot))
    return Fired(tokens, token[order], slot[order], value[order])


def heats(watchlist: CompiledWatchlist, fired: Fired, texts: ReadTexts) -> dict[str, Float64]:
    """How much each indicator's score is raised or lowered at each token of the explanation, by the indicator's name.

    Args:
        watchlist: The watchlist.
        fired: What fired of it in one reading.
        texts: The texts, with the n tokens of the explanation.

    Returns:
        Arrays of shape (n,); what `IndicatorExplained.heat` says.
    """
    found: dict[str, Float64] = {}
    nothing, n_slots = np.zeros(len(texts.positions)), len(watchlist.features)
    for indicator in watchlist.indicators:
        if isinstance(indicator, CompiledIndicator):
            found[indicator.source.name] = texts.carried(_weighed(indicator, fired, n_slots), fired.tokens)
        elif isinstance(indicator, CompiledWords):
            found[indicator.source.name] = _word_heat(indicator, fired.tokens, texts)
    for indicator in watchlist.indicators:
        if isinstance(indicator, CompiledCombination):
            terms = [part.term for part in indicator.parts]
            parts = [term.weight * found[term.name] for term in terms if term.name in found]
            found[indicator.source.name] = np.sum([nothing, *parts], axis=0)
        else:
            found.setdefault(indicator.source.name, nothing)
    return found


def raising(watchlist: CompiledWatchlist, indicator: CompiledIndicator, fired: Fired) -> Float64:
    """At each token of the reading, what fires there of the features that raise an indicator, times their weights."""
    weights = np.zeros(len(watchlist.features))
    np.maximum.at(weights, indicator.slots, indicator.weights)
    return np.where(fired.tokens.segments == indicator.segment, fired.weighed(weights), 0.0)


def _weighed(indicator: CompiledIndicator, fired: Fired, n_slots: int) -> Float64:
    """At each token of the reading, what fires there times its weight, added up, where its poolings look."""
    sentences = SegmentSentences(fired.tokens, indicator.segment)
    total = np.zeros(len(fired.tokens.ids))
    if not len(sentences.positions):
        return total
    for group in indicator.groups:
        weights = np.zeros(n_slots)
        np.add.at(weights, group.slots, indicator.weights[group.terms])
        looked_at = sentences.positions[tokens_read(group.pooling, sentences)]
        total[looked_at] += fired.weighed(weights)[looked_at]
    return total


def _word_heat(indicator: CompiledWords, tokens: TokenisedPair, texts: ReadTexts) -> Float64:
    """On every token of a word that counts, what that word adds."""
    words = words_read(tokens, indicator.segment)
    counted = indicator.counts_by.counted(words.texts)
    found = np.zeros(len(texts.positions))
    first = words.places[np.array([each.first for each in counted], np.intp)]
    last = words.places[np.array([each.end - 1 for each in counted], np.intp)]
    turns, starts, ends = first.T
    # Of what stands at the border of two turns only the first word is looked for.
    ends = np.where(last[:, 0] == turns, last[:, 2], ends)
    added = np.array([each.contribution for each in counted])
    for turn in np.unique(turns).tolist():
        mine = turns == turn
        places = texts.tokens_at(texts.number_of(indicator.segment, turn), starts[mine], ends[mine])
        for here, value in zip(places, added[mine].tolist(), strict=True):
            found[here] += value
    return found
