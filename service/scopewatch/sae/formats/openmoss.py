"""OpenMOSS after Llama Scope (Llama-Scope-R1-Distill, Llama-Scope-2): `sae_weights.safetensors` and `config.json`.

W_E (d_in, d_sae), b_E, W_D (d_sae, d_out), b_D or, in the older ones, encoder.weight (d_sae, d_in) and so on as in
Llama Scope; `log_jumprelu_threshold` (d_sae,), perhaps under `activation_function.`; for dataset-wise normalisation
`dataset_average_activation_norm.{hookpoint}`. With s_in = sqrt(d_in) / norm_in, s_out likewise (llamascopium 2.0,
models/sae.py and models/sparse_dictionary.py, `normalize_activations` then `encode`):

    f_j = s_in * x @ W_E_j + b_E_j where f_j * ||W_D_j|| > exp(log_jumprelu_threshold_j)
    y   = (f @ W_D + b_D) / s_out

The norm is left out unless sparsity_include_decoder_norm. The library's other way, to fold the scales in
(`standardize_parameters_of_dataset_norm`), divides f by s_in but not the threshold, which makes another SAE than the
one that was trained; SAELens does as above.
"""

import math
from dataclasses import replace

import numpy as np

from scopewatch.errors import SaeError
from scopewatch.sae.encoder import Contest
from scopewatch.sae.formats import Format
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.settings import Settings
from scopewatch.sae.tensors import Tensor
from scopewatch.sae.weights import Sae

_SPELT = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")
_NORM = "dataset_average_activation_norm."


def _open(files: SaeFiles) -> Sae:
    arrays, config = files.weights, files.settings("config.json")
    if config.text("sae_type", "sae") != "sae":
        raise config.wrong("sae_type", "sae: the others read several places or the whole sequence")
    for name in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        if config.flag(name, False):
            raise config.wrong(name, "false")
    reads = config.text("hook_point_in")
    writes = config.text("hook_point_out", reads)
    W_enc, b_enc, W_dec, b_dec = _matrices(files, config)
    activation = config.text("act_fn").lower()
    thresholds = _SPELT if activation == "jumprelu" else ()
    arrays.only({t.name for t in (W_enc, b_enc, W_dec, b_dec) if t} | {*thresholds, _NORM + reads, _NORM + writes})
    config.agree("d_model", W_enc.expect(-1, -1).shape[0])
    s_in, s_out = _scales(files, config, reads, writes, W_enc.shape[0])
    sae = Sae(
        format="openmoss",
        architecture={"relu": "standard"}.get(activation, activation) + ("" if writes == reads else "_transcoder"),
        hookpoint=reads,
        hookpoint_out=writes,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        scale_in=s_in,
        scale_out=s_out,
        gain_scale=1.0 if config.flag("sparsity_include_decoder_norm", True) else None,
        gain_only_decides=config.flag("sparsity_include_decoder_norm", True),
        files=(files.file, config.file),
    )
    return _activated(sae, files, config, activation)


def _activated(sae: Sae, files: SaeFiles, config: Settings, activation: str) -> Sae:
    """The SAE with its activation function."""
    if activation == "jumprelu":
        threshold = next((files.weights[name] for name in _SPELT if name in files.weights), None)
        if threshold is None:
            raise SaeError(f"{files.file}: no array {_SPELT[0]}, without which it would be plain ReLU")
        with np.errstate(over="ignore"):
            return replace(sae, threshold=np.exp(threshold.expect(sae.d_sae).read()))
    if activation == "topk":
        k = config.integer("top_k")
        return replace(sae, contest=Contest(sae.d_sae, k), declared_l0=float(k))
    if activation == "relu":
        return sae
    raise config.wrong("act_fn", "relu, jumprelu or topk: others choose over a batch or over layers")


def _matrices(files: SaeFiles, config: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The encoder and its bias, the decoder and its bias; None for a decoder bias that is not used."""
    arrays, has_b_dec = files.weights, config.flag("use_decoder_bias", True)
    if "W_E" in arrays:
        return arrays["W_E"], arrays["b_E"], arrays["W_D"], arrays["b_D"] if has_b_dec else None
    b_dec = arrays["decoder.bias"] if has_b_dec else None
    return arrays["encoder.weight"].T, arrays["encoder.bias"], arrays["decoder.weight"].T, b_dec


def _scales(files: SaeFiles, config: Settings, reads: str, writes: str, d_in: int) -> tuple[float, float]:
    """s_in and s_out of the formula above."""
    how = config.text("norm_activation", "dataset-wise")
    if how == "inference":
        return 1.0, 1.0
    if how != "dataset-wise":
        raise config.wrong("norm_activation", "dataset-wise or inference: other scalings depend on the batch")
    s_in, s_out = (_scale(files.weights.get(_NORM + hook), d_in) for hook in (reads, writes))
    factor = files.settle(
        "norm_factor",
        s_in,
        f"lacks {_NORM}{reads}, on which its numbers depend; say sqrt(d_in) / mean ||x|| as norm_factor",
    )
    if s_out is None:
        if reads != writes:
            raise SaeError(f"{files.file}: lacks {_NORM}{writes}, on which its reconstruction depends")
        s_out = factor
    return factor, s_out


def _scale(norm: Tensor | None, d: int) -> float | None:
    if norm is None:
        return None
    value = norm.number()
    if not value > 0:
        raise SaeError(f"{norm.file}: {norm.name} is {value:g}; expected the mean norm of activations")
    return math.sqrt(d) / value


FORMATS = (
    Format("openmoss", (".safetensors",), _open, ("encoder.weight",), "config.json", "hook_point_in", ambiguity=2),
    Format("openmoss", (".safetensors",), _open, ("W_E",), ambiguity=2),
)
