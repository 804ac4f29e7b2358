"""Simple detectors, which an indicator has to stand beside.

Each is fitted on one part of the pairs and scores others; strengths are chosen by cross-validation inside the fitted
part, which never parts a group. Everything is deterministic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scopewatch.calibration.log_odds import platt
from scopewatch.calibration.logistic import cross_validated, logistic
from scopewatch.errors import DataError
from scopewatch.pairs.kept_poolings import DENSE_POOLINGS, MEAN
from scopewatch.pairs.labelled import LabelledPair, groups_of, labels_of
from scopewatch.statistics.folds import FOLDS, Places, folds_of
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.watch.indicators import Probability
from scopewatch.watch.poolings import Pooling
from scopewatch.words.bag import grams_of
from scopewatch.words.find import find_words
from scopewatch.words.lexicon import shipped

try:
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import StandardScaler
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None

Dense = Callable[[Pooling], NDArray[np.float32]]
"""The reader's activations of n pairs by each of `DENSE_POOLINGS`, shape (n, d_in); read when they are asked for."""
_WORD_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_DENSE_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_LEAST_SHARE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """A direction among the reader's activations; score = (x . direction + bias) pooled over tokens."""

    direction: Scores
    """The direction's components, shape (d_in,)."""
    bias: float
    pooling: Pooling

    def scores(self, dense: Dense) -> Scores:
        """The scores of n pairs, shape (n,), given the reader's activations on them."""
        # Every one of DENSE_POOLINGS is a mean over some tokens, so that it may be taken first.
        return np.asarray(dense(self.pooling) @ self.direction + self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class Probe(Direction):
    """A direction that was learnt; the score is the log-odds of label 1 among the pairs it learnt from."""

    cv_auroc: float
    """Mean AUROC of the folds left out."""
    probability: Probability
    """The map to a probability, fitted on scores of pairs that the fold's fit did not see."""


def response_length(pairs: Sequence[LabelledPair]) -> Scores:
    """The number of characters of each response."""
    return np.array([float(len(item.pair.response)) for item in pairs])


def hedge_words(pairs: Sequence[LabelledPair]) -> Scores:
    """The share of each response's words that are hedges of English, by the lexicon `hedges`."""
    hedges = shipped("hedges")
    return np.array([hedges.score(find_words(item.pair.response).texts) for item in pairs])


def bag_of_words(fit: Sequence[LabelledPair], held_out: Sequence[LabelledPair]) -> Scores:
    """Logistic regression on TF-IDF of the response's words and pairs of words.

    Returns:
        The log-odds of the held-out pairs; 0 for all where no two responses to learn from share a word.

    Raises:
        TooLittleData: There are too few groups for two folds.
    """
    return _bag_of_words(fit, held_out, folds_of(labels_of(fit), groups_of(fit)))


def rows_of(dense: Dense, rows: Rows) -> Dense:
    """The reader's activations of some of the pairs."""
    return lambda pooling: dense(pooling)[rows]


def dense_probe(dense: Dense, labels: Bool, groups: Sequence[str]) -> Probe:
    """Logistic regression on standardised activations, the standardisation folded into the direction.

    Of the poolings cross-validation takes the one with the best mean AUROC over the folds.

    Args:
        dense: The reader's activations of n pairs.
        labels: The label of each of the n pairs; both must occur.
        groups: The group of each of the n pairs.

    Raises:
        TooLittleData: There are too few groups for two folds.
    """
    return _dense_probe(dense, labels, folds_of(labels, groups))


def difference_of_means(dense: Dense, labels: Bool) -> Direction:
    """The direction from the mean of label 0 to the mean of label 1, with the score 0 midway.

    It is what the literature calls by that name, averages over all tokens, and so chooses no pooling.
    """
    means = dense(MEAN)
    negative, positive = (means[labels == label].mean(axis=0, dtype=np.float64) for label in (False, True))
    direction = positive - negative
    return Direction(direction, float(-direction @ (positive + negative) / 2), MEAN)


def random_columns(features: csr_array, count: int, seed: int) -> Rows:
    """Features drawn at random from those that fire in at least 1 % of the pairs: what choosing well is compared with.

    Args:
        features: The pooled features of n pairs, shape (n, d_sae), of which only values above 0 are stored.
        count: How many features are drawn; all of them where there are fewer.
        seed: The same seed draws the same features.
    """
    firing = np.bincount(features.indices, minlength=features.shape[1])
    frequent = np.flatnonzero(firing >= max(1, _LEAST_SHARE * features.shape[0]))
    return np.random.default_rng(seed).permutation(frequent)[:count]


def trained_on(
    train_pairs: Sequence[LabelledPair],
    train_dense: Dense | None,
    pairs: Sequence[LabelledPair],
    dense: Dense | None,
) -> dict[str, Scores]:
    """The scores of `pairs` by every simple detector; those that learn do so from all of `train_pairs`.

    Without the reader's activations only detectors that see the text alone are fitted.

    Raises:
        TooLittleData: There are too few groups to train on.
    """
    folds = folds_of(labels_of(train_pairs), groups_of(train_pairs))
    return unfitted(pairs) | _fitted(train_pairs, train_dense, folds, pairs, dense)


def cross_fitted(pairs: Sequence[LabelledPair], dense: Dense | None, folds: int = FOLDS) -> dict[str, Scores]:
    """The scores of pairs by every simple detector, each fold of the pairs scored by what learnt from the others.

    Every fold is scored by another fit, on a scale and with a zero of its own. Thrown together such scores rank too
    badly: a fold with more positives than most is scored by a fit that saw fewer, and expects fewer. So each score
    becomes the share of its own fold's benign pairs that score lower (ties for half), which leaves every order within
    a fold as it was. The AUROC of the whole then is the mean of the folds' own, weighed by their positives, without
    signal 0.5 on average, and pairs can still be resampled. What needs no fitting is left as it is.

    Args:
        pairs: Labelled pairs.
        dense: The reader's activations on these pairs; without them only detectors that see the text alone are fitted.
        folds: The most folds that are made; there are fewer where a label has fewer groups.

    Raises:
        TooLittleData: There are too few groups for three folds, two of them to learn from and to choose by.
    """
    labels = labels_of(pairs)
    place = folds_of(labels, groups_of(pairs), folds, fewest=3)
    whole = unfitted(pairs)
    for fold in range(place.max() + 1):
        fit, out = np.flatnonzero(place != fold), np.flatnonzero(place == fold)
        fit_pairs, out_pairs = ([pairs[row] for row in rows.tolist()] for rows in (fit, out))
        fit_dense, out_dense = (dense and rows_of(dense, rows) for rows in (fit, out))
        for name, scores in _fitted(fit_pairs, fit_dense, place[fit], out_pairs, out_dense).items():
            whole.setdefault(name, np.empty(len(pairs)))[out] = _share_of_benign_below(scores, labels[out])
    return whole


def unfitted(pairs: Sequence[LabelledPair]) -> dict[str, Scores]:
    """The scores of pairs by the detectors that learn nothing."""
    return {"response_length": response_length(pairs), "hedge_words": hedge_words(pairs)}


def _fitted(
    fit: Sequence[LabelledPair],
    fit_dense: Dense | None,
    folds: Places,
    held_out: Sequence[LabelledPair],
    dense: Dense | None,
) -> dict[str, Scores]:
    """The scores of the held-out pairs by the detectors that learn, which do so from the other pairs."""
    labels, words = labels_of(fit), {"bag_of_words": _bag_of_words(fit, held_out, folds)}
    if fit_dense is None or dense is None:
        return words
    return words | {
        "dense_probe": _dense_probe(fit_dense, labels, folds).scores(dense),
        "difference_of_means": difference_of_means(fit_dense, labels).scores(dense),
    }


def _bag_of_words(fit: Sequence[LabelledPair], held_out: Sequence[LabelledPair], folds: Places) -> Scores:
    vectorizer = TfidfVectorizer(analyzer=_grams, min_df=2, sublinear_tf=True)
    try:
        x = vectorizer.fit_transform([item.pair.response for item in fit])
    except ValueError:  # an empty vocabulary has no class of its own
        return np.zeros(len(held_out))
    chosen = cross_validated(x, labels_of(fit), folds, _WORD_STRENGTHS)
    model = logistic(chosen.strength).fit(x, labels_of(fit))
    return np.asarray(model.decision_function(vectorizer.transform([item.pair.response for item in held_out])))


def _grams(response: str) -> list[str]:
    return grams_of(find_words(response).texts)


def _dense_probe(dense: Dense, labels: Bool, folds: Places) -> Probe:
    tried = {
        pooling: cross_validated(_scaled(dense(pooling))[0], labels, folds, _DENSE_STRENGTHS)
        for pooling in DENSE_POOLINGS
    }
    pooling, chosen = max(tried.items(), key=lambda item: item[1].auroc)
    x, scaler = _scaled(dense(pooling))
    model = logistic(chosen.strength).fit(x, labels)
    # Rounded as on file, so that what is measured is what will run.
    direction = (model.coef_[0] / scaler.scale_).astype(np.float32).astype(np.float64)
    bias = float(model.intercept_[0] - direction @ scaler.mean_)
    return Probe(direction, bias, pooling, chosen.auroc, platt(chosen.scores, labels))


def _scaled(x: NDArray[np.float32]) -> tuple[Scores, StandardScaler]:
    scaler = StandardScaler()
    return scaler.fit_transform(x.astype(np.float64)), scaler


def _share_of_benign_below(scores: Scores, labels: Bool) -> Scores:
    """The share of the pairs of label 0 that score lower than each pair, ties counted half."""
    benign = np.sort(scores[~labels])
    return (np.searchsorted(benign, scores) + np.searchsorted(benign, scores, side="right")) / (2 * len(benign))
