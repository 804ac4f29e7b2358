"""Gemma Scope (Gemma 2): `params.npz` with W_enc (d_in, d_sae), b_enc, threshold (d_sae,), W_dec, b_dec.

JumpReLU on the raw activation: scaling and centring are folded into the release (arXiv 2408.05147, appendix A). The
folders say the rest: google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz.
"""

import re

from scopewatch.errors import SaeError
from scopewatch.sae.formats import Format
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.tensors import Tensor, TensorFile
from scopewatch.sae.weights import Sae

# A repository's name, as the hub, a folder named for it or the hub's local cache writes it, and right in it a layer.
_PLACED = re.compile(
    r".*/(?:(?:models--)?google(?:--|__|_|-|/))?gemma[-_]scope[-_](?P<size>2b|9b|27b)[-_](?P<training>pt|it)"
    r"[-_](?P<site>res|mlp|att|transcoders)(?:-canonical)?(?:/(?:snapshots|resolve)/[^/]+)?/(?:layer_(?P<layer>\d+)|embedding)/.*",
    re.IGNORECASE,
)
_LAYER = re.compile(r"layer_(\d+)")
_EMBEDDING = re.compile(r"embedding")
_L0 = re.compile(r"average_l0_(\d+)")
_SITES = {
    "res": ("resid_post", "resid_post"),
    "mlp": ("mlp_out", "mlp_out"),
    "att": ("attn_z", "attn_z"),
    # Their input is RMS-normalised without the norm's gain (paper, appendix B).
    "transcoders": ("mlp_in_unit", "mlp_out"),
}
# What an SAE that reads the input of an MLP reconstructs is the output of that MLP.
_MLP_INPUT = re.compile(r"(?:.*\.)?(\d+)\.(?:mlp_in|mlp_in_unit|mlp\.hook_in|ln2\.hook_normalized)")


def _open(files: SaeFiles) -> Sae:
    arrays = files.weights
    _refuse_scaling(arrays)
    named = _PLACED.fullmatch(files.file.absolute().as_posix())
    reads, writes = _place(named) if named else ("", mlp_output(files.hookpoint))
    l0 = files.nearest(_L0)
    return Sae(
        format="gemma_scope",
        architecture="jumprelu_transcoder" if writes != reads else "jumprelu",
        hookpoint=reads,
        places=_places(files),
        hookpoint_out=writes,
        W_enc=arrays[_spelt("W_enc", arrays)],
        b_enc=arrays["b_enc"],
        threshold=not_negative(arrays["threshold"]),
        W_dec=arrays.get(_spelt("W_dec", arrays)),
        b_dec=arrays.get("b_dec"),
        files=(files.file,),
        model=f"google/gemma-2-{named['size']}-{named['training']}".lower().removesuffix("-pt") if named else "",
        declared_l0=float(l0[1]) if l0 else None,
        unit_decoder=True,
    )


def not_negative(threshold: Tensor) -> Tensor:
    """This threshold, no element of which is below 0: `pre * (pre > threshold)` would let negative activations through.

    Raises:
        SaeError: Some element is below 0.
    """
    if (threshold.expect(-1).read() < 0).any():
        raise SaeError(f"{threshold.file}: {threshold.name} is negative for some feature; no released SAE has that")
    return threshold


def _spelt(name: str, arrays: TensorFile) -> str:
    return name.lower() if name.lower() in arrays else name


def mlp_output(told: str) -> str:
    """Where the reconstruction of an SAE belongs whose input is that of an MLP; empty if its input is another.

    Args:
        told: Where it reads, as the caller says.
    """
    told_input = _MLP_INPUT.fullmatch(told)
    return f"layers.{told_input[1]}.mlp_out" if told_input else ""


def _place(named: re.Match[str]) -> tuple[str, str]:
    """Where an SAE of a named repository reads and where its reconstruction belongs."""
    if named["layer"] is None:
        # SAEs of the embedding were trained on rows of its matrix, before Gemma scales them by sqrt(d_in).
        return "embed", "embed"
    reads, writes = _SITES[named["site"].lower()]
    return f"layers.{named['layer']}.{reads}", f"layers.{named['layer']}.{writes}"


def _places(files: SaeFiles) -> tuple[str, ...]:
    """Where an SAE may read whose folders name no repository: they tell the layer, and four repositories have each."""
    if layer := files.nearest(_LAYER):
        return tuple(f"layers.{layer[1]}.{reads}" for reads, _ in _SITES.values())
    return ("embed",) if files.nearest(_EMBEDDING) else ()


def _refuse_scaling(arrays: TensorFile) -> None:
    if "scaling_factor" in arrays and not (arrays["scaling_factor"].read() == 1).all():
        raise SaeError(f"{arrays.file}: scaling_factor is not 1; such an SAE was not fully folded and is refused")


FORMATS = (Format("gemma_scope", (".npz",), _open),)
