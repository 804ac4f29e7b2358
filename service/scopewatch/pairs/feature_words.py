"""Short labels for features, made of the words on which they are strongest: what they fire on, not what they mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scopewatch.engine.dictionary import DictionaryEngine
from scopewatch.errors import DataError
from scopewatch.pairs.examples import Example, strongest_tokens
from scopewatch.pairs.kept_poolings import POOLINGS
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.pooled import PooledPairs
from scopewatch.statistics.scores import Rows
from scopewatch.types import Segment

try:
    from scipy.sparse import vstack
except ImportError:
    raise DataError("calibration needs SciPy: pip install 'scopewatch[calibration]'") from None

_PAIRS = 12
"""How many pairs are read again for each feature."""
_WORDS = 4
"""The most words in a label."""
_LONGEST = 40
"""The most characters of a word."""
_AT_ONCE = 10_000
"""Pairs whose features are in memory together."""
_LETTERS = re.compile(r"\A[\w'\u2019]*")


@dataclass(frozen=True, slots=True)
class FiresOn:
    """The words on which a feature is strongest."""

    words: tuple[str, ...]
    """Each of them once, the one with the highest activation first."""
    strongest: Example
    """The token with the highest activation."""

    @property
    def label(self) -> str:
        """A label such as `fires on: may, might, perhaps`; empty without a word."""
        return f"fires on: {', '.join(self.words)}" if self.words else ""


def fires_on(
    pairs: Sequence[LabelledPair],
    pooled: PooledPairs,
    rows: Rows,
    features: Sequence[int],
    *,
    dictionary: DictionaryEngine,
    segment: Segment,
) -> dict[int, FiresOn]:
    """The words on which features are strongest, by feature; of one that never fires there is no entry.

    Args:
        pairs: The pairs that were read.
        pooled: What the dictionary made of these pairs.
        rows: The numbers of the pairs that are looked at.
        features: The features that are asked for.
        dictionary: The reader and SAE that read the pairs.
        segment: The part of a pair that was pooled; of the history there are no examples.
    """
    if segment is Segment.HISTORY:
        return {}
    wanted = sorted(_strongest_pairs(pooled, rows, features).items())
    found = strongest_tokens([pairs[row] for row, _ in wanted], [these for _, these in wanted], dictionary, segment)
    return {feature: FiresOn(_words(these), these[0]) for feature, these in found.items() if these}


def _strongest_pairs(pooled: PooledPairs, rows: Rows, features: Sequence[int]) -> dict[int, list[int]]:
    """The features that each pair is read again for, by the number of the pair."""
    some = np.split(rows, range(_AT_ONCE, len(rows), _AT_ONCE))
    columns = vstack([pooled.features(POOLINGS[0], here)[:, list(features)] for here in some]).tocsc()
    wanted: dict[int, list[int]] = {}
    for place, feature in enumerate(features):
        column = columns[:, [place]].tocoo()
        order = np.argsort(-column.data, kind="stable")[:_PAIRS]
        for row in column.coords[0][order].tolist():
            wanted.setdefault(int(rows[row]), []).append(feature)
    return wanted


def _words(examples: Sequence[Example]) -> tuple[str, ...]:
    """The words that hold the strongest tokens, each of them once, without characters that would steer a terminal."""
    words = dict.fromkeys(_printable(word) for example in examples if (word := _word(example)))
    return tuple(words)[:_WORDS]


def _word(example: Example) -> str:
    """The word that holds the token, in lower case; the token itself where it begins with no letter."""
    if not example.token.strip():
        return ""
    if not _letters(example.token.strip()):
        return example.token.strip()[:_LONGEST]
    head = "" if example.token[0].isspace() else _letters(example.before[::-1])[::-1]
    tail = "" if example.token[-1].isspace() else _letters(example.after)
    return " ".join(f"{head}{example.token}{tail}".lower().split())[:_LONGEST]


def _printable(word: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in word)


def _letters(text: str) -> str:
    """The letters that a text begins with, apostrophes included."""
    return text[: len(text) - len(_LETTERS.sub("", text, count=1))]
