"""What traffic is held against, bins of the cards' references and thresholds; how many pairs fell into each bin."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeAlias
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from scopewatch.identity import FeatureKey
from scopewatch.metrics.series import Counts, Named
from scopewatch.verdicts import FeatureScore, FeatureScores, IndicatorScore, Judgement, Terms
from scopewatch.watch.bins import Bins
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist

_INDICATOR = ("watchlist", "indicator")
_FEATURE = ("watchlist", "indicator", "feature")

TermKey: TypeAlias = tuple[str, int, str] | str
"""A term's feature, as the SAE's name and the index, and its pooling; of a part of a combination, its name."""


@dataclass(frozen=True, slots=True)
class _Binned:
    """Where values of one name are counted, by the bins of a reference."""

    labels: tuple[str, ...]
    """The values of all labels but the bin's."""
    bins: Bins
    begin: int
    """The index of the first bin's count."""

    def place(self, value: float) -> int:
        """The index of the count of the bin that a value falls into."""
        return self.begin + bisect_left(self.bins.edges, value)


class _BinnedIndicator:
    """Where an indicator's scores and the values of its terms are counted.

    Args:
        score: Where its scores are counted.
        terms: Where the values of its terms are counted, of those that are.
    """

    def __init__(self, score: _Binned, terms: Mapping[TermKey, _Binned]) -> None:
        self._score = score
        self._terms = list(terms.values())
        self._at_rest = [binned.place(0.0) for binned in self._terms]
        self._number_of = {key: number for number, key in enumerate(terms)}
        self._numbers: WeakKeyDictionary[Terms, list[int]] = WeakKeyDictionary()
        """The number of each term of an indicator as it is bound to an engine; -1 of those that are not counted."""

    def places(self, score: IndicatorScore) -> list[int]:
        """The indices of all counts that a score moves."""
        # What contributed nothing is not among the features: its value is 0.
        moved = list(self._at_rest)
        for number, pooled in self._values(score.features) if moved else ():
            if number >= 0:
                moved[number] = self._terms[number].place(pooled)
        return [self._score.place(score.score), *moved]

    def _values(self, features: Sequence[FeatureScore]) -> Iterable[tuple[int, float]]:
        """The number and the value of each term that contributed."""
        if not isinstance(features, FeatureScores):
            return ((self._number(one.feature, one.pooling), one.pooled) for one in features)
        numbers = self._numbers.get(features.of)
        if numbers is None:
            numbers = self._numbers[features.of] = [self._number(term.feature, term.pooling) for term in features.of]
        return ((numbers[place], pooled) for place, pooled, _ in features.rows)

    def _number(self, feature: FeatureKey | str, pooling: str) -> int:
        return self._number_of.get(_key(feature, pooling), -1)


@dataclass(slots=True)
class _Published:
    """What the page shows; replaced as a whole, since it is made in another thread."""

    scores: list[_Binned] = field(default_factory=list)
    terms: list[_Binned] = field(default_factory=list)
    thresholds: dict[tuple[str, ...], float] = field(default_factory=dict)
    flag_ratios: dict[tuple[str, ...], float] = field(default_factory=dict)


class Drift(Named):
    """Counts scores and terms by the bins of the cards' references, and publishes the references.

    The series of a reference carry its digest. So counts by other bins, after a reload or on another replica, are never
    added up with them; they leave the page when no watchlist has that reference any more.

    Args:
        registry: Where they are collected.
        counts: Where they are counted.
        max_feature_series: How many terms get series of their own; those beyond are not counted.
    """

    def __init__(self, registry: CollectorRegistry, counts: Counts, *, max_feature_series: int) -> None:
        self._counts = counts
        self._max_feature_series = max_feature_series
        self._by_watchlist: dict[tuple[str, str], dict[str, _BinnedIndicator]] = {}
        """Where each indicator is counted, by its name, of each watchlist, by its name and the digest of its file."""
        self._series: dict[tuple[str, ...], _Binned] = {}
        """What is counted, by its labels."""
        self._chosen: set[tuple[str, ...]] = set()
        self._published = _Published()
        registry.register(self)

    def start(self, watchlists: Sequence[Watchlist]) -> None:
        """Counts for these watchlists from now on, in place of those before; what both have goes on."""
        former, self._series = self._series, {}
        self._by_watchlist, self._chosen = {}, self._choice(watchlists)
        published = _Published()
        for watchlist in watchlists:
            found = self._by_watchlist[watchlist.name, watchlist.digest] = {}
            for indicator in watchlist.indicators:
                labels = watchlist.name, indicator.name
                published.thresholds[labels] = indicator.threshold
                if indicator.card and (ratio := indicator.card.benign_flag_ratio) is not None:
                    published.flag_ratios[labels] = ratio
                if binned := self._binned(watchlist.name, indicator, former, published):
                    found[indicator.name] = binned
        self._published = published
        for gone in former.keys() - self._series.keys():
            self._counts.release(former[gone].begin, len(former[gone].bins))

    def _binned(
        self, watchlist: str, indicator: Indicator, former: Mapping[tuple[str, ...], _Binned], published: _Published
    ) -> _BinnedIndicator | None:
        """Where an indicator is counted; None where its card holds no bins."""
        reference = indicator.card.reference if indicator.card else None
        if not (reference and reference.score_bins):
            return None

        def series(bins: Bins, *own: str) -> _Binned:
            labels = (*own, reference.bins_digest)
            self._series[labels] = former.get(labels) or _Binned(labels, bins, self._counts.reserve(len(bins)))
            return self._series[labels]

        score = series(reference.score_bins, watchlist, indicator.name)
        published.scores.append(score)
        terms: dict[TermKey, _Binned] = {}
        for key, name in zip(_keys(indicator), indicator.term_names, strict=True):
            if (watchlist, indicator.name, name) in self._chosen:
                terms[key] = series(reference.term_bins[name], watchlist, indicator.name, name)
                published.terms.append(terms[key])
        return _BinnedIndicator(score, terms)

    def _choice(self, watchlists: Sequence[Watchlist]) -> set[tuple[str, ...]]:
        """The terms that are counted, by their labels: of all indicators alike those that stand first."""
        ranked = [
            (place, (watchlist.name, indicator.name, name))
            for watchlist in watchlists
            for indicator in watchlist.indicators
            if indicator.card and indicator.card.reference
            for place, name in enumerate(indicator.card.reference.term_bins)
        ]
        ranked.sort(key=itemgetter(0))
        return {labels for _, labels in ranked[: self._max_feature_series]}

    def places(self, judgement: Judgement) -> list[int]:
        """The indices of all that a judgement counts; none of one by a watchlist that was replaced meanwhile."""
        made_by = judgement.made_by
        found = self._by_watchlist.get((made_by.watchlist, made_by.watchlist_digest), {})
        return [
            place
            for score in judgement.indicators
            if not score.skipped_reason and score.name in found
            for place in found[score.name].places(score)
        ]

    def collect(self) -> Iterable[Metric]:
        shown = self._published
        yield self._counted("indicator_bin_pairs", "Pairs by the bin of their score.", shown.scores, _INDICATOR)
        yield self._counted("feature_bin_pairs", "Pairs by the bin of a term's pooled value.", shown.terms, _FEATURE)
        text = "Share of the benign reference pairs in each bin"
        yield self._shares("indicator_reference_ratio", f"{text} of the score.", shown.scores, _INDICATOR)
        yield self._shares("feature_reference_ratio", f"{text} of a term.", shown.terms, _FEATURE)
        pairs = {one.labels: one.bins.n for one in shown.scores}
        yield _gauge("reference_pairs", "Benign pairs of the reference.", pairs, (*_INDICATOR, "reference"))
        yield _gauge("indicator_threshold", "Thresholds as watchlists say them.", shown.thresholds, _INDICATOR)
        text = "Share of benign pairs flagged, as the card says."
        yield _gauge("indicator_reference_flag_ratio", text, shown.flag_ratios, _INDICATOR)

    def _counted(self, name: str, text: str, binned: Sequence[_Binned], labels: Sequence[str]) -> Metric:
        family = CounterMetricFamily(f"scopewatch_{name}", text, labels=[*labels, "reference", "bin"])
        for one in binned:
            for number, count in enumerate(self._counts.of(one.begin, len(one.bins))):
                family.add_metric([*one.labels, str(number)], count)
        return family

    def _shares(self, name: str, text: str, binned: Sequence[_Binned], labels: Sequence[str]) -> Metric:
        shares = {
            (*one.labels, str(number)): count / one.bins.n
            for one in binned
            for number, count in enumerate(one.bins.counts)
        }
        return _gauge(name, text, shares, (*labels, "reference", "bin"))


def _gauge(name: str, text: str, values: Mapping[tuple[str, ...], float], labels: Sequence[str]) -> Metric:
    family = GaugeMetricFamily(f"scopewatch_{name}", text, labels=labels)
    for own, value in values.items():
        family.add_metric(own, value)
    return family


def _keys(indicator: Indicator) -> list[TermKey]:
    """What tells an indicator's terms in a judgement, in the order of its `term_names`."""
    if indicator.combines:
        return [part.name for part in indicator.combines]
    return [_key(term.key, str(term.pooling or indicator.pooling)) for term in indicator.features]


def _key(feature: FeatureKey | str, pooling: str) -> TermKey:
    # Not the feature itself: to hash it costs as much as all the rest.
    return feature if isinstance(feature, str) else (feature.sae, feature.index, pooling)
