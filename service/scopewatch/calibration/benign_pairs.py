"""Which pairs of some files are the benign ones that an indicator's reference is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scopewatch.calibration.split import split
from scopewatch.errors import DataError
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import PairsRead, Reading, read_pairs, read_texts
from scopewatch.pairs.labelled import LabelledPair, Labels, fraction, groups_of
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.rows import digest_of
from scopewatch.statistics.bounds import one_per_group
from scopewatch.watch.cards import Card
from scopewatch.watch.indicators import Indicator

_DRAW_SALT = "scopewatch-reference"


@dataclass(frozen=True, slots=True)
class BenignPairs:
    """Benign pairs, one of each group, and what they are."""

    pairs: list[LabelledPair]
    told: str
    """What they are, for people."""
    tally: Tally
    """The rows of the files, and what was left out of them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How benign pairs are chosen."""

    benign: int = 0
    """The label of benign pairs; pairs without one are benign."""
    held_out: float = 0.5
    """The share of the groups that a calibration held out, of an indicator that was calibrated on the files."""
    most: int = 2000
    """How many pairs are used at most, drawn by a hash of their groups' names."""
    reading: Reading = field(default_factory=Reading)
    """How the files are read."""


def benign_pairs(indicator: Indicator, files: Sequence[Path], choice: Choice) -> BenignPairs:
    """The benign pairs of some files, for an indicator that has a card.

    Of files that the indicator was calibrated on, those pairs are used that the calibration held out: pairs that it was
    fitted on score lower than others.

    Raises:
        DataError: A file cannot be read; there is no benign pair; or which pairs were held out is not known.
    """
    card = indicator.card
    assert card is not None, "whoever asks has seen it"
    digests = {digest_of(file): file.name for file in files}
    names = ", ".join(file.name for file in files)
    fitted = {file.sha256 for file in card.data} if card.beats_bag_of_words is not None else set()
    known = {file.sha256 for file in (*card.data, *card.traffic)}
    if fitted & digests.keys():
        _refuse_some(indicator, card, digests)
        read = join_copies(read_pairs(*files, reading=choice.reading), indicator.segment)
        pairs, told = held_out_pairs(read, card, choice), f"{names}: the groups held out"
    else:
        read = read_texts(*files, labels=Labels.IF_THERE, reading=choice.reading)
        read = join_copies(read, indicator.segment)
        pairs = read.pairs
        told = f"{names}: benign traffic" if digests.keys() <= known else f"{names}: other pairs than the card's"
    benign = [pair for pair in pairs if pair.label in (None, choice.benign)]
    if not benign:
        raise DataError(f"{names}: no pair is benign: all have the label {1 - choice.benign}; see --flip-labels")
    alone = [benign[row] for row in one_per_group(groups_of(benign))]
    if len(alone) > choice.most:
        told += f", {choice.most:,} of {len(alone):,} drawn"
    return BenignPairs(_drawn(alone, choice.most), told, read.tally)


def _refuse_some(indicator: Indicator, card: Card, given: dict[str, str]) -> None:
    """Refuses files that hold some of what an indicator was calibrated on, and not just all of it.

    Args:
        indicator: The indicator.
        card: Its card.
        given: The names of the files by their digests.
    """
    wanted = {file.sha256: file.name for file in card.data}
    mend = [f"add {name}" for digest, name in wanted.items() if digest not in given]
    mend += [f"leave out {name}" for digest, name in given.items() if digest not in wanted]
    if mend:
        was = next(name for digest, name in given.items() if digest in wanted)
        raise DataError(
            f"{was}: {indicator.name} was calibrated on it with other files; {', '.join(mend)}, so that the pairs that "
            "it was not fitted on are known"
        )


def held_out_pairs(read: PairsRead, card: Card, choice: Choice) -> list[LabelledPair]:
    """The pairs that a calibration held out, which split them by the same hash.

    Raises:
        DataError: The card says that others were held out.
    """
    pairs = read.pairs
    held = [pairs[row] for row in split(pairs, choice.held_out, np.ones(len(pairs), bool)).held_out]
    positive = sum(pair.label != choice.benign for pair in held)
    n, n_positive = next(((one.n, one.n_positive) for one in card.measurements if one.n_positive), (0, 0))
    could_not_be_used = max(0, len(pairs) - sum(file.n for file in card.data))
    if not (0 <= len(held) - n <= could_not_be_used and 0 <= positive - n_positive <= could_not_be_used):
        raise DataError(
            f"the card says that {n:,} pairs were held out, {n_positive:,} of them positive, and a share of "
            f"{choice.held_out:g} makes {len(held):,}, {positive:,} positive; give --held-out and --flip-labels as the "
            "calibration had them"
        )
    return held


def _drawn(pairs: Sequence[LabelledPair], most: int) -> list[LabelledPair]:
    """So many pairs of groups of their own, in the order they came in."""
    by_hash = sorted(range(len(pairs)), key=lambda row: fraction(pairs[row].group, _DRAW_SALT))
    return [pairs[row] for row in sorted(by_hash[:most])]
