"""What an SAE is called, and which SAE on the hub each name stands for.

    google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71     a hub id: repository and path
    google/gemma-scope-2b-pt-res/layer_20/width_16k/canonical         the variant whose L0 is nearest 100
    gemma-scope-2b-pt-res, layer_20/width_16k/average_l0_71           a release of SAELens and an id in it
    gemma-2-2b/20-gemmascope-res-16k                                  a source on Neuronpedia

Each gives a `HubSae`, without looking anything up outside the package; `fetch` gets its files.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from scopewatch.errors import SaeError
from scopewatch.releases.table import HubSae, l0_of, places, releases, repositories, sources

_FILE_ENDINGS = {".npz", ".safetensors", ".pt", ".pth"}
_FEATURE = re.compile(
    r"(?P<source>[a-z0-9][a-z0-9.-]*/(?:e|[0-9]{1,3})-[a-z0-9][a-z0-9._-]*)/(?P<index>0|[1-9][0-9]{0,8})"
)
_GEMMA_SCOPE = re.compile(
    r"gemma-2-(?P<size>2b|9b|9b-it|27b)/(?P<layer>[0-9]{1,2})-gemmascope-(?P<site>res|att|mlp|transcoder)"
    r"-(?P<width>[0-9]+[km])(?:__l0-(?P<l0>[0-9]+))?"
)
_CACHED_REPO = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")


def from_hub_id(text: str, revision: str = "") -> HubSae:
    """The SAE that `owner/name/path` names; the path is a folder or a file, or ends in `canonical`.

    Raises:
        SaeError: The text is not of that form.
    """
    owner, *rest = text.split("/")
    parts = [owner, *filter(None, rest)]
    if len(parts) < 2 or not owner or {".", ".."} & set(parts):
        raise SaeError(
            f"{text!r}: not an SAE on the hub; write owner/repository/path, for instance "
            "google/gemma-scope-2b-pt-res/layer_20/width_16k/canonical"
        )
    return with_facts(HubSae(repo="/".join(parts[:2]), path="/".join(parts[2:]), revision=revision))


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
    return with_facts(replace(saes[sae_id], revision=revision))


def from_neuronpedia(source: str, revision: str = "") -> HubSae:
    """The SAE behind a Neuronpedia source, for instance `gemma-2-2b/20-gemmascope-res-16k`.

    Sources of Gemma Scope that SAELens does not list follow from their name: site, layer and width, then
    `average_l0_N` for `__l0-N`, or else `canonical`.

    Raises:
        SaeError: No such source is known; names close ones.
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

    Those parts are a repository's name and a path in it, as in
    `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71` or as the Hugging Face cache writes them. Only the name is
    looked at: it promises nothing about the content.
    """
    parts = path.parts
    for at, name in enumerate(parts):
        if cached := _CACHED_REPO.fullmatch(name):
            repo, revision, inside = f"{cached['owner']}/{cached['name']}", parts[at + 2 : at + 3], parts[at + 3 :]
        else:
            repo, revision, inside = repositories().get(name, ""), (), parts[at + 1 :]
        sae = with_facts(HubSae(repo, "/".join(inside), "".join(revision)))
        if sae.format:
            return sae
    return None


def with_facts(sae: HubSae) -> HubSae:
    """The same SAE with everything that the table knows of it, or of the folder that its file is in."""
    known = places().get((sae.repo, sae.path)) or places().get((sae.repo, own_folder(sae.path)))
    if known:
        return replace(known, path=sae.path, revision=sae.revision)
    return replace(sae, declared_l0=l0_of(sae.path))


def is_weights_file(path: str) -> bool:
    """Whether a path ends as that of an SAE's weights file does."""
    return PurePosixPath(path).suffix in _FILE_ENDINGS


def own_folder(path: str) -> str:
    """The folder that an SAE has for itself in a repository: the path, or where the path is a weights file, its folder.

    Empty for a file that lies in the root of the repository.
    """
    if not is_weights_file(path):
        return path
    file = PurePosixPath(path)
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    return str(folder) if folder.name else ""


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known)
    return f"; close are {', '.join(close)}" if close else ""
