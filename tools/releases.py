"""Write the table of released SAEs, service/scopewatch/releases/releases.tsv.gz, from the list that SAELens ships.

python tools/releases.py

Facts only: which SAE of which repository a SAELens release and id, or a Neuronpedia source, stands for. What follows from
a rule is left out: a path that equals the id, an L0 that the path says. `scopewatch.releases.table` reads it.
"""

import gzip
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).parents[1] / "service" / "scopewatch" / "releases" / "releases.tsv.gz"

MODELS = {
    # TransformerLens' short names, as SAELens writes them, and what they are on the hub.
    "gemma-2b": "google/gemma-2b",
    "gemma-2b-it": "google/gemma-2b-it",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-2-27b": "google/gemma-2-27b",
    "gpt2-small": "openai-community/gpt2",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-14b": "Qwen/Qwen3-14B",
}
# SAELens 6.54.12 gives this release the base model; its repository, and the canonical release of it, are of the other.
MODEL_OF_RELEASE = {"gemma-scope-9b-it-res": "google/gemma-2-9b-it"}

_GEMMA_SCOPE = re.compile(r".*/(\d+)-gemmascope-[a-z]+-(\d+[km])(?:__l0-(\d+))?")


def source() -> dict[str, Any]:
    """SAELens' list of releases."""
    file = distribution("sae-lens").locate_file("sae_lens/pretrained_saes.yaml")
    with Path(str(file)).open(encoding="utf-8") as stream:
        return yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe


def contradicts(neuronpedia: str, path: str) -> bool:
    """Whether a Gemma Scope source's name says another layer, width or L0 than the path it is listed with."""
    named = _GEMMA_SCOPE.fullmatch(neuronpedia)
    if not named:
        return False
    layer, width, l0 = named.groups()
    return not re.fullmatch(rf"layer_{layer}/width_{width}/average_l0_{l0 or r'[0-9]+'}", path)


def table(releases: dict[str, Any]) -> str:
    """The lines: `name repo model loader` of a release, then `- id path l0 neuronpedia norm_factor` of its SAEs."""
    lines = [f"# From SAELens {distribution('sae-lens').version}, pretrained_saes.yaml; made by tools/releases.py"]
    for name, release in sorted(releases.items()):
        model = MODEL_OF_RELEASE.get(name) or MODELS.get(release["model"], release["model"])
        lines.append("\t".join([name, release["repo_id"], model, release["conversion_func"] or "sae_lens"]))
        for sae in sorted(release["saes"], key=lambda sae: sae["id"]):
            path = str(sae["path"])
            neuronpedia = sae.get("neuronpedia", "")
            if contradicts(neuronpedia, path):
                print(f"left out: {neuronpedia}, listed with {path}")
                neuronpedia = ""
            l0 = "" if "average_l0_" in path else f"{sae['l0']:g}" if "l0" in sae else ""
            # Llama Scope's own files say it, so that SAELens' number would only be a second opinion.
            told = "norm_scaling_factor" in sae and release["conversion_func"] is None
            factor = repr(sae["norm_scaling_factor"]) if told else ""
            cells = ["", sae["id"], "" if path == sae["id"] else path, l0, neuronpedia, factor]
            lines.append("\t".join(cells).rstrip("\t"))
    return "\n".join(lines) + "\n"


def main() -> None:
    text = table(source())
    TABLE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{TABLE}: {text.count(chr(10))} lines, {TABLE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
