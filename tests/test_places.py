"""Where an SAE reads is what its files or the exact name of its repository say; else it is asked for, never guessed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import sae_arrays
from released import RELEASES
from scopewatch.acceptance.verification import place_of
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.engine.choices import SaeChoice
from scopewatch.engine.dictionary import open_whole
from scopewatch.engine.watching import load_sae
from scopewatch.errors import SaeError
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import load_pack
from scopewatch.sae.watched import load_watched
from scopewatch.sources import FoundSae, SaeSource

LAYER = "layer_2/width_16k/average_l0_95"
FOUR = ("layers.2.resid_post", "layers.2.mlp_out", "layers.2.attn_z", "layers.2.mlp_in_unit")


def gemma_scope(folder: Path) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **sae_arrays())
    return folder


def asked(path: Path) -> str:
    """What whoever names an SAE without a hookpoint is told, on every way to its numbers."""
    told = set()
    source = SaeSource(path=str(path))
    for use in (
        lambda: load_watched(path, [3]),
        lambda: open_whole(source, Config()),
        lambda: place_of(open_sae(path)),
        lambda: load_sae(SaeChoice("res", source, {3: ""}), Config()),
    ):
        with pytest.raises(SaeError) as caught:
            use()
        told.add(str(caught.value))
    (message,) = told
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    "folder",
    [
        "gs",
        "gemma-scope",
        "my-gemma-scope-2b-pt-mlp",
        "gemma-scope-2b-pt-mlp-copy",
        "gemma-scope-2b-pt",
        "gemma-scope-2b-pt-res/mine",
        "gemma-scope-2b-pt-mlp/../gs",
        "models--someone--scope/snapshots/0123abcd",
        "mlp_out",
        "resid_post",
        "residual",
    ],
)
def test_a_folder_of_ones_own_says_the_layer_and_not_the_site(tmp_path: Path, folder: str) -> None:
    """Four of Gemma Scope's repositories have such a layer; where none is named, each is offered and none taken."""
    (tmp_path / "gemma-scope-2b-pt-mlp").mkdir()
    path = gemma_scope(tmp_path / folder / LAYER)
    told = asked(path)

    assert f"say the hookpoint, one of {', '.join(FOUR)}" in told
    assert "--hookpoint, or hookpoint: in a watchlist" in told
    assert ("", "") == (open_sae(path).hookpoint, open_sae(path).model)


@pytest.mark.parametrize(
    "folder",
    [
        "gemma-scope-2b-pt-mlp",
        "google/gemma-scope-2b-pt-mlp",
        "google_gemma-scope-2b-pt-mlp",
        "google__gemma-scope-2b-pt-mlp",
        "google--gemma-scope-2b-pt-mlp",
        "google-gemma-scope-2b-pt-mlp",
        "gemma_scope_2b_pt_mlp",
        "Gemma-Scope-2B-PT-MLP",
        "gemma-scope-2b-pt-mlp-canonical",
        "models--google--gemma-scope-2b-pt-mlp/snapshots/0123abcd",
        "gemma-scope-2b-pt-mlp/resolve/main",
        "gemma-scope-2b-pt-res/old/gemma-scope-2b-pt-mlp",
    ],
)
def test_spellings_of_a_repositorys_name_are_the_name(tmp_path: Path, folder: str) -> None:
    """What tools make of a repository's name when they download it still says where its SAEs read."""
    sae = open_sae(gemma_scope(tmp_path / folder / LAYER))

    assert ("layers.2.mlp_out", "layers.2.mlp_out") == (sae.hookpoint, sae.hookpoint_out)
    assert ("google/gemma-2-2b", 95) == (sae.model, sae.declared_l0)


def test_a_link_to_the_files_is_a_folder_of_ones_own(tmp_path: Path) -> None:
    """A link's own name counts, since the local cache of the hub is made of links to files without names."""
    gemma_scope(tmp_path / "gemma-scope-2b-pt-mlp" / LAYER)
    (tmp_path / "gs").symlink_to(tmp_path / "gemma-scope-2b-pt-mlp")

    assert "one of layers.2.resid_post" in asked(tmp_path / "gs" / LAYER)


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("sae", "for instance layers.20.resid_post"),
        ("embedding/width_4k/average_l0_6", "one of embed"),
        ("layer_4/gemma-scope-2b-pt-res", "one of layers.4.resid_post"),
    ],
)
def test_what_else_gemma_scope_folders_leave_open(tmp_path: Path, folder: str, told: str) -> None:
    """Where not even the layer is named an example is given; a folder that is called `embedding` proves nothing."""
    assert told in asked(gemma_scope(tmp_path / folder))


def test_a_transcoder_that_is_told_its_input_writes_to_its_output(tmp_path: Path) -> None:
    """The hookpoint that makes a Gemma Scope file a transcoder says where its reconstruction belongs, too."""
    path = gemma_scope(tmp_path / "gs" / LAYER)
    for told in ("layers.2.mlp_in_unit", "blocks.2.ln2.hook_normalized"):
        sae = open_sae(FoundSae(path, hookpoint=told))
        place = place_of(sae, told)

        assert ("layers.2.mlp_in_unit", "layers.2.mlp_out") == (str(place.reads), str(place.writes))
        assert "jumprelu_transcoder" == sae.architecture
    assert "jumprelu" == open_sae(FoundSae(path, hookpoint="layers.2.mlp_out")).architecture


@pytest.mark.parametrize(
    ("name", "moved", "told"),
    [
        (
            "gemma_scope_2 attn_out",
            "layer_9_width_16k_l0_big",
            "layers.9.resid_post, layers.9.attn_z, layers.9.mlp_out, layers.9.mlp_in",
        ),
        (
            "gemma_scope_2 attn_out",
            "transcoder/saes/layer_9_width_16k_l0_big",
            "one of layers.9.resid_post, layers.9.a",
        ),
        ("gemma_scope_2 clt", "width_262k_l0_big", "one of layers.3.mlp_in, layers.3.resid_post"),
        ("goodfire 8B", "my-SAE-l19", "one of layers.19.resid_post, layers.19.mlp_out, layers.19.attn_out"),
        ("qwen_scope", "mine/layer5", "one of layers.5.resid_post, layers.5.mlp_out, layers.5.attn_out"),
        ("sparsify topk", "mine", "for instance layers.20.resid_post"),
    ],
)
def test_other_formats_under_other_names_ask_too(tmp_path: Path, name: str, moved: str, told: str) -> None:
    """A layer that a name tells is offered with every site that its publisher, or somebody else, trains SAEs on."""
    theirs = RELEASES[name](tmp_path)
    file = "" if theirs.path.is_dir() else theirs.path.name
    folder = theirs.path.parent if file else theirs.path
    (tmp_path / moved).parent.mkdir(parents=True, exist_ok=True)
    weights = folder.rename(tmp_path / moved) / file
    if name == "goodfire 8B":
        weights = weights.rename(weights.with_name("weights.pth"))
    found = FoundSae(weights, k=7 if name == "qwen_scope" else None)
    with pytest.raises(SaeError) as caught:
        load_watched(found, [3])

    assert told in str(caught.value)


def trainer(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["trainer"] |= changes
        file.write_text(json.dumps(config))

    return change


@pytest.mark.parametrize("submodule", [None, "mlp_out_layer_15", "attention_layer_15", "layer_15"])
def test_dictionary_learning_without_a_known_submodule_asks(tmp_path: Path, submodule: str | None) -> None:
    """The layer alone is not the residual stream after it; the trainer has to say so, or else the folder."""
    path = RELEASES["dictionary_learning BatchTopKSAE"](tmp_path).path
    trainer(submodule_name=submodule)(path)
    if submodule is None:
        assert "layers.15.resid_post" == open_sae(path).hookpoint
        path = path.rename(tmp_path / "trainer_0")

    assert "one of layers.15.resid_post, layers.15.mlp_out, layers.15.attn_out" in asked(path)


def test_an_activation_function_is_not_guessed(tmp_path: Path) -> None:
    """A file of two linear layers is ReLU where its repository is known for that; else its numbers could be any."""
    file = RELEASES["qresearch"](tmp_path).path
    mine = tmp_path / "ae" / "weights.pt"
    mine.parent.mkdir()
    file.rename(mine)
    with pytest.raises(SaeError, match="no file says their activation function"):
        open_sae(FoundSae(mine, hookpoint="layers.19.resid_post"))


@pytest.mark.parametrize("folder", ["my-topk-L0_50", "SAE-L0_50", "SAE-Res-Qwen3-8B-L0_50"])
def test_a_number_in_another_name_is_no_k(tmp_path: Path, folder: str) -> None:
    """Only the name of a Qwen-Scope repository tells its k; others may mean something else by such a number."""
    file = RELEASES["qwen_scope"](tmp_path).path
    (tmp_path / folder).mkdir()
    with pytest.raises(SaeError, match="say k"):
        open_sae(file.rename(tmp_path / folder / file.name))


@pytest.mark.parametrize("name", ["qwen_scope", "qresearch", "goodfire 70B"])
@pytest.mark.parametrize("above", [False, True], ids=["beside", "above"])
def test_a_models_own_config_is_no_settings_of_an_sae(tmp_path: Path, name: str, above: bool) -> None:
    """Torch files in or under a model's folder are what their arrays and names say."""
    theirs = RELEASES[name](tmp_path)
    before = open_sae(theirs.path)
    home = theirs.path.parent.parent if above else theirs.path.parent
    (home / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    after = open_sae(theirs.path)

    assert (before.format, before.hookpoint, before.contest) == (after.format, after.hookpoint, after.contest)


def test_an_sae_inside_a_dictionary_learning_folder_is_its_own(tmp_path: Path) -> None:
    """Another SAE's settings in the folder above do not count; those in the folder itself do."""
    outer = RELEASES["dictionary_learning BatchTopKSAE"](tmp_path).path
    inner = RELEASES["qwen_scope"](outer)

    assert "qwen_scope" == open_sae(inner.path).format
    assert "dictionary_learning" == open_sae(outer).format


Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["sae", *map(str, arguments)])
    return int(left.value.code or 0), *capsys.readouterr()


def test_inspect_does_not_state_a_place_that_nobody_says(
    tmp_path: Path, capsys: Capture, logging_as_it_was: None
) -> None:
    """The hookpoint is empty, and what it may be is listed; once told, it is told back and nothing is listed."""
    path = gemma_scope(tmp_path / "gs" / LAYER)
    code, out, _ = run(capsys, "inspect", path)
    told = json.loads(run(capsys, "inspect", path, "--json")[1])
    settled = json.loads(run(capsys, "inspect", path, "--json", "--hookpoint", "blocks.2.hook_mlp_out")[1])

    assert 0 == code
    assert f"not said by its files: say it as --hookpoint, one of {', '.join(FOUR)}" in out
    assert 1 == out.count(FOUR[1])
    assert ("", "", list(FOUR)) == (told["hookpoint"], told["hookpoint_out"], told["places"])
    assert ("layers.2.mlp_out", []) == (settled["hookpoint"], settled["places"])


def test_a_pack_keeps_the_place_that_was_told(tmp_path: Path, capsys: Capture, logging_as_it_was: None) -> None:
    """A pack is made once the hookpoint is told, and then says it itself."""
    path, pack = gemma_scope(tmp_path / "gs" / LAYER), tmp_path / "p.safetensors"
    asks = run(capsys, "pack", path, "--features", "3", "--out", pack)
    made = run(capsys, "pack", path, "--features", "3", "--out", pack, "--hookpoint", "layers.2.mlp_out")

    assert (2, "one of layers.2.resid_post" in asks[2]) == (asks[0], True)
    assert (0, "layers.2.mlp_out") == (made[0], load_pack(pack).hookpoint)


def test_a_torch_file_beside_settings_that_cannot_be_read_names_them(tmp_path: Path) -> None:
    """Settings that may be the SAE's are not passed over because they are damaged."""
    path = RELEASES["dictionary_learning BatchTopKSAE"](tmp_path).path
    (path / "config.json").write_text('{"trainer": ')
    with pytest.raises(SaeError, match=r"config\.json: not valid JSON"):
        open_sae(path)
    assert torch.load(path / "ae.pt", weights_only=True)
