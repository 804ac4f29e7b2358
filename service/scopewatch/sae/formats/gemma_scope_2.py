"""Gemma Scope 2 (Gemma 3): safetensors with w_enc (d_in, d_sae), b_enc, threshold (d_sae,), w_dec, b_dec.

JumpReLU on the raw activation, everything else folded in (technical paper; google/gemma-scope-2-* model cards). Where
it reads is in `config.json`, and in the folders:

    {resid_post|attn_out|mlp_out|transcoder}[_all]/layer_L_width_W_l0_{small|medium|big}[_affine]/params.safetensors
    crosscoder/layer_7_13_17_22_width_W_l0_M/params_layer_{0..3}.safetensors     counts within the folder's layers
    clt/width_W_l0_M[_affine]/params_layer_L.safetensors                         w_dec (d_sae, layers, d_out)
"""

import re
from dataclasses import dataclass

from scopewatch.errors import SaeError
from scopewatch.sae.formats import Format
from scopewatch.sae.formats.gemma_scope import mlp_output, not_negative
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.settings import Settings
from scopewatch.sae.weights import Sae

_KIND = re.compile(r"(resid_post|attn_out|mlp_out|transcoder)(?:_all)?|(crosscoder|clt)")
_FOLDER = re.compile(r"(?:layer_(?P<layers>\d+(?:_\d+)*)_)?width_\w+?_l0_(?P<l0>small|medium|big)(?:_\w+)?")
_REPO = re.compile(r"(?:models--google--)?gemma-scope-2-(?P<size>270m|1b|4b|12b|27b)-(?P<training>pt|it)")
_PART = re.compile(r"params_layer_(\d+)\.safetensors")
_HOOK = re.compile(r"(?:\w+\.)*?layers\.(\d+)\.(\w+(?:\.\w+)*)")
_SITES = {
    "resid_post": ("resid_post", "resid_post"),
    # Despite its name, attn_out reads the input of o_proj.
    "attn_out": ("attn_z", "attn_z"),
    "mlp_out": ("mlp_out", "mlp_out"),
    # Their input has the norm's gain, unlike that of Gemma Scope's first transcoders.
    "transcoder": ("mlp_in", "mlp_out"),
    "clt": ("mlp_in", "mlp_out"),
    "crosscoder": ("resid_post", "resid_post"),
}
_MODULES = {
    "output": "resid_post",
    "self_attn.o_proj.input": "attn_z",
    "post_feedforward_layernorm.output": "mlp_out",
    "pre_feedforward_layernorm.output": "mlp_in",
}
# By model: the layers that have three levels of L0, and the levels at the first of them; at the others they are 20, 60
# and 150.
_LEVELS = {
    "270m": ((5, 9, 12, 15), (18, 55, 135)),
    "1b": ((7, 13, 17, 22), (18, 54, 132)),
    "4b": ((9, 17, 22, 29), (17, 53, 131)),
    "12b": ((12, 24, 31, 41), (17, 52, 127)),
    "27b": ((16, 31, 40, 53), (17, 53, 129)),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """The facts that the folders of an SAE tell; empty or None where they do not."""

    kind: str = ""
    layer: int | None = None
    level: str = ""

    def site(self, end: int) -> str:
        """Where the SAE reads (0) or where its reconstruction belongs (1)."""
        return f"layers.{self.layer}.{_SITES[self.kind][end]}" if self.kind and self.layer is not None else ""

    def sites(self, *, many_layers: bool) -> tuple[str, ...]:
        """Where an SAE of this layer may read, of whatever kind it is."""
        kinds = [kind for kind in _SITES if (kind in {"crosscoder", "clt"}) == many_layers]
        return () if self.layer is None else tuple(f"layers.{self.layer}.{_SITES[kind][0]}" for kind in kinds)


def _open(files: SaeFiles) -> Sae:
    """One layer of a crosscoder or cross-layer transcoder gives features, but nothing can be reconstructed of them."""
    arrays = files.weights
    config = files.file.parent / "config.json"
    settings = files.settings("config.json") if config.is_file() else Settings(config, {})
    if settings.text("architecture", "jump_relu") != "jump_relu":
        raise settings.wrong("architecture", "jump_relu")
    place = _place(files)
    decoder = arrays["w_dec"]
    many_layers = len(decoder.shape) == 3
    reads, writes = (_hook(settings, place, end, many_layers=many_layers) for end in (0, 1))
    writes = writes or mlp_output(files.hookpoint)
    skip = arrays.get("affine_skip_connection")
    if settings.flag("affine_connection", skip is not None) != (skip is not None):
        raise settings.wrong("affine_connection", f"{str(skip is not None).lower()}, as in the weights file")
    kind = place.kind if many_layers else "transcoder" if writes not in {"", reads} else ""
    return Sae(
        format="gemma_scope_2",
        architecture=f"jumprelu_{kind}".rstrip("_"),
        hookpoint=reads,
        places=place.sites(many_layers=many_layers),
        hookpoint_out=writes,
        W_enc=arrays["w_enc"],
        b_enc=arrays["b_enc"],
        threshold=not_negative(arrays["threshold"]),
        W_dec=None if many_layers else decoder,
        b_dec=None if many_layers else arrays["b_dec"],
        W_skip=None if many_layers else skip,
        files=(files.file, *([config] if settings.values else [])),
        model=_model(files, settings),
        declared_l0=settings.number("l0") if "l0" in settings else _declared_l0(files, place),
        unit_decoder=True,
    )


def _place(files: SaeFiles) -> _Place:
    # A kind is the name of the very folder that holds an SAE's; a folder further up may be called so by chance.
    _, own, above = (*files.path_names, "", "")[:3]
    folder, kind = _FOLDER.fullmatch(own), _KIND.fullmatch(above)
    layers = [int(layer) for layer in folder["layers"].split("_")] if folder and folder["layers"] else []
    part = _PART.fullmatch(files.file.name)
    name = (kind[1] or kind[2]) if kind else ""
    level = folder["l0"] if folder else ""
    if part and layers:
        if int(part[1]) >= len(layers):
            raise SaeError(f"{files.file}: layer {part[1]} of the {len(layers)} that its folder names; count from 0")
        return _Place(name, layers[int(part[1])], level)
    if part:
        return _Place(name, int(part[1]), level)
    return _Place(name, layers[0] if layers else None, level)


def _hook(settings: Settings, place: _Place, end: int, *, many_layers: bool) -> str:
    """Where the SAE reads (end 0) or where its reconstruction belongs (end 1), by the settings and the folders.

    The layers of a crosscoder share their settings, so that only the folders name the hookpoint of one.
    """
    name = ("hf_hook_point_in", "hf_hook_point_out")[end]
    from_folders = place.site(end)
    if many_layers or name not in settings:
        return from_folders
    told = settings.text(name)
    known = _HOOK.fullmatch(told)
    site = f"layers.{known[1]}.{_MODULES.get(known[2], known[2])}" if known else told
    if from_folders and site != from_folders:
        raise SaeError(
            f"{settings.file}: {name} is {told!r} ({site}), but the folders of the weights name {from_folders}; one of "
            "the two is misplaced"
        )
    return site


def _model(files: SaeFiles, settings: Settings) -> str:
    if "model_name" in settings:
        # Some settings say gemma-v3-..., some leave the owner out; the smallest model has no -pt on the hub.
        model = settings.text("model_name").replace("-v3", "-3")
        model = model if "google" in model else f"google/{model}"
    elif repo := files.nearest(_REPO):
        model = f"google/gemma-3-{repo['size']}-{repo['training']}"
    else:
        return ""
    return model.replace("-pt", "") if "270m" in model else model


def _declared_l0(files: SaeFiles, place: _Place) -> float | None:
    repo = files.nearest(_REPO)
    if repo is None or not place.level:
        return None
    layers, first = _LEVELS[repo["size"]]
    everywhere = any(part.endswith("_all") for part in files.path_names)
    if everywhere or place.layer not in layers or place.kind in {"crosscoder", "clt"}:
        return None
    levels = first if place.layer == layers[0] else (20, 60, 150)
    return float(levels[("small", "medium", "big").index(place.level)])


FORMATS = (Format("gemma_scope_2", (".safetensors",), _open, ("w_enc",)),)
