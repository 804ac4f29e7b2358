"""Letters in another form than the plain one: full-width, mathematical, enclosed, raised, ligatures, half syllables."""

import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache

import regex

from scopewatch.reader.cleaning.edits import Edit

_WIDE = r"\uff10-\uff19\uff21-\uff3a\uff41-\uff5a"
_STYLED = r"\u212a\U0001d400-\U0001d7ff\U0001fbf0-\U0001fbf9"
_SIGNS = r"\u2102-\u2129\u212c-\u2149\u249c-\u24e9\U0001f110-\U0001f189"
_RAISED = r"\u02b0-\u02b8\u02e1-\u02e3\u1d2c-\u1d6a\u1d9c-\u1dbb\u2071\u207f\u2090-\u209c\u2c7c\u2c7d"
_FORM = regex.compile(f"[{_WIDE}{_STYLED}{_SIGNS}{_RAISED}]")
_RUN = regex.compile(rf"[\p{{L}}\p{{M}}\p{{N}}{_SIGNS}]+")
_NEEDS_COMPANY = regex.compile(f"[{_SIGNS}{_RAISED}]")
_SIGN = regex.compile(f"[{_SIGNS}]")
_LETTER = regex.compile(rf"[\p{{L}}--[{_WIDE}{_STYLED}{_RAISED}]]", regex.VERSION1)
_BASE = regex.compile(r"\P{M}")
_EAST_ASIAN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}]")
_OF_EAST_ASIAN = regex.compile(rf"[{_WIDE}\u249c-\u24e9]")
_SPLIT_OR_JOINED = regex.compile(
    r"[\ufb00-\ufb06\ufb13-\ufb17\ufb20-\ufb28]"  # ligatures of Latin and Armenian, wide letters of Hebrew
    r"|[\ufb50-\ufdc7\ufe80-\ufefc\u2f00-\u2fd5\u212b]"  # Arabic letters by their place in the word, radicals, angstrom
    r"|[\uff66-\uff9d][\uff9e\uff9f]?|[\uffa1-\uffdc]"  # half-width letters of Japanese and Korean
    r"|[\u1100-\u1112][\u1161-\u1175][\u11a8-\u11c2]?|[\uac00-\ud7a3][\u11a8-\u11c2]"  # Korean, letter by letter
)


def plain_letters(text: str) -> Iterator[Edit]:
    """Writes letters and digits in the form of every day.

    What prose uses stays: signs that stand alone (ℝ, Ⓐ) in a text that has no words of them, raised endings (1ᵉʳ, Mᵐᵉ),
    and full-width and enclosed letters in a text that is mostly Chinese, Japanese or Korean.
    """
    if not _FORM.search(text):
        return
    plain = _plain_letters()
    east_asian = 2 * len(_EAST_ASIAN.findall(text)) > len(_LETTER.findall(text))
    runs = [run for run in _RUN.finditer(text) if _FORM.search(run[0])]
    words = any(len(_SIGN.findall(run[0])) > 1 for run in runs)
    for run in runs:
        alone = len(_BASE.findall(run[0])) == 1 and not words
        for index, char in enumerate(run[0][: _end_of_stem(run[0])], run.start()):
            usual = (alone and _NEEDS_COMPANY.match(char)) or (east_asian and _OF_EAST_ASIAN.match(char))
            if char in plain and not usual:
                yield Edit(index, index + 1, plain[char], lookalike_chars=int(plain[char].isascii()))


def whole_letters(text: str) -> Iterator[Edit]:
    """Writes one character for a letter that is written in parts, and the letters of a ligature one by one."""
    for found in _SPLIT_OR_JOINED.finditer(text):
        whole = unicodedata.normalize("NFKC", found[0])
        if whole != found[0] and whole.isalpha():
            yield Edit(found.start(), found.end(), whole)


def _end_of_stem(run: str) -> int:
    """Where the raised ending of a word or a number begins; the word's length where there is none."""
    stem = run.rstrip(_raised())
    usual = len(run) - len(stem) == 1 or stem.isdecimal() or (len(stem) == 1 and stem.isupper())
    return len(stem) if stem and usual else len(run)


@cache
def _raised() -> str:
    return "".join(char for char in _plain_letters() if regex.match(f"[{_RAISED}]", char))


@cache
def _plain_letters() -> Mapping[str, str]:
    """The plain letter or digit of each character that is one in another form."""
    plain: dict[str, str] = {}
    for char in (chr(code) for code in (*range(0x2B0, 0x2C80), *range(0xFF10, 0xFF5B), *range(0x1D400, 0x1FBFA))):
        if _FORM.match(char):
            letter = unicodedata.normalize("NFKC", char).strip("()")
            if letter != char and len(letter) == 1 and letter.isalnum():
                plain[char] = letter
    for first in (0x1F150, 0x1F170):  # white letters in black circles and squares have no plain form in Unicode's data
        plain |= {chr(first + place): chr(ord("A") + place) for place in range(26)}
    return plain
