"""The files of an SAE on the hub: from the local cache or, if downloads are allowed, from the hub itself."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from scopewatch import hub
from scopewatch.errors import HubError, SaeError
from scopewatch.releases.names import is_weights_file, own_folder, with_facts
from scopewatch.releases.table import HubSae, canonical
from scopewatch.sources import SAE_SETTINGS, SAE_WEIGHTS

_REFUSED = {
    "temporal": "a temporal SAE reads the whole sequence, so no feature has a value of its own per token",
    "mwhanna_transcoder": "transcoders in circuit-tracer's layout cannot be read",
    "connor_rob_hook_z": "GPT-2 is not a reader here",
    "mntss_clt_layer_transcoder": "a cross-layer transcoder in separate files per array cannot be read",
}
_AVERAGE_L0 = re.compile(r"average_l0_([0-9]+)")
_CANONICAL_L0 = 100
_SHOWN = 12
"""How many entries of a folder a message names."""


@dataclass(frozen=True, slots=True)
class FetchedSae:
    """An SAE of the hub whose files are here."""

    path: Path
    """Its folder or file in the local cache."""
    sae: HubSae
    """The SAE with the path that `canonical` stood for, and the commit hash as revision."""


def fetch(sae: HubSae, *, allow_download: bool) -> FetchedSae:
    """Makes sure that the files of an SAE are in the local cache; no others are downloaded.

    Raises:
        HubError: The files are not in the cache and cannot be had.
        SaeError: There is no such SAE, or it is of a kind that cannot be read.
    """
    if sae.format in _REFUSED:
        raise SaeError(f"{sae}: {_REFUSED[sae.format]}")
    if PurePosixPath(sae.path).name == "canonical":
        sae = _canonical(sae, allow_download=allow_download)
    folder = own_folder(sae.path)
    weights = _within(sae.path, SAE_WEIGHTS) + ([sae.path] if folder != sae.path else [])
    wanted = dict.fromkeys([*weights, *_within(sae.path, SAE_SETTINGS), *_within(folder, SAE_SETTINGS)])
    found = hub.snapshot(sae.repo, revision=sae.revision, patterns=list(wanted), allow_download=allow_download)
    sae = replace(sae, revision=found.revision)
    if any((found.folder / file).is_file() for file in weights):
        return FetchedSae(found.folder / sae.path, sae)
    return fetch(_only_file(sae, allow_download=allow_download), allow_download=allow_download)


def _only_file(sae: HubSae, *, allow_download: bool) -> HubSae:
    """The one weights file of any name that lies in a folder or in the root of a repository.

    Raises:
        SaeError: There is none, or there are several.
    """
    files: list[str] = []
    if not is_weights_file(sae.path):
        held = hub.listing(sae.repo, revision=sae.revision, folder=sae.path, allow_download=allow_download)
        files = [name for name in held if is_weights_file(name)]
    if not files:
        raise _not_there(sae, "SAE", PurePosixPath(sae.path), allow_download=allow_download)
    if len(files) > 1:
        raise SaeError(f"{sae}: holds several weights files, {_listed(files)}; name one of them")
    return with_facts(replace(sae, path=str(PurePosixPath(sae.path) / files[0])))


def _within(folder: str, names: Iterable[str]) -> list[str]:
    return [f"{folder}/{name}" if folder else name for name in names]


def _canonical(sae: HubSae, *, allow_download: bool) -> HubSae:
    """The variant meant by `canonical`: of those in the repository, the one whose L0 is nearest 100.

    Of two that are as near it is SAELens' choice, else the smaller. Where no list can be had it is SAELens' choice.
    """
    folder = PurePosixPath(sae.path).parent
    chosen = canonical().get((sae.repo, str(folder)))
    try:
        there = hub.listing(sae.repo, revision=sae.revision, folder=str(folder), allow_download=allow_download)
    except HubError:
        if chosen is None:
            raise
        there = [PurePosixPath(chosen).name]
    variants = {int(named[1]): named[0] for name in there if (named := _AVERAGE_L0.fullmatch(name))}
    if not variants:
        raise _not_there(sae, "average_l0_N to choose from", folder, allow_download=allow_download)
    known = PurePosixPath(chosen).name if chosen else ""
    name = variants[min(variants, key=lambda l0: (abs(l0 - _CANONICAL_L0), variants[l0] != known, l0))]
    resolved = with_facts(replace(sae, path=str(folder / name)))
    return replace(resolved, model=resolved.model or sae.model, neuronpedia=resolved.neuronpedia or sae.neuronpedia)


def _not_there(sae: HubSae, what: str, path: PurePosixPath, *, allow_download: bool) -> SaeError:
    """The error that says what the deepest folder on the way holds instead of what was looked for."""
    for folder in (path, *path.parents):
        at = "" if folder == PurePosixPath() else str(folder)
        held = hub.listing(sae.repo, revision=sae.revision, folder=at, allow_download=allow_download)
        if held:
            break
    return SaeError(f"{sae}: no {what} there; {at or 'the repository'} holds {_listed(held) or 'nothing'}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
