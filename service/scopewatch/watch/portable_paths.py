"""Paths that stay right when the folder of a watchlist is moved with what is in it."""

import os
from pathlib import Path
from typing import Any

from scopewatch.files import expanded


def counted_from(folder: Path, source: Any) -> Any:
    """The source with its path counted from `folder`, if it lies in there, else absolute: so a folder can be moved with
    what is in it, to another system too.
    """
    if not source.path:
        return source
    # Links are not followed: in a hub cache they lead to files without a name.
    path = plain_path(expanded(source.path).absolute())
    inside = path.is_relative_to(folder)
    return source.model_copy(update={"path": path.relative_to(folder).as_posix() if inside else str(path)})


def plain_path(path: Path) -> Path:
    """A path without `..`, if it leads to the same place: behind a link it may not."""
    plain = Path(os.path.normpath(path))
    return plain if plain.exists() and plain.samefile(path) else path
