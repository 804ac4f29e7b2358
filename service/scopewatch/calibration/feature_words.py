"""Short labels for features from the words on which they are strongest: what they fire on, not what they mean."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scopewatch.engine.dictionary import DictionaryEngine
from scopewatch.pairs.examples import Example, strongest
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.pooled import POOLINGS, PooledPairs
from scopewatch.types import Segment

_PAIRS = 12
"""Pairs that are read again for each feature."""
_WORDS = 4
_LONGEST = 40
_LETTERS = re.compile(r"\A[\w'\u2019]*")


def describe(
    pairs: Sequence[LabelledPair],
    pooled: PooledPairs,
    rows: NDArray[np.intp],
    features: Sequence[int],
    *,
    dictionary: DictionaryEngine,
    segment: Segment,
) -> dict[int, str]:
    """Labels such as `fires on: may, might, perhaps`.

    Args:
        pairs: All.
        pooled: What the dictionary made of them.
        rows: Of the pairs to look at.
        features: Which.
        dictionary: That read them.
        segment: Which part of a pair; history has no examples.
    """
    if segment is Segment.HISTORY:
        return {}
    columns = pooled.features(POOLINGS[0])[rows][:, list(features)].tocsc()
    wanted: dict[int, list[int]] = {}
    for place, feature in enumerate(features):
        column = columns[:, [place]].tocoo()
        order = np.argsort(-column.data, kind="stable")[:_PAIRS]
        for row in column.coords[0][order].tolist():
            wanted.setdefault(int(rows[row]), []).append(feature)
    chosen = sorted(wanted)
    found = strongest([pairs[row] for row in chosen], [wanted[row] for row in chosen], dictionary, segment)
    return {feature: f"fires on: {', '.join(words)}" for feature, these in found.items() if (words := _words(these))}


def _words(examples: Sequence[Example]) -> list[str]:
    """The words that hold the strongest tokens, each once, without what would steer a terminal."""
    words = dict.fromkeys(_printable(word) for example in examples if (word := _word(example)))
    return list(words)[:_WORDS]


def _word(example: Example) -> str:
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
    """Those that it begins with, apostrophes included."""
    return text[: len(text) - len(_LETTERS.sub("", text, count=1))]
