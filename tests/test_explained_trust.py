"""How far an explanation can be trusted: each sentence stands exactly where it is true, and its numbers are the very ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from explained_pairs import (
    explain,
    explained_of,
    judged_of,
    looked_at,
    reference,
    told,
    watched,
    with_card,
)
from scopewatch.explanation import Ablation, Change, Deletion, Span
from scopewatch.identity import Relation
from scopewatch.sources import ReaderSource
from scopewatch.types import Pair, Segment, Turn
from spine import read

PAIR = Pair("Why?", "It may be gout.")
FEATURE = {"name": "one", "features": [{"feature": "early/1"}]}
SAME = ReaderSource(path="reader", relation=Relation.SAME_MODEL)
ABLATED = Ablation(
    indicator="one",
    features=("early/1",),
    controls=20,
    changes=(
        Change(name="one", before=2, after=1, random_mean=2, random_low=1.9, random_high=2.1, beyond_random=True),
    ),
    conclusion="It does something.",
)
INERT = ABLATED.model_copy(update={"changes": (ABLATED.changes[0].model_copy(update={"beyond_random": False}),)})
TURNED = Deletion(turned=True, words=(Span(text=1, start=3, end=6),), scored=9, conclusion="without it, another")
PLAIN = {"change": "as they are", "n": 400, "auroc": 0.9}


def trust_of(indicator: dict[str, Any], *, looked: bool = False, **more: Any) -> tuple[str, ...]:
    """The sentences of a pair that one indicator judges, of a model that wrote its response itself."""
    changes = {name: more.pop(name) for name in ("reader", "warnings") if name in more}
    coverage = more.pop("coverage", {})
    tokens = read(PAIR)
    tokens = replace(tokens, coverage=replace(tokens.coverage, **coverage))
    watchlist = watched(indicator, reader=changes.get("reader", SAME))
    judged = judged_of(watchlist, PAIR, [tokens], warnings=changes.get("warnings"))
    share = more.pop("share", 0.25)
    seen = [looked_at(tokens, shares={Segment.RESPONSE: share}, problem=more.pop("problem", ""))] if looked else []
    return explained_of(judged, seen, **more).trust


ALWAYS = (
    "The watchlist says that “reader” wrote the response itself; nothing here checks that.",
    "That a feature was active does not show that it caused anything: no feature was taken out to see.",
)
SOUND = with_card(FEATURE)


def test_nothing_is_said_against_what_nothing_speaks_against() -> None:
    """A calibrated indicator that beats words, on a pair that was read whole, has only what is true of every pair."""
    assert trust_of(SOUND, looked=True) == ALWAYS


@pytest.mark.parametrize(
    ("indicator", "more", "said"),
    [
        (FEATURE, {}, "Uncalibrated: nobody measured how often the threshold of “one” is right."),
        (
            SOUND,
            {"warnings": {"one": "the card was made with dtype bfloat16 (running: float32)"}},
            "The card of “one” does not speak for what runs here: the card was made with dtype bfloat16 (running: float32).",
        ),
        (
            SOUND,
            {"looked": True, "share": 0.604},
            (
                "This explanation stands on 60.4 % unexplained activation: so much of the variance of what the reader computed "
                "on the response at layers.0.resid_post is not in what the SAE early makes of it."
            ),
        ),
        (
            SOUND,
            {"looked": True, "problem": "it has no decoder"},
            "Of the SAE early something could not be told: it has no decoder.",
        ),
        (
            SOUND,
            {"coverage": {"response_tokens_dropped": 5}},
            "Not all of it was read, and what was not may hold anything: response: 5 of 20 tokens were not read.",
        ),
        (
            SOUND,
            {"coverage": {"windows": 2}},
            "The response was read in 2 passes, and in each the reader saw only a part of it.",
        ),
        (
            SOUND,
            {"coverage": {"folded": True}},
            "The reader's chat template refused the roles, and messages were folded into others.",
        ),
        (
            SOUND,
            {"coverage": {"shortened": ("history[0].content", "history[2].content")}},
            "The reader's chat template left out a part of history[0].content and history[2].content.",
        ),
        (
            with_card(FEATURE, beats_bag_of_words=False, beside_bag_of_words="undecided"),
            {},
            "On the pairs of the card, “one” does not do clearly better than a bag of words, which only counts words.",
        ),
        (
            with_card(FEATURE | {"label": "Guesses"}, stands_on="may"),
            {},
            "“Guesses” stands on one word: without “may” it loses more than half of what it is better than chance.",
        ),
        (SOUND, {"deletion": TURNED}, "The verdict stands on one word of this pair: without it, it is another."),
        (
            with_card(FEATURE, fragility=[PLAIN, {"change": "upper case", "n": 400, "auroc": 0.79}, PLAIN]),
            {},
            "“one” is fragile: its AUROC on held-out pairs is 0.90, and 0.79 under “upper case”.",
        ),
        (
            with_card(FEATURE, leaks=["its words alone give the label away (AUROC 0.992)"]),
            {},
            "The data that “one” was calibrated on are leaky: its words alone give the label away (AUROC 0.992).",
        ),
        (
            SOUND,
            {"ablations": (INERT,)},
            "Taking out the features behind one does no more to the reader than taking out random ones of equal norm.",
        ),
        (
            with_card({"name": "one", "features": [{"feature": "early/1", "label": "dots"}]}),
            {},
            "What a feature is said to mean is a description of where it was seen to be active, not evidence.",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_sentence_stands_where_it_is_true(indicator: dict[str, Any], more: dict[str, Any], said: str) -> None:
    """And is all that is said beyond what is always true."""
    always = [sentence for sentence in ALWAYS if not (more.get("ablations") and "no feature was taken out" in sentence)]

    assert sorted([*always, said]) == sorted(trust_of(indicator, **more))


@pytest.mark.parametrize(
    ("indicator", "more"),
    [
        (SOUND, {"looked": True, "share": 0.5}),
        (with_card(FEATURE, fragility=[PLAIN, PLAIN | {"auroc": 0.81}]), {}),
        (with_card(FEATURE, fragility=[PLAIN]), {}),
        (with_card(FEATURE, beats_bag_of_words=None, beside_bag_of_words=""), {}),
        (SOUND, {"deletion": TURNED.model_copy(update={"words": TURNED.words * 2})}),
        (SOUND, {"deletion": TURNED.model_copy(update={"turned": False})}),
        (SOUND, {"ablations": (ABLATED.model_copy(update={"changes": ()}),)}),
    ],
    ids=["half is unexplained", "a little fragile", "unchanged", "no labels", "two words", "not turned", "not ablated"],
)
def test_no_sentence_stands_where_it_is_not_true(indicator: dict[str, Any], more: dict[str, Any]) -> None:
    """Just on the other side of each condition nothing is said."""
    assert trust_of(indicator, **more) == ALWAYS


def test_what_was_taken_out_is_no_longer_missing() -> None:
    """Where an ablation moved something, the sentence that nothing was taken out is gone, and none takes its place."""
    assert trust_of(SOUND, ablations=(ABLATED,)) == ALWAYS[:1]


def test_another_models_response_is_an_impression() -> None:
    """With the relation reader_model it says so, in place of what a watchlist says of the same model."""
    said = trust_of(SOUND, reader=ReaderSource(path="reader"))

    assert said[0].startswith("Another model wrote the response: this is what “reader” makes of it while it reads")
    assert "a reader's impression" in said[0]
    assert said[1:] == ALWAYS[1:]


def test_the_gravest_comes_first() -> None:
    """No card, unexplained, not read, no better than words: in this order, before whatever is true of every pair."""
    tokens = read(PAIR)
    tokens = replace(tokens, coverage=replace(tokens.coverage, response_tokens_dropped=5))
    watchlist = watched(FEATURE, with_card(FEATURE | {"name": "two"}, beats_bag_of_words=False))
    judged = judged_of(watchlist, PAIR, [tokens])
    said = explained_of(judged, [looked_at(tokens, shares={Segment.RESPONSE: 0.7})]).trust
    begins = (
        "Uncalibrated: ",
        "This explanation stands on 70 % ",
        "Not all of it was read",
        "On the pairs of the card, “two”",
        "Another model wrote",
        "That a feature was active",
    )

    assert [True] * 6 == [sentence.startswith(begin) for sentence, begin in zip(said, begins, strict=True)]


# Cards as sentences


def card_of(indicator: dict[str, Any], **more: Any) -> tuple[str, ...]:
    return told(explained_of(judged_of(watched(indicator), PAIR, **more)), "one").card


def test_a_card_says_how_often_a_flag_is_right() -> None:
    """The precision follows from both rates and the share of label 1 in the held-out pairs; the bound is rounded up."""
    said = card_of(SOUND)
    precision = 0.6 * 0.25 / (0.6 * 0.25 + 0.05 * 0.75)

    assert (
        "On 200 pairs that it was not fitted on, 25 % of them of the kind it looks for: of 100 pairs like these"
        in said[1]
    )
    assert f"about {100 * precision:.0f} are of that kind" in said[1]
    assert "Of 100 pairs of that kind it finds about 60." == said[2]
    assert "Of 100 other pairs it wrongly flags about 5; at most 9 of 100, with confidence 95 %." == said[3]
    assert (
        "Of two pairs, one of that kind and one not, the right one scores higher in 90 of 100 cases; chance gives 50."
        == said[4]
    )
    assert "It ranks them better than a bag of words does, which only counts words." == said[5]


def test_a_card_of_benign_traffic_says_no_more_than_it_knows() -> None:
    """Without labels there is only how often it is wrong."""
    row = {"data": "traffic", "n": 300, "n_positive": 0, "fpr": 0.004, "fpr_upper": 0.02}
    said = card_of(with_card(FEATURE, measurements=[row], beats_bag_of_words=None, beside_bag_of_words=""))

    assert ["Of 100 other pairs it wrongly flags about 0.4; at most 2 of 100, with confidence 95 %."] == list(said[1:])


def test_a_card_that_flagged_nothing_has_no_precision() -> None:
    """Nor is there a division by 0."""
    row = {"data": "held", "n": 32, "n_positive": 16, "auroc": 0.6, "tpr": 0.0, "fpr": 0.0}
    said = card_of(with_card(FEATURE, measurements=[row]))

    assert any(sentence.endswith("it flagged none.") for sentence in said)
    assert "Of 100 pairs of that kind it finds about 0." in said


def test_no_card_says_so() -> None:
    """And a card of something else says that first."""
    assert ("It has no card: nobody measured how often it is right.",) == card_of(FEATURE)
    assert "This card does not speak for what runs here: other." == card_of(SOUND, warnings={"one": "other"})[0]


# The first paragraph


def summary(indicator: dict[str, Any]) -> str:
    return explain(PAIR, indicator).summary


def test_the_first_paragraph_says_what_came_of_it() -> None:
    """What was read, the verdict, what is above its threshold and by how much, the words, and what that does not mean."""
    platt = {"probability": {"slope": 1.0, "intercept": 0.0}}
    flagged = summary(with_card(FEATURE | platt | {"label": "Guesses"}, reference=reference()))
    score = told(explain(PAIR, FEATURE), "one").score

    assert "read a response of 15 tokens behind 4 tokens of what came before it, written by another model" in flagged
    talk = explain(replace(PAIR, history=(Turn("user", "Hello"),)), FEATURE).summary
    assert "behind 9 tokens of what came before it" in talk, "what was said before counts too"
    assert "The verdict is FLAG." in flagged
    assert f"“Guesses” is far above its threshold (score {score:.3g}, threshold 0.5)" in flagged
    assert 0.999 < 1 / (1 + np.exp(-score)) < 1
    assert "a probability of more than 99.9 %" in flagged, "never rounded to certainty"
    assert f"{10 * score:.3g} % of the benign pairs of its card score less" in flagged
    assert "it was strongest on “" in flagged
    assert "not that anything in the text is wrong" in flagged


@pytest.mark.parametrize(("above", "said"), [(0.4, "just above"), (1.0, "is above"), (3.0, "far above")])
def test_how_far_goes_by_the_log_odds(above: float, said: str) -> None:
    """Just above to half a unit of log-odds, far above from two."""
    score = told(explain(PAIR, FEATURE), "one").score
    platt = {"slope": 2.0, "intercept": 0.0}

    assert f"{said} its threshold" in summary(FEATURE | {"threshold": score - above / 2, "probability": platt})


def test_a_pass_is_no_proof() -> None:
    """PASS and INCOMPLETE say what they do not mean, and an indicator for the record makes no flag."""
    assert "No indicator is above its threshold. PASS means" in summary(FEATURE | {"threshold": 1e6})
    recorded = summary(FEATURE | {"severity": "info"})

    assert "The verdict is PASS." in recorded
    assert "For the record, which makes no flag, “one” (strongest on “" in recorded
    assert "is above the threshold. PASS means" in recorded
    assert "nothing that makes a flag was above its threshold" in recorded


# How unusual


def test_a_score_lies_among_the_benign_pairs_of_its_card() -> None:
    """The percentile of a score that is one of the quantiles is numpy's, and its neighbours are named."""
    score = told(explain(PAIR, FEATURE), "one").score
    drawn = np.random.default_rng(0).normal(score, 1.0, 101)
    drawn[50] = score
    drawn = np.sort(np.append(drawn[drawn < score][:40], np.append(score, drawn[drawn > score][:40])))
    levels = np.array([0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0])
    kept = np.quantile(drawn, levels)
    at = int(np.abs(kept - score).argmin())
    kept[at] = score
    known = reference(
        score=kept.tolist(),
        id_scores=kept.tolist(),
        ids=[f"p{number}" for number in range(11)],
        terms={"early/1 max": kept.tolist()},
    )
    one = told(explain(PAIR, with_card(FEATURE, reference=known)), "one")

    assert one.percentile == pytest.approx(levels[at]) == one.terms[0].percentile
    assert [f"p{at}", f"p{at + 1}"] == [pair.id for pair in one.benign_pairs]
    assert [kept[at], kept[at + 1]] == pytest.approx([pair.score for pair in one.benign_pairs])
    assert levels[[at, at + 1]].tolist() == pytest.approx([pair.percentile for pair in one.benign_pairs], abs=1e-5)


@pytest.mark.parametrize(("scores", "named"), [((20.0, 30.0), ["lowest"]), ((-9.0, -5.0), ["highest"])])
def test_beyond_all_benign_pairs_there_is_one_neighbour(scores: tuple[float, float], named: list[str]) -> None:
    """A score above or below all that are kept has only one, and is at 0 or 1."""
    kept = np.linspace(*scores, 11).tolist()
    known = reference(score=kept, id_scores=kept, ids=["lowest", *"abcdefghi", "highest"])
    one = told(explain(PAIR, with_card(FEATURE, reference=known)), "one")

    assert named == [pair.id for pair in one.benign_pairs]
    assert float(scores[0] < 0) == one.percentile


def test_nothing_is_unusual_by_a_card_that_does_not_speak_for_what_runs() -> None:
    """Without a reference, or where other weights made it, there is neither percentile nor neighbour."""
    known = with_card(FEATURE, reference=reference(terms={"early/1 max": list(range(11))}))
    judged = judged_of(watched(known), PAIR, warnings={"one": "other weights"})

    for one in (told(explained_of(judged), "one"), told(explain(PAIR, SOUND), "one")):
        assert (None, ()) == (one.percentile, one.benign_pairs)
        assert [None] == [term.percentile for term in one.terms]
    assert told(explain(PAIR, known), "one").terms[0].percentile is not None


def test_a_part_of_a_combination_is_known_by_its_name() -> None:
    """Its percentile is that of the part, in the combination's own reference."""
    part = {"name": "part", "features": [{"feature": "early/1"}]}
    both = {"name": "one", "kind": "combination", "combines": [{"indicator": "part", "weight": 1}]}
    known = with_card(both, reference=reference(terms={"part": [10.0 * level for level in range(11)]}))
    score = told(explain(PAIR, part), "part").score
    found = told(explain(PAIR, part, known), "one").terms[0].percentile

    assert found == pytest.approx(np.interp(score, [0, 10], [0, 0.01]))
