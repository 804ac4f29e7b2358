"""Characters that are not seen, and marks that cover the letter they are drawn on."""

import unicodedata
from collections.abc import Iterator

import regex

from scopewatch.reader.cleaning.edits import Edit

_UNSEEN = (
    r"[\p{Default_Ignorable_Code_Point}"  # zero-width characters, fillers, bidi controls, variation selectors, tags
    r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls but for tab and line ends
    r"\ufff9-\ufffb"  # interlinear annotations
    r"\u2800\U0001d159]"  # a blank of braille, a blank of music
)
_BORDER = r"[\p{Z}\p{P}\p{S}\t\n\r]"
_RIGHT_TO_LEFT = r"[\p{Arabic}\p{Hebrew}\p{Syriac}\p{Thaana}\p{Nko}]"
_JOINED = (
    r"[\p{Arabic}\p{Syriac}\p{Mandaic}\p{Nko}\p{Mongolian}\p{Phags_Pa}\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}"
    r"\p{Oriya}\p{Tamil}\p{Telugu}\p{Kannada}\p{Malayalam}\p{Sinhala}\p{Khmer}\p{Myanmar}\p{Balinese}\p{Javanese}]"
)
_WITHOUT_SPACES = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Balinese}\p{Javanese}]"
# Each condition is on the characters right beside, and on ones that stay, so that what stays goes on to stay.
_ORTHOGRAPHY = rf"""
    (?<={_JOINED}) [\u200c\u200d]                                     # joiners between letters that are joined
  | (?<={_WITHOUT_SPACES}) \u200b | \u200b (?={_WITHOUT_SPACES})       # borders of words
  | (?<=[\p{{Mongolian}}--\u180e]) [\u180b-\u180f]                    # shapes of letters, and the vowel separator
  | (?<=\p{{Unified_Ideograph}}) [\ufe00-\ufe0f\U000e0100-\U000e01ef]  # variants of ideographs
  | (?<=[\p{{Sm}}\p{{Myanmar}}\p{{Phags_Pa}}]) \ufe00
  | (?<=[\p{{Emoji}}--[\x00-\x7f]]) [\ufe0e\ufe0f] | (?<=[0-9\#*]) \ufe0f (?=\u20e3)
  | (?<=(?:\p{{Extended_Pictographic}}|\p{{Emoji_Modifier}})\ufe0f?) \u200d (?=\p{{Extended_Pictographic}})
  | (?<=\U0001f3f4) [\U000e0030-\U000e0039\U000e0061-\U000e007a]{{3,6}} \U000e007f           # flags of regions
  | (?<={_RIGHT_TO_LEFT}) [\u200e\u200f\u061c] (?={_BORDER})            # directions at borders of words
  | (?<={_BORDER}) [\u200e\u200f\u061c] (?={_RIGHT_TO_LEFT})
  | (?<=[\u2801-\u28ff]) \u2800 | \u2800 (?=[\u2801-\u28ff])
  | (?<={_BORDER}) [\x0b\x0c\x85] | [\x0b\x0c\x85] (?={_BORDER})          # white space, unless it splits a word
"""
_INVISIBLE = regex.compile(rf"{_ORTHOGRAPHY} | (?P<gone>{_UNSEEN}+)", regex.VERBOSE | regex.VERSION1)
_STACKED = regex.compile(r"([\p{L}\p{N}\p{P}\p{Z}])((?:(?!\p{Default_Ignorable_Code_Point})\p{M})+)")
_ALPHABETIC = regex.compile(r"[\p{Latin}\p{N}\p{P}\p{Z}]")
_COMPOSED = regex.compile(r"[\p{Latin}\p{Greek}\p{Cyrillic}\p{Hiragana}\p{Katakana}\p{N}\p{P}\p{Z}]")
_FEW = 8
"""The length from which marks are left as they are: the time to put them in order grows with its square."""
_LINES = "\u0305\u0332\u0333\u033f"
_DIACRITICS = frozenset(map(chr, (*range(0x300, 0x305), *range(0x306, 0x30D), 0x30F, 0x311, 0x313, 0x315, 0x31B,
    *range(0x323, 0x32A), 0x32D, 0x32E, 0x330, 0x331)))  # fmt: skip
"""The marks that orthographies and transcriptions put on Latin letters."""


def unseen(text: str) -> Iterator[Edit]:
    """Takes out what is not seen, but for what belongs to a script's orthography or to an emoji."""
    for found in _INVISIBLE.finditer(text):
        start, end = found.span()
        if found["gone"]:
            at_letter = _is_of_word(text[start - 1 : start]) or _is_of_word(text[end : end + 1])
            yield Edit(start, end, "", invisible_chars=(end - start) * at_letter)


def stacked_marks(text: str) -> Iterator[Edit]:
    """Takes away marks that strike letters through or pile up on them, and composes the rest with its letter."""
    for found in _STACKED.finditer(text):
        letter, marks = found.groups()
        if _ALPHABETIC.match(letter):
            kept = _diacritics(letter, marks)
        else:
            kept = "".join(mark for mark in marks if not _covers(mark))
        whole = letter + kept
        if len(whole) <= _FEW and _COMPOSED.match(letter):
            whole = unicodedata.normalize("NFC", whole)
        if whole != found[0]:
            gone = (len(marks) - len(kept)) * letter.isalnum()
            yield Edit(found.start(), found.end(), whole, invisible_chars=gone)


def _is_of_word(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char or " ").startswith("M")


def _covers(mark: str) -> bool:
    return mark in _LINES or "\u0334" <= mark <= "\u0338" or unicodedata.category(mark) == "Me"


def _diacritics(letter: str, marks: str) -> str:
    """The marks that belong to a Latin letter: one or two usual ones, or else at most one that composes with it."""
    usual = "".join(mark for mark in marks if mark in _DIACRITICS)
    if usual == marks and len(unicodedata.normalize("NFD", letter)) + len(marks) <= 3:
        return marks
    if letter in "0123456789#*" and marks == "\u20e3":
        return marks
    few = usual if len(marks) - len(usual) <= 1 else ""
    return few if len(few) <= 2 and len(unicodedata.normalize("NFC", letter + few)) == 1 else ""
