"""Pairs of one corpus beside those of another: matched by id, or made of them by swapping words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from scopewatch.errors import DataError
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.types import Pair, Turn


def partners(a: Sequence[LabelledPair], b: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Of each pair of A the one of B that has its id, which is the line's number where a file gives none.

    Raises:
        DataError: An id stands twice in one of them, or in one of them only.
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
        pairs: Any.
        words: By what each word is replaced.

    Raises:
        DataError: None of the words is in any of the pairs.
    """
    new = {word.lower(): replacement for word, replacement in words.items()}
    # The longest first, since of several the first that fits is taken.
    known = "|".join(re.escape(word) for word in sorted(new, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{known})(?!\w)", re.IGNORECASE)

    def swap(text: str) -> str:
        return pattern.sub(lambda found: _in_case_of(found[0], new[found[0].lower()]), text)

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


def _in_case_of(word: str, replacement: str) -> str:
    if len(word) > 1 and word.isupper():
        return replacement.upper()
    return replacement[:1].upper() + replacement[1:] if word[0].isupper() else replacement
