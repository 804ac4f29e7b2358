"""SAEs of random weights in every released layout, and what their publisher's own library makes of the same files."""

import contextlib
import importlib
import importlib.util
import json
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import EntryNotFoundError
from safetensors.torch import save_file

from scopewatch.sources import FoundSae

# Odd sizes, and none equal to another: a transposed matrix does not fit.
D_IN, D_SAE, D_OUT = 23, 66, 19
_PARTLY = {"sparsify", "dictionary_learning", "llamascopium"}
Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Released:
    path: Path
    encode: Encode
    """Every feature's activation, in float64, by the publisher's library or a formula written from its source."""
    reconstruct: Encode | None = None
    """None where the files hold no decoder of their own."""
    given: dict[str, float] = field(default_factory=dict)
    """What `open_sae` must be told."""

    @property
    def found(self) -> FoundSae:
        return FoundSae(self.path, **self.given)


def random_array(name: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Values that make every mistake show: decoder rows of very different norm, biases far from 0."""
    rng = np.random.default_rng([seed, *name.encode()])
    values = rng.normal(size=shape)
    last = name.rpartition(".")[2].lower()
    if "log_jumprelu" in last:
        values = np.log(rng.uniform(0.2, 1.5, size=shape))
    elif last == "threshold":
        values = rng.uniform(0.2, 1.5, size=shape)
    elif "r_mag" in last:
        values *= 0.4
    elif "dec" in name.lower() or last == "w_d":
        along = 1 if "decoder.weight" in name or "decoder_linear.weight" in name else 0
        scale = rng.uniform(0.2, 3.0, size=shape[along])
        values *= 1.5 if len(shape) == 1 else (scale if along else scale.reshape(-1, *[1] * (len(shape) - 1)))
    elif len(shape) == 2:
        values *= 1 / np.sqrt(D_IN)
    return torch.from_numpy(values.astype(np.float32))


def arrays(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name: random_array(name, shape) for name, shape in shapes.items()}


def randomise(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(random_array(name, tuple(parameter.shape)))


def library(package: str, module: str = "") -> Any:
    """A module of a library; of some without the library's `__init__`, which asks for what only training needs."""
    if package in _PARTLY and package not in sys.modules:
        spec = importlib.util.find_spec(package)
        assert spec, f"{package} is not installed; `make test` installs it"
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = list(spec.submodule_search_locations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"{package}.{module}" if module else package)


def published(sae: torch.nn.Module, path: Path, **given: float) -> Released:
    """By a module with `encode` and `decode`."""
    wide = sae.to(dtype=torch.float64)

    def reconstruct(x: torch.Tensor) -> torch.Tensor:
        return wide.decode(wide.encode(x))

    return Released(path, torch.no_grad()(wide.encode), torch.no_grad()(reconstruct), given)


# SAELens, from its own files and through its loaders of others.


@contextlib.contextmanager
def hub_at(root: Path) -> Iterator[None]:
    """SAELens finds `owner/name` on the hub as the folder `name` here."""
    loaders = library("sae_lens", "loading.pretrained_sae_loaders")

    def download(repo_id: str, filename: str, subfolder: str = "", **_: object) -> str:
        file = root / repo_id.rpartition("/")[2] / subfolder / filename
        if not file.exists():
            raise EntryNotFoundError(str(file))
        return str(file)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        from safetensors.torch import load_file

        return {name: list(array.shape) for name, array in load_file(download(repo_id, filename)).items()}

    kept = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = download, shapes
    try:
        yield
    finally:
        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = kept


def by_saelens(root: Path, loader: str, repo: str, folder: str, **overrides: object) -> Any:
    loaders = library("sae_lens", "loading.pretrained_sae_loaders")

    def convert(_path: object, device: str, cfg_overrides: dict[str, Any] | None) -> Any:
        told = {"dtype": "float32"} | overrides | (cfg_overrides or {})
        return loaders.NAMED_PRETRAINED_SAE_LOADERS[loader](repo, folder, device, False, told)[:2]

    with hub_at(root), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return library("sae_lens").SAE.load_from_disk(root, converter=convert)


def with_skip(sae: Any, path: Path, **given: float) -> Released:
    """A transcoder, whose skip connection is in `forward` only."""
    wide = sae.to(dtype=torch.float64)
    return Released(path, torch.no_grad()(wide.encode), torch.no_grad()(wide.forward), given)


def saelens(architecture: str, **cfg: Any) -> Callable[[Path], Released]:
    """Written and read by SAELens."""

    def write(root: Path) -> Released:
        SAE = library("sae_lens").SAE
        settings = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu", "architecture": architecture}
        settings |= {
            "metadata": {"hook_name": "blocks.3.hook_resid_post", "model_name": "m", "sae_lens_version": "6.1"}
        }
        if architecture.endswith("transcoder"):
            settings |= {"d_out": D_OUT, "apply_b_dec_to_input": False}
        factor = {"norm_factor": 0.37} if cfg.get("normalize_activations") == "expected_average_only_in" else {}
        sae = SAE.from_dict(settings | cfg)
        randomise(sae)
        sae.save_model(root / "layer_3")
        loaded = SAE.load_from_disk(root / "layer_3")
        if factor:
            loaded.to(dtype=torch.float64).fold_activation_norm_scaling_factor(factor["norm_factor"])
        return (with_skip if "skip" in architecture else published)(loaded, root / "layer_3", **factor)

    return write


def old_saelens(**cfg: Any) -> Callable[[Path], Released]:
    """With settings as they were before version 6."""

    def write(root: Path) -> Released:
        SAE = library("sae_lens").SAE
        folder = root / "blocks.3.hook_resid_post"
        folder.mkdir()
        shapes = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
        if cfg.get("architecture") == "jumprelu":
            shapes["threshold"] = (D_SAE,)
        if cfg.get("architecture") == "gated":
            shapes |= dict.fromkeys(("b_gate", "b_mag", "r_mag"), (D_SAE,))
            del shapes["b_enc"]
        save_file(arrays(**shapes) | {"scaling_factor": torch.ones(D_SAE)}, folder / "sae_weights.safetensors")
        settings = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "finetuning_scaling_factor": False}
        (folder / "cfg.json").write_text(json.dumps(settings | {"hook_point": "blocks.3.hook_resid_post"} | cfg))
        loaded = SAE.load_from_disk(folder)
        if cfg.get("normalize_activations") is True:
            loaded.to(dtype=torch.float64).fold_activation_norm_scaling_factor(2.5)
            return published(loaded, folder, norm_factor=2.5)
        return published(loaded, folder)

    return write


# Gemma Scope.


def gemma_scope(
    site: str, path: str = "layer_7/width_16k/average_l0_71", *, d_in: int = D_IN
) -> Callable[[Path], Released]:
    def write(root: Path) -> Released:
        repo, d_out = f"gemma-scope-2b-pt-{site}", D_OUT if site == "transcoders" else d_in
        folder = root / repo / path
        folder.mkdir(parents=True)
        parts = arrays(W_enc=(d_in, D_SAE), b_enc=(D_SAE,), threshold=(D_SAE,), W_dec=(D_SAE, d_out), b_dec=(d_out,))
        np.savez_compressed(folder / "params.npz", **{name: array.numpy() for name, array in parts.items()})
        loader = "gemma_2_transcoder" if site == "transcoders" else "gemma_2"
        sizes = {"d_in": d_in, "d_sae": D_SAE} | ({"d_out": d_out} if site == "transcoders" else {})
        sae = by_saelens(root, loader, f"google/{repo}", path, normalize_activations="none", **sizes)
        if path.startswith("embedding"):
            # SAELens fits these to TransformerLens' embedding, which is sqrt(d_in) times the rows they were trained on.
            wide, scale = sae.to(dtype=torch.float64), d_in**0.5
            return Released(folder, torch.no_grad()(lambda x: wide.encode(x * scale)))
        theirs = published(sae, folder / "params.npz")
        if site == "att":
            # SAELens takes the heads apart; the input of o_proj has them side by side.
            return Released(
                theirs.path,
                lambda x: theirs.encode(x.unflatten(-1, (4, -1))),
                lambda x: theirs.reconstruct(x.unflatten(-1, (4, -1))).flatten(-2),
            )
        return theirs

    return write


def gemma_scope_2(folder_name: str, *, skip: bool = False) -> Callable[[Path], Released]:
    def write(root: Path) -> Released:
        d_out = D_OUT if "transcoder" in folder_name else D_IN
        folder = root / "gemma-scope-2-4b-it" / folder_name
        folder.mkdir(parents=True)
        shapes = {"w_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "threshold": (D_SAE,)}
        shapes |= {"w_dec": (D_SAE, d_out), "b_dec": (d_out,)}
        if skip:
            shapes["affine_skip_connection"] = (D_IN, d_out)
        save_file(arrays(**shapes), folder / "params.safetensors")
        save_file({"rows": torch.zeros(3)}, folder / "examples.safetensors")
        sae = by_saelens(root, "gemma_3", "google/gemma-scope-2-4b-it", folder_name)
        if skip:
            return with_skip(sae, folder)
        return published(sae, folder)

    return write


def gemma_scope_2_layer(kind: str, folder_name: str, layer: int) -> Callable[[Path], Released]:
    """One layer of a crosscoder or cross-layer transcoder, its decoder writing to several."""

    def write(root: Path) -> Released:
        folder = root / "gemma-scope-2-1b-pt" / kind / folder_name
        folder.mkdir(parents=True)
        parts = arrays(w_enc=(D_IN, D_SAE), b_enc=(D_SAE,), threshold=(D_SAE,), w_dec=(D_SAE, 4, D_IN), b_dec=(D_IN,))
        for other in range(4):
            save_file(
                parts if other == layer else {"w_enc": torch.ones(1, 1)}, folder / f"params_layer_{other}.safetensors"
            )
        W_enc, b_enc, threshold = (parts[name].double() for name in ("w_enc", "b_enc", "threshold"))

        def encode(x: torch.Tensor) -> torch.Tensor:
            pre = x @ W_enc + b_enc
            return pre * (pre > threshold)

        return Released(folder / f"params_layer_{layer}.safetensors", encode)

    return write


# EleutherAI and dictionary_learning.


def sparsify(
    hookpoint: str = "layers.10", dtype: torch.dtype = torch.float32, **cfg: Any
) -> Callable[[Path], Released]:
    def write(root: Path) -> Released:
        coder = library("sparsify", "sparse_coder").SparseCoder
        config = library("sparsify", "config").SparseCoderConfig(num_latents=D_SAE, k=6, **cfg)
        sae = coder(D_IN, config)
        randomise(sae)
        sae.to(dtype).save_to_disk(root / hookpoint)
        wide = coder.load_from_disk(root / hookpoint).double()

        def encode(x: torch.Tensor) -> torch.Tensor:
            top = wide.encode(x.reshape(-1, D_IN))
            full = torch.zeros(len(top.top_acts), D_SAE, dtype=x.dtype)
            return full.scatter_(-1, top.top_indices, top.top_acts).reshape(*x.shape[:-1], D_SAE)

        def reconstruct(x: torch.Tensor) -> torch.Tensor:
            flat = x.reshape(-1, D_IN)
            top = wide.encode(flat)
            y = wide.decode(top.top_acts, top.top_indices)
            return (y if wide.W_skip is None else y + flat @ wide.W_skip.mT).reshape(x.shape)

        return Released(root / hookpoint, torch.no_grad()(encode), torch.no_grad()(reconstruct))

    return write


def dictionary_learning(name: str, module: str = "dictionary") -> Callable[[Path], Released]:
    def write(root: Path) -> Released:
        theirs = getattr(library("dictionary_learning", module), name)
        takes_k = "TopK" in name
        more = {"k": 7} if takes_k else {}
        more |= {"group_sizes": [16, D_SAE - 16]} if name.startswith("Matryoshka") else {}
        ae = theirs(D_IN, D_SAE, **more)
        randomise(ae)
        if takes_k:
            ae.threshold.fill_(0.6)
        folder = root / "resid_post_layer_15" / "trainer_0"
        folder.mkdir(parents=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 15, "lm_name": "org/model"}
        trainer |= {"submodule_name": "resid_post_layer_15"} | ({"k": 7} if takes_k else {})
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128}}))
        with contextlib.redirect_stdout(None):
            loaded = theirs.from_pretrained(folder / "ae.pt")
        flat = published(loaded, folder)

        def rows(run: Encode) -> Encode:
            return lambda x: run(x.reshape(-1, D_IN)).reshape(*x.shape[:-1], -1)

        return Released(folder, rows(flat.encode), rows(flat.reconstruct))

    return write


# OpenMOSS.


def llama_scope(site: str, *, unit_decoder: bool = False, **changes: Any) -> Callable[[Path], Released]:
    """By the formula of the release's loader; with a decoder of unit norm by SAELens too."""

    def write(root: Path) -> Released:
        folder = root / f"Llama3_1-8B-Base-LX{site}-8x" / f"Llama3_1-8B-Base-L15{site}-8x"
        (folder / "checkpoints").mkdir(parents=True)
        parts = {
            name: random_array(name, shape).bfloat16()
            for name, shape in (
                ("encoder.weight", (D_SAE, D_IN)),
                ("encoder.bias", (D_SAE,)),
                ("decoder.weight", (D_IN, D_SAE)),
                ("decoder.bias", (D_IN,)),
            )
        }
        if unit_decoder:
            # Columns of ones and minus ones, one in each: of norm 1 in bfloat16, too.
            parts["decoder.weight"] = (
                torch.nn.functional.one_hot(torch.arange(D_SAE) % D_IN, D_IN).T.bfloat16().contiguous()
            )
        save_file(parts, folder / "checkpoints" / "final.safetensors")
        reads, writes = ("ln2.hook_normalized", "hook_mlp_out") if site == "TC" else ("hook_resid_post",) * 2
        norms = {"in": 3.5, "out": 1.7 if site == "TC" else 3.5}
        settings = {
            "hook_point_in": f"blocks.15.{reads}",
            "hook_point_out": f"blocks.15.{writes}",
            "use_decoder_bias": True,
            "apply_decoder_bias_to_pre_encoder": False,
            "d_model": D_IN,
            "d_sae": D_SAE,
            "act_fn": "jumprelu",
            "jump_relu_threshold": 0.75390625,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": norms,
            "sparsity_include_decoder_norm": True,
            "use_glu_encoder": False,
            "top_k": 7,
        } | changes
        (folder / "hyperparams.json").write_text(json.dumps(settings))
        if unit_decoder:
            repo = f"fnlp/{folder.parent.name}"
            sae = by_saelens(root, "llama_scope", repo, folder.name).to(dtype=torch.float64)
            sae.fold_activation_norm_scaling_factor(D_IN**0.5 / norms["in"])
            # SAELens leaves activations on the scale of the training, which is s_in times that of the reader.
            return Released(
                folder,
                torch.no_grad()(lambda x: sae.encode(x) * norms["in"] / D_IN**0.5),
                published(sae, folder).reconstruct,
            )
        W_enc, b_enc, W_dec, b_dec = (array.double() for array in parts.values())
        s_in, s_out = (D_IN**0.5 / norms[end] for end in ("in", "out"))
        n = W_dec.norm(dim=0) * s_in / s_out

        def encode(x: torch.Tensor) -> torch.Tensor:
            a = n * (x @ W_enc.T + b_enc / s_in)
            if settings["act_fn"] == "topk":
                top = torch.relu(a).topk(7, dim=-1)
                return torch.zeros_like(a).scatter_(-1, top.indices, top.values)
            return a * (a > settings["jump_relu_threshold"])

        return Released(folder, encode, lambda x: encode(x) @ (W_dec / W_dec.norm(dim=0)).T + b_dec / s_out)

    return write


def openmoss(*, transcodes: bool = False, **cfg: Any) -> Callable[[Path], Released]:
    """Written and read by llamascopium, whose normalisation of activations is a step of its own."""

    def write(root: Path) -> Released:
        models = library("llamascopium", "models.sae")
        reads = "blocks.12.hook_resid_post"
        writes = "blocks.12.hook_mlp_out" if transcodes else reads
        config = models.SAEConfig(
            hook_point_in=reads,
            hook_point_out=writes,
            d_model=D_IN,
            expansion_factor=D_SAE / D_IN + 1e-9,
            dtype=torch.float32,
            device="cpu",
            top_k=7,
            **cfg,
        )
        sae = models.SparseAutoEncoder(config)
        randomise(sae)
        sae.set_dataset_average_activation_norm({reads: 3.5, writes: 1.7 if transcodes else 3.5})
        folder = root / "L12R"
        sae.save_pretrained(folder)
        config.save_hyperparameters(folder)
        wide = models.SparseAutoEncoder.from_pretrained(str(folder), dtype=torch.float64)

        def encode(x: torch.Tensor) -> torch.Tensor:
            return wide.encode(wide.normalize_activations({reads: x})[reads])

        def reconstruct(x: torch.Tensor) -> torch.Tensor:
            _, scales = wide.normalize_activations({reads: x, writes: x}, return_scale_factor=True)
            return wide.denormalize_activations({writes: wide.decode(encode(x))}, scales)[writes]

        return Released(folder, torch.no_grad()(encode), torch.no_grad()(reconstruct))

    return write


def r1_distill(root: Path) -> Released:
    """The older layout of OpenMOSS, read by SAELens."""
    folder = root / "Llama-Scope-R1-Distill" / "L10R"
    folder.mkdir(parents=True)
    names = {
        "encoder.weight": (D_SAE, D_IN),
        "encoder.bias": (D_SAE,),
        "decoder.weight": (D_IN, D_SAE),
        "decoder.bias": (D_IN,),
        "log_jumprelu_threshold": (D_SAE,),
    }
    hook = "blocks.10.hook_resid_post"
    norm = {f"dataset_average_activation_norm.{hook}": torch.tensor(3.5)}
    save_file(
        {name: random_array(name, shape) for name, shape in names.items()} | norm, folder / "sae_weights.safetensors"
    )
    settings = {
        "sae_type": "sae",
        "hook_point_in": hook,
        "hook_point_out": hook,
        "d_model": D_IN,
        "expansion_factor": 3,
    }
    settings |= {"act_fn": "jumprelu", "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": False}
    (folder / "config.json").write_text(json.dumps(settings | {"jump_relu_threshold": 0.0, "top_k": 50}))
    repo = "fnlp/Llama-Scope-R1-Distill"
    sae = by_saelens(root, "llama_scope_r1_distill", repo, "L10R", d_sae=D_SAE).to(dtype=torch.float64)
    sae.fold_activation_norm_scaling_factor(D_IN**0.5 / 3.5)
    return published(sae, folder)


# Single torch files.


def torch_release(
    loader: str, repo: str, file_name: str, names: dict[str, tuple[int, ...]]
) -> Callable[[Path], Released]:
    def write(root: Path) -> Released:
        folder = root / repo.rpartition("/")[2]
        folder.mkdir()
        torch.save({name: random_array(name, shape) for name, shape in names.items()}, folder / file_name)
        sae = by_saelens(root, loader, repo, file_name, d_in=D_IN, d_sae=D_SAE)
        return published(sae, folder / file_name)

    return write


def linear(suffix: str) -> dict[str, tuple[int, ...]]:
    return {
        f"encoder{suffix}.weight": (D_SAE, D_IN),
        f"encoder{suffix}.bias": (D_SAE,),
        f"decoder{suffix}.weight": (D_IN, D_SAE),
        f"decoder{suffix}.bias": (D_IN,),
    }


QWEN = {"W_enc": (D_SAE, D_IN), "W_dec": (D_IN, D_SAE), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
_NORMS = ("expected_average_only_in", "layer_norm", "constant_norm_rescale")

RELEASES: dict[str, Callable[[Path], Released]] = {
    **{f"gemma_scope {site}": gemma_scope(site) for site in ("res", "mlp", "transcoders")},
    "gemma_scope att": gemma_scope("att", d_in=28),
    "gemma_scope embedding": gemma_scope("res", "embedding/width_4k/average_l0_44"),
    "gemma_scope_2 resid_post": gemma_scope_2("resid_post/layer_22_width_65k_l0_medium"),
    "gemma_scope_2 resid_post_all": gemma_scope_2("resid_post_all/layer_5_width_16k_l0_small"),
    "gemma_scope_2 attn_out": gemma_scope_2("attn_out/layer_9_width_16k_l0_big"),
    "gemma_scope_2 mlp_out": gemma_scope_2("mlp_out/layer_17_width_262k_l0_small_seed_1"),
    "gemma_scope_2 transcoder": gemma_scope_2("transcoder/layer_17_width_262k_l0_big"),
    "gemma_scope_2 transcoder affine": gemma_scope_2("transcoder_all/layer_3_width_16k_l0_big_affine", skip=True),
    "gemma_scope_2 crosscoder": gemma_scope_2_layer("crosscoder", "layer_7_13_17_22_width_262k_l0_medium", 2),
    "gemma_scope_2 clt": gemma_scope_2_layer("clt", "width_262k_l0_big_affine", 3),
    **{f"saelens {name}": saelens(name) for name in ("standard", "gated", "jumprelu", "transcoder", "skip_transcoder")},
    **{f"saelens {name}": saelens(name) for name in ("jumprelu_transcoder", "jumprelu_skip_transcoder")},
    "saelens uncentred": saelens("standard", apply_b_dec_to_input=False),
    "saelens topk": saelens("topk", k=7),
    "saelens topk rescaled": saelens("topk", k=7, rescale_acts_by_decoder_norm=True),
    "saelens topk rescaled and normalised": saelens(
        "topk", k=7, rescale_acts_by_decoder_norm=True, normalize_activations="expected_average_only_in"
    ),
    **{f"saelens jumprelu {how}": saelens("jumprelu", normalize_activations=how) for how in _NORMS},
    **{f"saelens gated {how}": saelens("gated", normalize_activations=how) for how in _NORMS},
    "saelens transcoder layer_norm": saelens("skip_transcoder", normalize_activations="layer_norm"),
    "saelens before 6": old_saelens(activation_fn_str="relu", normalize_activations=None),
    "saelens before 6 normalised": old_saelens(normalize_activations=True, apply_b_dec_to_input=False),
    "saelens before 6 topk": old_saelens(activation_fn_str="topk", activation_fn_kwargs={"k": 7}),
    "saelens before 6 jumprelu": old_saelens(architecture="jumprelu", normalize_activations=False),
    "saelens before 6 gated": old_saelens(architecture="gated", sae_lens_version="5.10.2"),
    "sparsify topk": sparsify(activation="topk"),
    "sparsify topk bfloat16": sparsify(dtype=torch.bfloat16),
    "sparsify topk float16": sparsify(dtype=torch.float16),
    "sparsify groupmax": sparsify(activation="groupmax"),
    "sparsify transcoder": sparsify("layers.10.mlp", transcode=True),
    "sparsify skip transcoder": sparsify("layers.10.mlp", transcode=True, skip_connection=True),
    "sparsify groupmax transcoder": sparsify("layers.10.mlp", transcode=True, activation="groupmax"),
    **{
        f"dictionary_learning {name}": dictionary_learning(name)
        for name in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder")
    },
    "dictionary_learning AutoEncoderTopK": dictionary_learning("AutoEncoderTopK", "trainers.top_k"),
    "dictionary_learning BatchTopKSAE": dictionary_learning("BatchTopKSAE", "trainers.batch_top_k"),
    "dictionary_learning Matryoshka": dictionary_learning("MatryoshkaBatchTopKSAE", "trainers.matryoshka_batch_top_k"),
    "llama_scope R": llama_scope("R"),
    "llama_scope R by SAELens": llama_scope("R", unit_decoder=True),
    "llama_scope TC": llama_scope("TC"),
    "llama_scope topk": llama_scope("R", act_fn="topk", jump_relu_threshold=0.0),
    "openmoss jumprelu": openmoss(act_fn="jumprelu"),
    "openmoss jumprelu plain": openmoss(act_fn="jumprelu", sparsity_include_decoder_norm=False),
    "openmoss topk": openmoss(act_fn="topk"),
    "openmoss relu": openmoss(act_fn="relu", use_decoder_bias=False),
    "openmoss folded": openmoss(act_fn="jumprelu", norm_activation="inference"),
    "openmoss transcoder": openmoss(act_fn="jumprelu", transcodes=True),
    "openmoss R1": r1_distill,
    "goodfire 70B": torch_release(
        "goodfire", "Goodfire/Llama-3.3-70B-Instruct-SAE-l50", "Llama-3.3-70B-Instruct-SAE-l50.pt", linear("_linear")
    ),
    "goodfire 8B": torch_release(
        "goodfire", "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth", linear("_linear")
    ),
    "qresearch": torch_release(
        "deepseek_r1",
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
        "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
        linear(""),
    ),
    "qwen_scope": torch_release("qwen_scope", "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_7", "layer5.sae.pt", QWEN),
}
