"""From settings and watchlist files to everything that takes long to load and needs no event loop."""

import gc
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.config import Config
from scopewatch.engine.choices import check_places, choices
from scopewatch.errors import WatchlistError
from scopewatch.identity import EngineIdentity, FeatureKey
from scopewatch.logs import Laps
from scopewatch.verdicts import Label
from scopewatch.watch.labels import open_labels
from scopewatch.watch.watchlist import Watchlist, load_watchlist

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine
    from scopewatch.types import Rounding

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that takes long to build and needs no event loop."""

    watchlists: tuple[Watchlist, ...]
    engine: "Engine"
    labels: Mapping[FeatureKey, Label]
    """Labels of watched features, from the label index; empty without one."""
    parts_s: Mapping[str, float] = field(default_factory=dict)
    """How many seconds each part took to build, one after another."""
    shadows: tuple[Watchlist, ...] = ()
    """Watchlists that judge beside, for metrics alone."""


def load(
    config: Config, watchlists: Sequence[Watchlist] = (), *, rounding: "Rounding" = "none", whole: bool = False
) -> Loaded:
    """Reads watchlists, reader, SAEs and labels.

    Torch and transformers, which take seconds, are imported here, after what may be wrong and costs nothing to read.

    Args:
        config: Settings.
        watchlists: Watchlists to load in place of the files that the settings name; then no shadow is loaded.
        rounding: The format that the reader's weights are rounded to, for offline work.
        whole: Whether transformers is imported with all that is in it, since the process is somebody else's program.

    Raises:
        SetupError: Something of it is wrong.
    """
    laps = Laps()
    shadows = () if watchlists else tuple(load_watchlist(file) for file in config.shadow)
    watchlists = tuple(watchlists) or tuple(load_watchlist(file) for file in config.watchlist)
    together = (*watchlists, *shadows)
    laps.end("watchlists")
    with open_labels(Path(config.labels)) if config.labels else nullcontext() as index:
        reader, saes = choices(together)
        check_places(reader, saes, config)
        with _imported_for_good(whole):
            from scopewatch.engine.build import build_engine
        laps.end("imports")
        head = any(watchlist.reads_head for watchlist in together)
        engine = build_engine(reader, saes, config, laps, head=head, rounding=rounding)
        check_watchlists(together, engine.identity, strict=config.strict_cards)
        labels = index.labels_of(engine.identity) if index else {}
        laps.end("labels")
        return Loaded(watchlists, engine, labels, laps.seconds, shadows)


def labels_of(config: Config, identity: EngineIdentity) -> Mapping[FeatureKey, Label]:
    """What the label index, if there is one, says of an engine's watched features.

    Raises:
        LabelError: The index cannot be read.
    """
    with open_labels(Path(config.labels)) if config.labels else nullcontext() as index:
        return index.labels_of(identity) if index else {}


def check_watchlists(watchlists: Sequence[Watchlist], identity: EngineIdentity, *, strict: bool) -> None:
    """Checks what of watchlists can be known only once reader and SAEs are loaded.

    Args:
        watchlists: The watchlists.
        identity: The reader and the SAEs as they run.
        strict: Whether a card that does not speak for what runs is a mistake; otherwise it is logged.

    Raises:
        WatchlistError: Names every mistake.
    """
    told = []
    for watchlist in watchlists:
        watchlist.check_kinds(identity)
        problems = watchlist.card_problems(identity)
        for i, indicator in enumerate(watchlist.indicators):
            if indicator.name in problems:
                told.append(f"{watchlist.where('indicators', i, 'card')}: {problems[indicator.name]}")
    if strict and told:
        mend = (
            "calibrate again, or switch strict_cards off to have a warning in every reply instead; where only the "
            "dtype differs, scopewatch watchlist measure measures it"
        )
        raise WatchlistError("\n".join([*told, mend]))
    for problem in told:
        log.warning("a card does not speak for what runs", extra={"problem": problem})


@contextmanager
def _imported_for_good(whole: bool) -> Iterator[None]:
    """Keeps the garbage collector away from 660,000 objects that stay: from making them on, and ever after.

    Searching them takes a tenth of the imports, a third of what is built next, and 0.3 s now and then while serving.
    """
    if "scopewatch.engine.build" in sys.modules:
        yield
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        if whole:
            yield
        else:
            from scopewatch.reader.lean import lean_imports

            with lean_imports():
                yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
