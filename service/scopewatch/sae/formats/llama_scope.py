"""Llama Scope (Llama 3.1 8B): `checkpoints/final.safetensors` and `hyperparams.json`.

encoder.weight (d_sae, d_in), encoder.bias, decoder.weight (d_in, d_sae), decoder.bias, not folded. With
s_in = sqrt(d_in) / norm_in, s_out likewise and n_j = ||W_dec_j|| * s_in / s_out, OpenMOSS' loader of the release
(Language-Model-SAEs at 7bfb3f14, lm_saes/sae.py, `from_config`) makes of it

    a_j = n_j * (x @ W_enc_j + b_enc_j / s_in),   f_j = a_j where a_j > jump_relu_threshold,
    y = sum f_j * W_dec_j / ||W_dec_j|| + b_dec / s_out

The threshold is thus on the scale of the output. SAELens leaves out the decoder's norm and takes s_in for s_out: the
same firing if decoder rows have norm 1 and both places are one.
"""

import math
import re
from dataclasses import replace

from scopewatch.errors import SaeError
from scopewatch.sae.encoder import Contest
from scopewatch.sae.formats import Format
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.settings import Settings, read_settings
from scopewatch.sae.weights import Sae

_BASE = re.compile(r"(?:models--\w+--)?Llama3_1(?:-8B-)?Base-L\w+-\d+x")


def _open(files: SaeFiles) -> Sae:
    arrays, settings = files.weights, _settings(files)
    arrays.only({"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"})
    for name, only in (("use_glu_encoder", False), ("sparsity_include_decoder_norm", True)):
        if settings.flag(name, only) != only:
            raise settings.wrong(name, f"{str(only).lower()}, as in all of Llama Scope")
    W_enc = arrays["encoder.weight"].T.expect(-1, -1)
    settings.agree("d_model", W_enc.shape[0])
    settings.agree("d_sae", W_enc.shape[1])
    reads = settings.text("hook_point_in")
    writes = settings.text("hook_point_out", reads)
    s_in, s_out = _scales(files, settings, W_enc.shape[0])
    subtracts = settings.flag("apply_decoder_bias_to_pre_encoder")
    if subtracts and s_in != s_out:
        raise settings.wrong("apply_decoder_bias_to_pre_encoder", "false: b_dec belongs to another place")
    sae = Sae(
        format="llama_scope",
        architecture="jumprelu" + ("" if writes == reads else "_transcoder"),
        hookpoint=reads,
        hookpoint_out=writes,
        W_enc=W_enc,
        b_enc=arrays["encoder.bias"],
        W_dec=arrays["decoder.weight"].T,
        b_dec=arrays["decoder.bias"] if settings.flag("use_decoder_bias", True) else None,
        subtracts_b_dec=subtracts,
        scale_in=s_in,
        scale_out=s_out,
        gain_scale=1 / s_out,
        files=(files.file, settings.file),
        model="meta-llama/Llama-3.1-8B" if files.nearest(_BASE) else "",
    )
    return _activated(sae, settings)


def _activated(sae: Sae, settings: Settings) -> Sae:
    activation = settings.text("act_fn").lower()
    if activation not in {"jumprelu", "topk", "relu"}:
        raise settings.wrong("act_fn", "jumprelu, topk or relu")
    if activation == "relu":
        return replace(sae, architecture=sae.architecture.replace("jumprelu", "standard"))
    threshold = settings.number("jump_relu_threshold")
    if threshold < 0:
        raise settings.wrong("jump_relu_threshold", "at least 0")
    if "top_k" in settings:
        sae = replace(sae, declared_l0=float(settings.integer("top_k")))
    if activation == "topk" and threshold == 0:
        contest = Contest(sae.d_sae, settings.integer("top_k"))
        return replace(sae, architecture=sae.architecture.replace("jumprelu", "topk"), contest=contest)
    # Trained as TopK, and the threshold chosen so that as many fire on average.
    return replace(sae, threshold=threshold)


def _settings(files: SaeFiles) -> Settings:
    """The settings beside the weights or, as released, above their `checkpoints` folder."""
    beside = files.file.parent / "hyperparams.json"
    return read_settings(beside if beside.is_file() else files.file.parent.parent / "hyperparams.json")


def _scales(files: SaeFiles, settings: Settings, d_in: int) -> tuple[float, float]:
    """s_in and s_out."""
    how = settings.text("norm_activation")
    if how in {"none", "inference"}:
        return 1.0, 1.0
    if how != "dataset-wise":
        raise settings.wrong("norm_activation", "dataset-wise or inference: other scalings depend on the batch")
    norms = settings.nested("dataset_average_activation_norm")
    if "in" not in norms or "out" not in norms:
        raise SaeError(f"{settings.file}: dataset_average_activation_norm lacks in or out, which its numbers depend on")
    norm_in, norm_out = norms.number("in"), norms.number("out")
    if norm_in <= 0 or norm_out <= 0:
        raise norms.wrong("in" if norm_in <= 0 else "out", "a positive number")
    return files.settle("norm_factor", math.sqrt(d_in) / norm_in, ""), math.sqrt(d_in) / norm_out


FORMATS = (Format("llama_scope", (".safetensors",), _open, ("encoder.weight",), "hyperparams.json", ambiguity=1),)
