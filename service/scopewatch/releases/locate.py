"""From an SAE as a watchlist or a command names it to files on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scopewatch.releases import names
from scopewatch.releases.names import from_hub_id, from_neuronpedia, from_release, recognise
from scopewatch.sources import SaeSource


@dataclass(frozen=True, slots=True)
class LocatedSae:
    """Files of an SAE, and what its name says of them."""

    path: Path
    norm_factor: float | None = None
    neuronpedia: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Hub repository and commit."""


def locate(source: SaeSource, *, allow_download: bool) -> LocatedSae:
    """Finds an SAE's files, downloading them if that is allowed.

    Raises:
        HubError: They are not here and may not or cannot be downloaded.
        SaeError: No SAE is called so.
    """
    if source.path:
        path = Path(source.path)
        known = recognise(path.absolute())
        if known is None:
            return LocatedSae(path, neuronpedia=source.neuronpedia)
        return LocatedSae(path, known.norm_factor, source.neuronpedia or known.neuronpedia)
    if source.release:
        named = from_release(source.release, source.id, source.revision)
    elif source.id:
        named = from_hub_id(source.id, source.revision)
    else:
        named = from_neuronpedia(source.neuronpedia, source.revision)
    found = names.locate(named, allow_download=allow_download)
    return LocatedSae(
        found.path,
        found.sae.norm_factor,
        source.neuronpedia or found.sae.neuronpedia,
        {"repo": found.sae.repo, "revision": found.sae.revision},
    )
