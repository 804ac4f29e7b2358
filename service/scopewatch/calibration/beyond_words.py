"""What an indicator adds to words: both together, beside each alone, on the same pairs."""

from collections.abc import Mapping, Sequence

import numpy as np

from scopewatch.statistics.ranking import auroc, auroc_difference
from scopewatch.statistics.scores import Bool, Scores
from scopewatch.watch.cards import BeyondWords

WORD_DETECTORS = ("bag_of_words", "hedge_words")


def beyond_words(
    labels: Bool, own: Scores, detectors: Mapping[str, Scores], groups: Sequence[str]
) -> BeyondWords | None:
    """Puts an indicator and the better of the detectors of words together with equal weights, and compares.

    Each counts on the scale of its standard deviation over these pairs, which looks at no label. That the detector of
    words is chosen by these pairs' labels makes it harder to add anything.

    Args:
        labels: The label of each pair.
        own: The indicator's scores.
        detectors: The scores of other detectors, by name.
        groups: The group of each pair.

    Returns:
        None where no detector of words is among them.
    """
    there = [name for name in WORD_DETECTORS if name in detectors]
    if not there:
        return None
    best = max(there, key=lambda name: auroc(labels, detectors[name]))
    words = detectors[best]
    together = _standardised(own) + _standardised(words)
    over_words, over_own = (auroc_difference(labels, together, alone, groups) for alone in (words, own))
    return BeyondWords(
        words=best,
        together=round(auroc(labels, together), 4),
        over_words=round(over_words.value, 4),
        over_words_low=round(over_words.low, 4),
        over_words_high=round(over_words.high, 4),
        over_own=round(over_own.value, 4),
        over_own_low=round(over_own.low, 4),
        over_own_high=round(over_own.high, 4),
    )


def _standardised(scores: Scores) -> Scores:
    return np.asarray((scores - scores.mean()) / (scores.std() or 1.0))
