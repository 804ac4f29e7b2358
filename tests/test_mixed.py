"""One watchlist over SAEs of several formats, sites and layers: one forward pass, and each SAE's own numbers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch.nn import functional
from transformers import Gemma2ForCausalLM

from conftest import HIDDEN, save_reader
from scopewatch.config import Config
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import choices
from scopewatch.types import Activations
from scopewatch.watch.watchlist import load_watchlist

Dense = NDArray[np.float64]
D_SAE = 48
HEADS_WIDTH = 64
FEATURES = list(range(47, -1, -2))


def arrays(seed: int, d_in: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (d_in, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, d_in), "b_dec": (d_in,)}
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    drawn["b_dec"] *= 0.1
    return drawn | {"threshold": rng.uniform(0.1, 1, D_SAE).astype(np.float32)}


def save_npz(folder: Path, a: dict[str, Any]) -> None:
    np.savez_compressed(folder / "params.npz", **a)


def save_lens(cfg: dict[str, Any]) -> Callable[[Path, dict[str, Any]], None]:
    def save(folder: Path, a: dict[str, Any]) -> None:
        common = {"d_in": a["W_enc"].shape[0], "d_sae": D_SAE, "dtype": "float32", "normalize_activations": "none"}
        metadata = {"sae_lens_version": "6.54.12", "hook_name": cfg.pop("hook_name")}
        (folder / "cfg.json").write_text(json.dumps(common | cfg | {"metadata": metadata}))
        save_file({name: a[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}, folder / "sae_weights.safetensors")

    return save


def save_sparsify(folder: Path, a: dict[str, Any]) -> None:
    cfg = {"activation": "groupmax", "num_latents": D_SAE, "k": 6, "d_in": a["W_enc"].shape[0], "transcode": False}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    renamed = {"encoder.weight": np.ascontiguousarray(a["W_enc"].T), "encoder.bias": a["b_enc"]}
    save_file(renamed | {"W_dec": a["W_dec"], "b_dec": a["b_dec"]}, folder / "sae.safetensors")


def save_dictionary(folder: Path, a: dict[str, Any]) -> None:
    state = {
        "W_enc": a["W_enc"],
        "b_enc": a["b_enc"],
        "W_dec": a["W_dec"],
        "b_dec": a["b_dec"],
        "threshold": a["threshold"],
    }
    torch.save({name: torch.from_numpy(values) for name, values in state.items()}, folder / "ae.pt")
    trainer = {
        "dict_class": "JumpReluAutoEncoder",
        "activation_dim": a["W_enc"].shape[0],
        "dict_size": D_SAE,
        "layer": 0,
        "submodule_name": None,
    }
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))


def jump(x: Dense, a: dict[str, Any]) -> Dense:
    pre = x @ a["W_enc"].astype(float) + a["b_enc"]
    return np.where(pre > a["threshold"], pre, 0)


def top(x: Dense, a: dict[str, Any]) -> Dense:
    pre = np.maximum((x - a["b_dec"]) @ a["W_enc"].astype(float) + a["b_enc"], 0)
    return np.where(pre >= np.sort(pre, axis=-1)[:, -5:-4], pre, 0)


def group_max(x: Dense, a: dict[str, Any]) -> Dense:
    pre = np.maximum((x - a["b_dec"]) @ a["W_enc"].astype(float) + a["b_enc"], 0).reshape(len(x), 6, -1)
    return np.where(pre == pre.max(axis=-1, keepdims=True), pre, 0).reshape(len(x), -1)


@dataclass(frozen=True)
class Case:
    """An SAE of one format, and where it reads on the untouched model."""

    folder: str
    site: str
    save: Callable[[Path, dict[str, Any]], None]
    encode: Callable[[Dense, dict[str, Any]], Dense]
    d_in: int = HIDDEN


CASES = {
    "att": Case("gemma-scope-2b-pt-att/layer_1/width_16k/average_l0_80", "z1", save_npz, jump, HEADS_WIDTH),
    "tc": Case("gemma-scope-2b-pt-transcoders/layer_2/width_16k/average_l0_20", "unit2", save_npz, jump),
    "words": Case("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", "embedding", save_npz, jump),
    "lens": Case(
        "lens",
        "pre3",
        save_lens(
            {"architecture": "topk", "k": 5, "apply_b_dec_to_input": True, "hook_name": "blocks.3.hook_resid_pre"}
        ),
        top,
    ),
    "groups": Case("layers.1.mlp", "mlp1", save_sparsify, group_max),
    "learned": Case("resid_post_layer_0", "post0", save_dictionary, jump),
    "res": Case("gemma-scope-2b-pt-res/layer_2/width_16k/average_l0_80", "post2", save_npz, jump),
}


@dataclass(frozen=True)
class Mixed:
    engine: Engine
    reader: Path
    arrays: dict[str, dict[str, NDArray[np.float32]]]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    folder = tmp_path_factory.mktemp("mixed")
    reader = save_reader(folder / "reader", head_dim=16)
    drawn = {name: arrays(seed, case.d_in) for seed, (name, case) in enumerate(CASES.items())}
    for name, case in CASES.items():
        place = folder / case.folder
        place.mkdir(parents=True)
        case.save(place, drawn[name])
    features = [{"feature": f"{name}/{index}"} for name in CASES for index in FEATURES]
    (folder / "watchlist.yaml").write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "name": "mixed",
                "reader": {"path": "reader"},
                "saes": {name: {"path": case.folder} for name, case in CASES.items()},
                "indicators": [{"name": "all", "features": features, "threshold": 0}],
            }
        )
    )
    engine = build_engine(*choices([load_watchlist(folder / "watchlist.yaml")]), Config(pack_dir=""))
    return Mixed(engine, reader, drawn)


def sites(reader: Path, ids: NDArray[np.int32]) -> dict[str, Dense]:
    """What the untouched model holds at the places the SAEs read, by hooks written out here."""
    model = Gemma2ForCausalLM.from_pretrained(reader, attn_implementation="eager")
    layers: Any = model.model.layers
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, *, after: bool) -> Callable[..., None]:
        def hook(_module: object, inputs: tuple[torch.Tensor, ...], output: Any = None) -> None:
            value = output if after else inputs[0]
            found[name] = (value[0] if isinstance(value, tuple) else value)[0]

        return hook

    layers[1].self_attn.o_proj.register_forward_pre_hook(keep("z1", after=False))
    layers[2].pre_feedforward_layernorm.register_forward_pre_hook(keep("mid2", after=False))
    layers[3].register_forward_pre_hook(keep("pre3", after=False))
    layers[1].mlp.register_forward_hook(keep("mlp1", after=True))
    layers[0].register_forward_hook(keep("post0", after=True))
    layers[2].register_forward_hook(keep("post2", after=True))
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    with torch.no_grad():
        model(input_ids=tokens)
    middle = found["mid2"].double()
    found["unit2"] = middle * torch.rsqrt(middle.pow(2).mean(-1, keepdim=True) + 1e-6)
    found["embedding"] = functional.embedding(tokens[0], model.get_input_embeddings().weight)
    return {name: values.detach().double().numpy() for name, values in found.items()}


def test_each_sae_gives_its_own_numbers_in_one_pass(mixed: Mixed) -> None:
    """Seven SAEs of five formats at seven places equal their formulas on the untouched model, in a ragged batch."""
    rng = np.random.default_rng(1)
    batch = [np.concatenate([[2], rng.integers(6, 500, n)]).astype(np.int32) for n in (30, 9, 41)]
    passes: list[object] = []
    mixed.engine.runner._reader.model.register_forward_pre_hook(lambda *_: passes.append(1))  # type: ignore[union-attr]
    encoded = mixed.engine.runner(batch)

    assert len(passes) <= len(batch)
    columns = [str(feature) for feature in mixed.engine.identity.features]
    for ids, found in zip(batch, encoded.activations, strict=True):
        assert isinstance(found, Activations)
        actual = np.zeros((len(ids), len(columns)))
        actual[found.token, found.column] = found.value
        there = sites(mixed.reader, ids)
        for name, case in CASES.items():
            expected = case.encode(there[case.site], mixed.arrays[name])[:, sorted(FEATURES)]
            mine = actual[:, [columns.index(f"{name}/{index}") for index in sorted(FEATURES)]]
            assert (expected > 0).any(), name
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def test_the_engine_says_what_it_reads(mixed: Mixed) -> None:
    """Format, architecture and hookpoint of each SAE are told."""
    assert {
        "att": ("gemma_scope", "jumprelu", "layers.1.attn_z"),
        "groups": ("sparsify", "groupmax", "layers.1.mlp.output"),
        "learned": ("dictionary_learning", "jumprelu", "layers.0.resid_post"),
        "lens": ("saelens", "topk", "layers.3.resid_pre"),
        "res": ("gemma_scope", "jumprelu", "layers.2.resid_post"),
        "tc": ("gemma_scope", "jumprelu_transcoder", "layers.2.mlp_in_unit"),
        "words": ("gemma_scope", "jumprelu", "embed"),
    } == {sae.name: (sae.format, sae.architecture, sae.hookpoint) for sae in mixed.engine.identity.saes}
