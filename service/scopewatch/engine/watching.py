"""What an engine watches: SAEs that are loaded for the features asked of them, and the columns these make.

A changed set of features is made of the arrays that are there, and only what they lack is read from files.
"""

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from scopewatch.config import Config, cache_folder
from scopewatch.engine.choices import SaeChoice, asked_by
from scopewatch.engine.runner import PlacedEncoder
from scopewatch.errors import SaeError, SetupError
from scopewatch.files import expanded
from scopewatch.identity import EngineIdentity, FeatureTable, ReaderIdentity, SaeIdentity
from scopewatch.reader.hookpoints import EMBEDDING, Hookpoint, hookpoint_of
from scopewatch.releases.find import find_sae
from scopewatch.sae.encoder import Training, WatchedSae
from scopewatch.sae.watched import PackFolder, load_watched
from scopewatch.sources import SaeSource
from scopewatch.types import Indices

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedSae:
    """An SAE of which some features are loaded."""

    name: str
    """What the watchlists call the SAE."""
    source: SaeSource
    """Where its files were found; also tells whether another watchlist means the same SAE."""
    watched: WatchedSae
    hookpoint: Hookpoint
    neuronpedia: str
    """As in `SaeIdentity`."""

    @property
    def identity(self) -> SaeIdentity:
        """The SAE as results tell it."""
        watched = self.watched
        return SaeIdentity(
            name=self.name,
            format=watched.format,
            architecture=watched.architecture,
            hookpoint=str(self.hookpoint),
            d_in=watched.d_in,
            d_sae=watched.d_sae,
            digest=watched.digest,
            watched=watched.features,
            neuronpedia=self.neuronpedia,
            repo=watched.origin.get("repo", ""),
            revision=watched.origin.get("revision", ""),
        )


@dataclass(frozen=True, slots=True)
class Watching:
    """A set of features that an engine can watch, with all that is needed to do so."""

    identity: EngineIdentity
    table: FeatureTable
    """The feature of each column of the activations."""
    encoders: tuple[PlacedEncoder, ...]
    """In the order of the columns."""
    saes: tuple[LoadedSae, ...]
    """The SAEs that the encoders belong to, in the same order."""


def watching_of(reader: ReaderIdentity, saes: Sequence[LoadedSae], *, head: bool) -> Watching:
    """Puts loaded SAEs together.

    Args:
        reader: The reader they fit, as it is loaded.
        saes: The SAEs, in the order of the columns.
        head: Whether the reader's own predictions stand behind them.
    """
    if not head:
        reader = _down_to(reader, max((sae.hookpoint.layer for sae in saes), default=EMBEDDING))
    identity = EngineIdentity(reader, tuple(sae.identity for sae in saes), head)
    encoders = tuple(PlacedEncoder(sae.hookpoint, sae.watched.encoder) for sae in saes)
    return Watching(identity, FeatureTable(identity.feature_ids), encoders, tuple(saes))


def _down_to(reader: ReaderIdentity, deepest_layer: int) -> ReaderIdentity:
    """A reader as far as it runs, so that what is loaded for explanations alone is in no card and no reply."""
    layers = deepest_layer + 1
    if layers >= len(reader.layer_digests):
        return reader
    return replace(reader, digest=reader.layer_digests[layers], layers_run=layers)


def load_sae(choice: SaeChoice, config: Config, held: Sequence[LoadedSae] = ()) -> LoadedSae:
    """Loads the features that are asked of an SAE.

    Args:
        choice: The SAE and the features.
        config: Settings.
        held: What is loaded already. If the SAE is among it, only the columns it lacks are read.

    Raises:
        SetupError: A file is wrong, lacks a feature, or does not say where the SAE reads; the message names the place
            in a watchlist that asks for it.
    """
    same = [sae for sae in held if sae.source == choice.source]
    with asked_by(choice):
        found = find_sae(choice.source, allow_download=config.allow_download)
        read = partial(load_watched, found, packs=_packs(config))
        wanted = sorted(choice.wanted)
        if same and (watched := _extended([sae.watched for sae in same], wanted, read)):
            return replace(same[0], name=choice.name, watched=watched)
        watched = read(wanted)
        hookpoint = hookpoint_of(found.hookpoint, watched.hookpoint, found.path)
        return LoadedSae(choice.name, choice.source, watched, hookpoint, found.neuronpedia)


def assert_bos(training: Training, *, bos: str, reads_bos: bool, has_bos: bool) -> None:
    """Checks that texts begin with BOS if those did that an SAE was trained on, and only then.

    Args:
        training: What the SAE's files say of its training.
        bos: `Rendering.bos` of the reader; where it is `always` or `never`, the operator has decided.
        reads_bos: Whether the reader's texts begin with BOS.
        has_bos: Whether the reader's tokenizer has a BOS token.

    Raises:
        SaeError: They do not; names the setting that mends it.
    """
    if training.prepend_bos is None or training.prepend_bos == reads_bos or bos != "files":
        return
    if reads_bos:
        raise SaeError(
            "its files say prepend_bos: false, it was trained on texts without BOS, and the reader puts BOS first; say "
            "bos: never under reader: in the watchlist, or bos: always to read with BOS all the same"
        )
    if has_bos:
        raise SaeError(
            "its files say prepend_bos: true, it was trained on texts that begin with BOS, and the reader does not put "
            "BOS first; say bos: always under reader: in the watchlist, or bos: never to read without BOS all the same"
        )
    log.warning("an SAE was trained on texts that begin with BOS, and the reader's tokenizer has no BOS token")


def assert_excluded(training: Training, special: Container[int]) -> None:
    """Checks that tokens on which an SAE was not trained are special ones of the reader, which never count.

    Args:
        training: What the SAE's files say of its training.
        special: Ids of the reader's special tokens.

    Raises:
        SaeError: A token that texts are made of is among them.
    """
    if ordinary := [token for token in training.excluded_tokens if token not in special]:
        raise SaeError(
            f"its files say exclude_special_tokens, and of these {', '.join(map(str, ordinary[:8]))} are no special "
            "tokens of the reader, so they would count; it was made for another tokenizer, or cannot be read right"
        )


def _extended(
    parts: list[WatchedSae], wanted: Sequence[int], read: Callable[[Sequence[int]], WatchedSae]
) -> WatchedSae | None:
    """The wanted features out of parts of an SAE and what these lack; None if the files are others by now."""
    group = _group(parts[0])
    there = {feature // group for part in parts for feature in part.features}
    if lacking := [feature for feature in wanted if feature // group not in there]:
        parts = [*parts, read(lacking)]
    return _joined(parts, wanted) if len({part.digest for part in parts}) == 1 else None


def _packs(config: Config) -> PackFolder | None:
    """Explicitly named, the folder takes every pack; by default only those that save something."""
    if config.pack_dir == "auto":
        try:
            return PackFolder(expanded(cache_folder("packs")), smallest_bytes=32 << 20)
        except SetupError:
            return None  # A user without a home keeps no packs.
    return PackFolder(expanded(config.pack_dir)) if config.pack_dir else None


def _group(part: WatchedSae) -> int:
    """How many neighbouring features compete, so that whoever wants one needs them all; 1 for none."""
    return part.encoder.contest.group if part.encoder.contest else 1


def _columns(features: Sequence[int], group: int) -> Indices:
    """Columns of the dictionary that features need, ascending: those of all groups they are in."""
    groups = np.unique(np.asarray(features, np.intp) // group)
    return (groups[:, None] * group + np.arange(group)).ravel()


def _joined(parts: Sequence[WatchedSae], wanted: Sequence[int]) -> WatchedSae:
    """Features of an SAE, ascending, out of parts of it that together hold all their columns."""
    columns = [_columns(part.features, _group(part)) for part in parts]
    needed = _columns(wanted, _group(parts[0]))
    watched = np.searchsorted(needed, wanted)
    for part, held in zip(parts, columns, strict=True):
        if np.array_equal(held, needed):
            # All of a TopK SAE, which is large, is used as it is.
            return replace(part, encoder=replace(part.encoder, watched=watched), features=tuple(wanted))
    every, place = np.unique(np.concatenate(columns), return_index=True)
    place = place[np.isin(every, needed)]
    encoders = [part.encoder for part in parts]
    arrays: dict[str, Any] = {
        name: np.ascontiguousarray(np.concatenate([e.arrays[name] for e in encoders], axis=-1)[..., place])
        for name in encoders[0].arrays
    }
    encoder = replace(encoders[0], watched=watched, **arrays)
    return replace(parts[0], encoder=encoder, features=tuple(wanted))
