"""SAEs that cannot be read right are refused with the reason; nothing about them is guessed or ignored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from released import D_IN, D_SAE, RELEASES
from scopewatch.errors import SaeError
from scopewatch.sae.open import open_sae
from scopewatch.sources import FoundSae

Change = Callable[[Path], object]


def refusal(path: Path, **given: Any) -> str:
    """What an operator is told: one line that names a path."""
    with pytest.raises(SaeError) as caught:
        open_sae(FoundSae(path, **given))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def settings(**changes: Any) -> Change:
    """Fields of the release's JSON file; `a__b` for a field of a nested object, None to leave it out."""

    def change(path: Path) -> None:
        (file,) = folder_of(path).glob("*.json")
        values = json.loads(file.read_text())
        for name, value in changes.items():
            *outer, last = name.split("__")
            place = values
            for part in outer:
                place = place.setdefault(part, {})
            place[last] = value
            if value is None:
                del place[last]
        file.write_text(json.dumps(values))

    return change


def tensors(**changes: torch.Tensor | None) -> Change:
    """Arrays of the weights file; None to leave one out."""

    def change(path: Path) -> None:
        (file,) = [
            f for f in folder_of(path).rglob("*") if f.suffix in {".pt", ".safetensors"} and f.stem != "examples"
        ]
        torch_file = file.suffix == ".pt"
        held = torch.load(file, weights_only=True) if torch_file else load_file(file)
        held = {name: array for name, array in (dict(held) | changes).items() if array is not None}
        (torch.save if torch_file else save_file)(held, file)

    return change


def text(content: str) -> Change:
    def change(path: Path) -> None:
        (file,) = folder_of(path).glob("*.json")
        file.write_text(content)

    return change


def remove(pattern: str) -> Change:
    return lambda path: [file.unlink() for file in folder_of(path).glob(pattern)]


def config(**values: Any) -> Change:
    return lambda path: (folder_of(path) / "config.json").write_text(json.dumps(values))


REFUSED: dict[str, tuple[str, Change, str]] = {
    # SAELens
    "temporal": ("saelens standard", settings(architecture="temporal"), "'temporal' reads the whole sequence"),
    "matching pursuit": ("saelens standard", settings(architecture="matching_pursuit"), "one after the other"),
    "absolute topk": ("saelens standard", settings(architecture="abstopk"), "features fire below 0"),
    "batchtopk": ("saelens standard", settings(architecture="batchtopk"), "over a whole batch; SAELens saves such"),
    "matryoshka": ("saelens standard", settings(architecture="matryoshka_batchtopk"), "over a whole batch"),
    "unknown architecture": ("saelens standard", settings(architecture="new"), "'new' expected one of standard"),
    "no architecture": ("saelens standard", settings(architecture=None), "architecture is None; expected text"),
    "whitened": ("saelens standard", settings(normalize_activations="covariance_whitening"), "folds the whitening in"),
    "unknown normalisation": ("saelens standard", settings(normalize_activations="batch"), "is 'batch'; expected none"),
    "no factor": (
        "saelens standard",
        settings(normalize_activations="expected_average_only_in"),
        "multiplied by one factor, sqrt(d_in) / mean ||x||, which its files lack; say it as norm_factor",
    ),
    "one head": (
        "saelens standard",
        settings(metadata__hook_head_index=0),
        "metadata.hook_head_index is 0; expected null",
    ),
    "some positions": ("saelens standard", settings(metadata__seqpos_slice=[5, -5]), "some token positions only"),
    "processed model": (
        "saelens standard",
        settings(metadata__model_from_pretrained_kwargs={"center_writing_weights": True, "dtype": "float32"}),
        "asks for center_writing_weights, which changes the activations",
    ),
    "reshaped": ("saelens standard", settings(reshape_activations="hook_z"), "hook_z for an SAE of attn.hook_z"),
    "transcoder that subtracts": (
        "saelens transcoder",
        settings(apply_b_dec_to_input=True),
        "belongs to another place",
    ),
    "other width": ("saelens standard", settings(d_sae=65), "d_sae is 65; expected 66, as in the weights file"),
    "other input": ("saelens standard", settings(d_in=24), "d_in is 24; expected 23"),
    "other output": ("saelens transcoder", settings(d_out=23), "d_out is 23; expected 19"),
    "k of 0": ("saelens topk", settings(k=0), "k is 0; expected a positive number"),
    "k beyond the width": ("saelens topk", settings(k=67), "67 of every 66 among 66 features cannot fire"),
    "k of words": ("saelens topk", settings(k="7"), "k is '7'; expected a whole number"),
    "k of yes": ("saelens topk", settings(k=True), "k is True; expected a whole number"),
    "no k": ("saelens topk", settings(k=None), "k is None; expected a whole number"),
    "scaled features": (
        "saelens standard",
        tensors(scaling_factor=torch.full((D_SAE,), 1.5)),
        "scaling_factor is not 1; SAELens 6 does not read such an SAE either",
    ),
    "further arrays": (
        "saelens standard",
        tensors(threshold=torch.ones(D_SAE)),
        "holds threshold, which an SAE of this",
    ),
    "fewer arrays": ("saelens jumprelu", tensors(threshold=None), "no array threshold; there is W_dec, W_enc, b_dec"),
    "old activation": (
        "saelens before 6",
        settings(activation_fn_str="tanh-relu"),
        "is 'tanh-relu'; expected relu or topk",
    ),
    "old head": ("saelens before 6", settings(hook_point_head_index=3), "hook_head_index is 3; expected null"),
    "version of words": ("saelens standard", settings(metadata__sae_lens_version="new"), "expected a version such as"),
    "no settings": (
        "saelens standard",
        remove("cfg.json"),
        "no such file; without it the weights beside it cannot be read",
    ),
    "settings that are a list": ("saelens standard", text("[]"), "not a JSON object"),
    "settings that say a thing twice": ("saelens standard", text('{"k": 1, "k": 2}'), "a name stands twice"),
    "settings cut short": ("saelens standard", text('{"architecture": "sta'), "not valid JSON"),
    "settings without end": ("saelens standard", text("[" * 2_000_000), "longer than 1048576 bytes"),
    "settings of great depth": ("saelens standard", text('{"a":' * 100_000 + "1" + "}" * 100_000), "not valid JSON"),
    "metadata of words": ("saelens standard", settings(metadata="x"), "metadata is 'x'; expected an object"),
    # sparsify
    "signed": ("sparsify topk", settings(signed=True), "features that fire below 0 are not supported"),
    "unknown activation": ("sparsify topk", settings(activation="relu"), "activation is 'relu'; expected topk"),
    "groups that do not fit": ("sparsify groupmax", settings(k=7), "groupmax with k a divisor of 66"),
    "latents": ("sparsify topk", settings(num_latents=64), "num_latents is 64; expected 66"),
    "expansion": ("sparsify topk", settings(num_latents=0), "expected what gives 66 features of 23 inputs"),
    "a skip without weights": (
        "sparsify transcoder",
        settings(skip_connection=True),
        "expected false, as in the weights",
    ),
    "weights without a skip": ("sparsify skip transcoder", settings(skip_connection=False), "expected true, as in the"),
    # dictionary_learning
    "unknown class": (
        "dictionary_learning AutoEncoder",
        settings(trainer__dict_class="CrossCoder"),
        "trainer.dict_class is 'CrossCoder'; expected one of AutoEncoder, AutoEncoderNew",
    ),
    "threshold of -1": (
        "dictionary_learning BatchTopKSAE",
        tensors(threshold=torch.tensor(-1.0)),
        "was never estimated; it would let every positive activation through",
    ),
    "threshold that is no number": (
        "dictionary_learning Matryoshka",
        tensors(threshold=torch.tensor(torch.nan)),
        "was never estimated",
    ),
    "no threshold": ("dictionary_learning BatchTopKSAE", tensors(threshold=None), "was never estimated"),
    "another k": ("dictionary_learning AutoEncoderTopK", settings(trainer__k=8), "trainer.k is 8; expected 7"),
    "k as a fraction": (
        "dictionary_learning AutoEncoderTopK",
        tensors(k=torch.tensor(7.0)),
        "expected one whole number",
    ),
    "two layers": ("dictionary_learning AutoEncoder", settings(trainer__layer=14), "trainer.layer is 14; expected 15"),
    "class of other arrays": (
        "dictionary_learning AutoEncoderTopK",
        settings(trainer__dict_class="AutoEncoder"),
        "holds b_dec, k, threshold, which an SAE of this format does not have",
    ),
    "no config": ("dictionary_learning BatchTopKSAE", remove("config.json"), "of no known SAE format; it holds b_dec"),
    # OpenMOSS
    "no norms": ("llama_scope R", settings(dataset_average_activation_norm=None), "lacks in or out, which its numbers"),
    "no norm of the output": (
        "llama_scope TC",
        settings(dataset_average_activation_norm={"in": 3.5}),
        "lacks in or out, which its numbers depend on",
    ),
    "norm of 0": (
        "llama_scope R",
        settings(dataset_average_activation_norm__in=0),
        "dataset_average_activation_norm.in is 0; expected a positive number",
    ),
    "norm that is no number": (
        "llama_scope R",
        settings(dataset_average_activation_norm__in="3"),
        "is '3'; expected a number",
    ),
    "norm of each token": (
        "llama_scope R",
        settings(norm_activation="token-wise"),
        "other scalings depend on the batch",
    ),
    "glu": ("llama_scope R", settings(use_glu_encoder=True), "use_glu_encoder is True; expected false"),
    "no decoder norm": ("llama_scope R", settings(sparsity_include_decoder_norm=False), "expected true, as in all of"),
    "subtracting transcoder": (
        "llama_scope TC",
        settings(apply_decoder_bias_to_pre_encoder=True),
        "b_dec belongs to another place",
    ),
    "unknown function": ("llama_scope R", settings(act_fn="gelu"), "act_fn is 'gelu'; expected jumprelu, topk or relu"),
    "no threshold of Llama Scope": (
        "llama_scope R",
        settings(jump_relu_threshold=None),
        "jump_relu_threshold is None; expec",
    ),
    "threshold below 0": ("llama_scope R", settings(jump_relu_threshold=-1), "is -1; expected at least 0"),
    "subtraction unsaid": ("llama_scope R", settings(apply_decoder_bias_to_pre_encoder=None), "expected true or false"),
    "no decoder bias": ("llama_scope R", tensors(**{"decoder.bias": None}), "no array decoder.bias"),
    "a threshold without use": (
        "openmoss jumprelu",
        settings(act_fn="relu"),
        "log_jumprelu_threshold, which an SAE of",
    ),
    "other model width": ("llama_scope R", settings(d_model=24), "d_model is 24; expected 23"),
    "attention": ("openmoss jumprelu", settings(sae_type="lorsa"), "sae_type is 'lorsa'; expected sae"),
    "batch choice": ("openmoss relu", settings(act_fn="batchtopk"), "others choose over a batch"),
    "gated linear": ("openmoss relu", settings(use_glu_encoder=True), "use_glu_encoder is True; expected false"),
    "norm lost": (
        "openmoss jumprelu",
        tensors(**{"dataset_average_activation_norm.blocks.12.hook_resid_post": None}),
        "lacks dataset_average_activation_norm.blocks.12.hook_resid_post, on which its numbers depend",
    ),
    "norm never set": (
        "openmoss jumprelu",
        tensors(**{"dataset_average_activation_norm.blocks.12.hook_resid_post": torch.tensor(0.0)}),
        "is 0; expected the mean norm of activations",
    ),
    "threshold lost": (
        "openmoss jumprelu",
        tensors(**{"activation_function.log_jumprelu_threshold": None}),
        "no array log_jumprelu_threshold, without which it would be plain ReLU",
    ),
    # Gemma Scope 2
    "another layer": (
        "gemma_scope_2 resid_post",
        config(hf_hook_point_in="model.layers.17.output"),
        "'model.layers.17.output' (layers.17.resid_post), but the folders of the weights name layers.22.resid_post",
    ),
    "another site": (
        "gemma_scope_2 attn_out",
        config(hf_hook_point_in="model.layers.9.self_attn.o_proj.output"),
        "(layers.9.self_attn.o_proj.output), but the folders of the weights name layers.9.attn_z",
    ),
    "another output": (
        "gemma_scope_2 transcoder",
        config(hf_hook_point_out="model.layers.17.mlp.output"),
        "hf_hook_point_out is 'model.layers.17.mlp.output'",
    ),
    "another architecture": ("gemma_scope_2 resid_post", config(architecture="topk"), "is 'topk'; expected jump_relu"),
    "a lost affine part": (
        "gemma_scope_2 transcoder",
        config(affine_connection=True),
        "expected false, as in the weights",
    ),
    "negative thresholds": (
        "gemma_scope_2 resid_post",
        tensors(threshold=-torch.ones(D_SAE)),
        "threshold is negative for some feature; no released SAE has that",
    ),
    # Torch files
    "transposed": ("qwen_scope", tensors(W_enc=torch.ones(D_IN, D_SAE)), "W_enc has shape (66, 23); expected (23, 66)"),
    "further things": ("goodfire 70B", tensors(mean=torch.ones(3)), "holds mean, which an SAE of this format"),
}


@pytest.mark.parametrize(("name", "change", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused(tmp_path: Path, name: str, change: Change, told: str) -> None:
    """A release that lacks, contradicts or asks for what cannot be given is refused, and the message says what."""
    theirs = RELEASES[name](tmp_path)
    open_sae(theirs.found)
    change(theirs.path)
    with pytest.raises(SaeError) as caught:
        open_sae(theirs.found)

    assert told in str(caught.value)
    assert str(folder_of(theirs.path)) in str(caught.value)
    assert "\n" not in str(caught.value)


HARMLESS: dict[str, tuple[str, Change]] = {
    "loading that changes nothing": (
        "saelens standard",
        settings(metadata__model_from_pretrained_kwargs={"center_writing_weights": False, "dtype": "bfloat16"}),
    ),
    "every position": ("saelens standard", settings(metadata__seqpos_slice=[None])),
    "unknown settings": ("saelens standard", settings(metadata__my_note="x", noise=3)),
    "a factor of ones": ("saelens standard", tensors(scaling_factor=torch.ones(D_SAE))),
    "old sparsify": ("sparsify topk", settings(activation=None, transcode=None, skip_connection=None, signed=False)),
    "the same place twice": ("gemma_scope_2 resid_post", config(hf_hook_point_in="model.layers.22.output")),
    "the wrapper's path": (
        "gemma_scope_2 mlp_out",
        config(hf_hook_point_in="model.language_model.layers.17.post_feedforward_layernorm.output"),
    ),
    "settings of all layers": ("gemma_scope_2 clt", config(hf_hook_point_in=["a", "b"], l0=50)),
}


@pytest.mark.parametrize(("name", "change"), HARMLESS.values(), ids=HARMLESS)
def test_what_changes_nothing_is_let_through(tmp_path: Path, name: str, change: Change) -> None:
    """Settings without influence on the numbers, or in an older spelling, do not stand in the way."""
    theirs = RELEASES[name](tmp_path)
    before = open_sae(theirs.path)
    change(theirs.path)
    after = open_sae(theirs.path)

    assert (before.hookpoint, before.contest, before.scale_in) == (after.hookpoint, after.contest, after.scale_in)


def test_settings_tell_what_folders_do_not(tmp_path: Path) -> None:
    """A Gemma Scope 2 folder copied elsewhere is placed by its config.json, whose spellings are mended."""
    theirs = RELEASES["gemma_scope_2 transcoder affine"](tmp_path)
    config(
        hf_hook_point_in="model.layers.22.pre_feedforward_layernorm.output",
        hf_hook_point_out="model.layers.22.post_feedforward_layernorm.output",
        model_name="gemma-v3-270m-pt",
        l0=150,
        architecture="jump_relu",
        affine_connection=True,
        type="transcoder",
    )(theirs.path)
    moved = theirs.path.rename(tmp_path / "mine")
    sae = open_sae(moved)

    assert ("layers.22.mlp_in", "layers.22.mlp_out") == (sae.hookpoint, sae.hookpoint_out)
    assert ("google/gemma-3-270m", 150, "jumprelu_transcoder") == (sae.model, sae.declared_l0, sae.architecture)


@pytest.mark.parametrize("name", ["gemma_scope res", "gemma_scope_2 resid_post", "sparsify topk", "goodfire 8B"])
def test_files_under_other_names_say_no_place(tmp_path: Path, name: str) -> None:
    """Where neither files nor folders say where an SAE reads, nothing is made up."""
    theirs = RELEASES[name](tmp_path)
    moved = tmp_path / "mine"
    folder_of(theirs.path).rename(moved)
    (weights,) = [file for file in moved.iterdir() if file.suffix != ".json" and file.stem != "examples"]
    plain = weights.rename(weights.with_stem("weights")) if name == "goodfire 8B" else weights

    assert "" == open_sae(plain).hookpoint


# What the caller says.


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("gemma_scope res", {"k": 50}, "k 50 was given, but this SAE has no use for it; leave it out"),
        ("gemma_scope res", {"norm_factor": 2.0}, "norm_factor 2 was given, but this SAE has no use for it"),
        ("saelens standard", {"norm_factor": 2.0}, "has no use for it"),
        ("saelens topk", {"k": 8}, "k 8 was given, but the files say 7; leave it out"),
        ("dictionary_learning BatchTopKSAE", {"k": 8}, "k 8 was given, but the files say 7"),
        ("qwen_scope", {"k": 50}, "k 50 was given, but the files say 7"),
        ("llama_scope R", {"norm_factor": 5.0}, "norm_factor 5 was given, but the files say 1.37"),
        ("openmoss R1", {"norm_factor": 5.0}, "norm_factor 5 was given, but the files say 1.37"),
    ],
)
def test_what_the_caller_says_in_vain_is_an_error(tmp_path: Path, name: str, given: dict[str, Any], told: str) -> None:
    """A k or a factor that an SAE does not need, or that contradicts its files, is not ignored."""
    assert told in refusal(RELEASES[name](tmp_path).path, **given)


@pytest.mark.parametrize(
    ("name", "given"),
    [("qwen_scope", {"k": 7}), ("saelens topk", {"k": 7}), ("llama_scope R", {"norm_factor": 1.37025})],
)
def test_what_the_caller_says_again_is_no_error(tmp_path: Path, name: str, given: dict[str, Any]) -> None:
    """Agreeing with the files changes nothing, and is no recipe."""
    assert "" == open_sae(FoundSae(RELEASES[name](tmp_path).path, **given)).recipe


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_must_be_one(tmp_path: Path, factor: float) -> None:
    """A factor that would silence or turn everything is refused."""
    theirs = RELEASES["saelens jumprelu expected_average_only_in"](tmp_path)

    assert "expected a positive number" in refusal(theirs.path, norm_factor=factor)


def test_what_the_caller_adds_is_a_recipe(tmp_path: Path) -> None:
    """A value that is in no file is kept with the SAE, so that its digest can tell."""
    theirs = RELEASES["saelens jumprelu expected_average_only_in"](tmp_path)
    qwen = RELEASES["qwen_scope"](tmp_path).path
    alone = tmp_path / "layer5.sae.pt"
    alone.write_bytes(qwen.read_bytes())

    assert "norm_factor=0.37" == open_sae(FoundSae(theirs.path, norm_factor=0.37)).recipe
    assert "say k" in refusal(alone)
    assert "k=9" == open_sae(FoundSae(alone, k=9)).recipe


# What lies in a folder.


def test_a_folder_without_weights_lists_what_it_holds(tmp_path: Path) -> None:
    """A folder with nothing to read says what is there and what was expected."""
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "layer_3").mkdir()
    told = refusal(tmp_path)

    assert "holds no weights of an SAE, but README.md, layer_3/; expected one of params.npz" in told


def test_a_folder_with_several_asks_which(tmp_path: Path) -> None:
    """A folder of many SAEs, as a whole Qwen-Scope repository, is not chosen from."""
    file = RELEASES["qwen_scope"](tmp_path).path
    (file.parent / "layer6.sae.pt").write_bytes(file.read_bytes())

    assert "holds several weights files, layer5.sae.pt, layer6.sae.pt; name one of them" in refusal(file.parent)


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """A name longer than file systems have is an error of the operator's, not a crash."""
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 5000))


def test_a_crosscoder_folder_asks_which_layer(tmp_path: Path) -> None:
    """The layers of a crosscoder are SAEs of their own, and one beyond its folder's is none."""
    file = RELEASES["gemma_scope_2 crosscoder"](tmp_path).path
    beyond = file.rename(file.with_name("params_layer_4.safetensors"))

    assert "holds several weights files, params_layer_0.safetensors" in refusal(file.parent)
    assert "layer 4 of the 4 that its folder names; count from 0" in refusal(beyond)


@pytest.mark.parametrize("name", ["weights.bin", "weights.gguf", "weights"])
def test_other_files_are_no_weights(tmp_path: Path, name: str) -> None:
    """A file of another kind is refused by its ending."""
    file = tmp_path / name
    file.write_bytes(b"x")

    assert "not the weights of an SAE; those end in .npz, .safetensors, .pt, .pth" in refusal(file)


def test_arrays_of_no_sae_are_listed(tmp_path: Path) -> None:
    """A file of other arrays, such as a model's, is refused with what it holds."""
    file = tmp_path / "model.safetensors"
    save_file({"model.embed_tokens.weight": torch.ones(2, 2)}, file)

    assert "of no known SAE format; it holds model.embed_tokens.weight, and beside it there is no JSON file" in refusal(
        file
    )


def test_a_temporal_sae_is_refused_by_its_arrays(tmp_path: Path) -> None:
    """A temporal SAE in its own layout is recognised and refused."""
    file = tmp_path / "latest_ckpt.safetensors"
    save_file({name: torch.ones(3, 3) for name in ("D", "E", "b", "attn_layers.0.q")}, file)

    assert "a temporal SAE reads the whole sequence" in refusal(tmp_path)
