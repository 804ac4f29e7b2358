"""Gemma Scope (Gemma 2): `params.npz` with W_enc (d_in, d_sae), b_enc, threshold (d_sae,), W_dec, b_dec.

JumpReLU on the raw activation: scaling and centring are folded into the release (arXiv 2408.05147, appendix A). The
folders say the rest: google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz.
"""

import re
from collections.abc import Sequence

from scopewatch.errors import SaeError
from scopewatch.sae.release import Release
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


def open_gemma_scope(release: Release) -> Sae:
    """Opens a `params.npz`.

    Raises:
        SaeError: It cannot be read right.
    """
    arrays = release.weights
    _refuse_scaling(arrays)
    reads, writes, model = _place(release.parts)
    l0 = nearest(_L0, release.parts)
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
        files=(release.file,),
        model=model,
        declared_l0=float(l0[1]) if l0 else None,
        unit_decoder=True,
    )


def nearest(pattern: re.Pattern[str], parts: Sequence[str]) -> re.Match[str] | None:
    """The match of the nearest name on a file's path, nearest first, that matches as a whole."""
    return next((match for part in parts if (match := pattern.fullmatch(part))), None)


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


def _place(parts: Sequence[str]) -> tuple[str, str, str]:
    """Where it reads, where its reconstruction belongs, and for which model, as far as the path says."""
    release = nearest(_RELEASE, parts)
    model = f"google/gemma-2-{release['model'].removesuffix('-pt')}" if release else ""
    place = nearest(_PLACE, parts)
    if place is None:
        return "", "", model
    if place[1] is None:
        # The paper's tokens: trained on rows of the embedding matrix before Gemma scales them by sqrt(d_in).
        return "embed", "embed", model
    reads, writes = _SITES[release["site"] if release else "res"]
    return f"layers.{place[1]}.{reads}", f"layers.{place[1]}.{writes}", model


def _refuse_scaling(arrays: TensorFile) -> None:
    if "scaling_factor" in arrays and not (arrays["scaling_factor"].read() == 1).all():
        raise SaeError(f"{arrays.file}: scaling_factor is not 1; such an SAE was not fully folded and is refused")
