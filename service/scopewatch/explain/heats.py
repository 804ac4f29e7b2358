"""What each token adds to the indicators' scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scopewatch.explain.texts import ReadTexts
from scopewatch.explain.token_shares import token_shares
from scopewatch.explanation import Group
from scopewatch.pipeline.compiled import CompiledIndicator, CompiledWatchlist, CompiledWords
from scopewatch.pipeline.segment_view import dense_activations
from scopewatch.pipeline.word_counts import words_read
from scopewatch.sentences import SegmentSentences
from scopewatch.types import CoveredActivations, Float64, TokenisedPair

_MOST_WORDS = 5
"""How many words a group names at most."""


@dataclass(frozen=True, slots=True)
class Added:
    """What the n tokens of an explanation add to an indicator's score."""

    all: Float64
    """Together; shape (n,)."""
    raising: Float64
    """What those of its features alone add that raise it."""
    fired: int = 0
    """How many of these fired."""
    of: int = 0
    """How many it has."""


def added_by_tokens(
    watchlist: CompiledWatchlist, tokens: TokenisedPair, covered: CoveredActivations, texts: ReadTexts
) -> dict[str, Added]:
    """What each token adds to each indicator's score, by the indicator's name.

    Args:
        watchlist: The watchlist.
        tokens: A reading of the pair.
        covered: What fired on its tokens, covering every feature of the watchlist.
        texts: The texts, with the tokens of the explanation.
    """
    nothing = np.zeros(len(texts.positions))
    found: dict[str, Added] = {}
    for indicator in watchlist.indicators:
        added = Added(nothing, nothing)
        if isinstance(indicator, CompiledIndicator):
            added = _of_features(watchlist, indicator, tokens, covered, texts)
        elif isinstance(indicator, CompiledWords):
            words = _of_words(indicator, tokens, texts)
            added = Added(words, np.maximum(words, 0.0))
        found[indicator.source.name] = added
    for indicator in watchlist.indicators:
        terms = [term for term in indicator.source.combines if term.indicator]
        if terms:
            total = np.sum([term.weight * found[term.name].all for term in terms], axis=0)
            found[indicator.source.name] = Added(total, np.maximum(total, 0.0))
    return found


def groups(watchlist: CompiledWatchlist, added: Sequence[Added], texts: ReadTexts) -> tuple[Group, ...]:
    """What of each domain was active: a group for every indicator of features of which one that raises it fired.

    Args:
        watchlist: The watchlist.
        added: What the tokens add to each of its indicators.
        texts: The texts, with the tokens of the explanation.
    """
    return tuple(
        Group(
            name=indicator.source.label or indicator.source.name,
            indicator=indicator.source.name,
            features=own.fired,
            of=own.of,
            words=texts.strongest_words(own.raising, _MOST_WORDS),
        )
        for indicator, own in zip(watchlist.indicators, added, strict=True)
        if indicator.source.kind == "features" and own.fired
    )


def _of_features(
    watchlist: CompiledWatchlist,
    indicator: CompiledIndicator,
    tokens: TokenisedPair,
    covered: CoveredActivations,
    texts: ReadTexts,
) -> Added:
    sentences = SegmentSentences(tokens, indicator.segment)
    positions = sentences.positions
    total, raising = np.zeros((2, len(tokens.ids)))
    dense = dense_activations(watchlist, covered, positions, len(tokens.ids))
    for group in indicator.groups if len(positions) else ():
        shares = token_shares(group.pooling, dense[:, group.slots], sentences)
        weights = indicator.weights[group.terms]
        total[positions] += shares @ weights
        raising[positions] += shares @ np.maximum(weights, 0.0)
    raises = np.unique(indicator.slots[indicator.weights > 0])
    fired = int((dense[:, raises] > 0).any(axis=0).sum())
    return Added(texts.carried(total, tokens), texts.carried(raising, tokens), fired, len(raises))


def _of_words(indicator: CompiledWords, tokens: TokenisedPair, texts: ReadTexts) -> Float64:
    """What each word adds, shared by its tokens."""
    words = words_read(tokens, indicator.segment)
    counted = indicator.counts_by.counted(words.texts)
    first = words.places[np.array([each.first for each in counted], np.intp)]
    last = words.places[np.array([each.end - 1 for each in counted], np.intp)]
    turns, starts, ends = first.T
    # Of what stands at the border of two turns the first word counts.
    ends = np.where(last[:, 0] == turns, last[:, 2], ends)
    added = np.array([each.contribution for each in counted])
    found = np.zeros(len(texts.positions))
    for turn in np.unique(turns).tolist():
        mine = turns == turn
        places = texts.tokens_at(texts.number_of(indicator.segment, turn), starts[mine], ends[mine])
        for here, value in zip(places, added[mine].tolist(), strict=True):
            found[here] += value / max(1, len(here))
    return found
