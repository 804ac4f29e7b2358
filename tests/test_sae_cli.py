"""`scopewatch sae inspect` and `pack` as a user runs them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import House, save_sae, watchlist_document
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import choices
from scopewatch.watch.watchlist import load_watchlist

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quiet(logging_as_it_was: None) -> None:
    """What these commands do to logging is taken back."""


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def inspected(capsys: Capture, *arguments: object) -> dict[str, Any]:
    code, out, err = run(capsys, "sae", "inspect", *arguments, "--json")
    assert (0, "") == (code, err)
    return dict(json.loads(out))


def test_inspect_says_what_the_files_say(tmp_path: Path, capsys: Capture) -> None:
    """Format, architecture, hookpoint, sizes, declared L0 and digests, whether the folder or the file is named."""
    file = save_sae(tmp_path, 7)
    told = inspected(capsys, file)

    assert told == inspected(capsys, file.parent)
    assert {
        "format": "gemma_scope",
        "architecture": "jumprelu",
        "hookpoint": "layers.7.resid_post",
        "d_in": 32,
        "d_sae": 64,
        "declared_l0": 20.0,
        "digests": {"params.npz": hashlib.sha256(file.read_bytes()).hexdigest()},
    }.items() <= told.items()
    assert told["digest"] == told["digests"]["params.npz"]


def qwen(folder: Path, **arrays: torch.Tensor) -> Path:
    file = folder / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50" / "layer3.sae.pt"
    file.parent.mkdir()
    shapes = {"W_enc": (64, 24), "W_dec": (24, 64), "b_enc": (64,), "b_dec": (24,)}
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()} | arrays, file)
    return file


def test_inspect_tells_what_a_name_says(tmp_path: Path, capsys: Capture) -> None:
    """A release whose numbers stand in its names only: k, layer and the source of its pages."""
    told = inspected(capsys, qwen(tmp_path))

    assert ("qwen_scope", "topk", 50) == (told["format"], told["architecture"], told["k"])
    assert ("layers.3.resid_post", 24, 64) == (told["hookpoint"], told["d_in"], told["d_sae"])


def test_inspect_shows_the_hookpoint_asked_for(tmp_path: Path, capsys: Capture) -> None:
    """A hookpoint given by hand is shown in the one spelling."""
    file = save_sae(tmp_path, 7)

    assert "layers.2.attn_z" == inspected(capsys, file, "--hookpoint", "blocks.2.attn.hook_z")["hookpoint"]


def test_inspect_prints_lines_for_people(tmp_path: Path, capsys: Capture) -> None:
    """Without --json one fact stands on a line, and what is unknown is left out."""
    code, out, _ = run(capsys, "sae", "inspect", save_sae(tmp_path, 7))

    assert 0 == code
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert "layers.7.resid_post" == facts["hookpoint"]
    assert "norm_factor" not in facts


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone", "gone: no such file or folder"),
        ("gone/params.npz", "gone/params.npz: no such file or folder"),
        ("Goodfire/Llama-3.3-70B-Instruct-SAE-l50", "SAE-l50: not in the local Hugging Face cache"),
        ("./a/b/gone.npz", "gone.npz: no such file or folder"),
        ("nosuch/9-nosuch-res-16k", "no source on Neuronpedia that is known here"),
        ("gemma-scope-2b-pt-rse-canonical:layer_20/width_16k/canonical", "close are gemma-scope-2b-pt-res-canonical"),
        ("gemma-scope-2b-pt-res-canonical:layer_99/width_16k/canonical", "no SAE of the SAELens release"),
        ("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "not in the local Hugging Face cache"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(
    name: str, told: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and one line that says what was not found and where to look."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    code, out, err = run(capsys, "sae", "inspect", name)

    assert (2, "") == (code, out)
    assert told in err
    assert 1 == err.count("\n")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--k", "0"], "--k: "),
        (["--norm-factor", "-1"], "--norm-factor: "),
        (["--norm-factor", "nan"], "--norm-factor: "),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(tmp_path: Path, capsys: Capture, flags: list[str], told: str) -> None:
    """Options that cannot be are refused by their flag."""
    code, _, err = run(capsys, "sae", "inspect", save_sae(tmp_path, 7), *flags)

    assert 2 == code
    assert told in err


def test_a_pack_stands_in_for_the_sae(house: House, tmp_path: Path, capsys: Capture) -> None:
    """A watchlist that names a pack reads the same columns and identifies the same SAE as one that names the SAE."""
    pack = tmp_path / "mid.pack.safetensors"
    assert 0 == run(capsys, "sae", "pack", house.saes["mid"], "--features", "3,11", "--out", pack)[0]
    document = watchlist_document(reader={"path": str(house.reader)})
    document["saes"] = {"mid": {"path": str(pack)}, "late": {"path": str(house.saes["late"])}}
    (tmp_path / "watchlist.yaml").write_text(yaml.safe_dump(document))
    packed, whole = (
        build_engine(*choices([load_watchlist(file)]), Config())
        for file in (tmp_path / "watchlist.yaml", house.watchlist)
    )

    assert whole.identity == packed.identity
    assert [3, 11] == inspected(capsys, pack)["packed_features"]


def test_what_cannot_be_packed_is_refused(tmp_path: Path, capsys: Capture) -> None:
    """Features that compete with the whole dictionary have no part that stands alone."""
    code, _, err = run(capsys, "sae", "pack", qwen(tmp_path), "--features", "3", "--out", tmp_path / "p.safetensors")

    assert 2 == code
    assert "compete" in err
    assert not (tmp_path / "p.safetensors").exists()
