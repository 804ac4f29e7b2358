"""SAELens: `sae_weights.safetensors` and `cfg.json`, before and after version 6 (sae_lens/saes/*.py of 6.54.12).

W_enc (d_in, d_sae), W_dec (d_sae, d_out), b_dec (d_out,) and, by architecture, b_enc, threshold, the gate's b_gate,
b_mag and r_mag (d_sae,), W_skip (d_out, d_in). After version 6 what concerns the model is under `metadata`; before, all
is flat and some names differ.
"""

from dataclasses import replace
from typing import Any

from scopewatch.errors import SaeError
from scopewatch.sae.encoder import Contest, Normalise, Training
from scopewatch.sae.formats import Format
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.settings import Settings
from scopewatch.sae.tensors import TensorFile
from scopewatch.sae.weights import Sae

_ARRAYS = {
    "standard": {"b_enc"},
    "topk": {"b_enc"},
    "jumprelu": {"b_enc", "threshold"},
    "gated": {"b_gate", "b_mag", "r_mag"},
    "transcoder": {"b_enc"},
    "skip_transcoder": {"b_enc", "W_skip"},
    "jumprelu_transcoder": {"b_enc", "threshold"},
    "jumprelu_skip_transcoder": {"b_enc", "threshold", "W_skip"},
}
_BATCH = "chooses features over a whole batch; SAELens saves such SAEs as jumprelu for use, and this one was not"
_REFUSED = {
    "batchtopk": _BATCH,
    "matryoshka_batchtopk": _BATCH,
    "temporal": "reads the whole sequence, so its features have no value of their own",
    "matching_pursuit": "chooses features one after the other, so none has a value of its own",
    "abstopk": "lets features fire below 0, which no indicator here means",
}
_PER_TOKEN: dict[str, Normalise] = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "root_d"}
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
# Ways of loading the model that leave its activations as they are.
_HARMLESS = {
    *("dtype", "torch_dtype", "device", "device_map", "n_devices", "n_ctx", "trust_remote_code", "low_cpu_mem_usage"),
    *("attn_implementation", "default_prepend_bos", "default_padding_side", "token", "center_unembed"),
}


def _open(files: SaeFiles) -> Sae:
    arrays, cfg = files.weights, _current(files.settings("cfg.json"))
    architecture, metadata = _architecture(cfg), cfg.nested("metadata")
    _refuse_other_readings(cfg, metadata)
    _check_arrays(arrays, architecture, cfg)
    transcodes = architecture.endswith("transcoder")
    if transcodes and cfg.flag("apply_b_dec_to_input", False):
        raise cfg.wrong("apply_b_dec_to_input", "false: b_dec of a transcoder belongs to another place")
    hookpoint = metadata.text("hf_hook_name", metadata.text("hook_name", ""))
    gated = architecture == "gated"
    sae = Sae(
        format="saelens",
        architecture=architecture,
        hookpoint=hookpoint,
        hookpoint_out=metadata.text("hf_hook_name_out", metadata.text("hook_name_out", "")) or hookpoint,
        W_enc=arrays["W_enc"],
        b_enc=arrays["b_gate" if gated else "b_enc"],
        r_mag=arrays["r_mag"] if gated else None,
        b_mag=arrays["b_mag"] if gated else None,
        threshold=arrays["threshold"] if "threshold" in _ARRAYS[architecture] else 0.0,
        W_dec=arrays["W_dec"],
        b_dec=arrays["b_dec"],
        W_skip=arrays["W_skip"].T if "W_skip" in _ARRAYS[architecture] else None,
        subtracts_b_dec=not transcodes and cfg.flag("apply_b_dec_to_input", True),
        files=(files.file, cfg.file),
        model=metadata.text("model_name", ""),
        training=_training(metadata),
    )
    sae = _normalised(sae, files, cfg, denormalises=not transcodes)
    rescales = cfg.flag("rescale_acts_by_decoder_norm", False)
    if architecture != "topk":
        if rescales:
            raise cfg.wrong(
                "rescale_acts_by_decoder_norm", "false: SAELens folds it in when it saves, and here did not"
            )
        return sae
    k = int(files.settle("k", cfg.integer("k"), ""))
    return replace(
        sae,
        contest=Contest(group=sae.d_sae, winners=k),
        # The norm meant is that of the decoder after folding, 1 / scale_in of the norm in the file.
        gain_scale=1 / sae.scale_in if rescales else None,
        declared_l0=float(k),
    )


def _architecture(cfg: Settings) -> str:
    """The architecture, if it is one whose features have a value of their own on each token."""
    architecture = cfg.text("architecture")
    if architecture not in _ARRAYS:
        reason = _REFUSED.get(architecture, f"expected one of {', '.join(_ARRAYS)}")
        raise SaeError(f"{cfg.file}: architecture {architecture!r} {reason}")
    return architecture


def _check_arrays(arrays: TensorFile, architecture: str, cfg: Settings) -> None:
    """Refuses arrays that SAELens does not know, or that are not as large as the settings say."""
    arrays.only({"W_enc", "W_dec", "b_dec", "scaling_factor"} | _ARRAYS[architecture])
    if "scaling_factor" in arrays and not (arrays["scaling_factor"].read() == 1).all():
        raise SaeError(f"{arrays.file}: scaling_factor is not 1; SAELens 6 does not read such an SAE either")
    W_enc, W_dec = arrays["W_enc"].expect(-1, -1), arrays["W_dec"].expect(-1, -1)
    cfg.agree("d_in", W_enc.shape[0])
    cfg.agree("d_sae", W_enc.shape[1])
    cfg.agree("d_out", W_dec.shape[1])


def _current(cfg: Settings) -> Settings:
    """The settings as version 6 of SAELens writes them."""
    version = cfg.nested("metadata").text("sae_lens_version", cfg.text("sae_lens_version", "0"))
    if not version.partition(".")[0].isdecimal():
        raise cfg.wrong("sae_lens_version", "a version such as 6.54.12")
    if int(version.partition(".")[0]) >= 6:
        return cfg
    old: dict[str, Any] = {_OLD_NAMES.get(name, name): value for name, value in cfg.values.items()}
    flat = Settings(cfg.file, old)
    activation = flat.text("activation_fn", "relu")
    if activation not in {"relu", "topk"}:
        raise flat.wrong("activation_fn", "relu or topk")
    if activation == "topk":
        kwargs = flat.nested("activation_fn_kwargs")
        old |= {"architecture": "topk", "k": kwargs.integer("k")}
    if isinstance(old.get("normalize_activations"), bool):
        old["normalize_activations"] = "expected_average_only_in" if old["normalize_activations"] else "none"
    present = {name: value for name, value in old.items() if value is not None}
    about_the_model = {**cfg.nested("metadata").values, **present}
    return Settings(cfg.file, {"architecture": "standard", **present, "metadata": about_the_model})


def _normalised(sae: Sae, files: SaeFiles, cfg: Settings, *, denormalises: bool) -> Sae:
    """The SAE with the normalisation that its settings ask for."""
    how = cfg.text("normalize_activations", "none")
    if how in _PER_TOKEN:
        return replace(sae, normalise=_PER_TOKEN[how], denormalises=denormalises and how != "none")
    if how == "expected_average_only_in":
        factor = files.settle(
            "norm_factor",
            None,
            "was trained on activations multiplied by one factor, sqrt(d_in) / mean ||x||, which its files lack; say "
            "it as norm_factor (norm_scaling_factor in SAELens' list of releases)",
        )
        return replace(sae, scale_in=factor, scale_out=factor)
    if how == "covariance_whitening":
        raise cfg.wrong("normalize_activations", "none: SAELens folds the whitening in when it saves, and here did not")
    raise cfg.wrong("normalize_activations", ", ".join([*_PER_TOKEN, "expected_average_only_in"]))


def _training(metadata: Settings) -> Training:
    """What the SAE was trained on: with BOS or without, and on which tokens not."""
    excluded = metadata.values.get("exclude_special_tokens")
    # All special tokens belong to no segment anyway; where they are listed, the reader's have to be these.
    if isinstance(excluded, bool) or excluded is None:
        excluded = []
    if not isinstance(excluded, list) or not all(type(token) is int and token >= 0 for token in excluded):
        raise metadata.wrong("exclude_special_tokens", "true, false or a list of token ids")
    bos = metadata.flag("prepend_bos") if "prepend_bos" in metadata else None
    return Training(prepend_bos=bos, excluded_tokens=tuple(excluded))


def _refuse_other_readings(cfg: Settings, metadata: Settings) -> None:
    """Refuses settings that make the SAE read something else than its hookpoint's whole vectors."""
    for name in ("hook_head_index", "hook_head_index_out"):
        if name in metadata:
            raise metadata.wrong(name, "null: an SAE of one attention head is not supported")
    positions = metadata.values.get("seqpos_slice")
    if positions is not None and (not isinstance(positions, list) or any(part is not None for part in positions)):
        raise metadata.wrong("seqpos_slice", "null: the SAE was trained on some token positions only")
    reshapes = cfg.text("reshape_activations", "none")
    hook = metadata.text("hook_name", "")
    # hook_z puts the heads side by side, as the input of o_proj has them anyway.
    if reshapes not in {"none", "hook_z"} or (reshapes == "hook_z" and hook and not hook.endswith("_z")):
        raise cfg.wrong("reshape_activations", "none, or hook_z for an SAE of attn.hook_z")
    loading = metadata.nested("model_from_pretrained_kwargs").values
    if changes := [name for name, value in loading.items() if value and name not in _HARMLESS]:
        raise SaeError(
            f"{cfg.file}: model_from_pretrained_kwargs asks for {', '.join(changes)}, which changes the activations "
            "that the SAE was trained on; the reader here is the model as it was published"
        )


def _refuse_temporal(files: SaeFiles) -> Sae:
    raise SaeError(f"{files.file}: a temporal SAE reads the whole sequence; its features have no value of their own")


FORMATS = (
    Format("saelens", (".safetensors",), _open, ("W_dec",), ambiguity=3),
    Format("temporal", (".safetensors",), _refuse_temporal, ("D", "b"), ambiguity=2),
)
