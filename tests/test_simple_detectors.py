"""The detectors an indicator stands beside are as strong as they can be made, and see nothing of what they are asked."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scopewatch.calibration.simple_detectors import (
    Dense,
    bag_of_words,
    cross_fitted,
    dense_probe,
    difference_of_means,
    hedge_words,
    random_columns,
    response_length,
    rows_of,
    trained_on,
)
from scopewatch.errors import TooLittleData
from scopewatch.pairs.kept_poolings import DENSE_POOLINGS, MEAN
from scopewatch.pairs.labelled import LabelledPair, groups_of, labels_of
from scopewatch.statistics.folds import folds_of
from scopewatch.types import Pair
from scopewatch.watch.poolings import Pooling

_COMPANY = ["response_length", "hedge_words", "bag_of_words", "dense_probe", "difference_of_means"]


def written(texts: Sequence[str], labels: Sequence[int] | None = None, group_size: int = 1) -> list[LabelledPair]:
    return [
        LabelledPair(Pair("", text), labels[row] if labels is not None else 0, row + 1, group=str(row // group_size))
        for row, text in enumerate(texts)
    ]


def pooled(x: NDArray[np.floating]) -> Dense:
    """Activations that are the same by every pooling."""
    return lambda _: x


def texts_and_labels(n: int, seed: int) -> tuple[list[str], NDArray[np.bool_]]:
    """Sentences of ten of sixty words, six of which are commoner where the label is 1."""
    random = np.random.default_rng(seed)
    labels = random.random(n) < 0.4
    words = np.array(
        [
            f"{first}{last}"
            for first in ("ba", "de", "fi", "go", "ku", "lo")
            for last in ("n", "r", "s", "t", "m", "l", "p", "x", "v", "z")
        ]
    )
    even, tilted = np.ones(60), np.ones(60)
    tilted[:6] = 2.5
    return [
        " ".join(random.choice(words, 10, p=(tilted if label else even) / (tilted if label else even).sum()))
        for label in labels
    ], labels


def activations(n: int, d_in: int, seed: int, signal: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Correlated components of very different sizes, one of them constant; a few tell the label."""
    random = np.random.default_rng(seed)
    labels = random.random(n) < 0.4
    hidden = random.normal(size=(n, 12))
    hidden[:, 3:6] += signal * 0.7 * labels[:, None]
    x = hidden @ np.random.default_rng(99).normal(size=(12, d_in)) + 0.5 * random.normal(size=(n, d_in))
    x = x * np.logspace(-2, 2, d_in) + 7
    x[:, 1] = 3.0
    return x.astype(np.float32), labels


def in_groups(n: int, size: int = 2) -> list[str]:
    return [str(row // size) for row in range(n)]


# What needs no fitting


def test_length_is_counted_in_characters_of_the_response() -> None:
    """Neither bytes nor the prompt."""
    pairs = [LabelledPair(Pair("a long prompt", text), 1, 1) for text in ("", "naïve", "😀b")]
    assert [0.0, 5.0, 2.0] == response_length(pairs).tolist()


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("It may rain, PERHAPS.", 2 / 4),
        ("The mayor was a maybelline fan in might-have-been May.", 2 / 11),
        ("I can\u2019t, and could\u2019ve not; he thinks so.", 2 / 8),
        ("…!", 0.0),
        ("", 0.0),
    ],
)
def test_hedges_are_whole_words(text: str, share: float) -> None:
    """In any case, contractions of hedges too, and not as parts of other words; a text without words has none."""
    assert [pytest.approx(share)] == hedge_words(written([text])).tolist()


# Bag of words


def test_bag_of_words_is_as_strong_as_a_grid_search() -> None:
    """As good on unseen pairs as the best of a finer grid of strengths chosen by scikit-learn on the same folds."""
    texts, labels = texts_and_labels(900, 0)
    pairs = written(texts, labels, group_size=2)
    fit, out = pairs[:600], pairs[600:]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(max_iter=2000)
    )
    split = PredefinedSplit(folds_of(labels_of(fit), groups_of(fit)))
    search = GridSearchCV(model, {"logisticregression__C": np.logspace(-2, 2, 9)}, scoring="roc_auc", cv=split)
    expected = roc_auc_score(labels[600:], search.fit(texts[:600], labels[:600]).decision_function(texts[600:]))
    found = roc_auc_score(labels[600:], bag_of_words(fit, out))
    assert 0.65 < expected < 0.95
    assert found == pytest.approx(expected, abs=0.015)


def test_bag_of_words_finds_nothing_in_shuffled_labels() -> None:
    """On unseen pairs, whatever it learnt by heart is worth nothing."""
    texts, labels = texts_and_labels(900, 1)
    pairs = written(texts, np.random.default_rng(5).permutation(labels))
    assert 0.4 < roc_auc_score(labels_of(pairs[600:]), bag_of_words(pairs[:600], pairs[600:])) < 0.6


def test_bag_of_words_without_words_says_nothing() -> None:
    """Where no two responses share a word, or none has one, every pair gets the same score."""
    fit = written([f"word{row}" if row < 10 else "?!" for row in range(20)], [row % 2 for row in range(20)])
    assert [0.0] * 5 == bag_of_words(fit, fit[:5]).tolist()


# Directions


def test_probe_is_a_direction_with_the_standardisation_folded_in() -> None:
    """The same log-odds as scikit-learn's scaler and logistic regression with one of the strengths; a constant component has no weight."""
    x, labels = activations(400, 24, 0)
    probe = dense_probe(pooled(x), labels, in_groups(400))
    assert (np.float64, (24,), 0.0) == (probe.direction.dtype, probe.direction.shape, probe.direction[1])
    gaps = []
    for strength in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-9, max_iter=10_000))
        gaps.append(
            np.abs(
                model.fit(x.astype(float), labels).decision_function(x.astype(float)) - probe.scores(pooled(x))
            ).max()
        )
    assert min(gaps) < 0.01
    assert sorted(gaps)[1] > 0.05


def test_probe_of_a_mean_is_the_mean_over_tokens() -> None:
    """Scoring every token and averaging gives the score of the averaged activations."""
    x, labels = activations(200, 16, 1)
    probe = dense_probe(pooled(x), labels, in_groups(200))
    tokens = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    by_token = (tokens.astype(float) @ probe.direction + probe.bias).mean()
    assert by_token == pytest.approx(probe.scores(pooled(tokens.mean(axis=0, keepdims=True)))[0], rel=1e-5)


@pytest.mark.parametrize("telling", DENSE_POOLINGS, ids=str)
def test_probe_takes_the_pooling_that_tells_most(telling: Pooling) -> None:
    """Where one pooling knows the label and the others are noise, it is that one; scores are of its activations."""
    x, labels = activations(300, 16, 9)
    noise, _ = activations(300, 16, 10)
    dense = {pooling: x if pooling == telling else noise for pooling in DENSE_POOLINGS}.__getitem__
    fit, out = np.arange(200), np.arange(200, 300)
    probe = dense_probe(rows_of(dense, fit), labels[fit], in_groups(200))
    assert telling == probe.pooling
    alone = dense_probe(pooled(x[fit]), labels[fit], in_groups(200))
    np.testing.assert_allclose(alone.scores(pooled(x[out])), probe.scores(rows_of(dense, out)))
    assert alone.cv_auroc == probe.cv_auroc


def test_difference_of_means_reads_the_mean() -> None:
    """It chooses no pooling, whatever another one knows."""
    x, labels = activations(300, 16, 9)
    read: list[Pooling] = []

    def dense(pooling: Pooling) -> NDArray[np.float32]:
        read.append(pooling)
        return x

    assert MEAN == difference_of_means(dense, labels).pooling
    assert [MEAN] == read


def test_without_activations_only_words_are_learnt() -> None:
    """Detectors that need a reader are left out where there is none; the others are as they are with one."""
    texts, labels = texts_and_labels(200, 8)
    x, _ = activations(200, 20, 8)
    pairs = written(texts, labels)
    blind, seeing = cross_fitted(pairs, None), cross_fitted(pairs, pooled(x))
    assert ["response_length", "hedge_words", "bag_of_words"] == list(blind)
    assert all(np.array_equal(blind[name], seeing[name]) for name in blind)
    assert list(blind) == list(trained_on(pairs[:100], None, pairs[100:], None))


def test_probe_is_as_strong_as_a_grid_search() -> None:
    """More components than pairs: as good on unseen pairs as scikit-learn's choice of a finer grid."""
    x, labels = activations(700, 400, 2, signal=0.5)
    groups = in_groups(700)
    probe = dense_probe(pooled(x[:350]), labels[:350], groups[:350])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    split = PredefinedSplit(folds_of(labels[:350], groups[:350]))
    search = GridSearchCV(model, {"logisticregression__C": np.logspace(-5, 0, 11)}, scoring="roc_auc", cv=split)
    expected = roc_auc_score(
        labels[350:], search.fit(x[:350].astype(float), labels[:350]).decision_function(x[350:].astype(float))
    )
    assert 0.65 < expected < 0.95
    assert expected == pytest.approx(roc_auc_score(labels[350:], probe.scores(pooled(x[350:]))), abs=0.015)
    assert search.best_score_ == pytest.approx(probe.cv_auroc, abs=0.015)


def test_probability_is_right_on_pairs_the_probe_did_not_see() -> None:
    """More components than pairs, so that its log-odds boast on what it learnt: the probability does not."""
    x, labels = activations(4000, 100, 3)
    probe = dense_probe(pooled(x[:200]), labels[:200], in_groups(200))
    probability = 1 / (
        1 + np.exp(-(probe.probability.slope * probe.scores(pooled(x[200:])) + probe.probability.intercept))
    )
    assert probability.mean() == pytest.approx(labels[200:].mean(), abs=0.06)
    sure = np.abs(probability - 0.5) > 0.3
    assert np.maximum(probability, 1 - probability)[sure].mean() == pytest.approx(
        (labels[200:] == (probability > 0.5))[sure].mean(), abs=0.05
    )


def test_no_signal_has_no_cross_validated_auroc() -> None:
    """Shuffled labels: near one half, though the probe knows the pairs it learnt from by heart."""
    x, labels = activations(300, 60, 4)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert 0.4 < dense_probe(pooled(x), shuffled, in_groups(300)).cv_auroc < 0.6


def test_siblings_do_not_vouch_for_each_other() -> None:
    """Copies of one pair in a group, labels at random: apart they would be recognised, together they are not."""
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(size=(60, 80)), 4, axis=0).astype(np.float32)
    labels = np.repeat(random.random(60) < 0.5, 4)
    together, apart = in_groups(240, 4), [str(row) for row in range(240)]
    assert dense_probe(pooled(x), labels, together).cv_auroc < 0.65
    assert dense_probe(pooled(x), labels, apart).cv_auroc > 0.95


def test_difference_of_means_has_zero_midway() -> None:
    """From mean to mean, in float64; each mean is as far from 0 as the other."""
    x, labels = activations(300, 10, 5)
    found = difference_of_means(pooled(x), labels)
    means = [x[labels == label].astype(float).mean(axis=0) for label in (False, True)]
    np.testing.assert_allclose(found.direction, means[1] - means[0], rtol=1e-12)
    np.testing.assert_allclose(
        found.scores(pooled(np.array(means))), np.array([-0.5, 0.5]) * (found.direction @ found.direction), rtol=1e-9
    )


# Random features


def test_random_columns_are_among_those_that_fire() -> None:
    """Each in at least 1 % of the pairs, none twice, fixed by the seed; all of them where there are too few."""
    dense = np.zeros((200, 50), np.float32)
    dense[:1, :10], dense[:2, 10:30] = 1, 1
    features = csr_array(dense)
    found = random_columns(features, 5, seed=0)
    assert 5 == len(set(found.tolist()))
    assert set(found.tolist()) <= set(range(10, 30))
    assert found.tolist() == random_columns(features, 5, seed=0).tolist()
    assert set(range(10, 30)) == {int(column) for seed in range(40) for column in random_columns(features, 5, seed)}
    assert list(range(10, 30)) == sorted(random_columns(features, 500, seed=0).tolist())


# Folds


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(6, 30), st.integers(2, 6))
def test_folds_part_no_group_and_have_both_labels(seed: int, n_groups: int, folds: int) -> None:
    """Whatever the groups' sizes, as long as the rarer label is in at least four; twice the same."""
    random = np.random.default_rng(seed)
    member = random.integers(n_groups, size=4 * n_groups)
    labels, groups = random.random(4 * n_groups) < 0.3, [str(number) for number in member]
    assume(len(set(member[labels])) >= 4)
    place = folds_of(labels, groups, folds)
    assert all(len(set(place[member == number])) == 1 for number in set(member))
    assert all(len(set(labels[place == fold])) == 2 for fold in range(place.max() + 1))
    assert place.tolist() == folds_of(labels, groups, folds).tolist()


def test_too_few_groups_are_counted() -> None:
    """Ten positives that are all of one group cannot be learnt from and tested on."""
    labels, groups = np.arange(40) < 10, ["one"] * 10 + [str(row) for row in range(30)]
    with pytest.raises(TooLittleData, match=re.escape("label 1 is in 1 groups and label 0 in 30")) as caught:
        dense_probe(pooled(np.zeros((40, 3), np.float32)), labels, groups)
    assert (1, 2) == (caught.value.n, caught.value.needed)
    with pytest.raises(TooLittleData, match="needs 3 parts"):
        cross_fitted(written(["a"] * 4, [0, 1, 0, 1]), pooled(np.zeros((4, 3), np.float32)))


# All together


def test_cross_fitted_scores_come_from_other_folds() -> None:
    """Each fold is ordered as by what scikit-learn and the public functions learn from all the other folds."""
    texts, labels = texts_and_labels(400, 6)
    x, _ = activations(400, 30, 6)
    pairs = written(texts, labels, group_size=2)
    found = cross_fitted(pairs, pooled(x))
    place = folds_of(labels, groups_of(pairs))
    assert _COMPANY == list(found)
    assert response_length(pairs).tolist() == found["response_length"].tolist()
    for fold in range(5):
        out = place == fold
        scores = difference_of_means(pooled(x[~out]), labels[~out]).scores(pooled(x[out]))
        expected = [(np.sign(score - scores[~labels[out]]) / 2 + 0.5).mean() for score in scores]
        np.testing.assert_allclose(found["difference_of_means"][out], expected)


def test_cross_fitted_auroc_is_the_mean_of_the_folds() -> None:
    """Weighed by positives, within what ranks of so many benign pairs resolve; and as good as on unseen pairs."""
    texts, labels = texts_and_labels(900, 7)
    x, labels_x = activations(900, 30, 7)
    for name, pairs in (("bag_of_words", written(texts, labels)), ("dense_probe", written(texts, labels_x))):
        mine, scores = labels_of(pairs), cross_fitted(pairs, pooled(x))[name]
        place = folds_of(mine, groups_of(pairs))
        by_fold = [roc_auc_score(mine[place == fold], scores[place == fold]) for fold in range(5)]
        weights = np.bincount(place[mine])
        assert np.average(by_fold, weights=weights) == pytest.approx(roc_auc_score(mine, scores), abs=0.005)
        assert 0.65 < roc_auc_score(mine, scores) < 0.95


def test_cross_fitted_detectors_are_fair_where_there_is_nothing() -> None:
    """Groups of uneven shares and no signal: 0.5 on average, where raw scores thrown together rank too badly."""
    fair, naive = [], []
    for seed in range(15):
        random = np.random.default_rng(seed)
        labels = np.repeat([1, 1, 0, 0, 1, 0, 1, 0, 1, 0], 10)[random.permutation(100)] > 0
        x = random.normal(size=(100, 5)).astype(np.float32)
        pairs = written(["same"] * 100, labels, group_size=10)
        fair.append(roc_auc_score(labels, cross_fitted(pairs, pooled(x))["difference_of_means"]))
        place, raw = folds_of(labels, groups_of(pairs)), np.empty(100)
        for fold in range(place.max() + 1):
            # A model of nothing but the share of positives among what it learnt from.
            raw[place == fold] = labels[place != fold].mean()
        naive.append(roc_auc_score(labels, raw))
    error = np.std(fair) / np.sqrt(15)
    assert abs(np.mean(fair) - 0.5) < 3.5 * error
    assert np.mean(naive) < 0.5 - 5 * np.std(naive) / np.sqrt(15)


def test_trained_on_one_set_and_measured_on_another() -> None:
    """Each detector's scores are those of the public function fitted on the first set alone."""
    texts, labels = texts_and_labels(500, 8)
    x, _ = activations(500, 20, 8)
    pairs = written(texts, labels)
    train, other = pairs[:300], pairs[300:]
    found = trained_on(train, pooled(x[:300]), other, pooled(x[300:]))
    assert _COMPANY == list(found)
    np.testing.assert_allclose(bag_of_words(train, other), found["bag_of_words"])
    np.testing.assert_allclose(hedge_words(other), found["hedge_words"])
    np.testing.assert_allclose(
        difference_of_means(pooled(x[:300]), labels[:300]).scores(pooled(x[300:])), found["difference_of_means"]
    )
    probe = dense_probe(pooled(x[:300]), labels[:300], groups_of(train))
    np.testing.assert_allclose(probe.scores(pooled(x[300:])), found["dense_probe"])
