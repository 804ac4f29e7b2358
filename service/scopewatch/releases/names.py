"""What an SAE is called, and the files it stands for.

    google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71     a hub id: repository and path
    google/gemma-scope-2b-pt-res/layer_20/width_16k/canonical         the variant whose L0 is nearest 100
    gemma-scope-2b-pt-res, layer_20/width_16k/average_l0_71           a release of SAELens and an id in it
    gemma-2-2b/20-gemmascope-res-16k                                  a source on Neuronpedia

Each gives a `HubSae`, without looking anything up outside the package; `locate` finds or fetches its files.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from scopewatch import hub
from scopewatch.errors import HubError, SaeError
from scopewatch.releases.table import HubSae, canonical, l0_of, places, releases, repositories, sources

_WEIGHTS = (
    *("params.npz", "params.safetensors", "sae_weights.safetensors", "sae.safetensors", "ae.pt"),
    "checkpoints/final.safetensors",
)
_SETTINGS = ("config.json", "cfg.json", "hyperparams.json")
_FILE_ENDINGS = {".npz", ".safetensors", ".pt", ".pth"}
_REFUSED = {
    "temporal": "a temporal SAE reads the whole sequence, so no feature has a value of its own per token",
    "mwhanna_transcoder": "transcoders in circuit-tracer's layout cannot be read",
    "connor_rob_hook_z": "GPT-2 is not a reader here",
    "mntss_clt_layer_transcoder": "a cross-layer transcoder in separate files per array cannot be read",
}
_FEATURE = re.compile(
    r"(?P<source>[a-z0-9][a-z0-9.-]*/(?:e|[0-9]{1,3})-[a-z0-9][a-z0-9._-]*)/(?P<index>0|[1-9][0-9]{0,8})"
)
_GEMMA_SCOPE = re.compile(
    r"gemma-2-(?P<size>2b|9b|9b-it|27b)/(?P<layer>[0-9]{1,2})-gemmascope-(?P<site>res|att|mlp|transcoder)"
    r"-(?P<width>[0-9]+[km])(?:__l0-(?P<l0>[0-9]+))?"
)
_CACHED_REPO = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")
_AVERAGE_L0 = re.compile(r"average_l0_([0-9]+)")
_CANONICAL_L0 = 100
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Located:
    """An SAE whose files are here."""

    path: Path
    """Its folder or file in the local cache."""
    sae: HubSae
    """With the path that `canonical` stood for, and the commit hash as revision."""


def from_hub_id(text: str, revision: str = "") -> HubSae:
    """The SAE that `owner/name/path` names; the path is a folder or a file, or ends in `canonical`.

    Raises:
        SaeError: Not of that form.
    """
    owner, *rest = text.split("/")
    parts = [owner, *filter(None, rest)]
    if len(parts) < 2 or not owner or {".", ".."} & set(parts):
        raise SaeError(
            f"{text!r}: not an SAE on the hub; write owner/repository/path, for instance "
            "google/gemma-scope-2b-pt-res/layer_20/width_16k/canonical"
        )
    return _known(HubSae(repo="/".join(parts[:2]), path="/".join(parts[2:]), revision=revision))


def from_release(release: str, sae_id: str, revision: str = "") -> HubSae:
    """The SAE that SAELens loads with `SAE.from_pretrained(release, sae_id)`.

    Raises:
        SaeError: SAELens lists no such release, or no such id in it; names close ones.
    """
    if release not in releases():
        raise SaeError(f"{release!r}: no release of SAELens{_close(release, releases())}")
    saes = releases()[release]
    if sae_id not in saes:
        raise SaeError(f"{sae_id!r}: no SAE of the SAELens release {release}{_close(sae_id, saes)}")
    return _known(replace(saes[sae_id], revision=revision))


def from_neuronpedia(source: str, revision: str = "") -> HubSae:
    """The SAE behind a Neuronpedia source, for instance `gemma-2-2b/20-gemmascope-res-16k`.

    Sources of Gemma Scope that SAELens does not list follow from their name: site, layer and width, then
    `average_l0_N` for `__l0-N`, or else `canonical`.

    Raises:
        SaeError: Not a source that is known; names close ones.
    """
    if source in sources():
        return replace(sources()[source], revision=revision)
    if named := _GEMMA_SCOPE.fullmatch(source):
        size, site = named["size"], named["site"]
        training = "" if size.endswith("-it") else "-pt"
        repo = f"google/gemma-scope-{size}{training}-{'transcoders' if site == 'transcoder' else site}"
        if repo in repositories().values():
            variant = f"average_l0_{named['l0']}" if named["l0"] else "canonical"
            path = f"layer_{named['layer']}/width_{named['width']}/{variant}"
            sae = HubSae(repo, path, revision, model=f"google/gemma-2-{size}", format="gemma_2")
            return replace(sae, declared_l0=l0_of(path), neuronpedia=source)
    if _FEATURE.fullmatch(source):
        raise SaeError(f"{source!r}: a feature on Neuronpedia, not a source; leave out the last number")
    raise SaeError(f"{source!r}: no source on Neuronpedia that is known here{_close(source, sources())}")


def recognise(path: Path) -> HubSae | None:
    """The released SAE that a local path's last parts name; None if they name none.

    They are a repository's name and a path in it, as in `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`,
    or as the Hugging Face cache writes them. Only the name is looked at: it promises nothing about the content.
    """
    parts = path.parts
    for at, name in enumerate(parts):
        if cached := _CACHED_REPO.fullmatch(name):
            repo, revision, inside = f"{cached['owner']}/{cached['name']}", parts[at + 2 : at + 3], parts[at + 3 :]
        else:
            repo, revision, inside = repositories().get(name, ""), (), parts[at + 1 :]
        sae = _known(HubSae(repo, "/".join(inside), "".join(revision)))
        if sae.format:
            return sae
    return None


def locate(sae: HubSae, *, allow_download: bool) -> Located:
    """The files of an SAE, from the local cache or, if downloads are allowed, from the hub; no others are fetched.

    Raises:
        HubError: They are not in the cache and cannot be had.
        SaeError: There is no such SAE, or of a kind that cannot be read.
    """
    if sae.format in _REFUSED:
        raise SaeError(f"{sae}: {_REFUSED[sae.format]}")
    if PurePosixPath(sae.path).name == "canonical":
        sae = _canonical(sae, allow_download=allow_download)
    folder = _folder(sae.path)
    weights = _within(sae.path, _WEIGHTS) + ([sae.path] if folder != sae.path else [])
    wanted = dict.fromkeys([*weights, *_within(sae.path, _SETTINGS), *_within(folder, _SETTINGS)])
    found = hub.snapshot(sae.repo, revision=sae.revision, patterns=list(wanted), allow_download=allow_download)
    sae = replace(sae, revision=found.revision)
    if not any((found.folder / file).is_file() for file in weights):
        raise _not_there(sae, "SAE", PurePosixPath(sae.path), allow_download=allow_download)
    return Located(found.folder / sae.path, sae)


def _folder(path: str) -> str:
    """The folder that an SAE has for itself; the path is that, or a weights file in it."""
    file = PurePosixPath(path)
    if file.suffix not in _FILE_ENDINGS:
        return path
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    return str(folder) if folder.name else ""


def _within(folder: str, names: Iterable[str]) -> list[str]:
    return [f"{folder}/{name}" if folder else name for name in names]


def _known(sae: HubSae) -> HubSae:
    """The same with what the table knows of it, or of the folder its file is in."""
    known = places().get((sae.repo, sae.path)) or places().get((sae.repo, _folder(sae.path)))
    if known:
        return replace(known, path=sae.path, revision=sae.revision)
    return replace(sae, declared_l0=l0_of(sae.path))


def _canonical(sae: HubSae, *, allow_download: bool) -> HubSae:
    """The variant meant by `canonical`: of those there, the one whose L0 is nearest 100.

    Of two as near SAELens' choice, else the smaller. Where no list can be had, SAELens' choice.
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
    resolved = _known(replace(sae, path=str(folder / name)))
    return replace(resolved, model=resolved.model or sae.model, neuronpedia=resolved.neuronpedia or sae.neuronpedia)


def _not_there(sae: HubSae, what: str, path: PurePosixPath, *, allow_download: bool) -> SaeError:
    """Names what the deepest folder on the way holds."""
    for folder in (path, *path.parents):
        at = "" if folder == PurePosixPath() else str(folder)
        held = hub.listing(sae.repo, revision=sae.revision, folder=at, allow_download=allow_download)
        if held:
            break
    shown = ", ".join(held[:_SHOWN]) + (f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else "")
    return SaeError(f"{sae}: no {what} there; {at or 'the repository'} holds {shown or 'nothing'}")


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known)
    return f"; close are {', '.join(close)}" if close else ""
