"""The recipe for a contrast: the features that differ between two corpora, labelled by the watchlist and the index."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from scopewatch.config import Config
from scopewatch.contrast.contrast import contrast
from scopewatch.contrast.corpora import Corpora
from scopewatch.contrast.results import Contrast, Wanted
from scopewatch.engine.dictionary import build_dictionary
from scopewatch.identity import EngineIdentity, FeatureKey
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.verdicts import Label
from scopewatch.watch.labels import open_labels
from scopewatch.watch.watchlist import Watchlist


def contrast_corpora(
    corpora: Corpora,
    reader: ReaderSource,
    sae: SaeSource,
    wanted: Wanted,
    config: Config,
    *,
    work_dir: Path,
    labels: Mapping[FeatureKey, Label],
) -> Contrast:
    """Compares two corpora by every feature of an SAE.

    Args:
        corpora: The two corpora.
        reader: The reader.
        sae: The SAE.
        wanted: What is compared.
        config: Settings of the engine, and the label index, if there is one.
        work_dir: The folder in which pooled features are found and left.
        labels: Labels that go before those of the index.

    Raises:
        ScopewatchError: The label index, the reader or the SAE cannot be used, or the corpora cannot be compared.
    """
    with open_labels(Path(config.labels)) if config.labels else nullcontext() as index:

        def labels_of(identity: EngineIdentity) -> Mapping[FeatureKey, Label]:
            return {**(index.labels_of(identity) if index else {}), **labels}

        dictionary = build_dictionary(reader, sae, config)
        return contrast(corpora, dictionary, wanted, folder=work_dir, labels_of=labels_of)


def own_labels(watchlist: Watchlist) -> dict[FeatureKey, Label]:
    """The labels that a watchlist itself gives its features."""
    return {
        feature.key: Label(feature.label, "watchlist")
        for indicator in watchlist.indicators
        for feature in indicator.features
        if feature.label
    }
