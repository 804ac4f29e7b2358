"""EleutherAI's sparsify: `sae.safetensors` and `cfg.json` in a folder named for the module it reads (`layers.10.mlp`).

encoder.weight (d_sae, d_in), encoder.bias, W_dec (d_sae, d_out), b_dec, optionally W_skip (d_out, d_in). SAEs read the
module's output and subtract b_dec; transcoders read its input and do not (sparsify 1.3.3, sparse_coder.py and
fused_encoder.py).
"""

import re

from scopewatch.sae.encoder import Contest
from scopewatch.sae.formats import Format
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.settings import Settings
from scopewatch.sae.weights import Sae

_MODULE = re.compile(r"(?:\w+\.)*(?:layers|h)\.\d+(?:\.\w+)*|(?:\w+\.)*embed_tokens")
_SEED = re.compile(r"seed\d+")


def _open(files: SaeFiles) -> Sae:
    arrays, cfg = files.weights, files.settings("cfg.json")
    arrays.only({"encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip"})
    if cfg.flag("signed", False):
        raise cfg.wrong("signed", "false: features that fire below 0 are not supported")
    W_enc = arrays["encoder.weight"].T.expect(-1, -1)
    d_in, d_sae = W_enc.shape
    cfg.agree("d_in", d_in)
    if cfg.integer("num_latents", 0):
        cfg.agree("num_latents", d_sae)
    elif "expansion_factor" in cfg and cfg.integer("expansion_factor") * d_in != d_sae:
        raise cfg.wrong("expansion_factor", f"what gives {d_sae} features of {d_in} inputs, as in the weights file")
    if cfg.flag("skip_connection", False) != ("W_skip" in arrays):
        raise cfg.wrong("skip_connection", f"{str('W_skip' in arrays).lower()}, as in the weights file")
    k = int(files.settle("k", cfg.integer("k"), ""))
    activation = cfg.text("activation", "topk")
    contest = _contest(activation, k, d_sae, cfg)
    transcodes = cfg.flag("transcode", False)
    module = _module(files)
    return Sae(
        format="sparsify",
        architecture=activation + ("_skip" if "W_skip" in arrays else "") + ("_transcoder" if transcodes else ""),
        hookpoint=module and f"{module}.{'input' if transcodes else 'output'}",
        hookpoint_out=module and f"{module}.output",
        W_enc=W_enc,
        b_enc=arrays["encoder.bias"],
        W_dec=arrays["W_dec"],
        b_dec=arrays["b_dec"],
        W_skip=arrays["W_skip"].T if "W_skip" in arrays else None,
        contest=contest,
        subtracts_b_dec=not transcodes,
        files=(files.file, cfg.file),
        declared_l0=float(k),
        unit_decoder=cfg.flag("normalize_decoder", True) and not transcodes,
    )


def _contest(activation: str, k: int, d_sae: int, cfg: Settings) -> Contest:
    if activation == "topk":
        return Contest(group=d_sae, winners=k)
    if activation == "groupmax" and not d_sae % k:
        return Contest(group=d_sae // k, winners=1)
    raise cfg.wrong("activation", f"topk, or groupmax with k a divisor of {d_sae}")


def _module(files: SaeFiles) -> str:
    """The module that the folder is named for; empty if it is named for none."""
    folders = [name for name in files.path_names[1:3] if not _SEED.fullmatch(name)]
    return folders[0] if folders and _MODULE.fullmatch(folders[0]) else ""


FORMATS = (Format("sparsify", (".safetensors",), _open, ("encoder.weight", "W_dec")),)
