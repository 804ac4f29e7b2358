"""Opens an SAE as its publisher ships it; the format is recognised by its files."""

from pathlib import Path

from scopewatch.errors import SaeError
from scopewatch.sae.gemma_scope import open_gemma_scope
from scopewatch.sae.weights import Sae


def open_sae(path: Path, *, norm_factor: float | None = None, k: int | None = None) -> Sae:
    """Opens a released SAE: its declarations and the table of its arrays.

    Args:
        path: Its folder, or its weights file.
        norm_factor: What activations are multiplied by, for the SAEs whose files ask for such a factor and lack it.
        k: Features that fire per token, for the TopK SAEs whose files do not say.

    Raises:
        SaeError: Nothing there is an SAE of a known format, or it cannot be read right; names file and mend.
    """
    if path.suffix == ".npz":
        return open_gemma_scope(path)
    raise SaeError(f"{path}: not a released SAE of a known format")
