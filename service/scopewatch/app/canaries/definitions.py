"""What decides an indicator's score but the pair: two that are defined alike have to score alike."""

import hashlib
import json
from collections.abc import Hashable, Mapping

from scopewatch.pipeline.compiled import (
    Compiled,
    CompiledCombination,
    CompiledIndicator,
    CompiledWatchlist,
    CompiledWords,
)


def definitions(watchlist: CompiledWatchlist) -> list[Hashable]:
    """All that decides each indicator's score but the pair: not its name, nor what becomes of the score.

    Features are known by the files that make their numbers, so that it tells whether two watchlists on one engine mean
    the same.
    """
    ids: dict[int, Hashable] = {slot: feature for feature, slot in watchlist.slot_of.items()}
    ids |= {twin: ids[original] for twin, original in watchlist.twins}
    return _definitions(watchlist, ids)


def definition_digests(watchlist: CompiledWatchlist) -> list[str]:
    """SHA-256 of the same, with features known by the watchlist's names: what it means, whatever is loaded."""
    named = _definitions(watchlist, dict(enumerate(map(str, watchlist.features))))
    return [hashlib.sha256(json.dumps(one).encode()).hexdigest() for one in named]


def _definitions(watchlist: CompiledWatchlist, ids: Mapping[int, Hashable]) -> list[Hashable]:
    found: dict[str, Hashable] = {}
    # Combinations are of others, and of no combinations.
    for indicator in sorted(watchlist.indicators, key=lambda one: isinstance(one, CompiledCombination)):
        source = indicator.source
        common = (watchlist.source.cleaned, source.kind, source.segment, source.bias)
        found[source.name] = (common, _parts(indicator, ids, found))
    return [found[indicator.source.name] for indicator in watchlist.indicators]


def _parts(indicator: Compiled, ids: Mapping[int, Hashable], found: Mapping[str, Hashable]) -> Hashable:
    if isinstance(indicator, CompiledIndicator):
        rows = zip(indicator.slots.tolist(), indicator.weights.tolist(), indicator.terms, strict=True)
        return tuple(sorted((ids[slot], weight, term.pooling) for slot, weight, term in rows))
    if isinstance(indicator, CompiledWords):
        return indicator.counts_by.digest
    if isinstance(indicator, CompiledCombination):
        return tuple((part.term.weight, part.term.signal or found[part.term.name]) for part in indicator.parts)
    return ()
