"""The two corpora of a contrast: read from files, matched by id, or the second made of the first by swapping words."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scopewatch.errors import DataError
from scopewatch.pairs.labelled import LabelledPair, read_texts
from scopewatch.types import Pair, Turn


@dataclass(frozen=True, slots=True)
class Corpora:
    """Two corpora, and what they are called."""

    a: Sequence[LabelledPair]
    b: Sequence[LabelledPair]
    name_a: str = "A"
    name_b: str = "B"


def read_corpora(file_a: Path, file_b: Path, *, paired: bool) -> Corpora:
    """The pairs of two files, those of the second in the order of their partners if they are paired.

    Raises:
        DataError: A file is wrong, or a pair has no partner.
    """
    a, b = read_texts(file_a), read_texts(file_b)
    return Corpora(a, partners(a, b) if paired else b, file_a.name, file_b.name)


def swapped_corpora(file: Path, words: Mapping[str, str]) -> Corpora:
    """The pairs of a file in which a word is to be swapped, and what becomes of them; see `swapped`.

    Raises:
        DataError: The file is wrong, or none of the words is in any of its pairs.
    """
    before, after = swapped(read_texts(file), words)
    swaps = ", ".join(f"{old}={new}" for old, new in words.items())
    return Corpora(before, after, file.name, f"{file.name} with {swaps}")


def partners(a: Sequence[LabelledPair], b: Sequence[LabelledPair]) -> list[LabelledPair]:
    """The pair of B that has the id of each pair of A; the id is the line's number where a file gives none.

    Raises:
        DataError: An id stands twice in one corpus, or in one corpus only.
    """
    ids = []
    for name, pairs in (("A", a), ("B", b)):
        seen: set[str] = set()
        for pair in pairs:
            if pair.id in seen:
                raise DataError(
                    f"{name}, line {pair.line}: id {pair.id!r} stands twice; paired data needs distinct ids"
                )
            seen.add(pair.id)
        ids.append(seen)
    if alone := ids[0] ^ ids[1]:
        raise DataError(
            f"{len(alone)} pairs have no partner of the same id, for instance {min(alone)!r}; where a file gives no id "
            "it is the line's number"
        )
    by_id = {pair.id: pair for pair in b}
    return [by_id[pair.id] for pair in a]


def swapped(pairs: Sequence[LabelledPair], words: Mapping[str, str]) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """The pairs in which a word is to be swapped, and what becomes of them.

    Whole words are swapped in the prompt, the response and the history, from left to right in one pass: what a swap
    writes is not swapped again, so that `{"he": "she", "she": "he"}` exchanges the two. Case does not matter, and is
    kept: He becomes She, HE becomes SHE.

    Args:
        pairs: The pairs to look through.
        words: What each word becomes, by the word.

    Raises:
        DataError: None of the words is in any of the pairs.
    """
    swap = _swapper(words)
    before, after = [], []
    for item in pairs:
        turns = tuple(Turn(turn.role, swap(turn.content)) for turn in item.pair.history)
        pair = Pair(swap(item.pair.prompt), swap(item.pair.response), turns)
        if pair != item.pair:
            before.append(item)
            after.append(replace(item, pair=pair))
    if not before:
        raise DataError(f"none of the {len(pairs)} pairs has one of the words {', '.join(words)}")
    return before, after


def _swapper(words: Mapping[str, str]) -> Callable[[str], str]:
    """A function that swaps the words in a text."""
    new = {word.lower(): replacement for word, replacement in words.items()}
    # The longest word first, since the pattern takes the first that fits.
    known = "|".join(re.escape(word) for word in sorted(new, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{known})(?!\w)", re.IGNORECASE)

    def swap(text: str) -> str:
        return pattern.sub(lambda found: _in_case_of(found[0], new[found[0].lower()]), text)

    return swap


def _in_case_of(word: str, replacement: str) -> str:
    """The replacement in capitals where the word is, and with a capital letter where the word has one."""
    if len(word) > 1 and word.isupper():
        return replacement.upper()
    return replacement[:1].upper() + replacement[1:] if word[0].isupper() else replacement
