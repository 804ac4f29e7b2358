"""The reader's signals: how well it expected a segment's tokens, over the whole segment and sentence by sentence.

A sentence's mean is that of its n tokens and of `PRIOR_TOKENS` more that have the mean of the whole segment,
`(sum + PRIOR_TOKENS * mean of the segment) / (n + PRIOR_TOKENS)`: what two tokens say of "Yes." is mostly chance, and
without this the lowest or highest of many sentences were one of the shortest (shrinkage of Efron and Morris 1975; its
strength is measured in docs/decisions/0031). A segment of one sentence has the plain mean.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from scopewatch.pipeline.word_counts import words_read
from scopewatch.sentences import SegmentSentences
from scopewatch.types import Float64
from scopewatch.verdicts import Evidence
from scopewatch.watch.terms import ASSERTION_LEXICON, Signal
from scopewatch.words.lexicon import shipped

PRIOR_TOKENS = 32.0
"""How many tokens of the segment's mean stand beside each sentence's own."""
HEDGED = 0.1
"""The share of hedges among a sentence's words from which on it asserts nothing."""


@dataclass(frozen=True, slots=True)
class SignalValue:
    """The value of a signal, and whence it comes."""

    value: float
    pooling: str
    """How tokens became this value: `mean`, or `lowest` or `highest` of the sentences' means."""
    evidence: Evidence | None = None
    """The sentence that decided; None where the whole segment did."""


def signal_of(signal: Signal, values: Float64, sentences: SegmentSentences) -> SignalValue:
    """The value of a signal; what each is stands in `indicators.CombinedTerm`.

    Args:
        signal: The name of the signal.
        values: Of each of the segment's tokens the log-probability or the entropy, in nats, whichever the signal is
            made of; shape (n_tokens,), n_tokens at least 1.
        sentences: The sentences that these tokens make.
    """
    if signal in ("mean_logprob", "mean_entropy"):
        return SignalValue(float(values.mean()), "mean")
    means = _sentence_means(values, sentences)
    if signal == "surprising_assertion":
        means = -means * _assertiveness(sentences)
    lowest = signal == "lowest_sentence_logprob"
    sentence = int(means.argmin() if lowest else means.argmax())
    value = float(means[sentence])
    return SignalValue(value, "lowest" if lowest else "highest", _sentence(signal, value, sentence, sentences))


def _sentence_means(values: Float64, sentences: SegmentSentences) -> Float64:
    """The mean of each sentence's tokens, drawn towards that of the segment; shape (n_sentences,)."""
    of_tokens = sentences.of_tokens
    sums, counts = np.bincount(of_tokens, values), np.bincount(of_tokens)
    means: Float64 = (sums + PRIOR_TOKENS * values.mean()) / (counts + PRIOR_TOKENS)
    return means


def hedge_shares(sentences: SegmentSentences) -> Float64:
    """The share of each sentence's words that are hedges; shape (n_sentences,)."""
    words = words_read(sentences.pair, sentences.segment)
    turns, starts, _ = words.places.astype(np.int32).T
    texts = defaultdict(list)
    for text, place in zip(words.texts, map(tuple, sentences.places_of(turns, starts).tolist()), strict=True):
        texts[place].append(text)
    hedges = shipped(ASSERTION_LEXICON)
    places = sentences.places[sentences.first_tokens].tolist()
    return np.array([hedges.score(texts[tuple(place)]) for place in places])


def _assertiveness(sentences: SegmentSentences) -> Float64:
    """How much of each sentence is asserted: 1 without a hedge, 0 from `HEDGED` on; shape (n_sentences,)."""
    return np.maximum(0.0, 1.0 - hedge_shares(sentences) / HEDGED)


def _sentence(signal: Signal, value: float, number: int, sentences: SegmentSentences) -> Evidence:
    """The span of a sentence, from its first token to the one that ends it, given the signal that it decided."""
    tokens = sentences.pair
    first = sentences.positions[sentences.first_tokens[number]]
    last = sentences.positions[sentences.last_tokens[number]]
    start, end, turn = int(tokens.starts[first]), int(tokens.ends[last]), int(tokens.turns[first])
    return Evidence(start, end, signal, value, sentences.segment, turn)
