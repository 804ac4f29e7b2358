"""Writes an indicator into a watchlist file, which may be there already with others and its author's comments."""

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from scopewatch.errors import DataError, WatchlistError
from scopewatch.indicators import Indicator
from scopewatch.watchlist import ReaderSource, SaeSource, Watchlist, load_watchlist

try:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
except ImportError:
    raise DataError("calibrate needs ruamel.yaml: pip install 'scopewatch[calibration]'") from None

_WIDTH = 120


def write_indicator(
    file: Path, indicator: Indicator, reader: ReaderSource, saes: Mapping[str, SaeSource], name: str
) -> Watchlist:
    """Adds an indicator to a watchlist, in place of one of the same name; makes the file if it is not there.

    Args:
        file: The watchlist.
        indicator: It.
        reader: The reader; the file's own must be the same.
        saes: SAEs and probes its features name.
        name: Of the watchlist, if it is made. Paths count from the working directory.

    Returns:
        The watchlist as it was written.

    Raises:
        WatchlistError: The file is wrong, has another reader, or calls another SAE by a name of `saes`.
        DataError: It cannot be written.
    """
    folder = file.absolute().parent
    yaml = YAML()
    yaml.width = _WIDTH
    yaml.indent(mapping=2, sequence=2, offset=0)
    reader = _from(folder, reader)
    saes = {sae: _from(folder, source) for sae, source in saes.items()}
    if file.exists():
        there = load_watchlist(file)
        _assert_same(there, reader, saes)
        document = yaml.load(file.read_bytes())
    else:
        document = CommentedMap(
            {"version": 1, "name": name, "reader": _flow(_plain(reader)), "saes": {}, "indicators": []}
        )
    known = document.setdefault("saes", CommentedMap())
    for sae, source in saes.items():
        known.setdefault(sae, _flow(_plain(source)))
    entries = document["indicators"]
    entry = _entry(indicator)
    place = next((i for i, other in enumerate(entries) if other["name"] == indicator.name), len(entries))
    entries[place : place + 1] = [entry]
    text = StringIO()
    yaml.dump(document, text)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(text.getvalue(), encoding="utf-8")
        # What would not load must not take the place of what does.
        load_watchlist(part)
        part.replace(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return load_watchlist(file)


def _assert_same(there: Watchlist, reader: ReaderSource, saes: Mapping[str, SaeSource]) -> None:
    def absolute(source: ReaderSource | SaeSource) -> BaseModel:
        path = str(there.resolve(source.path).resolve()) if source.path else ""
        return source.model_copy(update={"path": path, "relation": None})

    if absolute(there.reader) != absolute(reader):
        raise WatchlistError(
            f"{there.where('reader')}: another reader than the one that was calibrated with; give another --out"
        )
    for sae in there.saes.keys() & saes.keys():
        if absolute(there.saes[sae]) != absolute(saes[sae]):
            raise WatchlistError(f"{there.where('saes', sae)}: a different SAE has this name; give another --sae-name")


def _from(folder: Path, source: Any) -> Any:
    """The source with its path counted from `folder`, if it lies below, else absolute."""
    if not source.path:
        return source
    path = Path(source.path).expanduser().resolve()
    inside = path.is_relative_to(folder.resolve())
    return source.model_copy(update={"path": str(path.relative_to(folder.resolve()) if inside else path)})


def _entry(indicator: Indicator) -> CommentedMap:
    """One line for a feature, as people write it."""
    plain = _plain(indicator)
    plain["features"] = [_flow(feature) for feature in plain.get("features", [])]
    plain["combines"] = [_flow(part) for part in plain.get("combines", [])]
    card = plain.get("card")
    if card:
        card["measurements"] = [_flow_inside(row) for row in card["measurements"]]
        card["data"] = [_flow(row) for row in card["data"]]
    return CommentedMap({name: value for name, value in plain.items() if value != []})


def _plain(model: BaseModel) -> dict[str, Any]:
    """What differs from the defaults, in the order of the fields; a pooling without arguments as a word."""

    def words(value: Any) -> Any:
        if isinstance(value, dict):
            return value["kind"] if value.keys() == {"kind"} else {key: words(part) for key, part in value.items()}
        return [words(part) for part in value] if isinstance(value, list) else value

    plain: dict[str, Any] = words(model.model_dump(mode="json", exclude_defaults=True))
    return plain


def _flow(value: dict[str, Any]) -> CommentedMap:
    flowing = CommentedMap(value)
    flowing.fa.set_flow_style()
    return flowing


def _flow_inside(value: dict[str, Any]) -> CommentedMap:
    return CommentedMap({key: _flow(part) if isinstance(part, dict) else part for key, part in value.items()})
