"""Writes an indicator into a watchlist file, which may be there already with others and its author's comments.

The indicator's lines are put into the text, of which nothing else changes. Where that cannot be, as in a list that is
written `[...]`, the file is written anew from what ruamel.yaml keeps of it: comments, quotes, anchors.
"""

import os
import shutil
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from scopewatch.errors import DataError, WatchlistError
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist, load_watchlist

try:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
except ImportError:
    raise DataError("calibrate needs ruamel.yaml: pip install 'scopewatch[calibration]'") from None

_WIDTH = 120
_UNBROKEN = 1 << 20
Edit = tuple[int, int, str]
"""Of a text: what is from one place to another becomes this."""


def write_indicator(
    file: Path,
    indicator: Indicator,
    reader: ReaderSource,
    saes: Mapping[str, SaeSource],
    name: str,
    *,
    rehearse: bool = False,
) -> Watchlist:
    """Adds an indicator to a watchlist, in place of one of the same name; makes the file if it is not there.

    Args:
        file: The watchlist; where it is a link, what it points to is written.
        indicator: It.
        reader: The reader; the file's own must be the same.
        saes: SAEs and probes its features name.
        name: Of the watchlist, if it is made. Paths count from the working directory.
        rehearse: Only find out whether it could be written.

    Returns:
        The watchlist as it is written.

    Raises:
        WatchlistError: The file is wrong, has another reader, or calls another SAE by a name of `saes`; or the
            indicator does not fit into it.
        DataError: It cannot be written.
    """
    folder = file.absolute().parent
    reader = _from(folder, reader)
    saes = {sae: _from(folder, source) for sae, source in saes.items()}
    there = load_watchlist(file) if file.exists() else None
    if there:
        _assert_same(there, reader, saes)
        raw = file.read_bytes().decode()
        raw += "" if raw.endswith("\n") else "\n"
        texts = [_spliced(raw, indicator, saes), _dumped(raw, indicator, saes)]
    else:
        document = {"version": 1, "name": name, "reader": _flow(_plain(reader))}
        added = {sae: _flow(_plain(source)) for sae, source in saes.items()}
        texts = [_yaml(CommentedMap({**document, "saes": added, "indicators": [_entry(indicator)]}))]
    target = file.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = _written(part, texts, there, indicator)
        if not rehearse:
            if there:
                shutil.copymode(target, part)
            part.replace(target)
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror or error}") from None
    except WatchlistError as error:
        raise WatchlistError(str(error).replace(str(part), str(file))) from None
    finally:
        with suppress(OSError):
            part.unlink()
    return replace(written, file=file)


def _written(part: Path, texts: list[str], there: Watchlist | None, indicator: Indicator) -> Watchlist:
    """Writes the first text that says what it should: what would not load must not take the place of what does."""
    others = {other.name: other for other in there.indicators} if there else {}
    wanted = tuple({**others, indicator.name: indicator}.values())
    for text in texts:
        with part.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        try:
            written = load_watchlist(part)
        except WatchlistError:
            if text is texts[-1]:
                raise
        else:
            if written.indicators == wanted and (there is None or written.reader == there.reader):
                return written
    raise WatchlistError(f"{part}: cannot be added to; give another --out")


def _spliced(raw: str, indicator: Indicator, saes: Mapping[str, SaeSource]) -> str:
    """The text with the indicator's lines; useless where its layout is none that is provided for."""
    whole: Any = yaml.compose(raw, yaml.SafeLoader)
    document: dict[str, Any] = {key.value: value for key, value in whole.value}
    entries: Any = document["indicators"]
    known: Any = document.get("saes")
    named = [{key.value: value.value for key, value in entry.value}.get("name") for entry in entries.value]
    lines = textwrap.indent(_yaml([_entry(indicator)]), " " * entries.start_mark.column)
    if indicator.name in named:
        entry = entries.value[named.index(indicator.name)]
        start = raw.rfind("-", 0, entry.start_mark.index)
        edits: list[Edit] = [(start, _end(raw, entry), lines.lstrip(" "))]
    else:
        end = _end(raw, entries)
        edits = [(end, end, lines)]
    there = {key.value for key, _ in known.value} if known else set()
    added = {sae: _flow(_plain(source)) for sae, source in saes.items() if sae not in there}
    if added and known is None:
        start = raw.rfind("indicators", 0, entries.start_mark.index)
        edits.append((start, start, _yaml({"saes": added})))
    elif added and known.flow_style:
        brace = known.end_mark.index - 1
        inside = _yaml(_flow(added)).strip()[1:-1]
        edits.append((brace, brace, f", {inside}" if there else inside))
    elif added:
        end = _end(raw, known)
        edits.append((end, end, textwrap.indent(_yaml(added), " " * known.start_mark.column)))
    for start, end, text in sorted(edits, reverse=True):
        raw = raw[:start] + (text.replace("\n", "\r\n") if "\r\n" in raw else text) + raw[end:]
    return raw


def _end(raw: str, node: yaml.Node) -> int:
    """Where the line after the node begins."""
    last = node
    while isinstance(last, yaml.CollectionNode) and last.value and not last.flow_style:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    end: int = last.end_mark.index
    if last.end_mark.column == 0 and last.end_mark.line > last.start_mark.line:
        return end
    return raw.find("\n", end) + 1 or len(raw)


def _dumped(raw: str, indicator: Indicator, saes: Mapping[str, SaeSource]) -> str:
    """The document with the indicator, written anew."""
    document = _round_trip(_UNBROKEN).load(raw)
    if document.get("saes") is None:
        document["saes"] = CommentedMap()
    for sae, source in saes.items():
        document["saes"].setdefault(sae, _flow(_plain(source)))
    entries = document["indicators"]
    place = next((i for i, other in enumerate(entries) if other["name"] == indicator.name), len(entries))
    entries[place : place + 1] = [_entry(indicator)]
    return _yaml(document, _UNBROKEN)


def _yaml(value: Any, width: int = _WIDTH) -> str:
    text = StringIO()
    _round_trip(width).dump(value, text)
    return text.getvalue()


def _round_trip(width: int) -> YAML:
    form = YAML()
    form.width = width
    form.preserve_quotes = True
    form.indent(mapping=2, sequence=2, offset=0)
    return form


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
    # Links are not followed: in a hub cache they lead to files without a name.
    path = Path(source.path).expanduser().absolute()
    return source.model_copy(update={"path": str(path.relative_to(folder) if path.is_relative_to(folder) else path)})


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
