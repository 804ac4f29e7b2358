"""Opens an SAE as its publisher ships it; the format is recognised by what the files hold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scopewatch.errors import SaeError
from scopewatch.sae.formats import Format, known_formats
from scopewatch.sae.npz_file import open_npz
from scopewatch.sae.sae_files import SaeFiles
from scopewatch.sae.safetensors_file import open_safetensors
from scopewatch.sae.tensors import TensorFile
from scopewatch.sae.weights import Sae
from scopewatch.sources import SAE_WEIGHTS, FoundSae


def _open_torch(file: Path) -> TensorFile:
    """The table of a torch file. Torch, which takes seconds, is imported for such a file alone."""
    from scopewatch.sae.torch_file import open_torch

    return open_torch(file)


_OPENERS: dict[str, Callable[[Path], TensorFile]] = {
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".pt": _open_torch,
    ".pth": _open_torch,
}
_LISTED = 12
"""How many files or arrays a message names."""


def open_sae(sae: FoundSae | Path) -> Sae:
    """Opens a released SAE: its declarations and the table of its arrays.

    Args:
        sae: The SAE with what is said of it, or just its path: a folder, or a weights file.

    Raises:
        SaeError: Nothing there is an SAE of a known format, it cannot be read right, or what the caller says
            contradicts the files or is of no use; names file and mend.
    """
    found = FoundSae.of(sae)
    weights = _weights_file(found.path)
    if weights.suffix not in _OPENERS:
        raise SaeError(f"{weights}: not the weights of an SAE; those end in {', '.join(_OPENERS)}")
    files = SaeFiles(
        _OPENERS[weights.suffix](weights), norm_factor=found.norm_factor, k=found.k, hookpoint=found.hookpoint
    )
    opened = _format_of(files).open(files)
    opened = replace(opened, recipe=_recipe(files, opened)).checked()
    files.all_used()
    return opened


def _recipe(files: SaeFiles, sae: Sae) -> str:
    """What changes the numbers beside the files: what the caller says, and how loud tokens are treated."""
    quiet = f"max_norm_multiple={sae.max_norm_multiple!r}" if sae.max_norm_multiple else ""
    return ", ".join(filter(None, (files.recipe, quiet)))


def _weights_file(path: Path) -> Path:
    """The weights file that a path names, or that the folder of that path holds."""
    try:
        if not path.exists():
            raise SaeError(f"{path}: no such file or folder")
        if not path.is_dir():
            return path
        there = sorted(path.iterdir())
    except OSError as error:
        raise SaeError(f"{path}: cannot be read: {error.strerror or error}") from None
    named = [path / name for name in SAE_WEIGHTS if (path / name).is_file()]
    found = named or [file for file in there if file.suffix in _OPENERS and file.is_file()]
    if len(found) == 1:
        return found[0]
    listed = [entry.name + "/" * entry.is_dir() for entry in (found or there)]
    shown = ", ".join(listed[:_LISTED]) + (f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else "")
    if found:
        raise SaeError(f"{path}: holds several weights files, {shown}; name one of them")
    raise SaeError(
        f"{path}: holds no weights of an SAE, but {shown or 'nothing'}; "
        f"expected one of {', '.join(SAE_WEIGHTS)}, or a file ending in {', '.join(_OPENERS)}"
    )


def _format_of(files: SaeFiles) -> Format:
    """The first format that fits an SAE's files."""
    for known in known_formats():
        if known.fits(files):
            return known
    raise SaeError(
        f"{files.file}: of no known SAE format; it holds "
        f"{', '.join(sorted(files.weights.tensors)[:_LISTED]) or 'no arrays'}, and "
        f"beside it there is {', '.join(sorted(files.beside)[:_LISTED]) or 'no JSON file'}"
    )
