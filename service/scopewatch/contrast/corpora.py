"""The two corpora of a contrast: read from files, matched by id, or the second made of the first by swapping words."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scopewatch.errors import DataError
from scopewatch.pairs.data_files import Reading, named_files, read_texts
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import LeftOut, Tally
from scopewatch.pairs.rows import check_readable


@dataclass(frozen=True, slots=True)
class Corpora:
    """Two corpora, and what they are called."""

    a: Sequence[LabelledPair]
    b: Sequence[LabelledPair]
    name_a: str = "A"
    name_b: str = "B"
    tally: Tally = field(default_factory=Tally)
    """How many rows of both were read, and what was left out of them."""
    reading: Reading = field(default_factory=Reading)
    """How they were read."""


@dataclass(frozen=True, slots=True)
class Partners:
    """The pairs of two corpora that belong together, pair i of A to pair i of B, and those that belong to none."""

    a: list[LabelledPair]
    b: list[LabelledPair]
    left_out: list[LeftOut]


def read_corpora(name_a: str, name_b: str, *, paired: bool, reading: Reading) -> Corpora:
    """The pairs of two corpora, those of the second in the order of their partners if they are paired.

    Args:
        name_a: The file of the one, or a pattern of its files.
        name_b: That of the other.
        paired: Whether pairs of the two belong together.
        reading: How the files are read.

    Raises:
        DataError: A file cannot be read; or with `strict` a row is wrong or a pair has no partner.
        NothingUsable: No row of one can be used, or no pair has a partner.
    """
    a, b = (read_texts(*_checked(name, reading), reading=reading) for name in (name_a, name_b))
    names, tally = (Path(name_a).name, Path(name_b).name), a.tally + b.tally
    if not paired:
        return Corpora(a.pairs, b.pairs, *names, tally, reading)
    both = partners(a.pairs, b.pairs, reading)
    return Corpora(both.a, both.b, *names, tally.without(both.left_out), reading)


def swapped_corpora(name: str, words: Mapping[str, str], *, reading: Reading) -> Corpora:
    """The pairs of a corpus in which a word is to be swapped, and what becomes of them; see `swapped`.

    Raises:
        DataError: A file cannot be read, or none of the words is in any of its pairs; or with `strict` a row is wrong.
        NothingUsable: No row can be used.
    """
    read = read_texts(*_checked(name, reading), reading=reading)
    before, after = swapped(read.pairs, words)
    swaps = ", ".join(f"{old}={new}" for old, new in words.items())
    file = Path(name).name
    return Corpora(before, after, file, f"{file} with {swaps}", read.tally, reading)


def partners(a: Sequence[LabelledPair], b: Sequence[LabelledPair], reading: Reading) -> Partners:
    """The pairs of the same id, in the order of A; the id is the line's number where a file gives none.

    A pair whose id stands in one corpus only, as that of a row does which could not be read in the other, or twice in
    one of them, is left out.

    Raises:
        DataError: With `strict`, a pair has not just one partner.
        NothingUsable: No pair has a partner.
    """
    counts = [Counter(pair.id for pair in pairs) for pairs in (a, b)]
    left_out = []
    for pair in (*a, *b):
        times = [count[pair.id] for count in counts]
        if max(times) > 1:
            left_out.append(
                LeftOut(pair.place, "id_twice", f"id {pair.id!r} stands twice; paired data needs other ids")
            )
        elif min(times) == 0:
            said = f"no partner has the id {pair.id!r}; where a file gives no id it is the line's number"
            left_out.append(LeftOut(pair.place, "no_partner", said))
    tally = Tally.of(len(a) + len(b), map(reading.checked, left_out))
    tally.need("pairs of the same id")
    by_id = {pair.id: pair for pair in b}
    together = [pair for pair in a if counts[0][pair.id] == counts[1][pair.id] == 1]
    return Partners(together, [by_id[pair.id] for pair in together], left_out)


def _checked(name: str, reading: Reading) -> list[Path]:
    """The files of a corpus, which can be read."""
    files = named_files(name)
    check_readable(files, reading.columns)
    return files


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
        # Tokens that the file gives would be read in place of the text that is swapped.
        text = replace(item.pair, prompt_token_ids=(), response_token_ids=())
        turns = tuple(replace(turn, content=swap(turn.content)) for turn in text.history)
        pair = replace(text, prompt=swap(text.prompt), response=swap(text.response), history=turns)
        if pair != text:
            before.append(replace(item, pair=text))
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
