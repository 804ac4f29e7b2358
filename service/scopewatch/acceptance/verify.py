"""Opens the reader and the SAE that a check is asked for, and runs the acceptance check on them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from scopewatch.acceptance.golden import Golden
from scopewatch.acceptance.text_windows import load_tokenizer, read_text, shortened, windows_of
from scopewatch.acceptance.verification import Verification, Verifier, place_of
from scopewatch.config import Config
from scopewatch.errors import SaeError
from scopewatch.reader.find import find_reader
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import layer_count, load_reader
from scopewatch.releases.find import find_sae
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import is_pack
from scopewatch.sources import ReaderSource, SaeSource

_ALL_LAYERS = 32
"""A reader with at most so many layers is loaded whole, so that every place in it can be tried."""


def load_verifier(
    reader: str, hookpoints: Sequence[Hookpoint], config: Config, *, text: Path | None, max_tokens: int
) -> Verifier:
    """Loads a reader, whole if it has up to 32 layers, else to one layer beyond the hookpoints, and opens the text.

    Args:
        reader: The reader as `ReaderSource.named` takes it.
        hookpoints: Where the SAEs that will be checked read and write.
        config: Settings, of which device, dtype, fused, `allow_download` and `reader_dir` count.
        text: The text file; None for the bundled text.
        max_tokens: The most tokens measured on.

    Raises:
        SetupError: A file or setting is wrong.
    """
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    name = str(text) if text else "bundled"
    content = read_text(text)
    choice = ReaderSource.named(reader)
    home = find_reader(choice, config)
    loaded = load_reader(
        home,
        name=choice.name,
        revision=choice.revision_in(home),
        deepest_layer=_deepest(home, max(hookpoint.layer for hookpoint in hookpoints)),
        device=config.device,
        dtype=config.dtype,
        fused=config.fused == "auto",
    )
    tokenizer = load_tokenizer(home, loaded)
    windows = windows_of(content, tokenizer, name=name, context=loaded.context, max_tokens=max_tokens)
    return Verifier(loaded, tokenizer, windows, shortened(windows, 4, 128), name)


def verify(
    *, reader: str, source: SaeSource, config: Config, text: Path | None, max_tokens: int, golden: Golden | None
) -> Verification:
    """Checks one SAE. The arguments are those of `load_verifier` and `Verifier`.

    Raises:
        SetupError: A file or setting is wrong.
    """
    found = find_sae(source, allow_download=config.allow_download)
    if is_pack(found.path):
        raise SaeError(f"{found.path}: a watch pack, or a probe, has no decoder to check it by; verify a whole SAE")
    sae = open_sae(found)
    place = place_of(sae, found.hookpoint)
    check = load_verifier(reader, [place.reads, place.writes], config, text=text, max_tokens=max_tokens)
    return check(sae, found.hookpoint, golden=golden, origin=found.origin)


def _deepest(directory: Path, hookpoint_layer: int) -> int:
    """The deepest layer to load of a reader in which an SAE works as deep as `hookpoint_layer`."""
    total = layer_count(directory)
    return max(hookpoint_layer, total - 1 if total <= _ALL_LAYERS else min(hookpoint_layer + 1, total - 1))
