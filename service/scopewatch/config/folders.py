"""Where files lie that nobody named: what comes with the package, and the user's cache."""

import os
from pathlib import Path

_DEMO = Path(__file__).parents[1] / "demo"
BUNDLED_WATCHLIST = _DEMO / "watchlist.yaml"
WATCHLISTS_BY_NAME = {"smollm2-135m-instruct": _DEMO / "smollm2-135m-instruct" / "watchlist.yaml"}
"""Watchlists that come with the package for known readers, by the reader's name."""


def watchlist_file(named: Path) -> Path:
    """The file of a watchlist.

    Args:
        named: The file, or where there is no such file, the name of a known reader whose watchlist is meant.
    """
    return named if named.exists() else WATCHLISTS_BY_NAME.get(str(named), named)


def cache_folder(name: str) -> Path:
    """A folder of scopewatch's cache, which lies in `$XDG_CACHE_HOME` (as XDG specifies it) or `~/.cache`.

    Args:
        name: What the folder is for, such as `packs`.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache")) / "scopewatch" / name
