"""Whether the files that watchlists are made of have changed: told by what they hold, not by when they were written.

So a link that is led elsewhere (a ConfigMap), a file that takes another's place and one that is written in place are
seen alike, and a file that was only touched is not news.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from scopewatch.config import watchlist_file
from scopewatch.errors import SetupError
from scopewatch.files import expanded
from scopewatch.watch.watchlist import Watchlist
from scopewatch.watch.yaml_lines import parse_yaml

Look = dict[Path, str]
"""SHA-256 of each file's bytes; empty of a file that cannot be read."""


class WatchedFiles:
    """Watchlist files and the bags of words that they name.

    Args:
        named: The watchlist files, as settings name them.
        plain: Other files, which name no bags.
    """

    def __init__(self, named: Sequence[Path], plain: Sequence[Path] = ()) -> None:
        self._files = [watchlist_file(file) for file in named]
        self._plain = plain
        self._bags: dict[Path, tuple[str, list[Path]]] = {}
        """The digest of each watchlist file at the last look, and the bags that it named."""

    def look(self) -> Look:
        """What the files hold now."""
        found: dict[Path, str] = {}
        for file in self._files:
            raw = _bytes(file)
            found[file] = digest = _digest(raw)
            known, bags = self._bags.get(file, ("", []))
            if known != digest:
                bags = _bags_of(file, raw or b"")
                self._bags[file] = digest, bags
            found |= {bag: _digest(_bytes(bag)) for bag in bags}
        return found | self.plain()

    def plain(self) -> Look:
        """What the other files hold now."""
        return {file: _digest(_bytes(file)) for file in self._plain}


def look_of(watchlists: Iterable[Watchlist]) -> Look:
    """What the files held that watchlists were read from."""
    found: dict[Path, str] = {}
    for watchlist in watchlists:
        found[watchlist.file] = watchlist.digest
        bags = [indicator.bag for indicator in watchlist.indicators if indicator.bag]
        found |= {watchlist.resolve(bag.path): bag.sha256 for bag in bags}
    return found


def _bags_of(file: Path, raw: bytes) -> list[Path]:
    """The bags that a watchlist names; none where it cannot be read as far as that."""
    try:
        value, _, _ = parse_yaml(raw.decode(), file)
        paths = [indicator["bag"]["path"] for indicator in value["indicators"] if "bag" in indicator]
        return [file.parent / expanded(path) for path in paths]
    except (SetupError, UnicodeDecodeError, LookupError, TypeError):
        return []


def _bytes(file: Path) -> bytes | None:
    try:
        return file.read_bytes() if file.is_file() else None
    except OSError:
        return None


def _digest(raw: bytes | None) -> str:
    return "" if raw is None else hashlib.sha256(raw).hexdigest()
