"""What an indicator of words makes of the words that were read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

from scopewatch.pipeline.compiled import CompiledWords
from scopewatch.types import ReadText, Segment, TokenisedPair
from scopewatch.verdicts import Evidence, FeatureScore
from scopewatch.words.bag import Bag
from scopewatch.words.find import Counted, find_words

_MOST_WORDS = 32
"""How many words a reply names at most, of those that add or take most."""
OTHER_WORDS = "other words"
"""What all the others are called, where there are more."""


@dataclass(frozen=True, slots=True)
class WordsRead:
    """The n words of a segment of which the reader read all; those of a history's turns stand one behind the other."""

    texts: list[str]
    """Each word as words are compared."""
    places: NDArray[np.intp]
    """The turn of each word, its first code point in the caller's text and one past its last, shape (n, 3)."""


@dataclass(frozen=True, slots=True)
class WordCounts:
    """The score of an indicator of words, and why."""

    score: float
    features: tuple[FeatureScore, ...]
    evidence: tuple[Evidence, ...]


def words_read(tokens: TokenisedPair, segment: Segment) -> WordsRead:
    """The words of a segment's texts, as they were read, without those that were cut off or left out.

    Args:
        tokens: The pair as it was read.
        segment: The segment.
    """
    texts: list[str] = []
    places = [np.empty((0, 3), np.intp)]
    for text in tokens.texts:
        found = find_words(text.text) if text.segment == segment else None
        if found and found.texts:
            starts, ends = _in_own_text(text, np.array(found.spans, np.intp))
            mine = (tokens.segments == segment) & (tokens.turns == text.turn)
            is_read = _covered(tokens.starts[mine], tokens.ends[mine], size=int(ends.max()))
            kept = is_read[starts] & is_read[ends - 1]
            texts += [word for word, is_kept in zip(found.texts, kept.tolist(), strict=True) if is_kept]
            places.append(np.stack((np.full(len(starts), text.turn), starts, ends), axis=1)[kept])
    return WordsRead(texts, np.concatenate(places))


def count_words(indicator: CompiledWords, words: WordsRead, max_evidence: int) -> WordCounts:
    """Scores the words that were read.

    Args:
        indicator: The indicator.
        words: The words of its segment.
        max_evidence: How many spans to return; of a bag, whose words are the caller's own, 0 also names no word.
    """
    counted = indicator.counts_by.counted(words.texts)
    summands = _summands(counted)
    names_words = max_evidence > 0 or not isinstance(indicator.counts_by, Bag)
    return WordCounts(
        score=fsum([indicator.source.bias, *(each.contribution for each in summands)]),
        features=summands if names_words else (),
        evidence=_evidence(indicator.segment, counted, words, max_evidence) if max_evidence else (),
    )


def _in_own_text(text: ReadText, spans: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where spans of a text that was read stand in the caller's own."""
    starts, ends = spans.T
    if text.starts is None or text.ends is None:
        return starts, ends
    return text.starts[starts].astype(np.intp), text.ends[ends - 1].astype(np.intp)


def _covered(starts: NDArray[np.int32], ends: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    """Whether each of a text's first `size` characters is in one of the tokens that begin and end there."""
    change = np.zeros(max(size, int(ends.max(initial=0))) + 1, np.intp)
    np.add.at(change, starts, 1)
    np.add.at(change, ends, -1)
    return np.asarray(change.cumsum() > 0)


def _summands(counted: Sequence[Counted]) -> tuple[FeatureScore, ...]:
    """What each word adds or takes, those that do most first; behind so many, the others together.

    The score is the sum of these, so that whoever adds up what a reply shows finds the same.
    """
    times = Counter(each.text for each in counted)
    added: dict[str, float] = {}
    for each in counted:
        added[each.text] = added.get(each.text, 0.0) + each.contribution
    most = sorted(added, key=lambda text: (-abs(added[text]), text))
    named, others = most[:_MOST_WORDS], most[_MOST_WORDS:]
    summands = [FeatureScore(text, "", "count", times[text], added[text]) for text in named]
    if others:
        rest = fsum(added[text] for text in others)
        summands.append(FeatureScore(OTHER_WORDS, "", "count", sum(times[text] for text in others), rest))
    return tuple(summands)


def _evidence(
    segment: Segment, counted: Sequence[Counted], words: WordsRead, max_evidence: int
) -> tuple[Evidence, ...]:
    """Where words stand that raise the score, those that add most first."""
    places = words.places.tolist()
    found = []
    for each in sorted(counted, key=lambda each: (-each.contribution, each.first, each.end))[:max_evidence]:
        turn, start, _ = places[each.first]
        if each.contribution > 0:
            found.append(Evidence(start, places[each.end - 1][2], each.text, each.contribution, segment, turn))
    return tuple(found)
