"""From an SAE as a watchlist or a command names it to files on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scopewatch.errors import SaeError
from scopewatch.watchlist import SaeSource


@dataclass(frozen=True, slots=True)
class LocatedSae:
    """Files of an SAE, and what its name says of them."""

    path: Path
    norm_factor: float | None = None
    neuronpedia: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Hub repository and commit, for the provenance."""


def locate(source: SaeSource, *, allow_download: bool) -> LocatedSae:
    """Finds an SAE's files, downloading them if that is allowed.

    Raises:
        SaeError: It is not here and may not or cannot be downloaded.
    """
    if source.path:
        return LocatedSae(Path(source.path), neuronpedia=source.neuronpedia)
    raise SaeError(f"{source.id}: hub names are not wired yet")
