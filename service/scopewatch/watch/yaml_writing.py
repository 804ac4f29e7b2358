"""Parts of a watchlist as YAML, with one line for a feature and for a list of numbers, as people write it."""

from io import StringIO
from typing import Any

from pydantic import BaseModel

from scopewatch.errors import DataError
from scopewatch.watch.cards import Card
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.reference import Reference
from scopewatch.watch.yaml_lines import is_plain_text

try:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.emitter import RoundTripEmitter
    from ruamel.yaml.nodes import ScalarNode
    from ruamel.yaml.representer import RoundTripRepresenter
    from ruamel.yaml.scalarstring import SingleQuotedScalarString
except ImportError:
    raise DataError("writing a watchlist needs ruamel.yaml: pip install 'scopewatch[calibration]'") from None

_WIDTH = 120
UNBROKEN = 1 << 20
"""A width at which no line is broken."""


def yaml_text(value: Any, width: int = _WIDTH) -> str:
    """The YAML of a value, in lines of about so many characters."""
    text = StringIO()
    round_trip(width).dump(value, text)
    return text.getvalue()


def round_trip(width: int) -> YAML:
    """What reads YAML and writes it again, with its comments, quotes and anchors."""
    form = YAML()
    form.Representer = _Representer
    form.Emitter = _Emitter
    form.width = width
    form.preserve_quotes = True
    form.indent(mapping=2, sequence=2, offset=0)
    return form


class _Representer(RoundTripRepresenter):
    """Writes numbers as every version of YAML reads them."""

    def represent_float(self, data: float) -> ScalarNode:
        text = repr(data)
        text = text if "." in text else text.replace("e", ".0e")
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(float, _Representer.represent_float)


class _Emitter(RoundTripEmitter):
    """Breaks no list that is written `[...]`."""

    @property
    def best_width(self) -> int:
        return UNBROKEN if self.flow_context[-1:] == ["["] else self._width

    @best_width.setter
    def best_width(self, width: int) -> None:
        self._width = width


def indicator_entry(indicator: Indicator) -> CommentedMap:
    """An indicator."""
    entry = plain(indicator)
    entry["features"] = [flow(feature) for feature in entry.get("features", [])]
    entry["combines"] = [flow(part) for part in entry.get("combines", [])]
    if "threshold_by_length" in entry:
        entry["threshold_by_length"] = flow(entry["threshold_by_length"])
    if indicator.card:
        entry["card"] = card_entry(indicator.card)
    return CommentedMap({name: value for name, value in entry.items() if value != []})


def card_entry(card: Card) -> dict[str, Any]:
    """A card, with one line for each file, each change that it was tried under and each list of quantiles."""
    entry = plain(card)
    entry["measurements"] = [_flow_inside(row) for row in entry["measurements"]]
    entry |= {name: [flow(row) for row in entry[name]] for name in ("data", "traffic", "fragility") if name in entry}
    for also in entry.get("also_measured", []):
        also["measurements"] = [_flow_inside(row) for row in also["measurements"]]
    if card.reference:
        entry["reference"] = reference_entry(card.reference)
    return entry


def reference_entry(reference: Reference) -> CommentedMap:
    """The reference of a card, with one line for each list of quantiles."""
    entry = {name: _line(value) for name, value in plain(reference).items()}
    if "score_bins" in entry:
        entry["score_bins"] = flow(entry["score_bins"])
    for part, written in (("terms", _line), ("term_bins", flow)):
        if part in entry:
            entry[part] = CommentedMap({text_of(name): written(value) for name, value in entry[part].items()})
    return CommentedMap(entry)


def plain(model: BaseModel) -> dict[str, Any]:
    """The fields that differ from their defaults, in their order; a pooling without arguments is a word."""

    def words(value: Any) -> Any:
        if isinstance(value, dict):
            return value["kind"] if value.keys() == {"kind"} else {key: words(part) for key, part in value.items()}
        if isinstance(value, list):
            return [words(part) for part in value]
        return text_of(value) if isinstance(value, str) else value

    fields: dict[str, Any] = words(model.model_dump(mode="json", exclude_defaults=True))
    return fields


def text_of(value: str) -> str:
    """A text that is read as one: `no` is text for ruamel.yaml, and refused without quotes in a watchlist; in brackets,
    PyYAML takes a question mark for the beginning of a key.
    """
    return value if is_plain_text(value) and "?" not in value else SingleQuotedScalarString(value)


def flow(value: dict[str, Any]) -> CommentedMap:
    """A mapping that is written `{...}`."""
    flowing = CommentedMap(value)
    flowing.fa.set_flow_style()
    return flowing


def _flow_inside(value: dict[str, Any]) -> CommentedMap:
    return CommentedMap({key: flow(part) if isinstance(part, dict) else part for key, part in value.items()})


def _line(value: Any) -> Any:
    """A list as one that is written `[...]`; anything else as it is."""
    if not isinstance(value, list):
        return value
    flowing = CommentedSeq(value)
    flowing.fa.set_flow_style()
    return flowing
