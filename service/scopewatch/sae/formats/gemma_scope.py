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

# A folder of that name, or the same as the hub's local cache writes it.
_RELEASE = re.compile(
    r"(?:models--google--)?gemma-scope-(?P<model>(?:2b|9b|27b)-(?:pt|it))-(?P<site>res|mlp|att|transcoders)"
)
_PLACE = re.compile(r"layer_(\d+)|embedding")
_L0 = re.compile(r"average_l0_(\d+)")
_SITES = {
    "res": ("resid_post", "resid_post"),
    "mlp": ("mlp_out", "mlp_out"),
    "att": ("attn_z", "attn_z"),
    # RMS-normalised without the norm's gain: paper, appendix B.
    "transcoders": ("mlp_in_unit", "mlp_out"),
}


def _open(files: SaeFiles) -> Sae:
    arrays = files.weights
    _refuse_scaling(arrays)
    named = files.nearest(_RELEASE)
    reads, writes = _place(files, named["site"] if named else "res")
    l0 = files.nearest(_L0)
    return Sae(
        format="gemma_scope",
        architecture="jumprelu_transcoder" if writes != reads else "jumprelu",
        hookpoint=reads,
        hookpoint_out=writes,
        W_enc=arrays[_spelt("W_enc", arrays)],
        b_enc=arrays["b_enc"],
        threshold=not_negative(arrays["threshold"]),
        W_dec=arrays.get(_spelt("W_dec", arrays)),
        b_dec=arrays.get("b_dec"),
        files=(files.file,),
        model=f"google/gemma-2-{named['model'].removesuffix('-pt')}" if named else "",
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


def _place(files: SaeFiles, site: str) -> tuple[str, str]:
    """Where the SAE reads and where its reconstruction belongs, as far as the path says."""
    place = files.nearest(_PLACE)
    if place is None:
        return "", ""
    if place[1] is None:
        # The paper's tokens: trained on rows of the embedding matrix before Gemma scales them by sqrt(d_in).
        return "embed", "embed"
    reads, writes = _SITES[site]
    return f"layers.{place[1]}.{reads}", f"layers.{place[1]}.{writes}"


def _refuse_scaling(arrays: TensorFile) -> None:
    if "scaling_factor" in arrays and not (arrays["scaling_factor"].read() == 1).all():
        raise SaeError(f"{arrays.file}: scaling_factor is not 1; such an SAE was not fully folded and is refused")


FORMATS = (Format("gemma_scope", (".npz",), _open),)
