"""From sparse activations to a verdict with evidence: a pure function of the activations and the watchlist."""

from collections.abc import Mapping, Sequence
from math import exp, fsum, isfinite

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import EngineError
from scopewatch.pipeline.compiled import (
    Compiled,
    CompiledCombination,
    CompiledIndicator,
    CompiledObfuscation,
    CompiledWatchlist,
    CompiledWords,
)
from scopewatch.pipeline.incomplete import incomplete
from scopewatch.pipeline.pooling import tokens_read
from scopewatch.pipeline.segment_view import SegmentView, view_of
from scopewatch.pipeline.signals import SignalValue, signal_of
from scopewatch.pipeline.word_counts import WordsRead, count_words, words_read
from scopewatch.types import CoveredActivations, Segment, TokenisedPair
from scopewatch.verdicts import Evidence, FeatureScore, FeatureScores, IndicatorScore, Judgement, Verdict


# What overflows is found in the result.
@np.errstate(over="ignore", invalid="ignore")
def judge(
    watchlist: CompiledWatchlist,
    readings: Sequence[TokenisedPair],
    covered: Sequence[CoveredActivations],
    *,
    max_evidence: int,
) -> Judgement:
    """Scores every indicator of a watchlist on one pair.

    Args:
        watchlist: The watchlist, bound to an engine.
        readings: The pair as it was read, at least once; of each indicator the highest score counts.
        covered: What fired on the tokens of each reading, covering every feature of the watchlist.
        max_evidence: How many spans to return per indicator; 0 for none.

    Raises:
        EngineError: A score is no finite number, or an activation that makes it is none: neither says anything of the
            pair. NaN is above no threshold, and would pass.
    """
    lengths = np.bincount(readings[-1].segments, minlength=len(Segment)).tolist()
    scored = [
        _scores(watchlist, tokens, fired, lengths, max_evidence)
        for tokens, fired in zip(readings, covered, strict=True)
    ]
    # A reading that skips an indicator says nothing against another that scores it.
    in_order = tuple(
        max(each, key=lambda one: (not one.skipped_reason, one.score)) for each in zip(*scored, strict=True)
    )
    # An indicator of severity info is for the record: knowledge, say, is nothing to flag a pair for.
    flagged = any(score.flagged and score.severity != "info" for score in in_order)
    missing = incomplete(watchlist, readings[0].coverage)
    return Judgement(
        made_by=watchlist.made_by,
        verdict=Verdict.FLAG if flagged else Verdict.INCOMPLETE if missing else Verdict.PASS,
        indicators=in_order,
        coverage=readings[0].coverage,
        fired=_fired(readings[0], covered[0]),
        table=covered[0].table,
        incomplete=missing,
        rendering_digest=readings[0].rendering_digest,
    )


def _scores(
    watchlist: CompiledWatchlist,
    tokens: TokenisedPair,
    covered: CoveredActivations,
    lengths: Sequence[int],
    max_evidence: int,
) -> list[IndicatorScore]:
    """What each indicator says of one reading, in the watchlist's order; `lengths` is how long each segment counts."""
    views = {
        segment: view_of(watchlist, segment, tokens, covered, lengths[segment])
        for segment in {indicator.segment for indicator in watchlist.indicators}
    }
    words = {
        segment: words_read(tokens, segment)
        for segment in {one.segment for one in watchlist.indicators if isinstance(one, CompiledWords)}
    }
    scores: dict[str, IndicatorScore] = {}
    for indicator in watchlist.indicators:
        if isinstance(indicator, CompiledIndicator):
            scores[indicator.source.name] = _score(indicator, views[indicator.segment], max_evidence)
        elif isinstance(indicator, CompiledObfuscation):
            share = tokens.odd_shares.get(indicator.segment, 0.0)
            scores[indicator.source.name] = _scored(indicator, _sum(indicator, [share]), views[indicator.segment])
        elif isinstance(indicator, CompiledWords):
            view, read = views[indicator.segment], words[indicator.segment]
            scores[indicator.source.name] = _count(indicator, view, read, max_evidence)
    for indicator in watchlist.indicators:
        if isinstance(indicator, CompiledCombination):
            scores[indicator.source.name] = _combine(indicator, views[indicator.segment], scores, max_evidence)
    return [scores[indicator.source.name] for indicator in watchlist.indicators]


def _fired(tokens: TokenisedPair, covered: CoveredActivations) -> NDArray[np.intp]:
    """The columns that fired on the caller's text, ascending, each once."""
    fires = np.zeros(len(covered.table.features), bool)
    on_text = tokens.segments[covered.activations.token] != Segment.TEMPLATE
    fires[covered.activations.column[on_text]] = True
    return np.flatnonzero(fires)


def _score(indicator: CompiledIndicator, view: SegmentView, max_evidence: int) -> IndicatorScore:
    if not len(view.positions):
        return _skipped(indicator, "empty_segment")
    if not view.damaged.isdisjoint(indicator.slots.tolist()):
        raise _not_finite(indicator)
    pooled = view.pooled[indicator.pooled_at]
    contributions = indicator.weights * pooled
    return _scored(
        indicator,
        _sum(indicator, contributions.tolist()),
        view,
        features=_features(indicator, pooled, contributions),
        evidence=_evidence(indicator, contributions, view, max_evidence),
    )


def _count(indicator: CompiledWords, view: SegmentView, words: WordsRead, max_evidence: int) -> IndicatorScore:
    if not len(view.positions):
        return _skipped(indicator, "empty_segment")
    counts = count_words(indicator, words, max_evidence)
    return _scored(indicator, counts.score, view, features=counts.features, evidence=counts.evidence)


def _combine(
    indicator: CompiledCombination, view: SegmentView, scores: Mapping[str, IndicatorScore], max_evidence: int
) -> IndicatorScore:
    if not len(view.positions):
        return _skipped(indicator, "empty_segment")
    parts: list[tuple[FeatureScore, Evidence | None]] = []
    for part in indicator.parts:
        term, label = part.term, part.label
        if term.signal:
            found = signal_of(term.signal, view.dense[:, part.slot], view.sentences)
        else:
            score = scores[term.name]
            if score.skipped_reason:
                return _skipped(indicator, score.skipped_reason)
            found = SignalValue(score.score, "score")
        added = term.weight * found.value
        parts.append(
            (FeatureScore(term.name, label.text, found.pooling, found.value, added, label.source), found.evidence)
        )
    total = _sum(indicator, [feature.contribution for feature, _ in parts])
    parts.sort(key=lambda part: -abs(part[0].contribution))
    spans = [span for _, span in parts if span]
    features = tuple(feature for feature, _ in parts)
    return _scored(indicator, total, view, features=features, evidence=tuple(spans[:max_evidence]))


def _sum(indicator: Compiled, contributions: Sequence[float]) -> float:
    """Bias and contributions added up and rounded once, so that whoever adds them again finds the same score."""
    try:
        return fsum([indicator.source.bias, *contributions])
    except (OverflowError, ValueError):
        raise _not_finite(indicator) from None


def _scored(
    indicator: Compiled,
    score: float,
    view: SegmentView,
    *,
    features: Sequence[FeatureScore] = (),
    evidence: tuple[Evidence, ...] = (),
) -> IndicatorScore:
    source = indicator.source
    threshold, platt = source.threshold_for(view.n_tokens), source.probability
    probability = _sigmoid(platt.slope * score + platt.intercept) if platt else None
    if not (isfinite(score) and isfinite(threshold) and isfinite(probability or 0.0)):
        raise _not_finite(indicator)
    return IndicatorScore(
        name=source.name,
        score=score,
        threshold=threshold,
        flagged=score > threshold,
        severity=source.severity,
        calibrated=source.calibrated and not indicator.card_warning,
        card_warning=indicator.card_warning,
        probability=probability,
        features=features,
        evidence=evidence,
        n_tokens=view.n_tokens,
    )


def _not_finite(indicator: Compiled) -> EngineError:
    return EngineError(
        f"indicator {indicator.source.name}: its score, or what it is made of, is no finite number; "
        "weights of the reader, the SAE or the watchlist may be damaged"
    )


def _skipped(indicator: Compiled, reason: str) -> IndicatorScore:
    source = indicator.source
    return IndicatorScore(
        name=source.name,
        score=0.0,
        threshold=source.threshold,
        flagged=False,
        severity=source.severity,
        calibrated=source.calibrated and not indicator.card_warning,
        card_warning=indicator.card_warning,
        skipped_reason=reason,
    )


def _features(
    indicator: CompiledIndicator, pooled: NDArray[np.float64], contributions: NDArray[np.float64]
) -> FeatureScores:
    """What each feature that contributed added, largest first."""
    order = np.argsort(-np.abs(contributions), kind="stable")
    order = order[contributions[order] != 0]
    # Lists, since numbers come out of arrays one by one several times slower.
    rows = list(zip(order.tolist(), pooled[order].tolist(), contributions[order].tolist(), strict=True))
    return FeatureScores(indicator.terms, rows)


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def _evidence(
    indicator: CompiledIndicator, contributions: NDArray[np.float64], view: SegmentView, max_evidence: int
) -> tuple[Evidence, ...]:
    """Spans where features that raised the score fired, by weight times activation, strongest first.

    A span is a run of neighbouring tokens of one turn on which one feature fired, and which a pooling that raised the
    score looks at.
    """
    # Where a probe is below zero, a negative weight raises the score; nothing fired there.
    raised = (contributions > 0) & (indicator.weights > 0)
    if not max_evidence or not raised.any():
        return ()
    pull = np.zeros(len(view.features))
    np.maximum.at(pull, indicator.slots[raised], indicator.weights[raised])
    slots = np.flatnonzero(pull)
    looked_at = np.zeros((len(view.positions), len(slots)), np.bool_)
    for group in indicator.groups:
        mine = np.searchsorted(slots, group.slots[raised[group.terms]])
        looked_at[np.ix_(tokens_read(group.pooling, view.sentences), mine)] = True
    # One feature after the other; in each, its tokens in order.
    column, place = np.nonzero(((view.dense[:, slots] > 0) & looked_at).T)
    position = view.positions[place]
    turn = view.tokens.turns[position]
    # A template may have put a text's parts in another order.
    back = np.diff(view.tokens.starts[position]) < 0
    breaks = (np.diff(column) != 0) | (np.diff(place) != 1) | (np.diff(turn) != 0) | back
    first = np.flatnonzero(np.append(True, breaks))
    last = np.append(first[1:], len(place)) - 1
    slot = slots[column[first]]
    peak = np.maximum.reduceat(view.dense[place, slots[column]], first)
    start, end, turn = view.tokens.starts[position[first]], view.tokens.ends[position[last]], turn[first]
    # Slots are in the order of the features' names.
    order = np.lexsort((slot, start, turn, -pull[slot] * peak))[:max_evidence]
    rows = zip(*(values[order].tolist() for values in (start, end, slot, peak, turn)), strict=True)
    return tuple(
        Evidence(start, end, view.features[slot], peak, indicator.segment, turn)
        for start, end, slot, peak, turn in rows
    )
