"""Writes an indicator into a watchlist file, which may be there already with others and its author's comments.

The indicator's lines are put into the text, of which nothing else changes. Where that cannot be, as in a list that is
written `[...]`, the file is written anew from what ruamel.yaml keeps of it: comments, quotes, anchors.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from scopewatch.errors import DataError, WatchlistError
from scopewatch.files import atomic_write, expanded, unwritable
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from scopewatch.watch.yaml_lines import is_plain_text

try:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.nodes import ScalarNode
    from ruamel.yaml.representer import RoundTripRepresenter
    from ruamel.yaml.scalarstring import SingleQuotedScalarString
except ImportError:
    raise DataError("calibrate needs ruamel.yaml: pip install 'scopewatch[calibration]'") from None

_WIDTH = 120
_UNBROKEN = 1 << 20
Edit = tuple[int, int, str]
"""A change of a text: what stands from one place to another becomes the new text."""


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
        indicator: The indicator to add.
        reader: The reader that the indicator was calibrated with; the file's own must be the same. Its path, like those
            of `saes`, counts from the working directory.
        saes: The SAEs and probes that the indicator's features name, by name.
        name: The name of the watchlist, if the file is made.
        rehearse: Whether only to find out if the file could be written.

    Returns:
        The watchlist as it is written.

    Raises:
        WatchlistError: The file is wrong, has another reader, or calls another SAE by a name of `saes`; or the
            indicator does not fit into it.
        DataError: The file cannot be written.
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
        texts = [_new(name, indicator, reader, saes)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, rehearse=rehearse) as part:
            written = _write_first_true(part, texts, there, indicator, shown=file)
    except OSError as error:
        raise DataError(unwritable(file, error)) from None
    return replace(written, file=file)


def _write_first_true(
    part: Path, texts: list[str], there: Watchlist | None, indicator: Indicator, *, shown: Path
) -> Watchlist:
    """Writes the first text that says what it should: what would not load must not take the place of what does.

    Args:
        part: The file to write, beside the watchlist.
        texts: Texts of the watchlist with the indicator; the last is the surest.
        there: The watchlist as it was, if there was one.
        indicator: The indicator that is added.
        shown: The file that messages name.

    Raises:
        WatchlistError: The last text does not load, or none says what it should.
    """
    others = {other.name: other for other in there.indicators} if there else {}
    wanted = tuple({**others, indicator.name: indicator}.values())
    for text in texts:
        part.write_bytes(text.encode())
        try:
            written = load_watchlist(part)
        except WatchlistError as error:
            if text is texts[-1]:
                raise WatchlistError(str(error).replace(str(part), str(shown))) from None
        else:
            if written.indicators == wanted and (there is None or written.reader == there.reader):
                return written
    raise WatchlistError(f"{shown}: cannot be added to; give another --out")


def _new(name: str, indicator: Indicator, reader: ReaderSource, saes: Mapping[str, SaeSource]) -> str:
    """The text of a watchlist that holds the indicator alone."""
    document = {"version": 1, "name": _text(name), "reader": _flow(_plain(reader))}
    added = {_text(sae): _flow(_plain(source)) for sae, source in saes.items()}
    return _yaml(CommentedMap({**document, "saes": added, "indicators": [_entry(indicator)]}))


def _spliced(raw: str, indicator: Indicator, saes: Mapping[str, SaeSource]) -> str:
    """The text with the indicator's lines; useless where its layout is none that is provided for."""
    whole: Any = yaml.compose(raw, yaml.SafeLoader)
    document: dict[str, Any] = {key.value: value for key, value in whole.value}
    entries: Any = document["indicators"]
    named = [{key.value: value.value for key, value in entry.value}.get("name") for entry in entries.value]
    lines = textwrap.indent(_yaml([_entry(indicator)]), " " * entries.start_mark.column)
    if indicator.name in named:
        entry = entries.value[named.index(indicator.name)]
        start = raw.rfind("-", 0, entry.start_mark.index)
        edits: list[Edit] = [(start, _end(raw, entry), lines.lstrip(" "))]
    else:
        end = _end(raw, entries)
        edits = [(end, end, lines)]
    edits += _sae_edits(raw, document.get("saes"), entries, saes)
    for start, end, text in sorted(edits, reverse=True):
        raw = raw[:start] + (text.replace("\n", "\r\n") if "\r\n" in raw else text) + raw[end:]
    return raw


def _sae_edits(raw: str, known: Any, entries: yaml.Node, saes: Mapping[str, SaeSource]) -> list[Edit]:
    """What adds those SAEs to a text that its `saes` lack.

    Args:
        raw: The text.
        known: The node of `saes`; None if the text has none.
        entries: The node of `indicators`.
        saes: The SAEs that the indicator names.
    """
    there = {key.value for key, _ in known.value} if known else set()
    added = {_text(sae): _flow(_plain(source)) for sae, source in saes.items() if sae not in there}
    if not added:
        return []
    if known is None:
        start = raw.rfind("indicators", 0, entries.start_mark.index)
        return [(start, start, _yaml({"saes": added}))]
    if known.flow_style:
        brace = known.end_mark.index - 1
        inside = _yaml(_flow(added)).strip()[1:-1]
        return [(brace, brace, f", {inside}" if there else inside)]
    end = _end(raw, known)
    return [(end, end, textwrap.indent(_yaml(added), " " * known.start_mark.column))]


def _end(raw: str, node: yaml.Node) -> int:
    """The place in the text where the line after the node begins."""
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
        document["saes"].setdefault(_text(sae), _flow(_plain(source)))
    entries = document["indicators"]
    place = next((i for i, other in enumerate(entries) if other["name"] == indicator.name), len(entries))
    entries[place : place + 1] = [_entry(indicator)]
    return _yaml(document, _UNBROKEN)


def _yaml(value: Any, width: int = _WIDTH) -> str:
    text = StringIO()
    _round_trip(width).dump(value, text)
    return text.getvalue()


class _Representer(RoundTripRepresenter):
    """Writes numbers as every version of YAML reads them."""

    def represent_float(self, data: float) -> ScalarNode:
        text = repr(data)
        text = text if "." in text else text.replace("e", ".0e")
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(float, _Representer.represent_float)


def _round_trip(width: int) -> YAML:
    form = YAML()
    form.Representer = _Representer
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
    path = expanded(source.path).absolute()
    return source.model_copy(update={"path": str(path.relative_to(folder) if path.is_relative_to(folder) else path)})


def _entry(indicator: Indicator) -> CommentedMap:
    """The indicator for YAML, with one line for a feature, as people write it."""
    plain = _plain(indicator)
    plain["features"] = [_flow(feature) for feature in plain.get("features", [])]
    plain["combines"] = [_flow(part) for part in plain.get("combines", [])]
    if "threshold_by_length" in plain:
        plain["threshold_by_length"] = _flow(plain["threshold_by_length"])
    card = plain.get("card")
    if card:
        card["measurements"] = [_flow_inside(row) for row in card["measurements"]]
        if "fragility" in card:
            card["fragility"] = [_flow(row) for row in card["fragility"]]
        card["data"] = [_flow(row) for row in card["data"]]
    return CommentedMap({name: value for name, value in plain.items() if value != []})


def _plain(model: BaseModel) -> dict[str, Any]:
    """The fields that differ from their defaults, in their order; a pooling without arguments is a word."""

    def words(value: Any) -> Any:
        if isinstance(value, dict):
            return value["kind"] if value.keys() == {"kind"} else {key: words(part) for key, part in value.items()}
        if isinstance(value, list):
            return [words(part) for part in value]
        return _text(value) if isinstance(value, str) else value

    plain: dict[str, Any] = words(model.model_dump(mode="json", exclude_defaults=True))
    return plain


def _text(value: str) -> str:
    """A text that is read as one: `no` is text for ruamel.yaml, and refused without quotes in a watchlist."""
    return value if is_plain_text(value) else SingleQuotedScalarString(value)


def _flow(value: dict[str, Any]) -> CommentedMap:
    flowing = CommentedMap(value)
    flowing.fa.set_flow_style()
    return flowing


def _flow_inside(value: dict[str, Any]) -> CommentedMap:
    return CommentedMap({key: _flow(part) if isinstance(part, dict) else part for key, part in value.items()})
