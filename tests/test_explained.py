"""The document of a pair: its texts and tokens, its sentences, whole dictionaries, and the scored numbers of the real one."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scopewatch
from conftest import House, activations
from explained_pairs import (
    ENGINE,
    TABLE,
    explain,
    explained_of,
    judged_of,
    looked_at,
    predicted,
    reference,
    told,
    watched,
    with_card,
)
from scopewatch.app.spine import offline
from scopewatch.config import Config
from scopewatch.errors import EngineError
from scopewatch.explain.document import explained
from scopewatch.explain.sentence_scores import sentence_scores
from scopewatch.explanation import Explanation
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.stages import Judged
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sentences import SegmentSentences
from scopewatch.types import CoveredActivations, Pair, ReadText, ScoreJob, Segment, Turn
from scopewatch.verdicts import Label
from scopewatch.watch.reference import LEVELS
from scopewatch.words.lexicon import shipped
from spine import fire, read

FEATURE = {"name": "one", "features": [{"feature": "early/1"}]}
TEXTS = [
    "It may be gout, perhaps. The valve closes at 40 bar.",
    "well 🤷🏽‍♀️ ok 👩‍👩‍👧‍👦 und e\u0301ine a\u0308 na\u0131ve",
    "هل هذا صحيح؟ \u202eقد يكون\u202c كذلك.",
    "也许 later. Да, может быть.\r\n\tEnd",
]


def texts_of(explanation: Explanation) -> list[str]:
    """What the tokens of each text cover, in their order, what several cover once."""
    found = []
    for number, text in enumerate(explanation.texts):
        covered = bytearray(len(text.text))
        for whose, start, end in zip(
            explanation.tokens.text, explanation.tokens.start, explanation.tokens.end, strict=True
        ):
            assert start < end <= len(explanation.texts[whose].text)
            if whose == number:
                covered[start:end] = b"\x01" * (end - start)
        found.append("".join(letter for letter, is_covered in zip(text.text, covered, strict=True) if is_covered))
    return found


async def read_by_spine(config: Config, pairs: Sequence[Pair]) -> list[tuple[Judged, Any, Any]]:
    """Each pair as the running spine reads it, what it scores, and the watchlists."""
    async with offline(config) as spine:
        jobs = [ScoreJob(pair, "", f"request {number}", include_evidence=True) for number, pair in enumerate(pairs)]
        scored = await spine.score(jobs)
        return [(await spine._monitor.read(job), one, spine.watchlists) for job, one in zip(jobs, scored, strict=True)]


@pytest.fixture(scope="module")
def real() -> list[tuple[Judged, Any, Any]]:
    """The bundled reader's activations on pairs of several turns, of one text alone, and of a long one."""
    pairs = [
        Pair("Why is my toe red?", TEXTS[0], (Turn("user", "Hello."), Turn("assistant", "Hi! " + TEXTS[1]))),
        *(Pair("", text) for text in TEXTS),
        Pair("Tell me more.", "Creatinine rose and dialysis may be needed. 👩‍👩‍👧‍👦 " * 40),
    ]
    return asyncio.run(read_by_spine(Config(max_tokens=512), pairs))


def document(judged: Judged, watchlists: Any) -> Explanation:
    return explained(judged, (), None, watchlists=watchlists, labels=lambda *_: {})


def test_numbers_are_the_scored_ones(real: list[tuple[Judged, Any, Any]]) -> None:
    """On the bundled reader and watchlist, of every pair: scores, thresholds, verdict, coverage and provenance."""
    for judged, scored, watchlists in real:
        found = document(judged, watchlists)

        assert found.verdict == scored.verdict.value
        for one, score in zip(found.indicators, scored.indicators, strict=True):
            assert (one.score, one.threshold, one.probability) == (score.score, score.threshold, score.probability)
            assert [(term.feature, term.pooled, term.contribution) for term in one.terms] == [
                (str(part.feature), part.pooled, part.contribution) for part in score.features
            ]
            assert sum(one.heat.value) + one.bias == pytest.approx(one.score, abs=1e-9)
        assert found.coverage.tokens == scored.coverage.tokens
        assert found.coverage.windows == scored.coverage.windows
        assert found.provenance.reader_digest == scored.judgement.made_by.reader_digest
        assert (found.provenance.version, found.provenance.watchlists_version) == (scopewatch.__version__, 1)
        assert {"res"} == found.provenance.saes.keys()
        assert found.request_id == judged.asked.job.request_id


def test_tokens_cover_the_callers_texts(real: list[tuple[Judged, Any, Any]]) -> None:
    """Emoji, marks, right-to-left text, several turns and several windows: what the tokens cover is the text itself."""
    windows = set()
    for judged, _, watchlists in real:
        found, pair = document(judged, watchlists), judged.asked.job.pair
        windows.add(found.coverage.windows)
        own = [(turn.role, turn.content) for turn in pair.history] + [("", pair.prompt), ("", pair.response)]

        assert [(text.role, text.text) for text in found.texts] == [one for one in own if one[1]]
        # White space at either end is the template's to take away.
        assert [text.strip() for text in texts_of(found)] == [text.text.strip() for text in found.texts]
        assert [*found.tokens.text] == sorted(found.tokens.text)
        assert len(found.tokens.text) == sum(
            (found.coverage.prompt_tokens, found.coverage.response_tokens, found.coverage.history_tokens)
        )
    assert 1 in windows
    assert max(windows) > 1


def test_words_are_whole(real: list[tuple[Judged, Any, Any]]) -> None:
    """A group names at most five whole words of the text, each once, and only of indicators that something speaks for."""
    for judged, _, watchlists in real:
        found = document(judged, watchlists)
        for group in found.groups:
            assert 0 < group.features <= group.of
            assert len({word.casefold() for word in group.words}) == len(group.words) <= 5
            for word in group.words:
                pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
                assert any(re.search(pattern, text.text) for text in found.texts)
                assert any(map(str.isalnum, word))


def test_a_word_is_what_all_its_tokens_add() -> None:
    """The strongest word is the one whose pieces add most together, not the one with the strongest piece."""
    text = "abcd x. efg"
    rows = [*((place, 0, 2.0) for place in range(1, 5)), (6, 0, 5.0), (9, 0, 4.0), (7, 0, 99.0)]
    judged = judged_of(
        watched({"features": [{"feature": "early/1", "pooling": "sum"}], "label": "Letters"}),
        Pair("", text),
        fired=[activations(len(text) + 1, *rows)],
    )
    (group,) = explained_of(judged).groups

    assert ("Letters", 1, 1, ("abcd", "x", "efg")) == (group.name, group.features, group.of, group.words)


def test_features_that_lower_a_score_speak_for_nothing() -> None:
    """They are in no group, and neither is an indicator of which none fired."""
    lowers = {"name": "two", "features": [{"feature": "late/0", "weight": -1}, {"feature": "early/4", "weight": 1}]}
    judged = judged_of(watched(FEATURE, lowers), Pair("", "ab"), fired=[activations(3, (1, 2, 1.0), (2, 0, 1.0))])

    assert [("one", 1, 1)] == [(one.indicator, one.features, one.of) for one in explained_of(judged).groups]


def test_words_that_lower_a_score_are_not_named() -> None:
    """The strongest words are those of the features that raise the score, whatever others add there."""
    source = {
        "name": "one",
        "features": [{"feature": "early/1"}, {"feature": "late/0", "weight": -9}],
        "pooling": "sum",
    }
    rows = [(1, 0, 2.0), (1, 2, 1.0), (3, 0, 1.0)]
    judged = judged_of(watched(source), Pair("", "a b"), fired=[activations(4, *rows)])
    found = explained_of(judged)

    assert [("a", "b")] == [group.words for group in found.groups]
    assert ((0, 2), (-7.0, 1.0)) == (found.indicators[0].heat.token, found.indicators[0].heat.value)


def test_a_combination_shows_no_labels_of_features() -> None:
    """An indicator's own label in a summand is no description of a feature, and is not warned of as one."""
    part = {"name": "part", "label": "A part", "features": [{"feature": "early/1"}]}
    both = {"name": "both", "kind": "combination", "combines": [{"indicator": "part", "weight": 1}]}
    found = explain(Pair("", "c"), part, both)

    assert "A part" == told(found, "both").terms[0].label
    assert not any("is said to mean" in sentence for sentence in found.trust)


def test_a_word_without_end_is_cut_and_costs_no_more() -> None:
    """Of a word of a hundred thousand letters, some are told."""
    found = explain(Pair("", "c" * 100_000), FEATURE)

    assert [65] == [len(word) for group in found.groups for word in group.words]


# Sentences


def sentences(pair: Pair, *indicators: dict[str, Any], logprobs: Sequence[float] = (), **more: Any) -> Explanation:
    predictions = predicted(logprobs) if len(logprobs) else None
    return explained_of(judged_of(watched(*indicators, **more), pair), predictions=predictions)


RESPONSE = "It may be so.  No.\nPerhaps."
HEDGES = {"name": "hedges", "kind": "words", "lexicon": ["may", "perhaps"], "shows": "hedging", "threshold": 0.3}


def test_sentences_stand_at_their_own_characters() -> None:
    """Each from its first visible character to its last, with its mean log-probability."""
    logprobs = [0.0, *(-float(number) for number in range(1, len(RESPONSE) + 1))]
    found = sentences(Pair("", RESPONSE), FEATURE, logprobs=logprobs)

    assert ["It may be so.", "No.", "Perhaps."] == [RESPONSE[one.start : one.end] for one in found.sentences]
    assert found.tokens.logprob == tuple(logprobs[1:])
    # White space is of the sentence behind it.
    spans = [(0, 13), (13, 18), (18, 27)]
    assert [np.mean(logprobs[1:][a:b]) for a, b in spans] == pytest.approx([one.logprob for one in found.sentences])


def test_without_an_indicator_hedge_words_are_counted() -> None:
    """The share of each sentence's words, from a tenth on; the note says that it is so, and that no head is loaded."""
    found = sentences(Pair("", RESPONSE), FEATURE)

    assert "hedge words" == found.hedging_by
    assert [shipped("hedges").score(words) for words in (["it", "may", "be", "so"], ["no"], ["perhaps"])] == [
        one.hedging for one in found.sentences
    ]
    assert [True, False, True] == [one.hedged for one in found.sentences]
    assert [None] * 3 == [one.surprising for one in found.sentences]
    assert [""] * 3 == [one.quadrant for one in found.sentences]
    assert "explain_whole" in found.sentences_note
    assert "no indicator of this watchlist shows hedging" in found.sentences_note
    assert () == found.tokens.logprob


def test_an_indicator_shows_hedging_by_its_threshold() -> None:
    """Without a reference of sentences its threshold decides, and the note says that it was set on whole responses."""
    found = sentences(Pair("", RESPONSE), HEDGES)

    assert "hedges" == found.hedging_by
    assert [0.25, 0.0, 1.0] == [one.hedging for one in found.sentences]
    assert [False, False, True] == [one.hedged for one in found.sentences]
    assert "threshold of hedges, which was set on whole responses" in found.sentences_note


def test_hedging_and_surprise_go_by_benign_sentences() -> None:
    """Above the 95th percentile of their scores, below the 10th of their log-probabilities; all four quadrants."""
    kept = [-10.0 + 10 * level for level in LEVELS]
    scores = [0.2 * level for level in LEVELS]
    known = with_card(HEDGES, reference=reference(sentence_score=scores, sentence_logprob=kept))
    response = "It may. It is. I may. Oh no."
    lengths = [7, 7, 7, 7]
    means = [-9.5, -9.5, -1.0, -1.0]
    logprobs = [0.0, *np.repeat(means, lengths).tolist()]
    found = sentences(Pair("", response), known, logprobs=logprobs)

    assert ["speculative", "check_first", "cautious", "solid"] == [one.quadrant for one in found.sentences]
    assert [True, True, False, False] == [one.surprising for one in found.sentences]
    assert [0.05, 0.05, 0.9, 0.9] == pytest.approx([one.percentile for one in found.sentences])
    assert found.sentences_note == (
        "A sentence hedges where it scores higher by hedges than 95 % of the sentences of benign pairs."
    )
    unknown = sentences(Pair("", response), with_card(HEDGES, reference=reference()), logprobs=logprobs)
    assert "`scopewatch watchlist reference`" in unknown.sentences_note
    assert [None] * 4 == [one.surprising for one in unknown.sentences]


def test_knowledge_is_named_where_it_is_above_its_threshold_on_the_sentence() -> None:
    """On its own tokens alone, with the note that thresholds are of whole responses; of other segments none is."""
    response = "aaaa. bbbb."
    rows = [(2, 0, 3.0), (9, 0, 1.0)]
    knows = {"shows": "knowledge", "features": [{"feature": "early/1"}], "threshold": 2}
    watchlist = watched({"name": "k", **knows}, {"name": "p", **knows, "segment": "prompt"})
    found = explained_of(
        judged_of(watchlist, Pair("?", response), fired=[activations(13, *((t + 1, c, v) for t, c, v in rows))])
    )

    assert [("k",), ()] == [one.knowledge for one in found.sentences]
    assert "Knowledge is named where" in found.sentences_note


def test_no_sentence_of_an_empty_response() -> None:
    """There is none, and the note says so."""
    found = sentences(Pair("Why?", ""), {"segment": "prompt", "features": [{"feature": "early/1"}]})

    assert ((), "", "No sentence of the response was read.") == (
        found.sentences,
        found.hedging_by,
        found.sentences_note,
    )
    assert ["prompt"] == [text.segment for text in found.texts]


POOLINGS = [
    "max",
    "mean",
    {"kind": "sentence_end", "over": "mean"},
    {"kind": "last", "n": 2},
    {"kind": "rolling_mean_max", "window": 3},
]


@settings(max_examples=60)
@given(text=st.text("ab .\n!é'", min_size=1, max_size=40), stride=st.integers(1, 5))
def test_a_sentence_scores_as_if_the_response_were_nothing_else(text: str, stride: int) -> None:
    """The same as judging the whole pair with every other token taken for the template's, whatever tokens are."""
    letters = read(Pair("", text))
    kept = np.append(0, np.arange(1, len(letters.ids), stride))
    starts = letters.starts[kept]
    tokens = replace(
        letters,
        ids=letters.ids[kept],
        segments=letters.segments[kept],
        turns=letters.turns[kept],
        starts=starts,
        # Tokens of several characters, which reach across the ends of sentences and words.
        ends=np.concatenate(([0], starts[2:], [len(text)])).astype(np.int32),
    )
    watchlist = compile_watchlist(
        watched(
            {"name": "w", "kind": "words", "lexicon": ["a", "ab", "a b", "b'a"]},
            *(
                {"name": f"f{n}", "features": [{"feature": "early/1"}, {"feature": "late/0"}], "pooling": pooling}
                for n, pooling in enumerate(POOLINGS)
            ),
            {
                "name": "c",
                "kind": "combination",
                "combines": [{"indicator": "f1", "weight": 1}, {"indicator": "w", "weight": 2}],
            },
        ),
        ENGINE,
    )
    fired = CoveredActivations(fire(tokens.ids), TABLE)
    whole = SegmentSentences(tokens, Segment.RESPONSE)
    found = list(sentence_scores(watchlist, tokens, fired, Segment.RESPONSE))

    assert len(found) == len(whole.first_tokens)
    for number, one in enumerate(found):
        alone = np.full_like(tokens.segments, Segment.TEMPLATE)
        alone[one.positions] = Segment.RESPONSE
        expected = judge(watchlist, [replace(tokens, segments=alone)], [fired], max_evidence=0).indicators
        assert (whole.of_tokens == number).nonzero()[0].tolist() == np.searchsorted(
            whole.positions, one.positions
        ).tolist()
        assert [score.score for score in expected] == pytest.approx(
            [score.score for score in one.indicators], abs=1e-12
        )


# Whole dictionaries


def test_dictionaries_are_told_with_labels() -> None:
    """Watched features are marked and have the watchlist's labels; those of others are asked for, by SAE, once each."""
    asked: list[tuple[str, list[int]]] = []

    def labels(sae: str, features: Sequence[int]) -> dict[int, Label]:
        asked.append((sae, list(features)))
        return {9: Label("nines", "neuronpedia: method, model")}

    pair = Pair("", "abc")
    source = {"features": [{"feature": "early/4", "label": "fours"}]}
    looked = looked_at(read(pair), problem="no decoder", unexplained=None, shares={})
    found = explained_of(judged_of(watched(source), pair), [looked], labels=labels)
    (sae,) = found.saes

    assert [("early", [9])] == asked
    assert [
        (4, "fours", "watchlist", True, 3.0, 1.5, 5),
        (9, "nines", "neuronpedia: method, model", False, 2.0, 0.25, 1),
    ] == [
        (one.feature, one.label, one.label_source, one.watched, one.peak, one.mean, one.tokens)
        for one in sae.segments[0].features
    ]
    assert ((1, 7), (2,), (3, 7)) == tuple(one.feature for one in sae.tokens)
    assert ((2.0, 0.5), (2.0,), (2.0, 0.5)) == tuple(one.activation for one in sae.tokens)
    assert ((), None, "no decoder") == (sae.unexplained, sae.segments[0].unexplained, sae.problem)
    assert ("early", "layers.0.resid_post", 64, 1.5) == (sae.sae, sae.hookpoint, sae.d_sae, sae.l0)
    assert found.label_note


def test_what_is_unexplained_is_told_of_each_token() -> None:
    """One share for each of the caller's tokens, and that of the segment."""
    pair = Pair("?", "abc")
    unexplained = np.arange(5, dtype=np.float32) / 8
    looked = looked_at(read(pair), unexplained=unexplained)
    (sae,) = explained_of(judged_of(watched(FEATURE), pair), [looked]).saes

    assert (0.125, 0.25, 0.375, 0.5) == sae.unexplained
    assert 0.25 == sae.segments[0].unexplained


# What was given in other ways


def test_a_text_of_which_only_tokens_were_given_is_what_they_decode_to(house: House) -> None:
    """The caller's tokens alone: the text is the decoded one, and places are in it."""
    tokeniser = Tokeniser(house.reader, max_tokens=64)
    ids = tuple(tokeniser.tokenise([Pair("", "It may rain.")])[0].ids[-6:].tolist())
    pair = Pair("Why?", "", response_token_ids=ids)
    (tokens,) = tokeniser.readings([pair], ["none"])[0]
    rows = activations(len(tokens.ids))
    found = explained_of(judged_of(watched(FEATURE), pair, [tokens], [rows]))

    assert "rain." in found.texts[1].text
    assert texts_of(found)[1] == found.texts[1].text


def test_what_cleaning_took_from_tokens_alone_is_not_made_up() -> None:
    """Where only the cleaned reading of given tokens is known, its letters stand where they stood."""
    pair = Pair("", "")
    clean = read(Pair("", "may"))
    places = np.array([0, 2, 4], np.int32)
    text = ReadText(Segment.RESPONSE, "may", 0, places, places + 1)
    tokens = replace(clean, starts=np.append(0, places), ends=np.append(0, places + 1), texts=(text,))
    found = explained_of(judged_of(watched(FEATURE), pair, [tokens]))

    assert ["m\ufffda\ufffdy"] == [one.text for one in found.texts]
    assert ["may"] == texts_of(found)


def test_predictions_without_log_probabilities_are_refused() -> None:
    """Rather than told as zeros."""
    judged = judged_of(watched(FEATURE), Pair("", "abc"))
    predictions = CoveredActivations(activations(4), TABLE)

    with pytest.raises(EngineError, match="hold no log-probabilities"):
        explained_of(judged, predictions=predictions)


def test_a_probe_has_heat_and_is_no_feature_that_fired() -> None:
    """A direction has a value everywhere: its indicator is told with what each token adds, negative ones too."""
    source = {"name": "p", "kind": "probe", "features": [{"feature": "early/1", "pooling": "mean"}]}
    judged = judged_of(watched(source), Pair("", "ab"), fired=[activations(3, (1, 0, -2.0), (2, 0, 1.0))])
    found = explained_of(judged)

    assert ((0, 1), (-1.0, 0.5)) == (told(found, "p").heat.token, told(found, "p").heat.value)
    assert ((), ()) == (found.features, found.groups)
