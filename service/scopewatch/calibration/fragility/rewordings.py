"""Texts said differently, by rule: the meaning stays, and so should a score that is about the meaning.

The rules are for English; a text in another language is changed in letter case and punctuation alone.
"""

import re
import unicodedata
from collections.abc import Callable, Collection

_VERBS = ("do", "does", "did", "is", "are", "was", "were", "has", "have", "had", "could", "would", "should")
_NEGATED = {f"{verb} not": f"{verb}n't" for verb in _VERBS} | {
    "will not": "won't",
    "can not": "can't",
    "cannot": "can't",
}
_CONTRACTED = {
    "i am": "i'm",
    "let us": "let's",
    **{f"{who} are": f"{who}'re" for who in ("you", "we", "they")},
    **{f"{who} is": f"{who}'s" for who in ("he", "she", "it", "that", "there", "what")},
    **{f"{who} will": f"{who}'ll" for who in ("i", "you", "he", "she", "it", "we", "they")},
    **{f"{who} have": f"{who}'ve" for who in ("i", "you", "we", "they")},
}
"""What casual texts contract, in lower case."""
_CASUAL = {
    "however": "but",
    "therefore": "so",
    "thus": "so",
    "in addition": "also",
    "furthermore": "also",
    "moreover": "also",
    "for example": "like",
    "approximately": "about",
    "numerous": "many",
    "obtain": "get",
    "obtained": "got",
    "require": "need",
    "requires": "needs",
    "purchase": "buy",
    "assist": "help",
    "children": "kids",
    "regarding": "about",
}
"""Formal words, and casual ones that can stand in their place."""
_FORMAL = {
    "gonna": "going to",
    "wanna": "want to",
    "gotta": "have to",
    "kids": "children",
    "ok": "all right",
    "okay": "all right",
    "yeah": "yes",
    "lots of": "many",
    "a lot of": "much",
    "get": "obtain",
    "buy": "purchase",
    "also": "in addition",
    "but": "however,",
}
"""Casual words, and formal ones that can stand in their place."""


def casual(text: str) -> str:
    """The text with what can be contracted contracted, and some formal words in everyday ones."""
    # "It is not" becomes "it isn't", so negations come first.
    return _replaced(_replaced(text, _NEGATED), _CONTRACTED | _CASUAL)


def formal(text: str) -> str:
    """The text with contractions written out, and some casual words in formal ones."""
    written_out = {short: long for long, short in (_NEGATED | _CONTRACTED).items()}
    # What 's stands for depends on what follows; "is" is the likeliest.
    return _replaced(text, written_out | _FORMAL)


def without_punctuation(text: str) -> str:
    """The text without its punctuation; apostrophes inside words stay, what separated words leaves a space."""
    kept = re.sub(r"(?<=\w)['\u2019](?=\w)", "\0", text)
    bare = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in kept)
    return _tidy(bare.replace("\0", "'"))


def without_words(words: Collection[str]) -> Callable[[str], str]:
    """What takes these words, which are in lower case, out of a text."""
    found = _any_of(words)
    return lambda text: _tidy(found.sub(" ", text)) if found.search(text) else text


STYLES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "no punctuation": without_punctuation,
    "casual": casual,
    "formal": formal,
}
"""The rewordings by what a table calls them."""


def _replaced(text: str, by: dict[str, str]) -> str:
    """The text with phrases, in either case, replaced; the case of the first letter stays."""

    def other(match: re.Match[str]) -> str:
        new = by[match[0].lower().replace("\u2019", "'")]
        return new[0].upper() + new[1:] if match[0][0].isupper() else new

    return _any_of(by).sub(other, text)


def _any_of(phrases: Collection[str]) -> re.Pattern[str]:
    """A pattern of whole words that finds the longest of the phrases, whatever their case and apostrophes."""
    longest_first = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    alternatives = "|".join(re.escape(phrase).replace("'", "['\u2019]") for phrase in longest_first)
    return re.compile(rf"(?<![\w'\u2019])(?:{alternatives})(?![\w'\u2019])", re.IGNORECASE)


def _tidy(text: str) -> str:
    """The text without runs of blanks, which only what was taken out has left; lines stay."""
    return re.sub(r"[^\S\n]+", " ", text).strip()
