"""Releases that are one torch file, without settings: Goodfire, qresearch and Qwen-Scope. None subtracts b_dec.

Goodfire: encoder_linear.weight (d_sae, d_in), encoder_linear.bias, decoder_linear.weight (d_in, d_sae), .bias; ReLU.
qresearch: the same without `_linear`. Qwen-Scope (arXiv 2605.11887): W_enc (d_sae, d_in), W_dec (d_in, d_sae), b_enc,
b_dec; TopK, with k in the repository's name only. Formulas as SAELens 6.54 reads them; all read resid_post.
"""

import re
from functools import partial

from scopewatch.errors import SaeError
from scopewatch.sae.encoder import Contest
from scopewatch.sae.formats import Format
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.weights import Sae

# The releases there are; an SAE that somebody else calls so may read another place.
_NAMED = re.compile(
    r"(?:(?:models--)?(?:Goodfire|qresearch)(?:--|__|_|-))?"
    r"(?P<model>Llama-3\.3-70B-Instruct(?=-SAE-l50)|Llama-3\.1-8B-Instruct(?=-SAE-l19)"
    r"|DeepSeek-R1-Distill-Llama-8B(?=-SAE-l19))-SAE-l(?P<layer>\d\d)(?:\.pth?)?"
)
_LAYER = re.compile(r".*[-_.]l(?:ayer)?_?(\d+)(?:\.pth?)?")
_OWNERS = {"Llama": "meta-llama/", "DeepSeek": "deepseek-ai/"}
_QWEN_REPO = re.compile(r"(?:(?:models--)?Qwen(?:--|__|_|-))?SAE-Res-(?P<model>.+)-W\d+K-L0_(?P<k>\d+)")
_QWEN_FILE = re.compile(r"layer(\d+)\.sae\.pt")


def _open_linear(files: SaeFiles, *, name: str, suffix: str) -> Sae:
    """Opens an SAE of two torch.nn.Linear: Goodfire's or qresearch's."""
    encoder, decoder = f"encoder{suffix}", f"decoder{suffix}"
    arrays = files.weights
    arrays.only({f"{part}.{array}" for part in (encoder, decoder) for array in ("weight", "bias")})
    named = files.nearest(_NAMED)
    if named is None and not suffix:
        raise SaeError(
            f"{files.file}: two linear layers, and no file says their activation function; qresearch's, of ReLU, is "
            "known by its repository's name: call the folder or file so, DeepSeek-R1-Distill-Llama-8B-SAE-l19"
        )
    model = named["model"] if named else ""
    return Sae(
        format=name,
        architecture="standard",
        hookpoint=f"layers.{named['layer']}.resid_post" if named else "",
        places=_places(files.nearest(_LAYER)),
        W_enc=arrays[f"{encoder}.weight"].T,
        b_enc=arrays[f"{encoder}.bias"],
        W_dec=arrays[f"{decoder}.weight"].T,
        b_dec=arrays[f"{decoder}.bias"],
        files=(files.file,),
        model=next((owner for family, owner in _OWNERS.items() if model.startswith(family)), "") + model,
    )


def _open_qwen_scope(files: SaeFiles) -> Sae:
    arrays = files.weights
    arrays.only({"W_enc", "W_dec", "b_enc", "b_dec"})
    W_enc = arrays["W_enc"].T.expect(*arrays["b_dec"].shape, *arrays["b_enc"].shape)
    repo = files.nearest(_QWEN_REPO)
    layer = files.nearest(_QWEN_FILE)
    k = files.settle(
        "k",
        int(repo["k"]) if repo else None,
        "a TopK SAE whose k is only in its repository's name (SAE-Res-...-L0_50 is k = 50); keep that folder name, or "
        "say k",
    )
    if k != int(k):
        raise SaeError(f"{files.file}: k is {k:g}; expected a whole number")
    return Sae(
        format="qwen_scope",
        architecture="topk",
        hookpoint=f"layers.{layer[1]}.resid_post" if repo and layer else "",
        places=_places(layer),
        W_enc=W_enc,
        b_enc=arrays["b_enc"],
        W_dec=arrays["W_dec"].T,
        b_dec=arrays["b_dec"],
        contest=Contest(group=W_enc.shape[1], winners=int(k)),
        files=(files.file,),
        model=f"Qwen/{repo['model']}" if repo else "",
        declared_l0=k,
    )


def _places(layer: re.Match[str] | None) -> tuple[str, ...]:
    """Where an SAE may read of which only the layer is told."""
    return tuple(f"layers.{layer[1]}.{site}" for site in ("resid_post", "mlp_out", "attn_out")) if layer else ()


_TORCH = (".pt", ".pth")
_goodfire = partial(_open_linear, name="goodfire", suffix="_linear")
_qresearch = partial(_open_linear, name="qresearch", suffix="")
FORMATS = (
    Format("goodfire", _TORCH, _goodfire, ("encoder_linear.weight",)),
    Format("qresearch", _TORCH, _qresearch, ("encoder.weight", "decoder.bias"), ambiguity=3),
    Format("qwen_scope", _TORCH, _open_qwen_scope, ("W_enc", "W_dec"), ambiguity=3),
)
