"""Letters that imitate Latin ones, and the words that are written with them."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import regex

from scopewatch.reader.cleaning.edits import Edit

_ALIKE = {
    "A": "ΑАᎪᗅꓮ𐊠𖽀", "B": "ΒВᏴᗷꓐꞴ𐊂𐊡𐌁", "C": "СᏟⲤꓚ𐊢𐌂𐐕𐔜", "D": "Ꭰᗞᗪꓓ", "E": "ΕЕᎬⴹꓰ𐊆𑢦𑢮", "F": "ϜᖴꓝꞘ𐊇𐊥𐔥𑢢𑣂",
    "G": "ԌᏀᏳꓖ", "H": "ΗНᎻᕼⲎꓧ𐋏", "I": "ΙІӀᛁⲒꓲ𐊊𐌉𖼨", "J": "ͿЈᎫᒍꓙ", "K": "ΚКᏦᛕⲔꓗ𐔘", "L": "ᏞᒪⳐꓡ𐐛𐔦𑢣𑢲𖼖",
    "M": "ΜϺМᎷᗰᛖⲘꓟ𐊰𐌑", "N": "ΝⲚꓠ𐔓", "O": "ΟОՕⲞⵔꓳ𐊒𐊫𐐄𐓂𐔖𑢵", "P": "ΡРᏢᑭⲢꓑ𐊕", "Q": "ⵕԚ", "R": "ᎡᏒᖇꓣ𐒴𖼵",
    "S": "ЅՏᏕᏚꓢ𐊖𐐠𖼺", "T": "ΤТᎢⲦꓔ𐊗𐊱𐌕𑢼𖼊", "U": "Սᑌꓴ𐓎𑢸𖽂", "V": "ѴᏙᐯⴸꓦꛟ𐔝𑢠𖼈", "W": "ԜᎳᏔꓪ", "X": "ΧХᚷⲬⵝꓫ𐊐𐊴𐌗𐔧",
    "Y": "ΥУҮᎩᎽⲨꓬ𐊲𑢤𖽃", "Z": "ΖᏃꓜ𑢩",
    "a": "аꭺ", "b": "Ꮟᑲᖯ", "c": "сⲥꮯ𐐽", "d": "ԁᏧᑯꓒꭰ", "e": "еҽꭼ", "f": "ք", "g": "ց", "h": "һհᏂꮋ", "i": "іꙇᎥꭵ𑣃",
    "j": "јϳꭻ", "k": "ꮶ", "l": "ӏⵏꮮ", "m": "ꮇ", "n": "ոռ", "o": "οоօჿⲟഠဝ𐐬𐓪𑣈𑣗", "p": "рⲣꮲ", "q": "ԛգզ", "r": "ꮁⲅ",
    "s": "ѕꮪ𐑈𑣁", "t": "ꭲ", "u": "ս𐓶𑣘", "v": "ѵꮩ𑣀", "w": "ԝѡաꮃ", "x": "хᕁᕽ", "y": "уყ𑣜", "z": "ꮓ𑣄",
}  # fmt: skip
"""Letters of other scripts that look the same as the Latin ones, from the confusables of Unicode's TR39, version 15."""
_ROUGHLY_ALIKE = {
    "a": "α", "b": "вь", "h": "н", "i": "ι", "k": "кκ", "m": "м", "n": "ηп", "o": "σ", "p": "ρ", "r": "г", "t": "тτ",
    "u": "υ", "v": "ν", "w": "ω", "x": "χ", "y": "γү",
}  # fmt: skip
"""Letters that are taken for the Latin ones only in the company of such."""
_LATIN_SHAPES = {
    "a": "ᴀɑ", "b": "ʙ", "c": "ᴄ", "d": "ᴅ", "e": "ᴇꬲ", "f": "ꜰꬵꞙ", "g": "ɢɡᶃ", "h": "ʜ", "i": "ɪ", "j": "ᴊ", "k": "ᴋ",
    "l": "ʟ", "m": "ᴍ", "n": "ɴ", "o": "ᴏᴑꬽ", "p": "ᴘ", "q": "ꞯ", "r": "ʀꭇꭈ", "s": "ꜱ", "t": "ᴛ", "u": "ᴜꞟꭎꭒ", "v": "ᴠ",
    "w": "ᴡ", "y": "ʏꭚ", "z": "ᴢ",
}  # fmt: skip
"""Latin letters of another shape, such as small capitals, that no orthography uses for words."""
_WORD = regex.compile(r"[\p{L}\p{M}]+")
_MARK = regex.compile(r"\p{M}")
_LATIN = regex.compile(r"\p{Latin}")
_WORDS_OF_ONE_LETTER = frozenset("aeiouyAIO")


@dataclass(frozen=True, slots=True)
class _Imitations:
    """The Latin letter that each imitating one stands for."""

    exact: Mapping[str, str]
    rough: Mapping[str, str]
    shapes: Mapping[str, str]
    all: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Word:
    """A word, and what its letters say of the script that it is written in."""

    start: int
    text: str
    latin: bool = True
    """Whether one of its letters is a Latin one, of whatever shape."""
    foreign: str = ""
    """The script of its first letter that is not Latin; empty without such."""
    genuine: bool = False
    """Whether one of its letters that are not Latin imitates none."""

    @property
    def decided(self) -> bool:
        """Whether the word's own letters say what it is."""
        return self.latin or self.genuine


def latin_letters(text: str) -> Iterator[Edit]:
    """Writes the Latin letters that others imitate, in words that have Latin letters too or stand beside words that do.

    A word stays if one of its letters imitates none, or if it stands beside such a word of the same script.
    """
    if text.isascii() or _imitations().all.keys().isdisjoint(text):
        return
    words = [_word(found.start(), found[0]) for found in _WORD.finditer(text)]
    before = _nearest_decided(words)
    after = reversed(_nearest_decided(words[::-1]))
    for word, *beside in zip(words, before, after, strict=True):
        if not word.text.isascii() and _imitates(word, [other for other in beside if other]):
            for index, char in enumerate(word.text, word.start):
                if char in _imitations().all:
                    yield Edit(index, index + 1, _imitations().all[char], lookalike_chars=1)


def _word(start: int, text: str) -> _Word:
    if text.isascii():
        return _Word(start, text)
    known = _imitations()
    letters = [char for char in text if not _MARK.match(char)]
    foreign = [char for char in letters if not _LATIN.match(char)]
    plain = "".join(char for char in letters if char not in known.shapes and _LATIN.match(char))
    # Greek letters beside capitals or in twos are names of quantities and molecules: TNFα, λx.
    in_prose = len(letters) > 2 and len(plain) > 0 and plain[1:] == plain[1:].lower()
    return _Word(
        start,
        text,
        latin=len(plain) > 0 or (len(letters) > 1 and len(foreign) < len(letters)),
        foreign=unicodedata.name(foreign[0], "").partition(" ")[0] if foreign else "",
        genuine=any(char not in known.exact and not (in_prose and char in known.rough) for char in foreign),
    )


def _nearest_decided(words: Sequence[_Word]) -> list[_Word | None]:
    """The last word before each that is decided."""
    nearest: list[_Word | None] = []
    last: _Word | None = None
    for word in words:
        nearest.append(last)
        last = word if word.decided else last
    return nearest


def _imitates(word: _Word, beside: Iterable[_Word]) -> bool:
    if word.genuine or any(other.genuine and other.foreign == word.foreign for other in beside):
        return False
    if word.latin:
        return True
    short = len(word.text) == 1 and _imitations().all.get(word.text) not in _WORDS_OF_ONE_LETTER
    return not short and any(other.latin and not other.genuine for other in beside)


@cache
def _imitations() -> _Imitations:
    exact, rough = _with_accents(_inverted(_ALIKE)), _with_accents(_inverted(_ROUGHLY_ALIKE))
    shapes = _inverted(_LATIN_SHAPES)
    return _Imitations(exact=exact, rough=rough, shapes=shapes, all={**exact, **rough, **shapes})


def _inverted(alike: Mapping[str, str]) -> dict[str, str]:
    return {char: letter for letter, chars in alike.items() for char in chars}


def _with_accents(alike: Mapping[str, str]) -> dict[str, str]:
    """The same imitations with those of Greek and Cyrillic that have an accent in them, such as ё."""
    accented = {}
    for char in map(chr, (*range(0x370, 0x530), *range(0x1F00, 0x2000))):
        parts = unicodedata.normalize("NFD", char)
        if len(parts) > 1 and parts[0] in alike:
            accented[char] = unicodedata.normalize("NFC", alike[parts[0]] + parts[1:])
    return {**alike, **accented}
