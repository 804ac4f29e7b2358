"""Every released SAE format: the numbers are the publisher's own, and what cannot be right is refused."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from released import RELEASES, Released
from scopewatch.acceptance.slabs import slabs_of
from scopewatch.engine.encoder import HookpointEncoder, denormalised
from scopewatch.errors import SaeError
from scopewatch.reader.hookpoints import parse_hookpoint
from scopewatch.sae import formats
from scopewatch.sae.encoder import Contest
from scopewatch.sae.open import open_sae
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.safetensors_file import open_safetensors
from scopewatch.sae.weights import Sae

WATCHED = [41, 3, 17, 60]
Write = Callable[[Path], Released]
every_release = pytest.mark.parametrize("write", RELEASES.values(), ids=RELEASES)


def activations(d_in: int) -> torch.Tensor:
    """Far from centred, as a residual stream is."""
    generator = torch.Generator().manual_seed(7)
    return 1.0 + 2.5 * torch.randn(3, 40, d_in, generator=generator)


def encode(sae: Sae, x: torch.Tensor, features: list[int] | None = None) -> torch.Tensor:
    return HookpointEncoder([sae.encoder(range(sae.d_sae) if features is None else features)])(x)


def steady(theirs: Released, x: torch.Tensor) -> torch.Tensor:
    """Where a feature fires or not whatever the last digits of x: outside a band of 1e-5 around its threshold."""
    more, less = (theirs.encode(x.double() * (1 + sign * 1e-5)) > 0 for sign in (1, -1))
    return more == less


def assert_close(expected: torch.Tensor, actual: torch.Tensor) -> None:
    assert expected.shape == actual.shape
    worst = (expected - actual.double()).abs().max() / expected.abs().max()
    assert 1e-4 >= worst


@every_release
def test_activations_are_the_publishers(tmp_path: Path, write: Write) -> None:
    """Every feature of every released layout fires where its publisher's library says, and as strongly."""
    theirs = write(tmp_path)
    sae = open_sae(theirs.found)
    x = activations(sae.d_in)
    expected, actual = theirs.encode(x.double()), encode(sae, x)
    firm = steady(theirs, x)

    assert 0.99 < firm.float().mean()
    assert 0.02 < (expected > 0).float().mean() < 0.98
    assert torch.equal((expected > 0)[firm], (actual > 0)[firm])
    assert_close(expected * firm, actual * firm)


@every_release
def test_watched_features_are_those_of_the_whole(tmp_path: Path, write: Write) -> None:
    """Some features read alone are what they are among all, in ascending order."""
    theirs = write(tmp_path)
    sae = open_sae(theirs.found)
    x = activations(sae.d_in)

    assert_close(encode(sae, x)[..., sorted(WATCHED)].double(), encode(sae, x, WATCHED))


# Layers of a model with one decoder for all; and SAELens, whose b_dec of embedding SAEs stays on the other scale.
NOT_RECONSTRUCTED = ["gemma_scope_2 crosscoder", "gemma_scope_2 clt", "gemma_scope embedding"]


@pytest.mark.parametrize("name", [name for name in RELEASES if name not in NOT_RECONSTRUCTED])
def test_reconstructions_are_the_publishers(tmp_path: Path, name: str) -> None:
    """What the dictionary, slab by slab, makes of its activations is what the publisher's library makes of them."""
    theirs = RELEASES[name](tmp_path)
    sae = open_sae(theirs.found)
    x = activations(sae.d_in)
    y = torch.from_numpy(sae.b_out())
    for slab in slabs_of(sae, tmp_path, width=8):
        y = y + HookpointEncoder([slab.encoder])(x) @ torch.from_numpy(slab.W_dec)
    if sae.denormalises:
        y = denormalised(y, x, sae.normalise)
    if sae.W_skip:
        y = y + x @ torch.from_numpy(sae.W_skip.read())
    firm = steady(theirs, x).all(dim=-1)

    assert_close(theirs.reconstruct(x.double())[firm], y[firm])


@pytest.mark.parametrize("name", NOT_RECONSTRUCTED[:2])
def test_a_layer_of_many_reconstructs_nothing(tmp_path: Path, name: str) -> None:
    """Where the decoder writes to several layers there is no reconstruction of one, and that is said."""
    sae = open_sae(RELEASES[name](tmp_path).path)

    with pytest.raises(SaeError, match="holds no decoder of its own"):
        next(slabs_of(sae, tmp_path))


# What the files and folders say.

FACTS = {
    # hookpoint, where the reconstruction belongs, model, declared L0
    "gemma_scope res": ("layers.7.resid_post", "layers.7.resid_post", "google/gemma-2-2b", 71),
    "gemma_scope mlp": ("layers.7.mlp_out", "layers.7.mlp_out", "google/gemma-2-2b", 71),
    "gemma_scope att": ("layers.7.attn_z", "layers.7.attn_z", "google/gemma-2-2b", 71),
    "gemma_scope transcoders": ("layers.7.mlp_in_unit", "layers.7.mlp_out", "google/gemma-2-2b", 71),
    "gemma_scope embedding": ("embed", "embed", "google/gemma-2-2b", 44),
    "gemma_scope_2 resid_post": ("layers.22.resid_post", "layers.22.resid_post", "google/gemma-3-4b-it", 60),
    "gemma_scope_2 resid_post_all": ("layers.5.resid_post", "layers.5.resid_post", "google/gemma-3-4b-it", None),
    "gemma_scope_2 attn_out": ("layers.9.attn_z", "layers.9.attn_z", "google/gemma-3-4b-it", 131),
    "gemma_scope_2 mlp_out": ("layers.17.mlp_out", "layers.17.mlp_out", "google/gemma-3-4b-it", 20),
    "gemma_scope_2 transcoder": ("layers.17.mlp_in", "layers.17.mlp_out", "google/gemma-3-4b-it", 150),
    "gemma_scope_2 transcoder affine": ("layers.3.mlp_in", "layers.3.mlp_out", "google/gemma-3-4b-it", None),
    "gemma_scope_2 crosscoder": ("layers.17.resid_post", "layers.17.resid_post", "google/gemma-3-1b-pt", None),
    "gemma_scope_2 clt": ("layers.3.mlp_in", "layers.3.mlp_out", "google/gemma-3-1b-pt", None),
    "saelens standard": ("layers.3.resid_post", "layers.3.resid_post", "m", None),
    "saelens topk": ("layers.3.resid_post", "layers.3.resid_post", "m", 7),
    "saelens before 6": ("layers.3.resid_post", "layers.3.resid_post", "", None),
    "sparsify topk": ("layers.10.resid_post", "layers.10.resid_post", "", 6),
    "sparsify transcoder": ("layers.10.mlp.input", "layers.10.mlp.output", "", 6),
    "dictionary_learning AutoEncoder": ("layers.15.resid_post", "layers.15.resid_post", "org/model", None),
    "dictionary_learning BatchTopKSAE": ("layers.15.resid_post", "layers.15.resid_post", "org/model", 7),
    "llama_scope R": ("layers.15.resid_post", "layers.15.resid_post", "meta-llama/Llama-3.1-8B", 7),
    "llama_scope TC": ("layers.15.mlp_in_unit", "layers.15.mlp_out", "meta-llama/Llama-3.1-8B", 7),
    "openmoss transcoder": ("layers.12.resid_post", "layers.12.mlp_out", "", None),
    "openmoss R1": ("layers.10.resid_post", "layers.10.resid_post", "", None),
    "goodfire 70B": ("layers.50.resid_post", "layers.50.resid_post", "meta-llama/Llama-3.3-70B-Instruct", None),
    "goodfire 8B": ("layers.19.resid_post", "layers.19.resid_post", "meta-llama/Llama-3.1-8B-Instruct", None),
    "qresearch": ("layers.19.resid_post", "layers.19.resid_post", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", None),
    "qwen_scope": ("layers.5.resid_post", "layers.5.resid_post", "Qwen/Qwen3-8B-Base", 7),
}


@pytest.mark.parametrize("name", FACTS)
def test_places_models_and_sparsity_are_read_from_files_and_folders(tmp_path: Path, name: str) -> None:
    """Where an SAE reads and writes, for which model and with which L0, is what its release says."""
    theirs = RELEASES[name](tmp_path)
    sae = open_sae(theirs.found)
    places = [str(parse_hookpoint(place)) for place in (sae.hookpoint, sae.hookpoint_out or sae.hookpoint)]

    assert FACTS[name] == (*places, sae.model, sae.declared_l0)
    assert name.split(maxsplit=1)[0] == sae.format


@every_release
def test_folder_and_weights_file_are_one(tmp_path: Path, write: Write) -> None:
    """An SAE may be named by its folder or by its weights file, and its files are the same."""
    theirs = write(tmp_path)
    sae = open_sae(theirs.found)

    assert sae.files == open_sae(replace(theirs.found, path=sae.files[0])).files
    assert {file.name for file in sae.files} == set(sae.digests())


ARCHITECTURES = {
    "gemma_scope transcoders": "jumprelu_transcoder",
    "gemma_scope_2 clt": "jumprelu_clt",
    "gemma_scope_2 crosscoder": "jumprelu_crosscoder",
    "saelens gated": "gated",
    "sparsify groupmax transcoder": "groupmax_transcoder",
    "dictionary_learning Matryoshka": "jumprelu",
    "dictionary_learning AutoEncoderTopK": "topk",
    "llama_scope topk": "topk",
    "openmoss transcoder": "jumprelu_transcoder",
}


@pytest.mark.parametrize(("name", "architecture"), ARCHITECTURES.items(), ids=ARCHITECTURES)
def test_architectures_are_named(tmp_path: Path, name: str, architecture: str) -> None:
    """What decides about firing has one name, whatever publishers call it."""
    assert architecture == open_sae(RELEASES[name](tmp_path).path).architecture


def link_to_blobs(folder: Path) -> None:
    """Files become links, as in the hub's local cache."""
    blobs = folder.with_name("blobs")
    blobs.mkdir()
    for number, file in enumerate(sorted(f for f in folder.rglob("*") if f.is_file())):
        blob = file.rename(blobs / f"{number:064x}")
        file.symlink_to(blob)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("gemma_scope att", "google"),
        ("gemma_scope_2 attn_out", "google"),
        ("llama_scope TC", "fnlp"),
        ("qwen_scope", "Qwen"),
        ("goodfire 8B", "Goodfire"),
    ],
)
def test_the_hub_cache_is_read_in_place(tmp_path: Path, name: str, owner: str) -> None:
    """Names are taken from the cache's folders, not from the nameless files they link to."""
    (tmp_path / "local").mkdir()
    theirs = RELEASES[name](tmp_path / "local")
    expected = open_sae(theirs.path)
    (repo,) = (tmp_path / "local").iterdir()
    snapshot = tmp_path / f"models--{owner}--{repo.name}" / "snapshots" / "0123abcd"
    snapshot.parent.mkdir(parents=True)
    repo.rename(snapshot)
    link_to_blobs(snapshot)
    sae = open_sae(snapshot / theirs.path.relative_to(repo))

    assert expected.hookpoint == sae.hookpoint
    assert expected.model == sae.model
    assert expected.contest == sae.contest
    assert expected.declared_l0 == sae.declared_l0


# Mistakes that give plausible numbers (sae-formats.md, section 0): each makes a clear difference on these weights.


MISTAKES: dict[str, tuple[str, Callable[[Sae], Sae]]] = {
    "b_dec subtracted from Gemma Scope": ("gemma_scope res", lambda s: replace(s, subtracts_b_dec=True)),
    "b_dec subtracted from Llama Scope": ("llama_scope R", lambda s: replace(s, subtracts_b_dec=True)),
    "b_dec subtracted from Goodfire": ("goodfire 8B", lambda s: replace(s, subtracts_b_dec=True)),
    "b_dec subtracted from Qwen-Scope": ("qwen_scope", lambda s: replace(s, subtracts_b_dec=True)),
    "b_dec kept in SAELens": ("saelens standard", lambda s: replace(s, subtracts_b_dec=False)),
    "b_dec kept in sparsify": ("sparsify topk", lambda s: replace(s, subtracts_b_dec=False)),
    "b_dec kept in a BatchTopK": ("dictionary_learning BatchTopKSAE", lambda s: replace(s, subtracts_b_dec=False)),
    "Llama Scope not scaled": ("llama_scope R", lambda s: replace(s, scale_in=1.0)),
    "a factor left out": ("saelens jumprelu expected_average_only_in", lambda s: replace(s, scale_in=1.0)),
    "layer norm left out": ("saelens jumprelu layer_norm", lambda s: replace(s, normalise="none")),
    "decoder norms left out of Llama Scope": ("llama_scope R", lambda s: replace(s, gain_scale=None)),
    "decoder norms left out of AutoEncoder": (
        "dictionary_learning AutoEncoder",
        lambda s: replace(s, gain_scale=None),
    ),
    "decoder norms multiplied in": ("gemma_scope res", lambda s: replace(s, gain_scale=1.0)),
    "decoder norms kept in OpenMOSS": ("openmoss jumprelu", lambda s: replace(s, gain_only_decides=False)),
    "TopK without the others": ("saelens topk", lambda s: replace(s, contest=None)),
    "TopK by its threshold": ("dictionary_learning AutoEncoderTopK", lambda s: replace(s, contest=None, threshold=0.6)),
    "groupmax as TopK": ("sparsify groupmax", lambda s: replace(s, contest=Contest(s.d_sae, 6))),
    "BatchTopK as TopK": (
        "dictionary_learning Matryoshka",
        lambda s: replace(s, threshold=0.0, contest=Contest(s.d_sae, 7)),
    ),
    "the gate for the magnitude": ("saelens gated", lambda s: replace(s, r_mag=None, b_mag=None)),
    "JumpReLU as ReLU": ("gemma_scope_2 resid_post", lambda s: replace(s, threshold=0.0)),
}


@pytest.mark.parametrize(("name", "mistake"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_would_be_seen(tmp_path: Path, name: str, mistake: Callable[[Sae], Sae]) -> None:
    """The comparison above would fail by far for an SAE read wrongly in one of the ways that are easily taken."""
    theirs = RELEASES[name](tmp_path)
    sae = open_sae(theirs.found)
    x = activations(sae.d_in)
    expected = theirs.encode(x.double())
    wrong = (expected - encode(mistake(sae), x)).abs().max() / expected.abs().max()

    assert 0.05 < wrong


def test_activations_of_a_bfloat16_reader_are_encoded_in_float32(tmp_path: Path) -> None:
    """Half-precision activations are widened before the product, not the product rounded."""
    sae = open_sae(RELEASES["gemma_scope res"](tmp_path).path)
    half = activations(sae.d_in).bfloat16()
    encoder = HookpointEncoder([sae.encoder(range(sae.d_sae))])

    assert torch.equal(encoder(half.float()), encoder(half))
    assert torch.float32 == encoder(half).dtype


CONTESTS = [name for name in RELEASES if "topk" in name.lower() or "groupmax" in name or "qwen" in name]


@pytest.mark.parametrize("elements", [1, 1500, 6000])
@pytest.mark.parametrize("name", [name for name in CONTESTS if "Batch" not in name])
def test_a_contest_in_chunks_is_the_contest(
    tmp_path: Path, name: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few pre-activations exist at once, the same features win."""
    theirs = RELEASES[name](tmp_path)
    sae = open_sae(theirs.found)
    x = activations(sae.d_in)
    monkeypatch.setattr("scopewatch.engine.contests._CHUNK_ELEMENTS", elements)
    expected, actual, firm = theirs.encode(x.double()), encode(sae, x), steady(theirs, x)

    assert torch.equal((expected > 0)[firm], (actual > 0)[firm])
    assert_close(expected * firm, actual * firm)
    assert_close(actual[..., sorted(WATCHED)].double(), encode(sae, x, WATCHED))


def test_several_formats_at_one_hookpoint_are_encoded_together(tmp_path: Path) -> None:
    """SAEs of several formats read one activation, and none disturbs another."""
    names = ["saelens gated", "llama_scope R", "saelens topk", "openmoss topk", "saelens jumprelu layer_norm"]
    encoders, x = [], activations(23)
    for name in names:
        (tmp_path / name).mkdir()
        encoders.append(open_sae(RELEASES[name](tmp_path / name).path).encoder(WATCHED))
    apart = torch.cat([HookpointEncoder([encoder])(x) for encoder in encoders], dim=-1)

    assert_close(apart.double(), HookpointEncoder(encoders)(x))


@pytest.mark.parametrize(
    "name", ["gemma_scope res", "saelens topk", "saelens gated", "openmoss topk", "sparsify groupmax"]
)
def test_an_activation_that_is_no_number_is_no_silence(tmp_path: Path, name: str) -> None:
    """Where the reader gives NaN, every feature gives NaN."""
    sae = open_sae(RELEASES[name](tmp_path).path)
    x = activations(sae.d_in)
    x[1, 3, 5] = torch.nan

    assert encode(sae, x)[1, 3].isnan().all()
    assert encode(sae, x)[0].isfinite().all()


@pytest.mark.parametrize("name", ["saelens topk rescaled", "llama_scope R", "saelens standard", "openmoss topk"])
def test_a_wide_dictionary_is_folded_in_blocks(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Centring and decoder norms folded in a few features at a time are those of the whole."""
    sae = open_sae(RELEASES[name](tmp_path).path)
    at_once = sae.encoder(range(sae.d_sae))
    monkeypatch.setattr("scopewatch.sae.weights._BLOCK", 16)
    in_blocks = sae.encoder(range(sae.d_sae))

    for part in ("W_enc", "b_enc", "threshold"):
        np.testing.assert_allclose(getattr(at_once, part), getattr(in_blocks, part), rtol=1e-6)


@pytest.mark.parametrize("name", ["saelens topk rescaled", "openmoss topk"])
def test_a_feature_without_decoder_is_silent(tmp_path: Path, name: str) -> None:
    """A dead feature, whose decoder is 0, is worth nothing instead of NaN, and disturbs no other."""
    theirs = RELEASES[name](tmp_path)
    file = theirs.path / "sae_weights.safetensors"
    held = load_file(file)
    held["W_dec" if "W_dec" in held else "W_D"][41] = 0
    save_file(held, file)
    sae = open_sae(theirs.path)
    found = encode(sae, activations(sae.d_in))
    (slab,) = slabs_of(sae, tmp_path)

    assert found.isfinite().all()
    assert not found[..., 41].any()
    assert np.isfinite(slab.W_dec).all()


def test_a_format_is_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the folder of formats is all that a new format needs: it is found, and opens what it knows."""
    (tmp_path / "house_style.py").write_text(NEW_FORMAT)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    file = tmp_path / "anything.safetensors"
    save_file({"house": torch.arange(12.0).reshape(4, 3)}, file)
    sae = open_sae(file)

    assert (sae.format, sae.d_in, sae.d_sae) == ("house_style", 4, 3)
    monkeypatch.delitem(sys.modules, f"{formats.__name__}.house_style")
    monkeypatch.setattr(formats, "__path__", formats.__path__[:-1])
    with pytest.raises(SaeError, match="of no known SAE format; it holds house, and beside it there is no JSON file"):
        open_sae(file)


@pytest.mark.parametrize(
    ("arrays", "beside", "meant"),
    [
        ("encoder.weight W_dec", "cfg.json config.json hyperparams.json", "sparsify"),
        ("encoder.weight decoder.weight", "config.json hyperparams.json", "llama_scope"),
        ("encoder.weight decoder.weight", "config.json", "openmoss"),
        ("W_E W_D", "config.json", "openmoss"),
        ("w_enc w_dec", "config.json", "gemma_scope_2"),
        ("W_enc W_dec D b", "cfg.json", "temporal"),
        ("W_enc W_dec", "cfg.json config.json", "saelens"),
    ],
)
def test_of_formats_that_fit_the_surest_is_meant(arrays: str, beside: str, meant: str, tmp_path: Path) -> None:
    """Settings of another library that lie beside an SAE, or above it, do not change what its arrays say it is."""
    for name in beside.split():
        (tmp_path / name).write_text('{"hook_point_in": "blocks.3.hook_resid_post"}')
    file = tmp_path / "a.safetensors"
    save_file({name: torch.zeros(2) for name in arrays.split()}, file)
    files = SaeFiles(open_safetensors(file))

    assert next(known.name for known in formats.known_formats() if known.fits(files)) == meant


NEW_FORMAT = """
from scopewatch.sae.formats import Format
from scopewatch.sae.weights import Sae


def _open(files):
    return Sae("house_style", "standard", "", files.weights["house"], None, (files.file,))


FORMATS = (Format("house_style", (".safetensors",), _open, ("house",)),)
"""
