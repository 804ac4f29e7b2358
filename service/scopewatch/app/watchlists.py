"""Watchlists bound to the engine that runs, and told to whoever reads the metrics."""

import logging
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import scopewatch
from scopewatch.identity import EngineIdentity, FeatureKey
from scopewatch.metrics import Metrics
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.verdicts import Label
from scopewatch.watch.watchlist import Watchlist

log = logging.getLogger(__name__)


def watchlist_set(
    watchlists: Sequence[Watchlist],
    engine: EngineIdentity,
    labels: Mapping[FeatureKey, Label],
    *,
    shadows: Sequence[Watchlist] = (),
    version: int,
) -> WatchlistSet:
    """Binds watchlists and shadows to an engine that watches all their features; cards then say what it was measured
    to do in its dtype.
    """
    live, beside = (
        [compile_watchlist(one.as_run(engine), engine, labels, one.card_problems(engine)) for one in some]
        for some in (watchlists, shadows)
    )
    return WatchlistSet(version, engine, {one.source.name: one for one in live}, tuple(beside))


def describe(metrics: Metrics, watchlists: WatchlistSet) -> None:
    """Publishes a set in place of the one before it."""
    metrics.describe(watchlists.engine, watchlists.sources, versions())
    carded = [
        (watchlist, one, one.card) for watchlist in watchlists.sources for one in watchlist.indicators if one.card
    ]
    if bare := [f"{watchlist.name}: {indicator.name}" for watchlist, indicator, card in carded if not card.binned]:
        log.info("cards keep no bins of benign pairs, so no drift can be seen", extra={"indicators": bare})
    metrics.shadows.describe(watchlists.shadow_sources)
    metrics.reloads.version.set(watchlists.version)


def versions() -> dict[str, str]:
    """Versions of the program, of Python and of the libraries that decide what runs."""
    libraries = {name: version(name) for name in ("torch", "transformers", "grpcio")}
    return {"version": scopewatch.__version__, "python": platform.python_version(), **libraries}
