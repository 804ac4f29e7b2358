"""The words by which a bag of words tells the labels apart: what a detector may stand on alone."""

from collections.abc import Sequence

import numpy as np

from scopewatch.errors import DataError
from scopewatch.statistics.scores import Bool

try:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None

WORD = r"(?u)\b\w+(?:['\u2019]\w+)*\b"
_LEAST_PAIRS = 5


def cue_words(texts: Sequence[str], labels: Bool, most: int) -> list[str]:
    """The words whose presence weighs most in a logistic regression, either way, heaviest first, in lower case.

    Args:
        texts: The texts that a detector was fitted on.
        labels: The label of each text; both must occur.
        most: The most words that are told; a word that stands in fewer than five texts is none.
    """
    vectorizer = CountVectorizer(token_pattern=WORD, binary=True, min_df=_LEAST_PAIRS)
    try:
        present = vectorizer.fit_transform(texts)
    except ValueError:  # an empty vocabulary has no class of its own
        return []
    weights = LogisticRegression(C=0.3, max_iter=1000).fit(present, labels).coef_[0]
    names = vectorizer.get_feature_names_out()
    return [str(names[place]) for place in np.argsort(-np.abs(weights), kind="stable")[:most]]
