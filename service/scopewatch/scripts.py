"""Which script a text is written in: Latin, Cyrillic, Han, and so on, as Unicode has them."""

from collections import Counter
from functools import lru_cache

import regex

NO_SCRIPT = "none"
"""In place of a script, of a text without letters."""
OTHER_SCRIPT = "other"
"""In place of all scripts that are not told apart."""
_TOLD_APART = (
    *("latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "bengali", "tamil", "telugu", "thai", "georgian"),
    *("armenian", "ethiopic", "han", "hiragana", "katakana", "hangul"),
)
SCRIPTS = (*_TOLD_APART, OTHER_SCRIPT, NO_SCRIPT)
"""All that `main_script` may say."""
_SCRIPT = regex.compile("|".join(rf"(?P<{name}>\p{{Script={name}}})" for name in _TOLD_APART))
_LETTER = regex.compile(r"\p{L}")
_LOOKED_AT = 512
"""The number of characters, drawn at equal steps, that tell the script of a longer text."""


def main_script(text: str) -> str:
    """The script that most letters of a text belong to, one of `SCRIPTS`; of a long text, most letters of a sample.

    Japanese is written in three scripts, mostly in hiragana.
    """
    sample = text[:: len(text) // _LOOKED_AT + 1]
    if sample.isascii():
        # Most texts are: nothing has to be counted.
        return "latin" if any(map(str.isalpha, sample)) else NO_SCRIPT
    letters = Counter[str]()
    for letter, times in Counter(sample).items():
        if script := _script_of(letter):
            letters[script] += times
    return max(letters, key=lambda script: (letters[script], script)) if letters else NO_SCRIPT


@lru_cache(maxsize=4096)
def _script_of(letter: str) -> str:
    """The script of a character; empty for what is no letter."""
    if not _LETTER.match(letter):
        return ""
    found = _SCRIPT.match(letter)
    return (found and found.lastgroup) or OTHER_SCRIPT
