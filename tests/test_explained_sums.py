"""The sum that each score is, and where in the text it comes from: to the last digit, whatever the weights."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import activations
from explained_pairs import ENGINE, explain, explained_of, judged_of, told, watched
from scopewatch.explain.token_shares import token_shares
from scopewatch.explanation import Explanation, IndicatorExplained
from scopewatch.pipeline.pooling import pool
from scopewatch.sentences import SegmentSentences
from scopewatch.types import Cleaning, Pair, ReadText, Segment, Turn
from scopewatch.verdicts import Label
from scopewatch.watch.poolings import Pooling
from scopewatch.words.bag import Bag, buckets_of
from spine import read

NUMBERS = st.floats(-1e6, 1e6).filter(bool)
POOLINGS: list[dict[str, Any]] = [
    {"kind": "max"},
    {"kind": "mean"},
    {"kind": "sum"},
    {"kind": "fraction_active"},
    {"kind": "rolling_mean_max", "window": 3},
    {"kind": "k_of_n", "k": 2, "n": 4},
    {"kind": "k_of_n", "k": 5},
    {"kind": "last"},
    {"kind": "last", "n": 3},
    {"kind": "sentence_end", "over": "mean"},
    {"kind": "sentence_end", "over": "max"},
]
PAIR = Pair("Why is it red?", "It may be gout. Or not, perhaps! See a doctor.", (Turn("user", "Hello there."),))


def sum_of(one: IndicatorExplained) -> float:
    return math.fsum([one.bias, *(term.contribution for term in one.terms)])


def assert_sums(explanation: Explanation, judged: Any) -> None:
    """Every number is the scored one, and the summands make it up."""
    for one, score in zip(explanation.indicators, judged.judgement.indicators, strict=True):
        assert (one.name, one.score, one.threshold, one.flagged) == (
            score.name,
            score.score,
            score.threshold,
            score.flagged,
        )
        assert one.probability == score.probability
        assert sum_of(one) == one.score
        sizes = [abs(term.contribution) for term in one.terms if term.feature != "other words"]
        assert sizes == sorted(sizes, reverse=True)
        assert all(term.contribution for term in one.terms)


@settings(max_examples=60)
@given(
    bias=NUMBERS,
    weights=st.lists(NUMBERS, min_size=3, max_size=3),
    parts=st.lists(NUMBERS, min_size=2, max_size=2),
    poolings=st.lists(st.sampled_from(POOLINGS), min_size=3, max_size=3),
)
def test_summands_make_up_the_score(
    bias: float, weights: list[float], parts: list[float], poolings: list[dict[str, Any]]
) -> None:
    """Of features, of words and of both combined: bias and contributions, added up and rounded once, are the score."""
    features = [
        {"feature": f"early/{number}" if number else "late/0", "weight": weight, "pooling": pooling}
        for number, weight, pooling in zip((1, 4, 0), weights, poolings, strict=True)
    ]
    watchlist = watched(
        {"name": "f", "features": features, "bias": bias, "probability": {"slope": 1e-6, "intercept": 0.5}},
        {"name": "w", "kind": "words", "lexicon": ["may", "perhaps", "see a doctor"], "bias": bias / 7},
        {
            "name": "both",
            "kind": "combination",
            "combines": [{"indicator": name, "weight": weight} for name, weight in zip("fw", parts, strict=True)],
            "bias": bias / 3,
        },
    )
    judged = judged_of(watchlist, PAIR)
    explanation = explained_of(judged)
    both, features_told = told(explanation, "both"), told(explanation, "f")

    assert_sums(explanation, judged)
    assert {term.feature: term.pooled for term in both.terms} == {
        name: score for name in "fw" if (score := told(explanation, name).score)
    }
    assert features_told.slope is not None
    assert features_told.intercept is not None
    z = features_told.slope * features_told.score + features_told.intercept
    assert features_told.probability == pytest.approx(1 / (1 + math.exp(-z)) if z > -700 else 0.0, abs=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: str(Pooling(**pooling)))
@given(data=st.data())
def test_tokens_share_what_was_pooled(pooling: dict[str, Any], data: st.DataObject) -> None:
    """What each token adds makes up the pooled value, of every pooling and whatever the length."""
    text = data.draw(st.text("ab. ", min_size=1, max_size=12))
    rows = data.draw(
        st.lists(
            st.lists(st.sampled_from([0.0, 0.5, 1.25, 3.0]), min_size=2, max_size=2),
            min_size=len(text),
            max_size=len(text),
        )
    )
    sentences, dense = SegmentSentences(read(Pair("", text)), Segment.RESPONSE), np.array(rows)
    kind = Pooling(**pooling)
    shares = token_shares(kind, dense, sentences)

    np.testing.assert_allclose(shares.sum(axis=0), pool(kind, dense, sentences), atol=1e-12)
    assert not shares[dense == 0].any()


def test_a_probe_that_is_below_zero_everywhere_is_shared_too() -> None:
    """A largest value may be negative, and is all its token's."""
    dense = np.array([[-3.0], [-1.0], [-2.0]])
    sentences = SegmentSentences(read(Pair("", "abc")), Segment.RESPONSE)

    assert [0.0, -1.0, 0.0] == token_shares(Pooling(kind="max"), dense, sentences)[:, 0].tolist()


def test_heat_makes_up_the_score_on_the_tokens_of_its_segment() -> None:
    """With the bias, of features, words and combinations of them; and nothing is on another segment's tokens."""
    explanation = explain(
        PAIR,
        {"name": "f", "segment": "prompt", "features": [{"feature": "early/1", "pooling": "mean"}], "bias": 0.25},
        {"name": "w", "kind": "words", "lexicon": ["may", "see a doctor"], "bias": 0.5},
        {"name": "both", "kind": "combination", "combines": [{"indicator": "w", "weight": -2}]},
    )
    heat = {one.name: sum(one.heat.value) for one in explanation.indicators}
    segments = {
        one.name: {explanation.texts[explanation.tokens.text[t]].segment for t in one.heat.token}
        for one in explanation.indicators
    }
    words = told(explanation, "w").heat
    marked = "".join(explanation.texts[2].text[explanation.tokens.start[token]] for token in words.token)

    assert heat == pytest.approx(
        {
            "f": told(explanation, "f").score - 0.25,
            "w": told(explanation, "w").score - 0.5,
            "both": -2 * (told(explanation, "w").score - 0.5),
        }
    )
    assert {"f": {"prompt"}, "w": {"response"}, "both": {"response"}} == segments
    assert "maySee a doctor" == marked


def test_features_are_told_where_they_fired() -> None:
    """Every watched feature with its activations, on the caller's tokens alone, by their places there."""
    tokens = read(PAIR)
    rows = [(0, 0, 9.0), (1, 0, 2.0), (14, 2, 0.5), (len(tokens.ids) - 1, 0, 4.0)]
    judged = judged_of(
        watched({"features": [{"feature": "early/1"}, {"feature": "late/0", "label": "nought"}]}),
        PAIR,
        fired=[activations(len(tokens.ids), *rows)],
    )
    explanation = explained_of(judged)
    n = len(explanation.tokens.text)

    assert [("early/1", "", (0, n - 1), (2.0, 4.0)), ("late/0", "nought", (13,), (0.5,))] == [
        (one.feature, one.label, one.heat.token, one.heat.value) for one in explanation.features
    ]


def test_more_words_than_are_named_still_make_up_the_score() -> None:
    """The rest is the last summand, and the sum is exact with it."""
    words = [f"word{number}" for number in range(60)]
    weights = np.random.default_rng(1).normal(size=60).astype(np.float32)
    buckets = np.array(buckets_of(words)[:60], np.int32)
    order = np.argsort(buckets)
    bag = Bag(buckets[order], weights[order])
    source = {"name": "bag", "kind": "words", "bag": {"path": "b", "sha256": "0" * 64}, "bias": 0.1}
    judged = judged_of(watched(source, words={"bag": bag}), Pair("", " ".join(words)))
    (silent,), (one,) = judged.judgement.indicators, explained_of(judged).indicators

    assert () == silent.features
    assert 33 == len(one.terms)
    assert ("other words", 28.0) == (one.terms[-1].feature, one.terms[-1].pooled)
    assert one.score == silent.score == sum_of(one)
    assert sum(one.heat.value) + 0.1 == pytest.approx(one.score)


def test_hidden_letters_are_one_summand() -> None:
    """The share of odd characters, with the bias, is the score."""
    tokens = replace(read(PAIR), odd_shares={Segment.RESPONSE: 0.125})
    judged = judged_of(watched({"kind": "obfuscation", "bias": 0.5}), PAIR, [tokens])
    (one,) = explained_of(judged).indicators

    assert_sums(explained_of(judged), judged)
    assert [("odd characters", 0.125)] == [(term.feature, term.contribution) for term in one.terms]


def test_a_skipped_indicator_has_no_sum() -> None:
    """Neither bias nor summands nor a percentile; the reason is told."""
    explanation = explain(
        Pair("", "yes"), {"name": "p", "segment": "prompt", "features": [{"feature": "early/1"}], "bias": 2.0}
    )
    one = told(explanation, "p")

    assert ("empty_segment", 0.0, 0.0, (), None) == (one.skipped_reason, one.score, one.bias, one.terms, one.percentile)
    assert ["response"] == [text.segment for text in explanation.texts]
    assert "Nothing is said by “p”: there is no text that it judges." in explanation.trust


def test_a_nested_summand_has_its_indicators_label() -> None:
    """A combination's summand is named and labelled as the indicator that it is; zero ones are left out."""
    explanation = explain(
        PAIR,
        {"name": "a", "label": "first", "features": [{"feature": "early/1"}]},
        {"name": "b", "kind": "words", "lexicon": ["nowhere"]},
        {
            "name": "c",
            "kind": "combination",
            "combines": [{"indicator": "a", "weight": 2}, {"indicator": "b", "weight": 1}],
        },
    )
    (term,) = told(explanation, "c").terms

    assert ("a", "first", "score", told(explanation, "a").score) == (
        term.feature,
        term.label,
        term.pooling,
        term.pooled,
    )
    assert term.contribution == 2 * told(explanation, "a").score


def cleaned_pair() -> tuple[Pair, Any, Any]:
    """A pair whose response hides a word by odd characters, as sent and cleaned."""
    pair = Pair("", "it m-a-y be")
    plain = read(pair)
    clean = read(Pair("", "it may be"))
    places = np.array([0, 1, 2, 3, 5, 7, 8, 9, 10], np.int32)
    text = ReadText(Segment.RESPONSE, "it may be", 0, places, places + 1)
    starts = np.append(0, places).astype(np.int32)
    return pair, plain, replace(clean, starts=starts, ends=np.append(0, places + 1).astype(np.int32), texts=(text,))


def test_the_reading_that_counted_is_explained() -> None:
    """Of the two readings that with the higher score: its summands, said so, and its heat at the caller's own places."""
    pair, plain, clean = cleaned_pair()
    lexicon = {"name": "w", "kind": "words", "lexicon": ["may"], "threshold": 0.1}
    lower = {"name": "l", "features": [{"feature": "early/1", "weight": 1.0}], "threshold": 0.1}
    watchlist = watched(lexicon, lower, cleaned=Cleaning.BESIDE)
    fired = [activations(12, (1, 0, 5.0)), activations(10, (1, 0, 1.0))]
    judged = judged_of(watchlist, pair, [plain, clean], fired)
    explanation = explained_of(judged)
    words, features = told(explanation, "w"), told(explanation, "l")

    assert_sums(explanation, judged)
    assert (True, False) == (words.cleaned, features.cleaned)
    assert ["may"] == [term.feature for term in words.terms]
    assert "m-a-y" == pair.response[min(words.heat.token) : max(words.heat.token) + 1]
    assert sum(words.heat.value) == pytest.approx(words.score)
    assert ((0,), (5.0,)) == (features.heat.token, features.heat.value)
    assert any("without characters that hide" in sentence for sentence in explanation.trust)


def test_features_of_the_cleaned_reading_stand_at_the_callers_letters() -> None:
    """What fired on a letter of the cleaned text is heat on that letter as it was sent."""
    pair, plain, clean = cleaned_pair()
    watchlist = watched({"name": "l", "features": [{"feature": "early/1"}]}, cleaned=Cleaning.BESIDE)
    judged = judged_of(watchlist, pair, [plain, clean], [activations(12), activations(10, (6, 0, 2.0))])
    explanation = explained_of(judged)

    assert "y" == pair.response[explanation.indicators[0].heat.token[0]]
    assert (2.0,) == explanation.indicators[0].heat.value


def test_a_combination_of_another_reading_than_its_part_says_so() -> None:
    """Where the part's own score is that of the other reading, the summand is not that score, and this is told."""
    pair, plain, clean = cleaned_pair()
    watchlist = watched(
        {"name": "l", "features": [{"feature": "early/1"}]},
        {"name": "not", "kind": "combination", "combines": [{"indicator": "l", "weight": -1}]},
        cleaned=Cleaning.BESIDE,
    )
    judged = judged_of(watchlist, pair, [plain, clean], [activations(12), activations(10, (6, 0, 2.0))])
    explanation = explained_of(judged)

    assert_sums(explanation, judged)
    assert (2.0, 0.0) == (told(explanation, "l").score, told(explanation, "not").score)
    assert any(
        "“not” was judged on another reading of the texts than “l”" in sentence for sentence in explanation.trust
    )


def test_labels_of_the_index_carry_the_note() -> None:
    """A label of Neuronpedia in any place brings the note; the watchlist's own do not, and win."""
    source = {"features": [{"feature": "early/1"}, {"feature": "early/4", "label": "own"}]}
    key = ENGINE.features[0]
    judged = judged_of(
        watched(source),
        PAIR,
        labels={key: Label("told", "neuronpedia: a, b"), ENGINE.features[1]: Label("no", "neuronpedia: a, b")},
    )
    found = {one.feature: (one.label, one.label_source) for one in explained_of(judged).features}

    assert {"early/1": ("told", "neuronpedia: a, b"), "early/4": ("own", "watchlist")} == found
    assert "machine-written" in explained_of(judged).label_note
    assert "" == explain(PAIR, source).label_note
