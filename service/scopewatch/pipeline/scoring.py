"""From sparse activations to a verdict with evidence: a pure function of the activations and the watchlist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from scopewatch.types import (
    Activations,
    Evidence,
    FeatureKey,
    FeatureScore,
    IndicatorScore,
    Label,
    Segment,
    TokenisedPair,
    Verdict,
)
from scopewatch.watch.indicators import CombinedTerm, Indicator, Pooling, WatchedFeature
from scopewatch.watch.watchlist import Watchlist

Dense = NDArray[np.float64]
"""Activations of some features on one segment's tokens, shape (n_tokens, n_features)."""


@dataclass(frozen=True, slots=True)
class _Term:
    feature: FeatureKey
    label: Label
    pooling: str


@dataclass(frozen=True, slots=True)
class _CompiledIndicator:
    """An indicator whose terms are grouped by pooling, so that each pooling runs once."""

    source: Indicator
    segment: Segment
    terms: tuple[_Term, ...]
    groups: tuple[tuple[Pooling, NDArray[np.intp], NDArray[np.intp]], ...]
    """(pooling, term indices, slots of those terms)."""
    slots: NDArray[np.intp]
    """Of each term."""
    weights: NDArray[np.float64]
    card_warning: str


@dataclass(frozen=True, slots=True)
class _CompiledCombination:
    """An indicator of other indicators' scores and of signals, which are columns of the engine's."""

    source: Indicator
    segment: Segment
    terms: tuple[tuple[CombinedTerm, Label, int], ...]
    """(term, the part's label, slot of a signal)."""
    card_warning: str


@dataclass(frozen=True, slots=True)
class CompiledWatchlist:
    source: Watchlist
    indicators: tuple[_CompiledIndicator | _CompiledCombination, ...]
    slot_of: NDArray[np.intp]
    """Place of each engine column among the features this watchlist reads, in the order of their names; -1 if not."""
    features: tuple[FeatureKey, ...]
    """Of each slot."""


def compile_watchlist(
    watchlist: Watchlist,
    features: Sequence[FeatureKey],
    labels: Mapping[FeatureKey, Label] | None = None,
    card_warnings: Mapping[str, str] | None = None,
) -> CompiledWatchlist:
    """Binds a watchlist to the engine's columns.

    Args:
        watchlist: A valid watchlist.
        features: The engine's watched features, in the order of `Activations.column`.
        labels: Of features that the watchlist gives none; its own win.
        card_warnings: From `Watchlist.card_problems`.
    """
    column_of = {feature: column for column, feature in enumerate(features)}
    signals = {term.key for indicator in watchlist.indicators for term in indicator.combines if term.key}
    by_name = tuple(sorted({*watchlist.features, *signals}, key=str))
    slot_of = np.full(len(features), -1)
    slot_of[[column_of[feature] for feature in by_name]] = np.arange(len(by_name))
    slots = {feature: slot for slot, feature in enumerate(by_name)}
    names = {one.name: Label(one.label, "watchlist" if one.label else "") for one in watchlist.indicators}
    warnings = card_warnings or {}

    def compiled(indicator: Indicator) -> _CompiledIndicator | _CompiledCombination:
        warning = warnings.get(indicator.name, "")
        if indicator.kind != "combination":
            return _compile(indicator, slots, labels or {}, warning)
        terms = tuple(
            (term, names[term.indicator] if term.indicator else Label("", ""), slots[term.key] if term.key else -1)
            for term in indicator.combines
        )
        return _CompiledCombination(indicator, indicator.read_segment, terms, warning)

    return CompiledWatchlist(watchlist, tuple(map(compiled, watchlist.indicators)), slot_of, by_name)


def _compile(
    indicator: Indicator, slots: Mapping[FeatureKey, int], labels: Mapping[FeatureKey, Label], card_warning: str
) -> _CompiledIndicator:
    poolings = [feature.pooling or indicator.pooling for feature in indicator.features]
    by_pooling: dict[Pooling, list[int]] = {}
    for index, pooling in enumerate(poolings):
        by_pooling.setdefault(pooling, []).append(index)
    slot = np.array([slots[feature.key] for feature in indicator.features])
    return _CompiledIndicator(
        source=indicator,
        segment=indicator.read_segment,
        terms=tuple(
            _Term(feature.key, _label(feature, labels), str(pooling))
            for feature, pooling in zip(indicator.features, poolings, strict=True)
        ),
        groups=tuple((pooling, np.array(members), slot[members]) for pooling, members in by_pooling.items()),
        slots=slot,
        weights=np.array([feature.weight for feature in indicator.features], np.float64),
        card_warning=card_warning,
    )


def _label(feature: WatchedFeature, labels: Mapping[FeatureKey, Label]) -> Label:
    return Label(feature.label, "watchlist") if feature.label else labels.get(feature.key, Label("", ""))


def pool(pooling: Pooling, dense: Dense) -> NDArray[np.float64]:
    """Pools each column over the tokens; the formulas are in `indicators.Pooling`.

    Args:
        pooling: Which one.
        dense: Shape (n_tokens, n_features), n_tokens at least 1; values at least 0, but of probes.

    Returns:
        Shape (n_features,).
    """
    n_tokens = len(dense)
    match pooling.kind:
        case "max":
            pooled = dense.max(axis=0)
        case "mean":
            pooled = dense.mean(axis=0)
        case "sum":
            pooled = dense.sum(axis=0)
        case "fraction_active":
            pooled = (dense > 0).mean(axis=0)
        case "rolling_mean_max":
            window = min(pooling.window or 1, n_tokens)
            totals = np.cumsum(np.vstack([np.zeros_like(dense[:1]), dense]), axis=0)
            # A difference of running totals can leave -1e-17 where all is 0.
            pooled = np.maximum((totals[window:] - totals[:-window]).max(axis=0) / window, 0.0)
        case "k_of_n":
            pooled = _kth_largest_in_a_window(dense, pooling.k or 1, min(pooling.n or n_tokens, n_tokens))
    return np.asarray(pooled, np.float64)


def _kth_largest_in_a_window(dense: Dense, k: int, n: int) -> NDArray[np.float64]:
    if k > n:
        return np.zeros(dense.shape[1])
    windows = np.lib.stride_tricks.sliding_window_view(dense, n, axis=0)
    kth = np.partition(windows, n - k, axis=-1)[..., n - k]
    return np.asarray(kth.max(axis=0), np.float64)


@dataclass(frozen=True, slots=True)
class _SegmentView:
    """One segment of a pair as every indicator that reads it sees it."""

    tokens: TokenisedPair
    positions: NDArray[np.intp]
    """The segment's tokens, ascending."""
    features: tuple[FeatureKey, ...]
    dense: Dense
    """Shape (len(positions), len(features))."""


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    indicators: tuple[IndicatorScore, ...]


def judge(
    watchlist: CompiledWatchlist, tokens: TokenisedPair, activations: Activations, *, max_evidence: int
) -> Judgement:
    """Scores every indicator of a watchlist on one pair.

    Args:
        watchlist: Bound to the engine that made the activations.
        tokens: The pair as it was read.
        activations: What fired on those tokens.
        max_evidence: Spans to return per indicator; 0 for none.
    """
    views = {
        segment: _view(watchlist, segment, tokens, activations)
        for segment in {indicator.segment for indicator in watchlist.indicators}
    }
    scores: dict[str, IndicatorScore] = {}
    for indicator in watchlist.indicators:
        if isinstance(indicator, _CompiledIndicator):
            scores[indicator.source.name] = _score(indicator, views[indicator.segment], max_evidence)
    for indicator in watchlist.indicators:
        if isinstance(indicator, _CompiledCombination):
            scores[indicator.source.name] = _combine(indicator, views[indicator.segment], scores)
    in_order = tuple(scores[indicator.source.name] for indicator in watchlist.indicators)
    # An indicator of severity info is for the record: knowledge, say, is nothing to flag a pair for.
    flagged = any(score.flagged and score.severity != "info" for score in in_order)
    return Judgement(Verdict.FLAG if flagged else Verdict.PASS, in_order)


def _score(indicator: _CompiledIndicator, view: _SegmentView, max_evidence: int) -> IndicatorScore:
    if not len(view.positions):
        return _skipped(indicator, "empty_segment")
    pooled = np.empty(len(indicator.terms))
    for pooling, members, slots in indicator.groups:
        pooled[members] = pool(pooling, view.dense[:, slots])
    contributions = indicator.weights * pooled
    return _scored(
        indicator,
        float(indicator.source.bias + contributions.sum()),
        features=_features(indicator, pooled, contributions),
        evidence=_evidence(indicator, contributions, view, max_evidence),
    )


def _combine(
    indicator: _CompiledCombination, view: _SegmentView, scores: Mapping[str, IndicatorScore]
) -> IndicatorScore:
    if not len(view.positions):
        return _skipped(indicator, "empty_segment")
    features = []
    for term, label, slot in indicator.terms:
        part = scores[term.indicator] if term.indicator else None
        if part and part.skipped_reason:
            return _skipped(indicator, part.skipped_reason)
        value = part.score if part else float(view.dense[:, slot].mean())
        features.append(
            FeatureScore(term.name, label.text, "score" if part else "mean", value, term.weight * value, label.source)
        )
    total = indicator.source.bias + sum(part.contribution for part in features)
    features.sort(key=lambda part: -abs(part.contribution))
    return _scored(indicator, total, features=tuple(features))


def _scored(
    indicator: _CompiledIndicator | _CompiledCombination,
    score: float,
    *,
    features: tuple[FeatureScore, ...],
    evidence: tuple[Evidence, ...] = (),
) -> IndicatorScore:
    source = indicator.source
    return IndicatorScore(
        name=source.name,
        score=score,
        threshold=source.threshold,
        flagged=score > source.threshold,
        severity=source.severity,
        calibrated=source.calibrated and not indicator.card_warning,
        card_warning=indicator.card_warning,
        probability=_sigmoid(source.probability.slope * score + source.probability.intercept)
        if source.probability
        else None,
        features=features,
        evidence=evidence,
    )


def _skipped(indicator: _CompiledIndicator | _CompiledCombination, reason: str) -> IndicatorScore:
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
    indicator: _CompiledIndicator, pooled: NDArray[np.float64], contributions: NDArray[np.float64]
) -> tuple[FeatureScore, ...]:
    """What each feature that contributed added, largest first."""
    order = np.argsort(-np.abs(contributions), kind="stable")
    order = order[contributions[order] != 0]
    # Lists, since numbers come out of arrays one by one several times slower.
    rows = zip(order.tolist(), pooled[order].tolist(), contributions[order].tolist(), strict=True)
    return tuple(
        FeatureScore(term.feature, term.label.text, term.pooling, value, contribution, term.label.source)
        for index, value, contribution in rows
        for term in (indicator.terms[index],)
    )


def _view(
    watchlist: CompiledWatchlist, segment: Segment, tokens: TokenisedPair, activations: Activations
) -> _SegmentView:
    positions = np.flatnonzero(tokens.segments == segment)
    row_of = np.full(len(tokens.segments), -1)
    row_of[positions] = np.arange(len(positions))
    row, slot = row_of[activations.token], watchlist.slot_of[activations.column]
    mine = (row >= 0) & (slot >= 0)
    dense = np.zeros((len(positions), len(watchlist.features)))
    dense[row[mine], slot[mine]] = activations.value[mine]
    return _SegmentView(tokens, positions, watchlist.features, dense)


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def _evidence(
    indicator: _CompiledIndicator, contributions: NDArray[np.float64], view: _SegmentView, max_evidence: int
) -> tuple[Evidence, ...]:
    """Spans where features that raised the score fired, by weight times activation, strongest first.

    A span is a run of neighbouring tokens on which one feature fired, of one turn.
    """
    # Where a probe is below zero, a negative weight raises the score; nothing fired there.
    raised = (contributions > 0) & (indicator.weights > 0)
    if not max_evidence or not raised.any():
        return ()
    pull = np.zeros(len(view.features))
    np.maximum.at(pull, indicator.slots[raised], indicator.weights[raised])
    slots = np.flatnonzero(pull)
    # One feature after the other; in each, its tokens in order.
    column, place = np.nonzero(view.dense[:, slots].T > 0)
    position = view.positions[place]
    turn = view.tokens.turns[position]
    breaks = (np.diff(column) != 0) | (np.diff(place) != 1) | (np.diff(turn) != 0)
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
