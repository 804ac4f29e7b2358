"""A hashed bag of words that is fitted on labelled texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scopewatch.calibration.log_odds import platt
from scopewatch.calibration.logistic import cross_validated, logistic
from scopewatch.errors import DataError, Unsupported
from scopewatch.statistics.folds import folds_of
from scopewatch.statistics.scores import Bool
from scopewatch.watch.indicators import Probability
from scopewatch.words.bag import BITS, Bag, buckets_of, text_vector
from scopewatch.words.find import find_words

try:
    from scipy.sparse import csr_array
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None

_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, slots=True, eq=False)
class HashedBag:
    """A hashed bag of words that was learnt; the score, with the bias, is the log-odds of label 1."""

    bag: Bag
    bias: float
    cv_auroc: float
    """Mean AUROC of the folds left out."""
    probability: Probability
    """The map to a probability, fitted on scores of texts that the fold's fit did not see."""


def hashed_bag(texts: Sequence[str], labels: Bool, groups: Sequence[str]) -> HashedBag:
    """Logistic regression on the buckets of texts' words and pairs of words that texts of two groups share.

    Args:
        texts: The n texts.
        labels: The label of each text; both must occur.
        groups: The group of each text.

    Raises:
        TooLittleData: There are too few groups for two folds.
        Unsupported: No two groups share a word.
    """
    vectors = [text_vector(buckets_of(find_words(text).texts)) for text in texts]
    seen = Counter(bucket for _, bucket in {(g, b) for g, v in zip(groups, vectors, strict=True) for b in v})
    kept = np.array(sorted(bucket for bucket, n_groups in seen.items() if n_groups > 1), np.int32)
    if not len(kept):
        raise Unsupported("no signal: no two groups of texts share a word; nothing is written")
    rows = np.repeat(np.arange(len(texts)), list(map(len, vectors)))
    columns = np.array([bucket for vector in vectors for bucket in vector], np.intp)
    values = np.array([value for vector in vectors for value in vector.values()])
    x = csr_array((values, (rows, columns)), (len(texts), 1 << BITS))[:, kept]
    chosen = cross_validated(x, labels, folds_of(labels, groups), _STRENGTHS)
    model = logistic(chosen.strength).fit(x, labels)
    bag = Bag(kept, model.coef_[0].astype(np.float32))
    return HashedBag(bag, float(model.intercept_[0]), chosen.auroc, platt(chosen.scores, labels))
