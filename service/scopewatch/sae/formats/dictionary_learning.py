"""saprmarks/dictionary_learning: `ae.pt` (a state dict) and `config.json` with `trainer` and `buffer`.

The classes and formulas are those of dictionary_learning 0.1.0, dictionary.py and trainers/*.py, loaded as its own
`utils.load_dictionary` does: AutoEncoder is given a decoder of unit norm, so that its activations are multiplied by the
norms in the file; no other class is.
"""

import re
from dataclasses import dataclass, replace

from scopewatch.errors import SaeError
from scopewatch.sae.encoder import Contest
from scopewatch.sae.formats import Format
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.settings import Settings
from scopewatch.sae.weights import Sae

_SUBMODULE = re.compile(r"resid_post_layer_(\d+)")
_NORMS = "max_activation_norm_multiple"
_SITES = ("resid_post", "mlp_out", "attn_out")


@dataclass(frozen=True, slots=True)
class _Class:
    """A class of that library: what its arrays are called here, and whether it subtracts b_dec."""

    architecture: str
    b_enc: str
    b_dec: str
    subtracts_b_dec: bool
    linear: bool = True
    """Matrices as torch.nn.Linear has them: encoder.weight (d_sae, d_in) and decoder.weight (d_in, d_sae)."""
    others: tuple[str, ...] = ()


_CLASSES = {
    "AutoEncoder": _Class("standard", "encoder.bias", "bias", subtracts_b_dec=True),
    "AutoEncoderNew": _Class("standard", "encoder.bias", "decoder.bias", subtracts_b_dec=False),
    "GatedAutoEncoder": _Class(
        "gated", "gate_bias", "decoder_bias", subtracts_b_dec=True, others=("r_mag", "mag_bias")
    ),
    "JumpReluAutoEncoder": _Class(
        "jumprelu", "b_enc", "b_dec", subtracts_b_dec=False, linear=False, others=("threshold",)
    ),
    "AutoEncoderTopK": _Class("topk", "encoder.bias", "b_dec", subtracts_b_dec=True, others=("k", "threshold")),
    "BatchTopKSAE": _Class("batchtopk", "encoder.bias", "b_dec", subtracts_b_dec=True, others=("k", "threshold")),
    "MatryoshkaBatchTopKSAE": _Class(
        "batchtopk", "b_enc", "b_dec", subtracts_b_dec=True, linear=False, others=("k", "threshold", "group_sizes")
    ),
}


def _open(files: SaeFiles) -> Sae:
    arrays, config = files.weights, files.settings("config.json")
    trainer, buffer = config.nested("trainer"), config.nested("buffer")
    name = trainer.text("dict_class")
    if name not in _CLASSES:
        raise trainer.wrong("dict_class", f"one of {', '.join(_CLASSES)}")
    cls = _CLASSES[name]
    W_enc, W_dec = ("encoder.weight", "decoder.weight") if cls.linear else ("W_enc", "W_dec")
    arrays.only({W_enc, W_dec, cls.b_enc, cls.b_dec, *cls.others})
    encoder, decoder = arrays[W_enc].expect(-1, -1), arrays[W_dec].expect(-1, -1)
    sae = Sae(
        format="dictionary_learning",
        # At inference, one threshold for all features, estimated in training, stands in for the choice over a batch.
        architecture="jumprelu" if cls.architecture == "batchtopk" else cls.architecture,
        hookpoint=_hookpoint(files, trainer, buffer),
        places=tuple(f"layers.{trainer.integer('layer')}.{site}" for site in _SITES) if "layer" in trainer else (),
        W_enc=encoder.T if cls.linear else encoder,
        b_enc=arrays[cls.b_enc],
        W_dec=decoder.T if cls.linear else decoder,
        b_dec=arrays[cls.b_dec],
        subtracts_b_dec=cls.subtracts_b_dec,
        gain_scale=1.0 if name == "AutoEncoder" else None,
        files=(files.file, config.file),
        model=trainer.text("lm_name", ""),
        max_norm_multiple=_max_norm_multiple(trainer, buffer),
    )
    trainer.agree("activation_dim", sae.d_in)
    trainer.agree("dict_size", sae.d_sae)
    return _activated(sae, files, trainer, cls)


def _activated(sae: Sae, files: SaeFiles, trainer: Settings, cls: _Class) -> Sae:
    """The SAE with what its class lets decide which features fire."""
    arrays = files.weights
    if cls.architecture == "gated":
        return replace(sae, r_mag=arrays["r_mag"], b_mag=arrays["mag_bias"])
    if cls.architecture == "jumprelu":
        return replace(sae, threshold=arrays["threshold"])
    if "k" not in cls.others:
        return sae
    k = _k(files, trainer)
    if cls.architecture == "topk":
        return replace(sae, contest=Contest(group=sae.d_sae, winners=k), declared_l0=float(k))
    return replace(sae, threshold=_estimated(files), declared_l0=float(k))


def _k(files: SaeFiles, trainer: Settings) -> int:
    stored = files.weights.get("k")
    if stored is not None:
        trainer.agree("k", stored.integer())
    return int(files.settle("k", stored.integer() if stored is not None else trainer.integer("k"), ""))


def _estimated(files: SaeFiles) -> float:
    """The threshold of a BatchTopK SAE, as it was estimated in training."""
    stored = files.weights.get("threshold")
    threshold = -1.0 if stored is None else stored.number()
    if not threshold >= 0:
        raise SaeError(
            f"{files.file}: the threshold of this BatchTopK SAE was never estimated; it would let every positive "
            "activation through"
        )
    return threshold


def _hookpoint(files: SaeFiles, trainer: Settings, buffer: Settings) -> str:
    """The output of the layer that it reads; empty for other places, which the settings do not tell exactly.

    Where the trainer was told no submodule, the folder is named for it: resid_post_layer_15/trainer_0/ae.pt.
    """
    names = [trainer.text("submodule_name")] if "submodule_name" in trainer else files.path_names[1:3]
    submodule = next(filter(None, map(_SUBMODULE.fullmatch, names)), None)
    if submodule is None or "layer" not in trainer or buffer.text("io", "out") != "out":
        return ""
    layer = trainer.integer("layer")
    if int(submodule[1]) != layer:
        raise trainer.wrong("layer", f"{submodule[1]}, as in {submodule[0]}")
    return f"layers.{layer}.resid_post"


def _max_norm_multiple(trainer: Settings, buffer: Settings) -> float | None:
    """The bound of norms that later versions of the library train under, see `Encoder.max_norm_multiple`.

    The library's own buffer does not write it down; those who derive theirs from it do, in either place.
    """
    for settings in (buffer, trainer):
        if _NORMS in settings:
            if not settings.number(_NORMS) > 0:
                raise settings.wrong(_NORMS, "a positive number, or null for no bound")
            return settings.number(_NORMS)
    return None


FORMATS = (Format("dictionary_learning", (".pt", ".pth"), _open, beside="config.json", field="trainer", ambiguity=1),)
