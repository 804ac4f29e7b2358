"""From an SAE as a watchlist or a command names it to its files on this machine."""

from dataclasses import replace
from pathlib import Path

from scopewatch.releases.fetch import fetch
from scopewatch.releases.names import from_hub_id, from_neuronpedia, from_release, recognise
from scopewatch.releases.table import HubSae
from scopewatch.sources import FoundSae, SaeSource


def find_sae(source: SaeSource, *, allow_download: bool) -> FoundSae:
    """Finds an SAE's files, and downloads them if that is allowed.

    What the source says of the SAE goes before what the list of releases says.

    Raises:
        HubError: The files are not here and may not or cannot be downloaded.
        SaeError: No SAE is called so.
    """
    if source.path:
        found = FoundSae(Path(source.path))
        known = recognise(found.path.absolute())
    else:
        fetched = fetch(_named(source), allow_download=allow_download)
        known = fetched.sae
        found = FoundSae(fetched.path, origin={"repo": known.repo, "revision": known.revision})
    return replace(
        found,
        norm_factor=source.norm_factor or (known.norm_factor if known else None),
        k=source.k,
        hookpoint=source.hookpoint,
        neuronpedia=source.neuronpedia or (known.neuronpedia if known else ""),
    )


def _named(source: SaeSource) -> HubSae:
    if source.release:
        return from_release(source.release, source.id, source.revision)
    if source.id:
        return from_hub_id(source.id, source.revision)
    return from_neuronpedia(source.neuronpedia, source.revision)
