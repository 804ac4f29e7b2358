"""Opens an SAE as its publisher ships it; the format is recognised by what the files hold."""

from collections.abc import Callable
from pathlib import Path

from scopewatch.errors import SaeError
from scopewatch.sae.formats.dictionary_learning import open_dictionary_learning
from scopewatch.sae.formats.gemma_scope import open_gemma_scope
from scopewatch.sae.formats.gemma_scope_2 import open_gemma_scope_2
from scopewatch.sae.formats.llama_scope import open_llama_scope
from scopewatch.sae.formats.openmoss import open_openmoss
from scopewatch.sae.formats.saelens import open_saelens
from scopewatch.sae.formats.sparsify import open_sparsify
from scopewatch.sae.formats.torch_releases import open_goodfire, open_qresearch, open_qwen_scope
from scopewatch.sae.release import Release
from scopewatch.sae.tensors import TensorFile, open_npz, open_safetensors
from scopewatch.sae.torch_file import open_torch
from scopewatch.sae.weights import Sae

_READERS: dict[str, Callable[[Path], TensorFile]] = {
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".pt": open_torch,
    ".pth": open_torch,
}
# What publishers call the weights; a folder may hold other arrays beside them.
_WEIGHTS = (
    *("params.npz", "params.safetensors", "sae_weights.safetensors", "sae.safetensors", "ae.pt"),
    "checkpoints/final.safetensors",
)
_LISTED = 12


def open_sae(path: Path, *, norm_factor: float | None = None, k: int | None = None) -> Sae:
    """Opens a released SAE: its declarations and the table of its arrays.

    Args:
        path: Its folder, or its weights file.
        norm_factor: What activations are multiplied by, for the SAEs whose files ask for such a factor and lack it.
        k: Features that fire per token, for the TopK SAEs whose files do not say.

    Raises:
        SaeError: Nothing there is an SAE of a known format, it cannot be read right, or what the caller says
            contradicts the files or is of no use; names file and mend.
    """
    file = _weights_file(path)
    if file.suffix not in _READERS:
        raise SaeError(f"{file}: not the weights of an SAE; those end in {', '.join(_READERS)}")
    release = Release(_READERS[file.suffix](file), norm_factor=norm_factor, k=k)
    sae = _opener(release)(release).checked()
    release.all_used()
    return sae


def _weights_file(path: Path) -> Path:
    try:
        if not path.exists():
            raise SaeError(f"{path}: no such file or folder")
        if not path.is_dir():
            return path
        there = sorted(path.iterdir())
    except OSError as error:
        raise SaeError(f"{path}: cannot be read: {error.strerror or error}") from None
    named = [path / name for name in _WEIGHTS if (path / name).is_file()]
    found = named or [file for file in there if file.suffix in _READERS and file.is_file()]
    if len(found) == 1:
        return found[0]
    listed = [entry.name + "/" * entry.is_dir() for entry in (found or there)]
    shown = ", ".join(listed[:_LISTED]) + (f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else "")
    if found:
        raise SaeError(f"{path}: holds several weights files, {shown}; name one of them")
    raise SaeError(
        f"{path}: holds no weights of an SAE, but {shown or 'nothing'}; "
        f"expected one of {', '.join(_WEIGHTS)}, or a file ending in {', '.join(_READERS)}"
    )


def _opener(release: Release) -> Callable[[Release], Sae]:
    file, arrays = release.file, release.weights
    beside = {entry.name for folder in (file.parent, file.parent.parent) for entry in folder.glob("*.json")}
    for suffixes, needed, settings, opener in _FORMATS:
        if file.suffix in suffixes and all(name in arrays for name in needed) and (not settings or settings in beside):
            return opener
    raise SaeError(
        f"{file}: of no known SAE format; it holds {', '.join(sorted(arrays.tensors)[:_LISTED]) or 'no arrays'}, and "
        f"beside it there is {', '.join(sorted(beside)[:_LISTED]) or 'no JSON file'}"
    )


def _refuse_temporal(release: Release) -> Sae:
    raise SaeError(f"{release.file}: a temporal SAE reads the whole sequence; its features have no value of their own")


_TORCH = {".pt", ".pth"}
_FORMATS: tuple[tuple[set[str], tuple[str, ...], str, Callable[[Release], Sae]], ...] = (
    ({".npz"}, (), "", open_gemma_scope),
    ({".safetensors"}, ("w_enc",), "", open_gemma_scope_2),
    ({".safetensors"}, ("encoder.weight", "W_dec"), "", open_sparsify),
    ({".safetensors"}, ("encoder.weight",), "hyperparams.json", open_llama_scope),
    ({".safetensors"}, ("encoder.weight",), "config.json", open_openmoss),
    ({".safetensors"}, ("W_E",), "", open_openmoss),
    ({".safetensors"}, ("D", "b"), "", _refuse_temporal),
    ({".safetensors"}, ("W_dec",), "", open_saelens),
    (_TORCH, ("encoder_linear.weight",), "", open_goodfire),
    (_TORCH, (), "config.json", open_dictionary_learning),
    (_TORCH, ("encoder.weight", "decoder.bias"), "", open_qresearch),
    (_TORCH, ("W_enc", "W_dec"), "", open_qwen_scope),
)
"""What tells a format: endings, arrays, a file beside them; the first that fits."""
