"""Lexicons: lists of words and phrases, and the share of a text's words that are in one."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from math import fsum
from pathlib import Path

from scopewatch.words.find import Counted, find_words

_SHIPPED = Path(__file__).with_name("lexicons")


class Lexicon:
    """A list of words and phrases.

    Args:
        entries: The words and phrases, however they are written.

    Raises:
        ValueError: An entry holds no word, or says the same as another.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        seen: set[tuple[str, ...]] = set()
        for entry in entries:
            words = tuple(find_words(entry).texts)
            if not words:
                raise ValueError(f"{entry!r} holds no word")
            if words in seen:
                raise ValueError(f"{entry!r} stands twice")
            seen.add(words)
            self._by_first.setdefault(words[0], []).append(words)
        for phrases in self._by_first.values():
            phrases.sort(key=len, reverse=True)
        self.digest = hashlib.sha256("\n".join(sorted(map(" ".join, seen))).encode()).hexdigest()
        """SHA-256 over the words and phrases, whatever their order."""

    def counted(self, words: Sequence[str]) -> list[Counted]:
        """The entries that stand among the words of a text, each with the share of the words that it makes up.

        Of entries that begin at one word the longest counts, and no word counts twice.

        Args:
            words: The words, as `find.find_words` gives them.
        """
        found: list[Counted] = []
        done = 0
        for first, word in enumerate(words):
            for phrase in self._by_first.get(word, ()) if first >= done else ():
                end = first + len(phrase)
                if tuple(words[first:end]) == phrase:
                    found.append(Counted(" ".join(phrase), first, end, len(phrase) / len(words)))
                    done = end
                    break
        return found

    def score(self, words: Sequence[str]) -> float:
        """The share of a text's words that are in the lexicon; 0 of no words."""
        return fsum(each.contribution for each in self.counted(words))


def shipped_names() -> list[str]:
    """The names of the lexicons that come with the package."""
    return sorted(file.stem for file in _SHIPPED.glob("*.txt"))


@cache
def shipped(name: str) -> Lexicon:
    """A lexicon that comes with the package, by its name: a file of words and phrases, one a line or between commas."""
    lines = (_SHIPPED / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    entries = [entry for line in lines if not line.startswith("#") for entry in line.split(",")]
    return Lexicon(entry for entry in entries if entry.strip())
