"""Gemma Scope (Gemma 2): `params.npz` with W_enc (d_in, d_sae), b_enc, threshold (d_sae,), W_dec, b_dec.

JumpReLU on the raw activation: scaling and centring are folded into the release (arXiv 2408.05147, appendix A). The
folders say the rest: google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz.
"""

import re
from pathlib import Path

from scopewatch.errors import SaeError
from scopewatch.sae.tensors import Tensor, TensorFile, open_npz
from scopewatch.sae.weights import Sae

# A folder of that name, or the same as the hub's local cache writes it.
_RELEASE = re.compile(
    r"(?:models--google--)?gemma-scope-(?P<model>(?:2b|9b|27b)-(?:pt|it))-(?P<site>res|mlp|att|transcoders)"
)
_LAYER = re.compile(r"layer_(\d+)")
_L0 = re.compile(r"average_l0_(\d+)")
_SITES = {
    "res": ("resid_post", "resid_post"),
    "mlp": ("mlp_out", "mlp_out"),
    "att": ("attn_z", "attn_z"),
    # RMS-normalised without the norm's gain: paper, appendix B.
    "transcoders": ("mlp_in_unit", "mlp_out"),
}


def open_gemma_scope(file: Path) -> Sae:
    """Opens a `params.npz`.

    Raises:
        SaeError: Not such a file.
    """
    arrays = open_npz(file)
    _refuse_scaling(arrays)
    reads, writes, model = _place(file)
    return Sae(
        format="gemma_scope",
        architecture="jumprelu_transcoder" if writes and writes != reads else "jumprelu",
        hookpoint=reads,
        hookpoint_out=writes,
        W_enc=arrays[_spelt("W_enc", arrays)],
        b_enc=arrays["b_enc"],
        threshold=not_negative(arrays["threshold"]),
        W_dec=arrays.get(_spelt("W_dec", arrays)),
        b_dec=arrays.get("b_dec"),
        files=(file,),
        model=model,
        declared_l0=_declared_l0(file),
        unit_decoder=True,
    ).checked()


def not_negative(threshold: Tensor) -> Tensor:
    """A threshold below 0 would let negative activations through: `pre * (pre > threshold)`.

    Raises:
        SaeError: There is one.
    """
    if (threshold.expect(-1).read() < 0).any():
        raise SaeError(f"{threshold.file}: {threshold.name} is negative for some feature; no released SAE has that")
    return threshold


def _spelt(name: str, arrays: TensorFile) -> str:
    return name.lower() if name.lower() in arrays else name


def _place(file: Path) -> tuple[str, str, str]:
    """Where it reads, where its reconstruction belongs, and for which model, as far as the path says."""
    parts = file.absolute().parts
    release = next((match for part in reversed(parts) if (match := _RELEASE.fullmatch(part))), None)
    model = f"google/gemma-2-{release['model'].removesuffix('-pt')}" if release else ""
    if "embedding" in parts:
        return "embed", "embed", model
    layer = next((match[1] for part in reversed(parts) if (match := _LAYER.fullmatch(part))), None)
    if layer is None:
        return "", "", model
    reads, writes = _SITES[release["site"] if release else "res"]
    return f"layers.{layer}.{reads}", f"layers.{layer}.{writes}", model


def _declared_l0(file: Path) -> float | None:
    found = next((match for part in reversed(file.absolute().parts) if (match := _L0.fullmatch(part))), None)
    return float(found[1]) if found else None


def _refuse_scaling(arrays: TensorFile) -> None:
    if "scaling_factor" in arrays and not (arrays["scaling_factor"].read() == 1).all():
        raise SaeError(f"{arrays.file}: scaling_factor is not 1; such an SAE was not fully folded and is refused")
