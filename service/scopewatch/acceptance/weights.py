"""The weights that watchlists name by their place on the hub: fetched whole, and held against their SHA-256.

They lie in huggingface_hub's cache, where the server finds them without a network. Beside them lies `models.sha256`,
the list of what was fetched. A path holds the commit that a file is of, so what was once recorded for it stays right.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scopewatch import hub
from scopewatch.acceptance.sums import read_sums, write_sums
from scopewatch.config import Config
from scopewatch.engine.choices import SaeChoice, asked_by, check_places, choices
from scopewatch.errors import HubError, ReaderError
from scopewatch.known_readers.find import damage, place, sha256
from scopewatch.known_readers.get import get
from scopewatch.reader.find import find_reader
from scopewatch.releases.find import find_sae
from scopewatch.releases.names import own_folder
from scopewatch.sources import SAE_SETTINGS, ReaderSource
from scopewatch.watch.watchlist import Watchlist

log = logging.getLogger(__name__)

RECORD = "models.sha256"

Source = ReaderSource | SaeChoice


@dataclass(frozen=True, slots=True)
class Expected:
    """What the files of the cache have to be."""

    cache: Path
    """The folder that all paths count from."""
    pinned: Mapping[str, str] | None
    """The digest of every file that may be there, by its path; None where nobody pinned any."""
    recorded: Mapping[str, str]
    """The digests of what was fetched before."""

    def path(self, file: Path) -> str:
        """A file's path in the cache."""
        return file.relative_to(self.cache).as_posix()

    def of(self, file: Path) -> str:
        """The SHA-256 that a file has to have; empty where nothing says so.

        Raises:
            HubError: Files are pinned, and this one is not.
        """
        path = self.path(file)
        if self.pinned is None:
            return self.recorded.get(path) or hub.recorded_sha256(file)
        if path not in self.pinned:
            raise HubError(f"{path}: no digest of it is pinned; add its line, if this commit is the one that is wanted")
        return self.pinned[path]


def fetch(watchlists: Sequence[Watchlist], config: Config, pinned: Mapping[str, str] | None = None) -> dict[str, str]:
    """Downloads what is missing of the reader and the SAEs, and holds every file against its SHA-256.

    A file that is not what it has to be is removed and fetched once more. What is whole stays for the next try.

    Args:
        watchlists: The watchlists of one service.
        config: Settings, of which `reader_dir` counts.
        pinned: The digest of every file by its path in the cache. Without, it is what was recorded for the path before,
            or what the hub says of large files.

    Returns:
        The SHA-256 of every file by its path in the cache.

    Raises:
        SetupError: Something cannot be had, or is not what it has to be.
    """
    expected = _expected(pinned)
    reader, saes = choices(watchlists)
    sources: list[Source] = [reader, *saes]
    if reader.known:
        get(reader.known, config.reader_folder)
    allowed = config.model_copy(update={"allow_download": True})
    check_places(reader, saes, allowed)
    sums = {path: digest for source in sources for path, digest in _fetched(source, allowed, expected).items()}
    if sums:
        write_sums(expected.cache / RECORD, {**expected.recorded, **sums})
    return sums


def check(watchlists: Sequence[Watchlist], config: Config, pinned: Mapping[str, str] | None = None) -> dict[str, str]:
    """Holds what `fetch` fetched against its SHA-256, without a network and without writing; the arguments are its own.

    Returns:
        The SHA-256 of every file by its path in the cache.

    Raises:
        SetupError: A file is missing, is not what it has to be, or nothing says what it has to be.
    """
    expected = _expected(pinned)
    reader, saes = choices(watchlists)
    sources: list[Source] = [reader, *saes]
    offline = config.model_copy(update={"allow_download": False})
    check_places(reader, saes, offline)
    if reader.known and (damaged := damage(place(reader.known, config.reader_folder), thorough=True)):
        raise ReaderError(f"reader {reader.known}: {damaged}; run: scopewatch reader get {reader.known}")
    sums: dict[str, str] = {}
    for source in sources:
        for file in _files(source, offline):
            path, digest = expected.path(file), sha256(file)
            wanted = expected.of(file) if pinned is not None else expected.recorded.get(path)
            if wanted is None:
                raise HubError(f"{path}: nothing says what it has to be; run: scopewatch models fetch")
            if digest != wanted:
                raise HubError(f"{path}: {_not(wanted)}; run scopewatch models fetch, which replaces it")
            sums[path] = digest
    return sums


def _expected(pinned: Mapping[str, str] | None) -> Expected:
    cache = hub.cache_folder()
    record = cache / RECORD
    return Expected(cache, pinned, read_sums(record) if record.is_file() else {})


def _fetched(source: Source, config: Config, expected: Expected) -> dict[str, str]:
    """The digests of a source's files, which are fetched twice at most."""
    wrong = ""
    for _ in range(2):
        sums, wrong = {}, ""
        for file in _files(source, config):
            path, digest, wanted = expected.path(file), sha256(file), expected.of(file)
            if wanted and digest != wanted:
                wrong = f"{path}: {_not(wanted)}"
                log.warning("a file is not what it has to be, and is removed", extra={"file": path})
                hub.remove(file)
            sums[path] = digest
        if not wrong:
            return sums
    raise HubError(f"{wrong}; what the hub sends is something else: ask its publisher, or pin what it is")


def _not(wanted: str) -> str:
    return f"its SHA-256 is not {wanted}"


def _files(source: Source, config: Config) -> list[Path]:
    """The files of a reader or an SAE that is on the hub, fetched if that is allowed; none of one that is elsewhere."""
    if isinstance(source, ReaderSource):
        folder = find_reader(source, config)
        return sorted(file for file in folder.rglob("*") if file.is_file()) if source.id else []
    with asked_by(source):
        found = find_sae(source.source, allow_download=config.allow_download)
    return sorted(_of_sae(found.path)) if found.origin else []


def _of_sae(path: Path) -> Iterator[Path]:
    """The files of an SAE: its folder's, or its weights file and the settings beside it."""
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
        return
    yield path
    for folder in {path.parent, Path(own_folder(str(path)))}:
        yield from (file for name in SAE_SETTINGS if (file := folder / name).is_file())
