"""Writes indicators, or parts of their cards, into a watchlist file that may be there already, with its
author's comments.

Their lines are put into the text, of which nothing else changes. Where that cannot be, as in a list that is written
`[...]`, the file is written anew from what ruamel.yaml keeps of it: comments, quotes, anchors.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from scopewatch.errors import DataError, WatchlistError
from scopewatch.files import atomic_write, unwritable
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.watch.cards import AlsoMeasured, Card
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.portable_paths import counted_from, plain_path
from scopewatch.watch.reference import Reference
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from scopewatch.watch.yaml_writing import (
    UNBROKEN,
    card_entry,
    flow,
    indicator_entry,
    plain,
    round_trip,
    text_of,
    yaml_text,
)

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
    folder = plain_path(file.absolute().parent)
    reader = counted_from(folder, reader)
    saes = {sae: counted_from(folder, source) for sae, source in saes.items()}
    there = load_watchlist(file) if file.exists() else None
    if there:
        _assert_same(there, reader, saes)
        raw = _text_of(file)
        texts = [_spliced(raw, indicator, saes), _dumped(raw, indicator, saes)]
    else:
        texts = [_new(name, indicator, reader, saes)]
    others = {other.name: other for other in there.indicators} if there else {}
    wanted = tuple({**others, indicator.name: indicator}.values())
    return _written(file, texts, wanted, there, rehearse=rehearse)


def write_references(
    watchlist: Watchlist, references: Mapping[str, Reference], out: Path, *, rehearse: bool = False
) -> Watchlist:
    """Writes a watchlist with the references of some cards, in place of those that the cards had.

    Args:
        watchlist: The watchlist.
        references: The references, by the name of the indicator; each has a card.
        out: The file to write: the watchlist's own, or one from which the same relative paths lead to the same files.
        rehearse: Whether only to find out if the file could be written.

    Returns:
        The watchlist as it is written.

    Raises:
        WatchlistError: The file has changed since it was loaded.
        DataError: The file cannot be written.
    """
    cards = {
        one.name: one.card.model_copy(update={"reference": references[one.name]})
        for one in watchlist.indicators
        if one.card and one.name in references
    }
    return _write_cards(watchlist, cards, "reference", out, rehearse=rehearse)


def write_also_measured(
    watchlist: Watchlist, figures: Mapping[str, AlsoMeasured], out: Path, *, rehearse: bool = False
) -> Watchlist:
    """Writes a watchlist with figures of some cards in another dtype, in place of those that they had for it; as
    `write_references`.
    """
    cards = {
        one.name: one.card.with_figures(figures[one.name])
        for one in watchlist.indicators
        if one.card and one.name in figures
    }
    return _write_cards(watchlist, cards, "also_measured", out, rehearse=rehearse)


def _write_cards(watchlist: Watchlist, cards: Mapping[str, Card], part: str, out: Path, *, rehearse: bool) -> Watchlist:
    """Writes a watchlist in which one part of some cards, by the indicators' names, is another."""
    edited = anew = _text_of(watchlist.file)
    wanted = tuple(
        one.model_copy(update={"card": cards[one.name]}) if one.name in cards else one for one in watchlist.indicators
    )
    for indicator in wanted:
        if card := cards.get(indicator.name):
            edited, anew = _with_part(edited, indicator.name, card, part), _dumped(anew, indicator, {})
    return _written(out, [edited, anew], wanted, watchlist, rehearse=rehearse)


def _text_of(file: Path) -> str:
    """The text of a watchlist, which ends with a line's end."""
    raw = file.read_bytes().decode()
    return raw if raw.endswith("\n") else f"{raw}\n"


def _written(
    file: Path, texts: Sequence[str], wanted: tuple[Indicator, ...], there: Watchlist | None, *, rehearse: bool
) -> Watchlist:
    """Writes the first text that says what it should, in one step.

    Args:
        file: The file to write.
        texts: Texts of the watchlist; the last is the surest.
        wanted: What the indicators should be.
        there: The watchlist that the texts were made of, if there was one.
        rehearse: Whether only to find out if the file could be written.

    Raises:
        WatchlistError: The last text does not load, or none says what it should.
        DataError: The file cannot be written.
    """
    try:
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, rehearse=rehearse) as part:
            written = _write_first_true(part, texts, wanted, there, shown=file)
    except OSError as error:
        raise DataError(unwritable(file, error)) from None
    return replace(written, file=file)


def _write_first_true(
    part: Path, texts: Sequence[str], wanted: tuple[Indicator, ...], there: Watchlist | None, *, shown: Path
) -> Watchlist:
    """As `_written`, given the file beside the watchlist that takes its place, and the file that messages name: what
    would not load must not take the place of what does.
    """
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
    document = {"version": 1, "name": text_of(name), "reader": flow(plain(reader))}
    added = {text_of(sae): flow(plain(source)) for sae, source in saes.items()}
    return yaml_text({**document, "saes": added, "indicators": [indicator_entry(indicator)]})


def _spliced(raw: str, indicator: Indicator, saes: Mapping[str, SaeSource]) -> str:
    """The text with the indicator's lines; useless where its layout is none that is provided for."""
    document = _nodes(yaml.compose(raw, yaml.SafeLoader))
    entries = document["indicators"]
    there = _entry_of(entries, indicator.name)
    lines = textwrap.indent(yaml_text([indicator_entry(indicator)]), " " * entries.start_mark.column)
    if there:
        start = raw.rfind("-", 0, there.start_mark.index)
        edits: list[Edit] = [(start, _end(raw, there), lines.lstrip(" "))]
    else:
        end = _end(raw, entries)
        edits = [(end, end, lines)]
    return _edited(raw, edits + _sae_edits(raw, document.get("saes"), entries, saes))


def _with_part(raw: str, name: str, wanted: Card, part: str) -> str:
    """The text with the lines of one part in the card of an indicator; useless where its layout is none that is
    provided for.
    """
    entry = _entry_of(_nodes(yaml.compose(raw, yaml.SafeLoader))["indicators"], name)
    card = _nodes(entry)["card"]
    if card.flow_style:
        return raw
    lines = textwrap.indent(yaml_text({part: card_entry(wanted)[part]}), " " * card.start_mark.column)
    former = next((key for key, _ in card.value if key.value == part), None)
    if former is None:
        start = end = _end(raw, card)
    else:
        start = former.start_mark.index - former.start_mark.column
        end = _end(raw, _nodes(card)[part])
    return _edited(raw, [(start, end, lines)])


def _nodes(mapping: Any) -> dict[str, Any]:
    """The nodes of a mapping by their keys."""
    return {key.value: value for key, value in mapping.value}


def _entry_of(entries: Any, name: str) -> Any:
    """The node of the indicator of this name; None where there is none."""
    return next((entry for entry in entries.value if _nodes(entry)["name"].value == name), None)


def _edited(raw: str, edits: Sequence[Edit]) -> str:
    """The text after some edits."""
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
    added = {text_of(sae): flow(plain(source)) for sae, source in saes.items() if sae not in there}
    if not added:
        return []
    if known is None:
        start = raw.rfind("indicators", 0, entries.start_mark.index)
        return [(start, start, yaml_text({"saes": added}))]
    if known.flow_style:
        brace = known.end_mark.index - 1
        inside = yaml_text(flow(added)).strip()[1:-1]
        return [(brace, brace, f", {inside}" if there else inside)]
    end = _end(raw, known)
    return [(end, end, textwrap.indent(yaml_text(added), " " * known.start_mark.column))]


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
    document = round_trip(UNBROKEN).load(raw)
    if document.get("saes") is None:
        document["saes"] = {}
    for sae, source in saes.items():
        document["saes"].setdefault(text_of(sae), flow(plain(source)))
    entries = document["indicators"]
    place = next((i for i, other in enumerate(entries) if other["name"] == indicator.name), len(entries))
    entries[place : place + 1] = [indicator_entry(indicator)]
    return yaml_text(document, UNBROKEN)


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
