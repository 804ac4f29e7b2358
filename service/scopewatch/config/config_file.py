"""Settings from a file in TOML, which `--config` or `SCOPEWATCH_CONFIG` names.

Its keys are the names of the settings. Relative paths in it count from its folder. It holds no secret, since a file is
copied, mounted and shown to others: it names the file of a secret instead.
"""

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scopewatch.config.folders import WATCHLISTS_BY_NAME
from scopewatch.config.given import Given, unknown
from scopewatch.config.settings import FILE_LISTS, FILES, SECRET_FILES, Config
from scopewatch.files import expanded

CONFIG = "config"
"""The name by which flags and variables name the file."""


def of_file(named: str, source: str) -> Given:
    """The settings that a file holds.

    Args:
        named: The path of the file.
        source: The flag or the variable that names it.
    """
    given = Given()
    try:
        text = expanded(named).read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        given.wrong.append(f"{source}: {named}: is no TOML: {error}")
        return given
    except OSError as error:
        given.wrong.append(f"{source}: {named}: cannot be read: {error.strerror or error}")
        return given
    folder = expanded(named).absolute().parent
    for name, value in document.items():
        place = f"{named}:{_line(text, name)}: {name}"
        if name not in {*Config.model_fields, *SECRET_FILES}:
            given.wrong.append(unknown(place, name, [*Config.model_fields, *SECRET_FILES]))
        elif name in SECRET_FILES.values() and not _holds_no_secret(name, value):
            given.wrong.append(f"{place}: no secret may stand in this file; name the secret's own file as {name}_file")
        else:
            given.add(name, _from(folder, name, value), place)
    return given


def _holds_no_secret(name: str, value: object) -> bool:
    """Whether a setting that may be a secret is none: an URL without a password."""
    try:
        return name == "redis_url" and urlsplit(str(value)).password is None
    except ValueError:
        return False


def _from(folder: Path, name: str, value: Any) -> Any:
    """The value of a setting, with the paths in it counted from a folder."""
    if name in FILE_LISTS:
        return [_file(folder, one) for one in (value if isinstance(value, list) else [value])]
    if name in SECRET_FILES or (name in FILES and value not in {"", Config.model_fields[name].default}):
        return _file(folder, value)
    return value


def _file(folder: Path, value: Any) -> Any:
    """A path counted from a folder; what is no path is left to those who check it."""
    if not isinstance(value, str) or not value:
        return value
    path = folder / expanded(value)
    # A known reader's own watchlist is named by the reader.
    return value if value in WATCHLISTS_BY_NAME and not path.exists() else str(path)


def _line(text: str, name: str) -> int:
    """The number of the line on which a key stands first, counted from 1."""
    stands = re.compile(rf"\s*\[*\s*([\"']?){re.escape(name)}\1\s*[=.\]]")
    return next((number for number, line in enumerate(text.splitlines(), 1) if stands.match(line)), 1)
