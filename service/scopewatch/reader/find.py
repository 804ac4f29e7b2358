"""From a reader as a watchlist or a command names it to its directory on this machine; needs no torch."""

from pathlib import Path

from scopewatch.config import Config
from scopewatch.errors import HubError, ReaderError
from scopewatch.hub import snapshot
from scopewatch.known_readers.find import need
from scopewatch.sources import ReaderSource

_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


def find_reader(source: ReaderSource, config: Config) -> Path:
    """The directory of a reader: the given one, that of a known reader in the cache, or the local snapshot of a hub id.

    Args:
        source: The reader; its path counts from the working directory.
        config: Settings, of which `allow_download` and `reader_dir` count.

    Raises:
        ReaderError: The directory is not there, or lacks a file.
    """
    path = need(source.known, config.reader_folder) if source.known else Path(source.path)
    if source.id:
        try:
            path = snapshot(
                source.id, revision=source.revision, patterns=_FILES, allow_download=config.allow_download
            ).folder
        except HubError as error:
            raise ReaderError(f"reader {error}") from None
    if not path.is_dir():
        raise ReaderError(f"reader {path}: no such directory")
    if not (path / "config.json").is_file():
        raise ReaderError(f"reader {path}: config.json is missing; expected a Hugging Face model directory")
    if (path / "adapter_config.json").exists():
        raise ReaderError(
            f"reader {path}: adapter_config.json: adapters are not applied; merge them into the weights, or remove them"
        )
    if not any(path.glob("*.safetensors")):
        raise ReaderError(f"reader {path}: no *.safetensors file; weights in other formats are not loaded")
    return path
