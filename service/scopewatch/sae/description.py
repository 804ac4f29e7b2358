"""What an SAE's files say of themselves, without reading the dictionary."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import checked_digests, combined_digest, is_pack, load_pack


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
    """The features a watch pack holds."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Hub repository and commit."""


def inspect(
    path: Path,
    *,
    norm_factor: float | None = None,
    k: int | None = None,
    origin: Mapping[str, str] | None = None,
) -> Inspection:
    """Opens an SAE or a watch pack and describes it.

    Args:
        path: See `open_sae`.
        norm_factor: See `open_sae`.
        k: See `open_sae`.
        origin: Where it came from.

    Raises:
        SaeError: It is no SAE that can be read right; names file and reason.
    """
    if is_pack(path):
        pack = load_pack(path)
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
        )
    sae = open_sae(path, norm_factor=norm_factor, k=k)
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
        origin=origin or {},
    )
