"""The released SAEs that have a name, in SAELens (release and id) or on Neuronpedia, and where they lie on the hub.

The packaged table, releases.tsv.gz, is made by tools/releases.py. A line without a leading tab is a release (`name repo
model format`), the others are its SAEs (`- id path l0 neuronpedia norm_factor`); a path that equals the id and an L0
that the path says are left out, and so are empty cells at the end.
"""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_AVERAGE_L0 = re.compile(r"(?:^|/)average_l0_(\d+)(?:/|$)")


@dataclass(frozen=True, slots=True)
class HubSae:
    """An SAE on the Hugging Face hub. What is not known of it is empty or None."""

    repo: str
    """`owner/name`."""
    path: str = ""
    """A folder or file in it; empty for the repository itself. `fetch` resolves a last part `canonical`."""
    revision: str = ""
    """Branch, tag or commit hash; empty for the main branch."""
    model: str = ""
    """Hub id of the model it was trained on."""
    format: str = ""
    """SAELens' name of the loader, for instance gemma_2, gemma_3, sae_lens, llama_scope, qwen_scope."""
    declared_l0: float | None = None
    """How many features fire per token on average, as its publisher says."""
    norm_factor: float | None = None
    """The factor that activations are multiplied by first, for SAEs whose own files do not say it."""
    neuronpedia: str = ""
    """Its source on Neuronpedia, for instance gemma-2-2b/20-gemmascope-res-16k."""

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}" if self.path else self.repo


@cache
def releases() -> dict[str, dict[str, HubSae]]:
    """Every release by its name in SAELens, and its SAEs by their id."""
    text = gzip.decompress((files(__package__) / "releases.tsv.gz").read_bytes()).decode()
    found: dict[str, dict[str, HubSae]] = {}
    repo = model = form = ""
    saes: dict[str, HubSae] = {}
    for line in text.splitlines()[1:]:
        if not line.startswith("\t"):
            name, repo, model, form = line.split("\t")
            saes = found[name] = {}
            continue
        name, path, l0, neuronpedia, factor = [*line[1:].split("\t"), "", "", "", ""][:5]
        path = path or name
        saes[name] = HubSae(
            repo=repo,
            path=path,
            model=model,
            format=form,
            declared_l0=float(l0) if l0 else l0_of(path),
            norm_factor=float(factor) if factor else None,
            neuronpedia=neuronpedia,
        )
    return found


@cache
def sources() -> dict[str, HubSae]:
    """Every SAE that Neuronpedia shows, by its source there."""
    return {sae.neuronpedia: sae for sae in _all() if sae.neuronpedia}


@cache
def places() -> dict[tuple[str, str], HubSae]:
    """Every SAE by repository and path; of two Neuronpedia sources of one SAE, the one without `__l0-N`."""
    found: dict[tuple[str, str], HubSae] = {}
    for sae in sorted(_all(), key=lambda sae: (sae.neuronpedia == "", "__" in sae.neuronpedia)):
        found.setdefault((sae.repo, sae.path), sae)
    return found


@cache
def repositories() -> dict[str, str]:
    """Every repository, `owner/name`, by its name alone."""
    return {repo.rpartition("/")[2]: repo for repo, _ in places()}


@cache
def canonical() -> dict[tuple[str, str], str]:
    """The path of the SAE that SAELens calls canonical, by repository and by folder of its L0 variants."""
    return {
        (sae.repo, name.removesuffix("/canonical")): sae.path
        for saes in releases().values()
        for name, sae in saes.items()
        if name.endswith("/canonical")
    }


def l0_of(path: str) -> float | None:
    """The L0 that a Gemma Scope path says."""
    named = _AVERAGE_L0.search(path)
    return float(named[1]) if named else None


def _all() -> Iterator[HubSae]:
    for saes in releases().values():
        yield from saes.values()
