"""Puts an explanation together: the scored numbers, what the engine saw and what the cards say, in one document."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

import scopewatch
from scopewatch.engine.looks import Looked
from scopewatch.errors import EngineError
from scopewatch.explain.card_sentences import card_sentences
from scopewatch.explain.dictionaries import Labels, saes_explained, watched_labels
from scopewatch.explain.fired import Fired, fired, heats
from scopewatch.explain.groups import groups, strongest_words
from scopewatch.explain.quadrant import sentences_told
from scopewatch.explain.sums import indicator_explained, summed
from scopewatch.explain.texts import ReadTexts, heat_at, heat_of
from scopewatch.explain.told import summary
from scopewatch.explain.trust import Known, trust
from scopewatch.explain.unusual import reference_of
from scopewatch.explanation import (
    Ablation,
    CoverageExplained,
    Deletion,
    DictionaryFeature,
    Explanation,
    Feature,
    ProvenanceExplained,
    Term,
    Tokens,
)
from scopewatch.identity import LOGPROB, EngineIdentity, FeatureKey
from scopewatch.pipeline.compiled import CompiledIndicator, CompiledWatchlist
from scopewatch.pipeline.stages import Judged
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.types import CoveredActivations, Float64, TokenisedPair
from scopewatch.verdicts import LABEL_NOTE, Judgement, Label


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
    fires = [fired(watchlist, tokens, each) for tokens, each in zip(readings, covered, strict=True)]
    heat_by_reading = [heats(watchlist, each, texts) for each in fires]
    sums = summed(judged)
    heat = {one.source.name: heat_by_reading[one.reading][one.source.name] for one in sums}
    grouped = groups(watchlist, [fires[one.reading] for one in sums], texts)
    own_labels = watched_labels(watchlist)
    saes = saes_explained(looked, texts, own_labels, labels)
    features = _features(fires[0], watchlist, own_labels, texts)
    logprobs = _logprobs(readings[0], predictions, watchlists.engine)
    references = [reference_of(one.source, one.score) for one in sums]
    sentences = sentences_told(watchlist, references, texts, covered[0], logprobs)
    indicators = tuple(
        indicator_explained(one, heat_of(heat[one.source.name]), card_sentences(one.source, one.score)) for one in sums
    )
    shown: list[Feature | Term | DictionaryFeature] = [
        *features,
        *(term for one in indicators if one.kind != "combination" for term in one.terms),
        *(feature for sae in saes for segment in sae.segments for feature in segment.features),
    ]
    known = Known(judgement, sums, looked, ablations, deletion, any(one.label_source for one in shown))
    words = {name: strongest_words(texts, values) for name, values in heat.items()} | {
        group.indicator: group.words for group in grouped
    }
    return Explanation(
        request_id=judged.asked.job.request_id,
        verdict=judgement.verdict.value,
        incomplete=judgement.incomplete,
        summary=summary(judgement, sums, words),
        trust=trust(known),
        texts=texts.texts,
        tokens=_tokens(texts, logprobs),
        indicators=indicators,
        features=features,
        groups=grouped,
        saes=saes,
        hedging_by=sentences.by,
        sentences=sentences.sentences,
        sentences_note=sentences.note,
        ablations=tuple(ablations),
        deletion=deletion,
        coverage=_coverage(judgement),
        provenance=_provenance(judgement, watchlist, watchlists),
        label_note=LABEL_NOTE if any(one.label_source.startswith("neuronpedia") for one in shown) else "",
    )


def _tokens(texts: ReadTexts, logprobs: Float64 | None) -> Tokens:
    return Tokens(
        text=tuple(texts.whose.tolist()),
        start=tuple(texts.starts.tolist()),
        end=tuple(texts.ends.tolist()),
        logprob=() if logprobs is None else tuple(logprobs[texts.positions].tolist()),
    )


def _logprobs(tokens: TokenisedPair, predictions: CoveredActivations | None, engine: EngineIdentity) -> Float64 | None:
    """The log-probability of each token of a reading, in nats; None where the reader's head is not loaded."""
    if predictions is None:
        return None
    whole = replace(engine, head=True)
    wanted = whole.feature_ids[whole.features.index(LOGPROB)]
    if wanted not in predictions.table.features:
        raise EngineError("the reader's predictions were asked for, and hold no log-probabilities")
    found, column = predictions.activations, predictions.table.features.index(wanted)
    logprobs = np.zeros(len(tokens.ids))
    mine = found.column == column
    logprobs[found.token[mine]] = found.value[mine]
    return logprobs


def _features(
    fired: Fired, watchlist: CompiledWatchlist, labels: Mapping[FeatureKey, Label], texts: ReadTexts
) -> tuple[Feature, ...]:
    """The watched features that fired on the caller's texts; the directions of probes have a value everywhere."""
    number = np.full(len(fired.tokens.ids), -1)
    number[texts.positions] = np.arange(len(texts.positions))
    probes = {
        term.feature
        for one in watchlist.indicators
        if isinstance(one, CompiledIndicator) and one.source.kind == "probe"
        for term in one.terms
    }
    found = []
    slots, begins = np.unique(fired.slot, return_index=True)
    for slot, mine in zip(slots.tolist(), np.split(np.arange(len(fired.slot)), begins[1:]), strict=False):
        feature = watchlist.features[slot]
        if feature in labels and feature not in probes:
            label = labels[feature]
            found.append(
                Feature(
                    feature=str(feature),
                    label=label.text,
                    label_source=label.source,
                    heat=heat_at(number[fired.token[mine]], fired.value[mine].tolist()),
                )
            )
    return tuple(found)


def _coverage(judgement: Judgement) -> CoverageExplained:
    coverage = judgement.coverage
    return CoverageExplained(
        tokens=coverage.tokens,
        prompt_tokens=coverage.prompt_tokens,
        response_tokens=coverage.response_tokens,
        history_tokens=coverage.history_tokens,
        truncated=coverage.truncated,
        windows=coverage.windows,
    )


def _provenance(judgement: Judgement, watchlist: CompiledWatchlist, watchlists: WatchlistSet) -> ProvenanceExplained:
    made_by, own = judgement.made_by, watchlist.source.saes
    return ProvenanceExplained(
        reader=made_by.reader,
        reader_revision=made_by.reader_revision,
        reader_digest=made_by.reader_digest,
        watchlist=made_by.watchlist,
        watchlist_digest=made_by.watchlist_digest,
        relation=made_by.relation.value,
        version=scopewatch.__version__,
        rendering_digest=judgement.rendering_digest,
        watchlists_version=watchlists.version,
        saes={sae.name: sae.digest for sae in watchlists.engine.saes if sae.name in own},
    )
