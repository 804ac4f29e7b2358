"""What of each domain was active: how many features spoke for an indicator, and on which words they were strongest."""

from collections.abc import Sequence

import numpy as np

from scopewatch.explain.fired import Fired, raising
from scopewatch.explain.texts import ReadTexts
from scopewatch.explanation import Group
from scopewatch.pipeline.compiled import CompiledIndicator, CompiledWatchlist
from scopewatch.types import Float64
from scopewatch.words.whole import whole_words

_MOST_WORDS = 5


def groups(watchlist: CompiledWatchlist, readings: Sequence[Fired], texts: ReadTexts) -> tuple[Group, ...]:
    """A group for every indicator of features of which one with a positive weight fired.

    Args:
        watchlist: The watchlist.
        readings: For each of its indicators what fired in the reading that was judged.
        texts: The texts, with the tokens of the explanation.
    """
    found = []
    for indicator, fired in zip(watchlist.indicators, readings, strict=True):
        if isinstance(indicator, CompiledIndicator) and indicator.source.kind == "features":
            speak = np.unique(indicator.slots[indicator.weights > 0])
            here = fired.slot[(fired.tokens.segments[fired.token] == indicator.segment) & (fired.value > 0)]
            n_fired = int(np.isin(speak, here).sum())
            if n_fired:
                found.append(
                    Group(
                        name=indicator.source.label or indicator.source.name,
                        indicator=indicator.source.name,
                        features=n_fired,
                        of=len(speak),
                        words=strongest_words(texts, texts.carried(raising(watchlist, indicator, fired), fired.tokens)),
                    )
                )
    return tuple(found)


def strongest_words(texts: ReadTexts, values: Float64) -> tuple[str, ...]:
    """The words of the texts on whose tokens a value is highest and above 0, the highest first, each once.

    Args:
        texts: The texts, with n tokens.
        values: The value of each token, shape (n,).
    """
    found: dict[str, str] = {}
    for token in np.argsort(-values, kind="stable").tolist():
        if values[token] <= 0 or len(found) == _MOST_WORDS:
            break
        text = texts.texts[texts.whose[token]].text
        start, end = whole_words(text, int(texts.starts[token]), int(texts.ends[token]))
        word = text[start:end].strip()
        if any(map(str.isalnum, word)):
            found.setdefault(word.casefold(), word)
    return tuple(found.values())
