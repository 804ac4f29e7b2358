"""Words whose capitals stand where no orthography puts them."""

from collections.abc import Iterator

import regex

from scopewatch.reader.cleaning.edits import Edit
from scopewatch.types import Bools

_WORD = regex.compile(r"[\p{L}\p{M}]+")
_OF_ONE_SCRIPT = regex.compile(
    r"[\p{Latin}\p{M}]+|[\p{Greek}\p{M}]+|[\p{Cyrillic}\p{M}]+|[\p{Armenian}\p{M}]+"  # TNFα is of two
)
_USUAL = regex.compile(
    r"[\p{Lu}\p{Lt}]?\p{M}*+\P{Lu}*"  # may, May
    r"|\p{Lu}?\p{Ll}*+(?:\p{Lu}\p{Ll}{2,}+){1,2}"  # iPhone, GitHub, McDonald
    r"|\p{Lu}?\p{Ll}{2,}+\p{Lu}\p{Ll}"  # LinkedIn
    r"|IJ\p{Ll}++"  # IJsland
)
_APOSTROPHES = ("'", "\u2019")
_END = regex.compile(r"[.!?\u2026\n]")
_SPACE = regex.compile(r"\s")


def usual_case(text: str, changed: Bools) -> Iterator[Edit]:
    """Writes words in small letters that are all in capitals, or have some where names such as iPhone have none.

    The first letter of a sentence stays a capital, and so does the word I. It becomes one in a word that was written
    otherwise, since what imitates letters seldom has both kinds. In a text most of whose words are odd, capitals at the
    beginning of others are odd too: every second letter of "of" may be a capital, and it looks like a name.

    Args:
        text: The text.
        changed: Whether each character is another than the caller wrote; shape (len(text),).
    """
    words = list(_WORD.finditer(text))
    long = [found[0] for found in words if len(found[0]) > 1]
    mostly_odd = 2 * sum(map(_is_odd, long)) > len(long)
    done = 0
    before = ""
    lowered = False
    for found in words:
        word, gap = found[0], text[done : found.start()]
        begins = not done or _begins_sentence(gap)
        # In DON'T and in THIS IS A TEST single letters go with the word before.
        goes_with = gap in _APOSTROPHES and (lowered or before == "I") and word.isupper()
        goes_with |= word == "A" and lowered and not begins
        goes_with |= mostly_odd and not begins and len(word) > 1 and word.istitle()
        lowered = _is_odd(word) or (goes_with and bool(_OF_ONE_SCRIPT.fullmatch(word)))
        imitated = word.islower() and changed[found.start() : found.end()].any()
        if begins and word[0].islower() and (lowered or (imitated and _OF_ONE_SCRIPT.fullmatch(word))):
            yield Edit(found.start(), found.start() + 1, word[0].title())
        if lowered:
            yield from _in_small_letters(word, int(begins), found.start())
        before, done = word, found.end()


def _is_odd(word: str) -> bool:
    return not _USUAL.fullmatch(word) and bool(_OF_ONE_SCRIPT.fullmatch(word))


def _begins_sentence(gap: str) -> bool:
    """Whether a sentence begins after what stands between two words."""
    end = _END.search(gap)
    return end is not None and _SPACE.search(gap, end.start()) is not None


def _in_small_letters(word: str, kept: int, start: int) -> Iterator[Edit]:
    small = word.lower()
    if len(small) != len(word):
        small = "".join(char.lower() if len(char.lower()) == 1 else char for char in word)
    for index in range(kept, len(word)):
        if small[index] != word[index]:
            yield Edit(start + index, start + index + 1, small[index])
