"""Watchlists bound to an engine: what of an indicator is the same for every pair is worked out once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from scopewatch.identity import EngineIdentity, FeatureId, FeatureKey, FeatureTable
from scopewatch.types import Segment
from scopewatch.verdicts import Label, Provenance, Term, Terms
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.poolings import Pooling
from scopewatch.watch.terms import CombinedTerm, WatchedFeature
from scopewatch.watch.watchlist import Watchlist
from scopewatch.words.bag import Bag
from scopewatch.words.lexicon import Lexicon


@dataclass(frozen=True, slots=True)
class PooledGroup:
    """The terms that one pooling serves, of an indicator or of all that read a segment."""

    pooling: Pooling
    terms: NDArray[np.intp]
    """The places of these terms among the indicator's, or among those of the segment."""
    slots: NDArray[np.intp]
    """The slot of each of these terms' features."""


@dataclass(frozen=True, slots=True)
class CompiledIndicator:
    """An indicator of features or a probe, whose terms are grouped by pooling, so that each pooling runs once."""

    source: Indicator
    segment: Segment
    terms: Terms
    groups: tuple[PooledGroup, ...]
    slots: NDArray[np.intp]
    """The slot of each term's feature."""
    weights: NDArray[np.float64]
    """The weight of each term."""
    pooled_at: NDArray[np.intp]
    """The place of each term's value among those that `CompiledWatchlist.pooled` makes for the segment."""
    card_warning: str


@dataclass(frozen=True, slots=True)
class CombinedPart:
    """One part of a combination."""

    term: CombinedTerm
    label: Label
    """The label of the indicator that is combined; none for a signal."""
    slot: int
    """The slot of a signal of the reader; -1 for an indicator's score."""


@dataclass(frozen=True, slots=True)
class CompiledCombination:
    """An indicator of other indicators' scores and of the reader's signals."""

    source: Indicator
    segment: Segment
    parts: tuple[CombinedPart, ...]
    card_warning: str


@dataclass(frozen=True, slots=True)
class CompiledObfuscation:
    """An indicator of the characters that hide or imitate letters."""

    source: Indicator
    segment: Segment
    card_warning: str


@dataclass(frozen=True, slots=True)
class CompiledWords:
    """An indicator of the segment's words."""

    source: Indicator
    segment: Segment
    counts_by: Lexicon | Bag
    card_warning: str


_Pooled: TypeAlias = tuple[Pooling, int]
"""A pooling, and the slot of the feature that it is of."""
Compiled: TypeAlias = CompiledIndicator | CompiledCombination | CompiledObfuscation | CompiledWords


@dataclass(frozen=True, slots=True)
class CompiledWatchlist:
    """A watchlist bound to an engine. A slot is the place of a feature among those that the watchlist reads."""

    source: Watchlist
    made_by: Provenance
    digest: bytes
    """SHA-256 over everything that decides a judgement but the pair and its activations."""
    indicators: tuple[Compiled, ...]
    features: tuple[FeatureKey, ...]
    """The feature of each slot, in the order of their names."""
    slot_of: Mapping[FeatureId, int]
    """The slot of each feature by what makes its numbers; the first of those that have it by several names."""
    twins: tuple[tuple[int, int], ...]
    """The other slots of such features, each with that first slot."""
    pooled: Mapping[Segment, tuple[PooledGroup, ...]]
    """What is pooled on each segment: each feature once by each pooling, whichever indicators want it."""
    _slots: WeakKeyDictionary[FeatureTable, NDArray[np.intp] | None] = field(
        default_factory=WeakKeyDictionary, compare=False, repr=False
    )

    def slots_of(self, table: FeatureTable) -> NDArray[np.intp] | None:
        """Where the columns of a table belong in this watchlist.

        Args:
            table: The features that some activations cover.

        Returns:
            The slot of each column, -1 for features that this watchlist does not read; None if the table lacks a
            feature that it reads.
        """
        if table not in self._slots:
            found = np.array([self.slot_of.get(feature, -1) for feature in table.features], np.intp)
            self._slots[table] = found if self.slot_of.keys() <= set(table.features) else None
        return self._slots[table]


def compile_watchlist(
    watchlist: Watchlist,
    engine: EngineIdentity,
    labels: Mapping[FeatureKey, Label] | None = None,
    card_warnings: Mapping[str, str] | None = None,
) -> CompiledWatchlist:
    """Binds a watchlist to an engine.

    Args:
        watchlist: A valid watchlist.
        engine: The reader and the SAEs that run; it watches every feature of the watchlist.
        labels: The labels of features that the watchlist itself gives none; its own win.
        card_warnings: Why cards do not speak for what runs, from `Watchlist.card_problems`.
    """
    ids = dict(zip(engine.features, engine.feature_ids, strict=True))
    signals = {term.key for indicator in watchlist.indicators for term in indicator.combines if term.key}
    by_name = tuple(sorted({*watchlist.features, *signals}, key=str))
    slots = {feature: slot for slot, feature in enumerate(by_name)}
    names = {one.name: Label(one.label, "watchlist" if one.label else "") for one in watchlist.indicators}
    known, warnings = labels or {}, card_warnings or {}
    wanted: dict[Segment, dict[_Pooled, int]] = {}

    def compiled(indicator: Indicator) -> Compiled:
        warning = warnings.get(indicator.name, "")
        if indicator.kind == "obfuscation":
            return CompiledObfuscation(indicator, indicator.read_segment, warning)
        if indicator.kind == "words":
            return CompiledWords(indicator, indicator.read_segment, watchlist.words[indicator.name], warning)
        if indicator.kind != "combination":
            return _compile(indicator, slots, known, warning, wanted.setdefault(indicator.read_segment, {}))
        parts = tuple(
            CombinedPart(
                term,
                names[term.indicator] if term.indicator else Label("", ""),
                slots[term.key] if term.key else -1,
            )
            for term in indicator.combines
        )
        return CompiledCombination(indicator, indicator.read_segment, parts, warning)

    made_by = _provenance(watchlist, engine)
    own_ids = [ids[feature] for feature in by_name]
    slot_of = {one: slot for slot, one in reversed(list(enumerate(own_ids)))}
    own_labels = [known.get(feature) for feature in by_name]
    words = sorted((name, counts_by.digest) for name, counts_by in watchlist.words.items())
    decides = repr((made_by, watchlist.indicators, by_name, own_ids, own_labels, sorted(warnings.items()), words))
    return CompiledWatchlist(
        source=watchlist,
        made_by=made_by,
        digest=hashlib.sha256(decides.encode()).digest(),
        indicators=tuple(map(compiled, watchlist.indicators)),
        pooled={segment: _grouped(list(pooled)) for segment, pooled in wanted.items()},
        features=by_name,
        slot_of=slot_of,
        twins=tuple((slot, slot_of[one]) for slot, one in enumerate(own_ids) if slot_of[one] != slot),
    )


def _compile(
    indicator: Indicator,
    slots: Mapping[FeatureKey, int],
    labels: Mapping[FeatureKey, Label],
    card_warning: str,
    wanted: dict[_Pooled, int],
) -> CompiledIndicator:
    """An indicator; what it wants to have pooled is added to what others want, each with its place."""
    poolings = [feature.pooling or indicator.pooling for feature in indicator.features]
    slot = [slots[feature.key] for feature in indicator.features]
    pooled = list(zip(poolings, slot, strict=True))
    return CompiledIndicator(
        source=indicator,
        segment=indicator.read_segment,
        terms=Terms(
            tuple(
                Term(feature.key, _label(feature, labels), str(pooling))
                for feature, pooling in zip(indicator.features, poolings, strict=True)
            )
        ),
        groups=_grouped(pooled),
        slots=np.array(slot),
        weights=np.array([feature.weight for feature in indicator.features], np.float64),
        pooled_at=np.array([wanted.setdefault(one, len(wanted)) for one in pooled]),
        card_warning=card_warning,
    )


def _grouped(pooled: Sequence[_Pooled]) -> tuple[PooledGroup, ...]:
    by_pooling: dict[Pooling, list[int]] = {}
    for place, (pooling, _) in enumerate(pooled):
        by_pooling.setdefault(pooling, []).append(place)
    slots = np.array([slot for _, slot in pooled])
    return tuple(PooledGroup(pooling, np.array(terms), slots[terms]) for pooling, terms in by_pooling.items())


def _label(feature: WatchedFeature, labels: Mapping[FeatureKey, Label]) -> Label:
    return Label(feature.label, "watchlist") if feature.label else labels.get(feature.key, Label("", ""))


def _provenance(watchlist: Watchlist, engine: EngineIdentity) -> Provenance:
    return Provenance(
        watchlist=watchlist.name,
        watchlist_digest=watchlist.digest,
        relation=watchlist.reader.relation,
        reader=engine.reader.name,
        reader_revision=engine.reader.revision,
        reader_digest=engine.reader.digest,
        batch_invariant=engine.reader.batch_invariant,
    )
