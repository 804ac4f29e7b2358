"""The pairs that a card was measured on, found again in their files, which are known by their SHA-256."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scopewatch.calibration.benign_pairs import Choice, held_out_pairs
from scopewatch.errors import DataError
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import read_pairs, read_texts
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.rows import digest_of
from scopewatch.watch.cards import Card, DataFile
from scopewatch.watch.indicators import Indicator


@dataclass(frozen=True, slots=True)
class CardPairs:
    """The pairs that a card was measured on."""

    held_out: list[LabelledPair]
    """Labelled pairs that the indicator was not fitted on; empty where benign traffic alone set its threshold."""
    traffic: list[LabelledPair]
    """Benign traffic that set the threshold; empty where the held-out pairs did."""


def files_by_digest(files: Sequence[Path], cards: Sequence[Card]) -> dict[str, Path]:
    """Files by their SHA-256.

    Args:
        files: The files.
        cards: The cards of the watchlist.

    Raises:
        DataError: None of the cards was measured on one of them.
    """
    by_digest = {digest_of(file): file for file in files}
    known = {file.sha256 for card in cards for file in (*card.data, *card.traffic)}
    for digest, file in by_digest.items():
        if digest not in known:
            raise DataError(f"{file}: is not a file that a card of the watchlist was measured on; leave it out")
    return by_digest


def card_pairs(indicator: Indicator, files: Mapping[str, Path], choice: Choice) -> CardPairs:
    """The pairs that the card of an indicator was measured on.

    Args:
        indicator: The indicator.
        files: Files by their SHA-256.
        choice: How the files are read, and how the calibration split and labelled them.

    Raises:
        DataError: A file of the card is missing; or other pairs were held out than the card says.
    """
    card = indicator.card
    assert card is not None, "whoever asks has seen it"
    labelled = card.data if card.beats_bag_of_words is not None else ()
    traffic = card.traffic if labelled else card.data
    if not (labelled or traffic):
        raise DataError(f"{indicator.name}: its card names no files that it was measured on; calibrate again")
    held_out, seen = [], []
    if labelled:
        read = join_copies(read_pairs(*_found(indicator, labelled, files), reading=choice.reading), indicator.segment)
        held_out = [
            replace(pair, label=int(pair.label != choice.benign)) for pair in held_out_pairs(read, card, choice)
        ]
    if traffic:
        read = join_copies(read_texts(*_found(indicator, traffic, files), reading=choice.reading), indicator.segment)
        seen = read.pairs
    return CardPairs(held_out, seen)


def _found(indicator: Indicator, wanted: Sequence[DataFile], files: Mapping[str, Path]) -> Iterator[Path]:
    """The files that a card names, in its order, on which the draw of one pair a group depends."""
    for file in wanted:
        if file.sha256 not in files:
            namesake = any(path.name == file.name for path in files.values())
            other = f"; the {file.name} that is given is another" if namesake else ""
            raise DataError(
                f"{indicator.name}: its card was measured on {file.name}, SHA-256 {file.sha256[:16]}…; add that file"
                f"{other}"
            )
        yield files[file.sha256]
