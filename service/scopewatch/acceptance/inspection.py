"""What an SAE is, as its files say, without reading the dictionary."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scopewatch.sae.digests import checked_digests, combined_digest
from scopewatch.sae.encoder import WatchedSae
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import is_pack, load_pack
from scopewatch.sae.weights import Sae
from scopewatch.sources import FoundSae


@dataclass(frozen=True, slots=True)
class Inspection:
    """An SAE as its publisher describes it; None or empty where nothing is said."""

    format: str
    architecture: str
    hookpoint: str
    """Where it reads, as its publisher writes it."""
    hookpoint_out: str
    """Where its reconstruction belongs."""
    model: str
    d_in: int
    d_out: int
    d_sae: int
    declared_l0: float | None
    """Features that fire per token, on average."""
    k: int | None
    """Features that may fire per token, for TopK and groupmax."""
    normalise: str
    """What is done to activations first."""
    subtracts_b_dec: bool
    digest: str
    """Identifies the SAE with its settings."""
    digests: Mapping[str, str]
    """SHA-256 of each file."""
    packed_features: tuple[int, ...] | None = None
    """Indices of the features that a watch pack holds."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Hub repository and commit."""
    places: tuple[str, ...] = ()
    """Where it may read, if its files do not say which of these it is."""
    prepend_bos: bool | None = None
    """Whether the texts that it was trained on began with BOS."""
    excluded_tokens: tuple[int, ...] = ()
    """Ids of tokens that it was not trained on."""
    max_norm_multiple: float | None = None
    """Nothing fires on tokens whose activation's norm is more than so many times the median of their text."""


def inspect(sae: FoundSae | Path) -> Inspection:
    """Opens an SAE or a watch pack and describes it.

    Args:
        sae: An SAE as `open_sae` takes it, or a watch pack.

    Raises:
        SaeError: It is no SAE that can be read right; names file and reason.
    """
    found = FoundSae.of(sae)
    if is_pack(found.path):
        return _of_pack(load_pack(found.path))
    return _of_sae(open_sae(found), found.origin)


def _of_pack(pack: WatchedSae) -> Inspection:
    return Inspection(
        format=pack.format,
        architecture=pack.architecture,
        hookpoint=pack.hookpoint,
        hookpoint_out=pack.hookpoint,
        model=pack.model,
        d_in=pack.d_in,
        d_out=pack.d_in,
        d_sae=pack.d_sae,
        declared_l0=None,
        k=None,
        normalise=pack.encoder.normalise,
        subtracts_b_dec=False,
        digest=pack.digest,
        digests=pack.files,
        packed_features=pack.features,
        origin=pack.origin,
        prepend_bos=pack.training.prepend_bos,
        excluded_tokens=pack.training.excluded_tokens,
        max_norm_multiple=pack.encoder.max_norm_multiple,
    )


def _of_sae(sae: Sae, origin: Mapping[str, str]) -> Inspection:
    digests = checked_digests(sae)
    return Inspection(
        format=sae.format,
        architecture=sae.architecture,
        hookpoint=sae.hookpoint,
        hookpoint_out=sae.hookpoint_out or sae.hookpoint,
        model=sae.model,
        d_in=sae.d_in,
        d_out=sae.d_out,
        d_sae=sae.d_sae,
        declared_l0=sae.declared_l0,
        k=sae.contest.winners * (sae.d_sae // sae.contest.group) if sae.contest else None,
        normalise=sae.normalise,
        subtracts_b_dec=sae.subtracts_b_dec,
        digest=combined_digest(digests, sae.recipe),
        digests=digests,
        origin=origin,
        places=sae.places,
        prepend_bos=sae.training.prepend_bos,
        excluded_tokens=sae.training.excluded_tokens,
        max_norm_multiple=sae.max_norm_multiple,
    )
