"""Releases that are one torch file, without settings: Goodfire, qresearch and Qwen-Scope. None subtracts b_dec.

Goodfire: encoder_linear.weight (d_sae, d_in), encoder_linear.bias, decoder_linear.weight (d_in, d_sae), .bias; ReLU.
qresearch: the same without `_linear`. Qwen-Scope (arXiv 2605.11887): W_enc (d_sae, d_in), W_dec (d_in, d_sae), b_enc,
b_dec; TopK, with k in the repository's name only. Formulas as SAELens 6.54 reads them; all read resid_post.
"""

import re

from scopewatch.errors import SaeError
from scopewatch.sae.formats.gemma_scope import nearest
from scopewatch.sae.release import Release
from scopewatch.sae.weights import Contest, Sae

_NAMED = re.compile(r"(?:models--(?P<owner>.+)--)?(?P<model>.+)-SAE-l(?P<layer>\d+)(?:\.pth?)?")
_OWNERS = {"Llama": "meta-llama/", "DeepSeek": "deepseek-ai/"}
_QWEN_REPO = re.compile(r"(?:models--Qwen--)?SAE-Res-(?P<model>.+)-W\d+K-L0_(?P<k>\d+)")
_L0 = re.compile(r"(?:.*[-_.])?L0_(\d+)")
_QWEN_FILE = re.compile(r"layer(\d+)\.sae\.pt")


def open_goodfire(release: Release) -> Sae:
    """Opens a Goodfire SAE.

    Raises:
        SaeError: It cannot be read right.
    """
    return _linear(release, "goodfire", "_linear")


def open_qresearch(release: Release) -> Sae:
    """Opens a qresearch SAE.

    Raises:
        SaeError: It cannot be read right.
    """
    return _linear(release, "qresearch", "")


def _linear(release: Release, name: str, suffix: str) -> Sae:
    encoder, decoder = f"encoder{suffix}", f"decoder{suffix}"
    arrays = release.weights
    arrays.only({f"{part}.{array}" for part in (encoder, decoder) for array in ("weight", "bias")})
    named = nearest(_NAMED, release.parts)
    model = named["model"] if named else ""
    return Sae(
        format=name,
        architecture="standard",
        hookpoint=f"layers.{named['layer']}.resid_post" if named else "",
        W_enc=arrays[f"{encoder}.weight"].T,
        b_enc=arrays[f"{encoder}.bias"],
        W_dec=arrays[f"{decoder}.weight"].T,
        b_dec=arrays[f"{decoder}.bias"],
        files=(release.file,),
        model=next((owner for family, owner in _OWNERS.items() if model.startswith(family)), "") + model,
    )


def open_qwen_scope(release: Release) -> Sae:
    """Opens one layer of a Qwen-Scope release.

    Raises:
        SaeError: It cannot be read right, or k is nowhere said.
    """
    arrays = release.weights
    arrays.only({"W_enc", "W_dec", "b_enc", "b_dec"})
    W_enc = arrays["W_enc"].T.expect(*arrays["b_dec"].shape, *arrays["b_enc"].shape)
    repo = nearest(_QWEN_REPO, release.parts)
    layer = nearest(_QWEN_FILE, release.parts)
    stated = nearest(_L0, release.parts)
    k, recipe = release.settle(
        "k",
        int(stated[1]) if stated else None,
        "a TopK SAE whose k is only in its repository's name (SAE-Res-...-L0_50 is k = 50); keep that folder name, or "
        "say k",
    )
    if k != int(k):
        raise SaeError(f"{release.file}: k is {k:g}; expected a whole number")
    return Sae(
        format="qwen_scope",
        architecture="topk",
        hookpoint=f"layers.{layer[1]}.resid_post" if layer else "",
        W_enc=W_enc,
        b_enc=arrays["b_enc"],
        W_dec=arrays["W_dec"].T,
        b_dec=arrays["b_dec"],
        contest=Contest(group=W_enc.shape[1], winners=int(k)),
        files=(release.file,),
        model=f"Qwen/{repo['model']}" if repo else "",
        declared_l0=k,
        recipe=recipe,
    )
