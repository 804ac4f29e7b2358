"""Puts an explanation together: the scored numbers, what the engine saw and what the cards say, in one document."""

from collections.abc import Mapping, Sequence

import numpy as np

from scopewatch.engine.looks import Looked
from scopewatch.errors import EngineError
from scopewatch.explain.card_sentences import card_sentences
from scopewatch.explain.dictionaries import Labels, saes_explained, watched_labels
from scopewatch.explain.heats import added_by_tokens, groups
from scopewatch.explain.origin import coverage_explained, provenance_explained
from scopewatch.explain.predictions import logprobs
from scopewatch.explain.quadrant import sentences_told
from scopewatch.explain.sums import indicator_explained, summed
from scopewatch.explain.texts import ReadTexts, heat_of
from scopewatch.explain.told import summary
from scopewatch.explain.trust import Known, trust
from scopewatch.explain.unusual import reference_of
from scopewatch.explanation import (
    Ablation,
    Deletion,
    DictionaryFeature,
    Explanation,
    Feature,
    Term,
    Tokens,
)
from scopewatch.identity import FeatureKey
from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.segment_view import dense_activations
from scopewatch.pipeline.stages import Judged
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.types import CoveredActivations, Float64
from scopewatch.verdicts import LABEL_NOTE, Label


def explained(
    judged: Judged,
    looked: Sequence[Looked],
    predictions: CoveredActivations | None,
    *,
    watchlists: WatchlistSet,
    labels: Labels,
    ablations: Sequence[Ablation] = (),
    deletion: Deletion | None = None,
) -> Explanation:
    """Why a pair got its verdict.

    Args:
        judged: The pair, read and judged.
        looked: What each whole SAE made of its first reading.
        predictions: The reader's own predictions of that reading; None where its head is not loaded.
        watchlists: The watchlists that run, and what they run on.
        labels: Gives the labels of features that are not watched.
        ablations: What the flagged indicators' features do to the reader, if that was measured.
        deletion: The words without which the verdict is another, if these were looked for.

    Raises:
        EngineError: The predictions do not hold the reader's log-probabilities.
    """
    watchlist, judgement = judged.asked.watchlist, judged.judgement
    readings, covered = judged.read.tokenised.readings, judged.read.covered
    texts = ReadTexts.of(judged.asked.job.pair, readings[0])
    by_reading = [
        added_by_tokens(watchlist, tokens, fired, texts) for tokens, fired in zip(readings, covered, strict=True)
    ]
    sums = summed(judged)
    added = [by_reading[one.reading][one.source.name] for one in sums]
    own_labels = watched_labels(watchlist)
    saes = saes_explained(looked, texts, own_labels, labels)
    features = _features(watchlist, covered[0], own_labels, texts)
    expected = _expected(predictions, watchlists.engine.reader.digest)
    references = [reference_of(one.source, one.score) for one in sums]
    sentences = sentences_told(watchlist, references, texts, covered[0], expected)
    indicators = tuple(
        indicator_explained(one, heat_of(own.all), card_sentences(one.source, one.score))
        for one, own in zip(sums, added, strict=True)
    )
    shown: list[Feature | Term | DictionaryFeature] = [
        *features,
        *(term for one in indicators if one.kind != "combination" for term in one.terms),
        *(feature for sae in saes for segment in sae.segments for feature in segment.features),
    ]
    known = Known(judgement, sums, looked, ablations, deletion, any(one.label_source for one in shown))
    words = [texts.strongest_words(own.raising, 3) for own in added]
    return Explanation(
        request_id=judged.asked.job.request_id,
        verdict=judgement.verdict.value,
        incomplete=judgement.incomplete,
        summary=summary(judgement, sums, words),
        trust=trust(known),
        texts=texts.texts,
        tokens=_tokens(texts, expected),
        indicators=indicators,
        features=features,
        groups=groups(watchlist, added, texts),
        saes=saes,
        hedging_by=sentences.by,
        sentences=sentences.sentences,
        sentences_note=sentences.note,
        ablations=tuple(ablations),
        deletion=deletion,
        coverage=coverage_explained(judgement),
        provenance=provenance_explained(judgement, watchlist, watchlists),
        label_note=LABEL_NOTE if any(one.label_source.startswith("neuronpedia") for one in shown) else "",
    )


def _expected(predictions: CoveredActivations | None, reader_digest: str) -> Float64 | None:
    """The log-probability of each token of the pair, in nats; None where the reader's head is not loaded."""
    if predictions is None:
        return None
    found = logprobs(predictions, reader_digest)
    if found is None:
        raise EngineError("the reader's predictions were asked for, and hold no log-probabilities")
    return found


def _tokens(texts: ReadTexts, logprobs: Float64 | None) -> Tokens:
    return Tokens(
        text=tuple(texts.whose.tolist()),
        start=tuple(texts.starts.tolist()),
        end=tuple(texts.ends.tolist()),
        logprob=() if logprobs is None else tuple(logprobs[texts.positions].tolist()),
    )


def _features(
    watchlist: CompiledWatchlist, covered: CoveredActivations, labels: Mapping[FeatureKey, Label], texts: ReadTexts
) -> tuple[Feature, ...]:
    """The watched features that fired on the caller's texts; none of a probe, which has a value everywhere."""
    dense = dense_activations(watchlist, covered, texts.positions, len(texts.pair.ids))
    probes = {term.key for one in watchlist.source.indicators if one.kind == "probe" for term in one.features}
    return tuple(
        Feature(
            feature=str(feature),
            label=labels[feature].text,
            label_source=labels[feature].source,
            heat=heat_of(dense[:, slot]),
        )
        for slot in np.flatnonzero(dense.any(axis=0)).tolist()
        if (feature := watchlist.features[slot]) in labels and feature not in probes
    )
