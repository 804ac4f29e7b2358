"""What an SAE is called: the table against SAELens' own list, spot checks by hand, and the files a name stands for."""

import gzip
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from hub_server import Hub, Repo, hub_server, use
from scopewatch.errors import HubError, SaeError
from scopewatch.hub import snapshot
from scopewatch.identity import FeatureKey
from scopewatch.releases.fetch import FetchedSae, fetch
from scopewatch.releases.find import find_sae
from scopewatch.releases.names import from_hub_id, from_neuronpedia, from_release, recognise
from scopewatch.releases.table import HubSae, places, releases, sources
from scopewatch.sources import SaeSource
from scopewatch.watch.terms import WatchedFeature

SCOPE = "google/gemma-scope-2b-pt-res"
ROOT = Path(__file__).parents[1]
MISLISTED = {
    # Neuronpedia source: the path that SAELens 6.54.12 lists it with, though it says another layer, width or L0.
    "gemma-2-9b/20-gemmascope-res-131k__l0-10": "layer_2/width_16k/average_l0_8",
    "gemma-2-9b/20-gemmascope-res-131k__l0-12": "layer_20/width_131k/average_l0_114",
}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_releases", ROOT / "tools" / "releases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def saelens() -> dict[str, Any]:
    """The list of releases, as the installed SAELens ships it."""
    return generator().source()


def test_the_packaged_table_is_what_its_generator_makes(saelens: dict[str, Any]) -> None:
    """The table is regenerated from the installed SAELens, and nothing of the machine or the time is in the file."""
    packed = (ROOT / "service" / "scopewatch" / "releases" / "releases.tsv.gz").read_bytes()

    assert generator().table(saelens) == gzip.decompress(packed).decode()
    assert packed[3:8] == bytes(5)  # no file name, no time
    assert len(packed) < 100_000


def test_every_release_and_id_is_the_sae_that_saelens_loads(saelens: dict[str, Any]) -> None:
    """Repository and path of all 13857 SAEs are those of SAELens, and the factor where the SAE's files lack it."""
    told = {
        (name, sae["id"]): (
            release["repo_id"],
            str(sae["path"]),
            sae.get("norm_scaling_factor") if release["conversion_func"] is None else None,
        )
        for name, release in saelens.items()
        for sae in release["saes"]
    }
    found = {key: from_release(*key) for key in told}

    assert told == {key: (sae.repo, sae.path, sae.norm_factor) for key, sae in found.items()}
    assert len(found) == 13857
    assert all("/" in sae.model and sae.format for sae in found.values())


def test_declared_l0s_are_those_of_saelens(saelens: dict[str, Any]) -> None:
    """So is the L0, but where SAELens says another than the path does."""
    told = {(name, sae["id"]): sae["l0"] for name, release in saelens.items() for sae in release["saes"] if "l0" in sae}
    found = {key: from_release(*key) for key in told}

    assert {key: sae.path for key, sae in found.items() if told[key] != sae.declared_l0} == {
        ("gemma-scope-9b-pt-res-canonical", "layer_20/width_524k/canonical"): "layer_20/width_524k/average_l0_48"
    }


def test_every_neuronpedia_source_is_the_sae_that_saelens_lists(saelens: dict[str, Any]) -> None:
    """All sources resolve as SAELens lists them, but the two that it lists with the path of another SAE."""
    told = {
        sae["neuronpedia"]: (release["repo_id"], str(sae["path"]))
        for release in saelens.values()
        for sae in release["saes"]
        if "neuronpedia" in sae
    }
    found = {source: from_neuronpedia(source) for source in told}
    wrong = {source for source, sae in found.items() if told[source] != (sae.repo, sae.path)}

    assert MISLISTED.keys() == wrong
    assert MISLISTED == {source: told[source][1] for source in wrong}
    assert {"layer_20/width_131k/average_l0_10", "layer_20/width_131k/average_l0_12"} == {found[s].path for s in wrong}
    assert {source: source for source in told} == {source: sae.neuronpedia for source, sae in found.items()}


def test_every_source_is_found_again_from_its_sae() -> None:
    """Repository and path lead back to the source, also by a local path; of two names the one of the canonical SAE."""
    back = {source: from_hub_id(str(sae)).neuronpedia for source, sae in sources().items()}
    local = {
        source: recognise(Path("/srv") / sae.repo.rpartition("/")[2] / sae.path) for source, sae in sources().items()
    }
    other = {source: name for source, name in back.items() if name != source}

    assert len(other) == 9
    assert all("__l0-" in source and source.partition("__")[0] == name for source, name in other.items())
    assert back == {source: sae.neuronpedia for source, sae in local.items()}


def test_an_sae_of_two_releases_is_one_sae() -> None:
    """Releases that list the same SAE agree on what changes its numbers."""
    for saes in releases().values():
        for sae in saes.values():
            known = places()[sae.repo, sae.path]
            assert (sae.model, sae.format, sae.norm_factor) == (known.model, known.format, known.norm_factor)


@pytest.mark.parametrize(
    ("source", "repo", "path"),
    [
        ("gemma-2-2b/20-gemmascope-res-16k", SCOPE, "layer_20/width_16k/average_l0_71"),
        ("gemma-2-2b/25-gemmascope-res-65k", SCOPE, "layer_25/width_65k/average_l0_93"),
        ("gemma-2-2b/12-gemmascope-res-1m", SCOPE, "layer_12/width_1m/average_l0_107"),
        ("gemma-2-2b/12-gemmascope-att-65k", "google/gemma-scope-2b-pt-att", "layer_12/width_65k/average_l0_79"),
        ("gemma-2-2b/0-gemmascope-mlp-16k", "google/gemma-scope-2b-pt-mlp", "layer_0/width_16k/average_l0_119"),
        (
            "gemma-2-2b/11-gemmascope-transcoder-16k",
            "google/gemma-scope-2b-pt-transcoders",
            "layer_11/width_16k/average_l0_5",
        ),
        ("gemma-2-9b/20-gemmascope-res-131k", "google/gemma-scope-9b-pt-res", "layer_20/width_131k/average_l0_114"),
        ("gemma-2-9b/27-gemmascope-att-16k", "google/gemma-scope-9b-pt-att", "layer_27/width_16k/average_l0_136"),
        ("gemma-2-9b-it/9-gemmascope-res-16k", "google/gemma-scope-9b-it-res", "layer_9/width_16k/average_l0_88"),
        ("gemma-2-27b/34-gemmascope-res-131k", "google/gemma-scope-27b-pt-res", "layer_34/width_131k/average_l0_72"),
        (
            "gemma-3-4b-it/22-gemmascope-2-res-65k",
            "google/gemma-scope-2-4b-it",
            "resid_post/layer_22_width_65k_l0_medium",
        ),
        (
            "gemma-3-27b-it/16-gemmascope-2-transcoder-262k",
            "google/gemma-scope-2-27b-it",
            "transcoder_all/layer_16_width_262k_l0_small_affine",
        ),
        ("llama3.1-8b/7-llamascope-res-32k", "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L7R-8x"),
        (
            "llama3.1-8b-it/19-resid-post-gf",
            "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
            "Llama-3.1-8B-Instruct-SAE-l19.pth",
        ),
        (
            "llama3.3-70b-it/50-resid-post-gf",
            "Goodfire/Llama-3.3-70B-Instruct-SAE-l50",
            "Llama-3.3-70B-Instruct-SAE-l50.pt",
        ),
        ("qwen2.5-7b-it/3-resid-post-aa", "andyrdt/saes-qwen2.5-7b-instruct", "resid_post_layer_3/trainer_1"),
    ],
)
def test_well_known_sources(source: str, repo: str, path: str) -> None:
    """Sources written down by hand from the publishers' pages stand for the SAE they are known for."""
    sae = from_neuronpedia(source, "v1")

    assert (repo, path, "v1", source) == (sae.repo, sae.path, sae.revision, sae.neuronpedia)


@pytest.mark.parametrize(
    ("source", "repo", "path"),
    [
        ("gemma-2-2b/20-gemmascope-res-32k", SCOPE, "layer_20/width_32k/canonical"),
        (
            "gemma-2-9b-it/20-gemmascope-res-16k__l0-47",
            "google/gemma-scope-9b-it-res",
            "layer_20/width_16k/average_l0_47",
        ),
        (
            "gemma-2-2b/3-gemmascope-transcoder-65k",
            "google/gemma-scope-2b-pt-transcoders",
            "layer_3/width_65k/canonical",
        ),
    ],
)
def test_unlisted_sources_of_gemma_scope_follow_from_their_name(source: str, repo: str, path: str) -> None:
    """Site, layer, width and L0 of a Gemma Scope source say where its SAE is, also where SAELens has no entry."""
    assert source not in sources()
    sae = from_neuronpedia(source)

    assert (repo, path, source) == (sae.repo, sae.path, sae.neuronpedia)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("gemma-2-2b/20-gemmascope-rez-16k", "close are gemma-2-2b/20-gemmascope-res-16k"),
        ("gemma-3-12b-it/24-gemmascope-2-res-16k", "close are .*gemma-3-12b/24-gemmascope-2-res-16k"),
        ("gemma-2-27b/20-gemmascope-mlp-16k", "no source on Neuronpedia that is known here; close are"),
        ("gemma-2-2b/20-gemmascope-res-16k/1234", "a feature on Neuronpedia, not a source; leave out the last number"),
        ("something else", "no source on Neuronpedia that is known here$"),
        ("", "no source on Neuronpedia that is known here$"),
    ],
)
def test_unknown_sources_are_refused(source: str, told: str) -> None:
    """A source that neither the table nor the rule knows is refused, with the ones it may have meant."""
    with pytest.raises(SaeError, match=f"^'{source}': .*{told}"):
        from_neuronpedia(source)


@pytest.mark.parametrize(
    ("release", "sae_id", "told"),
    [
        (
            "gemma-scope-2b-pt-rez",
            "x",
            "'gemma-scope-2b-pt-rez': no release of SAELens; close are gemma-scope-2b-pt-res,",
        ),
        (
            "gemma-scope-2b-pt-res",
            "layer_20/width_16k/average_l0_70",
            "'layer_20/.*': no SAE of the SAELens release gemma-scope-2b-pt-res; close are .*average_l0_71",
        ),
        (
            "gemma-scope-2b-pt-res",
            "layer_20/width_16k/canonical",
            "no SAE of the SAELens release gemma-scope-2b-pt-res",
        ),
        ("", "", "'': no release of SAELens$"),
    ],
)
def test_unknown_releases_are_refused(release: str, sae_id: str, told: str) -> None:
    """A misspelt release or id is refused with the ones it may have meant."""
    with pytest.raises(SaeError, match=told):
        from_release(release, sae_id)


def test_every_feature_of_every_source_can_be_named() -> None:
    """A watchlist reads `source/index` for each source there is."""
    keys = {source: WatchedFeature(feature=f"{source}/16383").key for source in sources()}

    assert {source: FeatureKey(source, 16383) for source in sources()} == keys


@pytest.mark.parametrize(
    ("text", "repo", "path", "neuronpedia"),
    [
        (
            f"{SCOPE}/layer_20/width_16k/average_l0_71",
            SCOPE,
            "layer_20/width_16k/average_l0_71",
            "gemma-2-2b/20-gemmascope-res-16k",
        ),
        (
            f"{SCOPE}/layer_20/width_16k/average_l0_71/params.npz",
            SCOPE,
            "layer_20/width_16k/average_l0_71/params.npz",
            "gemma-2-2b/20-gemmascope-res-16k",
        ),
        (f"{SCOPE}//layer_9/width_16k/average_l0_9/", SCOPE, "layer_9/width_16k/average_l0_9", ""),
        (
            "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50//layer3.sae.pt",
            "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50",
            "layer3.sae.pt",
            "",
        ),
        (
            "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L7R-8x/checkpoints/final.safetensors",
            "fnlp/Llama3_1-8B-Base-LXR-8x",
            "Llama3_1-8B-Base-L7R-8x/checkpoints/final.safetensors",
            "llama3.1-8b/7-llamascope-res-32k",
        ),
        ("someone/an-sae", "someone/an-sae", "", ""),
    ],
)
def test_hub_ids(text: str, repo: str, path: str, neuronpedia: str) -> None:
    """A hub id is repository and path, a folder or a file, with all that is known of the SAE there."""
    sae = from_hub_id(text, "v1")

    assert (repo, path, "v1", neuronpedia) == (sae.repo, sae.path, sae.revision, sae.neuronpedia)


def facts(sae: HubSae) -> tuple[object, ...]:
    return sae.model, sae.format, sae.declared_l0, sae.norm_factor


def test_a_name_brings_the_facts_of_its_sae() -> None:
    """Model, format, L0, and normalisation factor come with the name where they are published."""
    gpt2 = from_release("gpt2-small-mlp-tm", "blocks.0.hook_mlp_out")
    qwen = from_hub_id("Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50/layer3.sae.pt")
    instructed = from_hub_id("google/gemma-scope-9b-it-res/layer_9/width_16k/average_l0_14")
    unlisted = from_hub_id("someone/scope/layer_9/width_16k/average_l0_33/params.npz")

    assert ("openai-community/gpt2", "sae_lens", 15, 1.049317316132615) == facts(gpt2)
    assert ("Qwen/Qwen3-8B-Base", "qwen_scope", 50, None) == facts(qwen)
    assert ("google/gemma-2-9b-it", "gemma_2", 14, None) == facts(instructed)
    assert ("", "", 33, None) == facts(unlisted)


@pytest.mark.parametrize(
    "text",
    ["", "gemma", "google/", "/google/gemma/x", "google/scope/../../etc/passwd", "./google/scope", "../google/x"],
)
def test_what_is_no_hub_id_is_refused(text: str) -> None:
    """A local path, or one that leaves its folder, is not a hub id; the error says how one is written."""
    with pytest.raises(SaeError, match=f"^{re.escape(repr(text))}: not an SAE on the hub; write owner/repository/path"):
        from_hub_id(text)


@pytest.mark.parametrize(
    ("path", "neuronpedia", "revision"),
    [
        ("/srv/saes/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "gemma-2-2b/20-gemmascope-res-16k", ""),
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz", "gemma-2-2b/20-gemmascope-res-16k", ""),
        (
            "/c/models--google--gemma-scope-2b-pt-res/snapshots/abc/layer_20/width_16k/average_l0_71/params.npz",
            "gemma-2-2b/20-gemmascope-res-16k",
            "abc",
        ),
        (
            "/c/models--google--gemma-scope-2-4b-it/snapshots/abc/resid_post/layer_9_width_16k_l0_medium",
            "gemma-3-4b-it/9-gemmascope-2-res-16k",
            "abc",
        ),
    ],
)
def test_a_local_copy_is_recognised(path: str, neuronpedia: str, revision: str) -> None:
    """A local path that ends as the hub's does, in a folder of one's own or in the cache, leads to its source."""
    sae = recognise(Path(path))

    assert (neuronpedia, revision) == (sae.neuronpedia, sae.revision)


@pytest.mark.parametrize(
    "path",
    [
        "layer_20/width_16k/average_l0_71",
        "gemma-scope-2b-pt-res",
        "/x/gemma-scope-2b-pt-res/layer_20/width_16k",
        "/",
        "sae/my.npz",
    ],
)
def test_other_folders_are_not_recognised(path: str) -> None:
    """Without the repository's name there is no telling the site, so nothing is claimed."""
    assert recognise(Path(path)) is None


L0 = (22, 71, 139, 408)


def gemma_scope(folder: str, *l0: int, **more: bytes) -> dict[str, bytes]:
    return {f"{folder}/average_l0_{n}/params.npz": b"%d" % n for n in l0} | more


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Gemma Scope as small as it gets, one repository of another publisher, and a client with an empty cache."""
    repos = {
        SCOPE: gemma_scope("layer_20/width_16k", *L0) | gemma_scope("layer_2/width_16k", 13, 142) | {"README.md": b"a"},
        "google/gemma-scope-9b-pt-att": gemma_scope("layer_27/width_16k", 18, 33, 64, 136, 306),
        "someone/scope": gemma_scope("layer_0/width_1k", 60, 64, 136, 1000) | {"layer_0/width_1k/notes/l0.txt": b""},
        "google/gemma-scope-2-4b-it": {
            f"resid_post/layer_9_width_16k_l0_{size}/{file}": file.encode()
            for size in ("small", "medium")
            for file in ("params.safetensors", "config.json", "plot.png")
        },
        "fnlp/Llama3_1-8B-Base-LXR-8x": {
            f"Llama3_1-8B-Base-L{layer}R-8x/{file}": file.encode()
            for layer in (7, 8)
            for file in ("hyperparams.json", "checkpoints/final.safetensors", "checkpoints/step_1.safetensors")
        },
        "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50": {f"layer{n}.sae.pt": b"x" for n in range(3)},
        "Goodfire/Llama-3.1-8B-Instruct-SAE-l19": {
            "Llama-3.1-8B-Instruct-SAE-l19.pth": b"x",
            "README.md": b"x",
            "notes/old.pt": b"x",
        },
        "someone/an-sae": {
            "cfg.json": b"{}",
            "sae_weights.safetensors": b"x",
            "sparsity.safetensors": b"x",
            "log.txt": b"",
        },
    }
    with hub_server({name: Repo(files) for name, files in repos.items()}) as running:
        use(running, tmp_path / "hub", monkeypatch)
        yield running


FETCHED = {
    # What is asked for: the files that are fetched for it.
    f"{SCOPE}/layer_20/width_16k/average_l0_22": ["layer_20/width_16k/average_l0_22/params.npz"],
    f"{SCOPE}/layer_20/width_16k/average_l0_22/params.npz": ["layer_20/width_16k/average_l0_22/params.npz"],
    f"{SCOPE}/layer_20/width_16k/canonical": ["layer_20/width_16k/average_l0_71/params.npz"],
    "google/gemma-scope-2-4b-it/resid_post/layer_9_width_16k_l0_small": [
        "resid_post/layer_9_width_16k_l0_small/config.json",
        "resid_post/layer_9_width_16k_l0_small/params.safetensors",
    ],
    "google/gemma-scope-2-4b-it/resid_post/layer_9_width_16k_l0_small/params.safetensors": [
        "resid_post/layer_9_width_16k_l0_small/config.json",
        "resid_post/layer_9_width_16k_l0_small/params.safetensors",
    ],
    "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L7R-8x": [
        "Llama3_1-8B-Base-L7R-8x/checkpoints/final.safetensors",
        "Llama3_1-8B-Base-L7R-8x/hyperparams.json",
    ],
    "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L7R-8x/checkpoints/final.safetensors": [
        "Llama3_1-8B-Base-L7R-8x/checkpoints/final.safetensors",
        "Llama3_1-8B-Base-L7R-8x/hyperparams.json",
    ],
    "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50/layer1.sae.pt": ["layer1.sae.pt"],
    "someone/an-sae": ["cfg.json", "sae_weights.safetensors"],
}


def test_a_repository_of_one_file_is_that_file(hub: Hub) -> None:
    """Named by owner and name alone, its only weights file is fetched and found again, with what is known of it."""
    sae = from_hub_id("Goodfire/Llama-3.1-8B-Instruct-SAE-l19")
    online = fetch(sae, allow_download=True)
    fetched = hub.asked("GET", sae.repo)
    hub.requests.clear()
    offline = fetch(sae, allow_download=False)

    assert ["Llama-3.1-8B-Instruct-SAE-l19.pth"] == fetched
    assert online.path == offline.path
    assert online.path.is_file()
    assert "llama3.1-8b-it/19-resid-post-gf" == online.sae.neuronpedia == offline.sae.neuronpedia
    assert hub.requests == []
    assert online.path == find_sae(SaeSource(id=sae.repo), allow_download=False).path


def test_a_repository_of_several_files_asks_which(hub: Hub) -> None:
    """Of the SAEs at the root of a repository none is chosen, nor fetched."""
    with pytest.raises(
        SaeError, match=r"several weights files, layer0\.sae\.pt, layer1\.sae\.pt, .*; name one of them"
    ):
        fetch(from_hub_id("Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50"), allow_download=True)
    assert [] == hub.asked("GET", "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50")


@pytest.mark.parametrize("name", FETCHED)
def test_one_sae_is_fetched_and_then_found(hub: Hub, name: str) -> None:
    """Only the files of the SAE asked for are fetched; afterwards it is found the same without a request."""
    sae = from_hub_id(name)
    online = fetch(sae, allow_download=True)
    fetched = sorted(hub.asked("GET", sae.repo))
    hub.requests.clear()

    assert FETCHED[name] == fetched
    assert online == fetch(sae, allow_download=False)
    assert hub.requests == []
    assert online.path.exists()
    assert str(online.path).endswith(f"{online.sae.revision}/{online.sae.path}".rstrip("/"))
    assert online.sae.revision == hub.repos[sae.repo].commit


def test_every_way_to_name_an_sae_leads_to_the_same_files(hub: Hub) -> None:
    """Hub id, canonical, release and source of one SAE lead to the same files."""
    names = [
        from_hub_id(f"{SCOPE}/layer_20/width_16k/average_l0_71"),
        from_hub_id(f"{SCOPE}/layer_20/width_16k/canonical"),
        from_release("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"),
        from_release("gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical"),
        from_neuronpedia("gemma-2-2b/20-gemmascope-res-16k"),
    ]
    path = "layer_20/width_16k/average_l0_71"
    commit = hub.repos[SCOPE].commit
    sae = HubSae(SCOPE, path, commit, "google/gemma-2-2b", "gemma_2", 71, None, "gemma-2-2b/20-gemmascope-res-16k")
    found = [fetch(name, allow_download=True) for name in names]

    assert [FetchedSae(found[0].path, sae)] * 5 == found


@pytest.mark.parametrize(
    ("name", "l0"),
    [
        pytest.param("google/gemma-scope-9b-pt-att/layer_27/width_16k", 136, id="a tie that SAELens decided"),
        pytest.param("someone/scope/layer_0/width_1k", 64, id="a tie nobody decided goes to the smaller"),
        pytest.param(f"{SCOPE}/layer_2/width_16k", 142, id="renamed since SAELens listed 141"),
    ],
)
@pytest.mark.parametrize("downloads", [True, False], ids=["online", "offline"])
def test_canonical_is_what_the_listing_has(hub: Hub, name: str, l0: int, downloads: bool) -> None:
    """Canonical is SAELens' choice where the repository still has it, else the L0 nearest 100; online and offline."""
    sae = from_hub_id(f"{name}/canonical")
    if not downloads:
        fetch(sae, allow_download=True)
        hub.requests.clear()
    found = fetch(sae, allow_download=downloads)

    assert found.path.name == f"average_l0_{l0}"
    assert downloads or hub.requests == []


def test_canonical_is_not_guessed_from_what_happens_to_be_local(hub: Hub) -> None:
    """A cache that holds single files and no listing: SAELens' choice is used, another file is not taken for it."""
    folder = "layer_20/width_16k"
    canonical = from_hub_id(f"{SCOPE}/{folder}/canonical")
    hf_hub_download(SCOPE, f"{folder}/average_l0_139/params.npz")
    hf_hub_download("someone/scope", "layer_0/width_1k/average_l0_1000/params.npz")
    hub.requests.clear()
    with pytest.raises(HubError, match=f"^{SCOPE} .*: not in the local Hugging Face cache; set allow_download"):
        fetch(canonical, allow_download=False)
    with pytest.raises(HubError, match=r"^someone/scope.*: not in the local Hugging Face cache; set allow_download"):
        fetch(from_hub_id("someone/scope/layer_0/width_1k/canonical"), allow_download=False)
    assert hub.requests == []
    hf_hub_download(SCOPE, f"{folder}/average_l0_71/params.npz")

    assert fetch(canonical, allow_download=False).path.name == "average_l0_71"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            f"{SCOPE}/layer_20/width_16k/average_l0_70",
            "no SAE there; layer_20/width_16k holds average_l0_139, average_l0_22, ",
        ),
        (f"{SCOPE}/layer_20", "no SAE there; layer_20 holds width_16k$"),
        (SCOPE, "no SAE there; the repository holds README.md, layer_2, layer_20$"),
        (
            f"{SCOPE}/layer_99/width_16k/canonical",
            "no average_l0_N to choose from there; the repository holds README.md,",
        ),
        (f"{SCOPE}/layer_20/canonical", "no average_l0_N to choose from there; layer_20 holds width_16k$"),
        ("Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50/layer9.sae.pt", "no SAE there; the repository holds layer0.sae.pt"),
    ],
)
@pytest.mark.parametrize("downloads", [True, False], ids=["online", "offline"])
def test_an_sae_that_is_not_there_is_told(hub: Hub, name: str, told: str, downloads: bool) -> None:
    """A path without an SAE is refused, with what the deepest folder on the way holds."""
    sae = from_hub_id(name)
    if not downloads:
        snapshot(sae.repo, revision="", patterns=["*"], allow_download=True)
        hub.requests.clear()

    with pytest.raises(SaeError, match=f"^{name}: {told}"):
        fetch(sae, allow_download=downloads)
    assert downloads or hub.requests == []


@pytest.mark.parametrize(
    ("release", "sae_id", "told"),
    [
        ("temporal-sae-gemma-2-2b", "blocks.12.hook_resid_post", "a temporal SAE reads the whole sequence"),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_3", "a cross-layer transcoder in separate files"),
    ],
)
def test_what_cannot_be_read_is_not_fetched(hub: Hub, release: str, sae_id: str, told: str) -> None:
    """An SAE of a kind that has no per-token features, or no file of its own, is refused before anything is fetched."""
    with pytest.raises(SaeError, match=told):
        fetch(from_release(release, sae_id), allow_download=True)
    assert hub.requests == []
