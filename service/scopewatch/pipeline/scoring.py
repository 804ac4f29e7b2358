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
from scopewatch.watchlist import Indicator, Pooling, WatchedFeature, Watchlist

Dense = NDArray[np.float64]
"""Activations of some features on one segment's tokens, shape (n_tokens, n_features)."""


@dataclass(frozen=True, slots=True)
class _Term:
    feature: FeatureKey
    label: Label
    pooling: str
    weight: float
    column: int


@dataclass(frozen=True, slots=True)
class _CompiledIndicator:
    """An indicator whose terms are grouped by pooling, so that each pooling runs once."""

    source: Indicator
    segment: Segment
    terms: tuple[_Term, ...]
    groups: tuple[tuple[Pooling, NDArray[np.intp], NDArray[np.intp]], ...]
    """(pooling, term indices, columns of those terms)."""
    weights: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CompiledWatchlist:
    source: Watchlist
    indicators: tuple[_CompiledIndicator, ...]


def compile_watchlist(
    watchlist: Watchlist, features: Sequence[FeatureKey], labels: Mapping[FeatureKey, Label] | None = None
) -> CompiledWatchlist:
    """Binds a watchlist to the engine's columns.

    Args:
        watchlist: A valid watchlist.
        features: The engine's watched features, in the order of `Activations.column`.
        labels: Of features that the watchlist gives none; its own win.
    """
    column_of = {feature: column for column, feature in enumerate(features)}
    compiled = tuple(_compile(indicator, column_of, labels or {}) for indicator in watchlist.indicators)
    return CompiledWatchlist(watchlist, compiled)


def _compile(
    indicator: Indicator, column_of: Mapping[FeatureKey, int], labels: Mapping[FeatureKey, Label]
) -> _CompiledIndicator:
    poolings = [feature.pooling or indicator.pooling for feature in indicator.features]
    terms = tuple(
        _Term(feature.key, _label(feature, labels), str(pooling), feature.weight, column_of[feature.key])
        for feature, pooling in zip(indicator.features, poolings, strict=True)
    )
    by_pooling: dict[Pooling, list[int]] = {}
    for index, pooling in enumerate(poolings):
        by_pooling.setdefault(pooling, []).append(index)
    return _CompiledIndicator(
        source=indicator,
        segment=indicator.read_segment,
        terms=terms,
        groups=tuple(
            (pooling, np.array(members), np.array([terms[i].column for i in members]))
            for pooling, members in by_pooling.items()
        ),
        weights=np.array([term.weight for term in terms]),
    )


def _label(feature: WatchedFeature, labels: Mapping[FeatureKey, Label]) -> Label:
    return Label(feature.label, "watchlist") if feature.label else labels.get(feature.key, Label("", ""))


def pool(pooling: Pooling, dense: Dense) -> NDArray[np.float64]:
    """Pools each column over the tokens; the formulas are in `watchlist.Pooling`.

    Args:
        pooling: Which one.
        dense: Shape (n_tokens, n_features), n_tokens at least 1, values at least 0.

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
    """One segment of a pair as one indicator sees it."""

    tokens: TokenisedPair
    positions: NDArray[np.intp]
    """The segment's tokens, ascending."""
    columns: NDArray[np.intp]
    """The indicator's columns, ascending."""
    dense: Dense
    """Shape (len(positions), len(columns))."""

    def of(self, column: int) -> NDArray[np.float64]:
        """One column's activations over the segment."""
        return self.dense[:, np.searchsorted(self.columns, column)]


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
    scores = tuple(_score(indicator, tokens, activations, max_evidence) for indicator in watchlist.indicators)
    # An indicator of severity info is for the record: knowledge, say, is nothing to flag a pair for.
    flagged = any(score.flagged and score.severity != "info" for score in scores)
    return Judgement(Verdict.FLAG if flagged else Verdict.PASS, scores)


def _score(
    indicator: _CompiledIndicator, tokens: TokenisedPair, activations: Activations, max_evidence: int
) -> IndicatorScore:
    source = indicator.source
    positions = np.flatnonzero(tokens.segments == indicator.segment)
    if not len(positions):
        return IndicatorScore(
            name=source.name,
            score=0.0,
            threshold=source.threshold,
            flagged=False,
            severity=source.severity,
            calibrated=source.calibrated,
            skipped_reason="empty_segment",
        )
    view = _view(indicator, tokens, positions, activations)
    pooled = np.empty(len(indicator.terms))
    for pooling, members, member_columns in indicator.groups:
        pooled[members] = pool(pooling, view.dense[:, np.searchsorted(view.columns, member_columns)])
    contributions = indicator.weights * pooled
    score = float(source.bias + contributions.sum())
    order = [int(i) for i in np.argsort(-np.abs(contributions), kind="stable") if contributions[i] != 0]
    return IndicatorScore(
        name=source.name,
        score=score,
        threshold=source.threshold,
        flagged=score > source.threshold,
        severity=source.severity,
        calibrated=source.calibrated,
        probability=_sigmoid(source.probability.slope * score + source.probability.intercept)
        if source.probability
        else None,
        features=tuple(
            FeatureScore(
                feature=term.feature,
                label=term.label.text,
                pooling=term.pooling,
                pooled=float(pooled[i]),
                contribution=float(contributions[i]),
                label_source=term.label.source,
            )
            for i in order
            for term in (indicator.terms[i],)
        ),
        evidence=_evidence(indicator, contributions, view, max_evidence),
    )


def _view(
    indicator: _CompiledIndicator, tokens: TokenisedPair, positions: NDArray[np.intp], activations: Activations
) -> _SegmentView:
    columns = np.unique([term.column for term in indicator.terms])
    dense = np.zeros((len(positions), len(columns)))
    row = np.searchsorted(positions, activations.token)
    col = np.searchsorted(columns, activations.column)
    mine = (row < len(positions)) & (col < len(columns))
    mine[mine] = (positions[row[mine]] == activations.token[mine]) & (columns[col[mine]] == activations.column[mine])
    dense[row[mine], col[mine]] = activations.value[mine]
    return _SegmentView(tokens, positions, columns, dense)


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def _evidence(
    indicator: _CompiledIndicator, contributions: NDArray[np.float64], view: _SegmentView, max_evidence: int
) -> tuple[Evidence, ...]:
    """Spans where features that raised the score fired, by weight times activation, strongest first."""
    pull: dict[int, float] = {}
    feature_of = {term.column: term.feature for term in indicator.terms}
    for term, contribution in zip(indicator.terms, contributions, strict=True):
        if contribution > 0:
            pull[term.column] = max(pull.get(term.column, 0.0), term.weight)
    spans: list[tuple[float, Evidence]] = []
    for column, weight in pull.items() if max_evidence else ():
        values = view.of(column)
        for run in _runs(values, view):
            peak = float(values[run].max())
            first, last = view.positions[run[0]], view.positions[run[-1]]
            span = Evidence(
                start=int(view.tokens.starts[first]),
                end=int(view.tokens.ends[last]),
                feature=feature_of[column],
                activation=peak,
                segment=indicator.segment,
                turn=int(view.tokens.turns[first]),
            )
            spans.append((weight * peak, span))
    spans.sort(key=lambda scored: (-scored[0], scored[1].turn, scored[1].start, str(scored[1].feature)))
    return tuple(span for _, span in spans[:max_evidence])


def _runs(values: NDArray[np.float64], view: _SegmentView) -> list[NDArray[np.intp]]:
    """Neighbouring tokens on which a feature fired, as indices into the segment; split between turns."""
    fired = np.flatnonzero(values > 0)
    if not len(fired):
        return []
    turns = view.tokens.turns[view.positions[fired]]
    breaks = np.flatnonzero((np.diff(fired) > 1) | (np.diff(turns) != 0)) + 1
    return np.split(fired, breaks)
