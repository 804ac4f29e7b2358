"""The reader's signals sentence by sentence, against their formulas written out over the caller's own text."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import activations, covered, engine_identity, watchlist_of
from scopewatch.identity import ENTROPY, LOGPROB
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sentences import sentence_spans
from scopewatch.types import Cleaning, Pair, Segment, TokenisedPair, Turn
from scopewatch.verdicts import Evidence, IndicatorScore

WHOLE = replace(engine_identity(res=(2,)), head=True)
"""The engine's columns are a feature, the log-probability of each token and its entropy."""
SENTENCE_SIGNALS = ("lowest_sentence_logprob", "highest_sentence_entropy", "surprising_assertion")
CUES = ("perhaps", "may", "in my opinion")
"""The hedges that these texts hold; other words of theirs are none."""


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser(Path(__file__).parents[1] / "service/scopewatch/demo/reader", max_tokens=64, max_windows=8)


def read(tokeniser: Tokeniser, response: str, *history: Turn) -> TokenisedPair:
    (readings,) = tokeniser.readings([Pair("Tell me.", response, history)], [Cleaning.NONE])
    return readings[-1]


def scored(tokens: TokenisedPair, values: np.ndarray, segment: str = "response", most: int = 9) -> IndicatorScore:
    """A combination of all sentence signals, given each token's log-probability and entropy, shape (n_tokens, 2)."""
    columns = [WHOLE.features.index(LOGPROB), WHOLE.features.index(ENTROPY)]
    fired = [(int(token), columns[side], float(value)) for (token, side), value in np.ndenumerate(values)]
    parts = [{"signal": signal, "weight": weight} for signal, weight in zip(SENTENCE_SIGNALS, (1, 2, 4), strict=True)]
    watchlist = watchlist_of({"kind": "combination", "segment": segment, "combines": parts})
    found = covered(activations(len(tokens.ids), *fired), WHOLE)
    return judge(compile_watchlist(watchlist, WHOLE), [tokens], [found], max_evidence=most).indicators[0]


def shown(score: IndicatorScore) -> dict[str, float]:
    return {str(part.feature): part.pooled for part in score.features}


def drawn(tokens: TokenisedPair, seed: int) -> np.ndarray:
    """A log-probability below 0 and an entropy above 0 for each token, as the engine's float32 has them."""
    sizes = np.random.default_rng(seed).exponential(3.0, size=(len(tokens.ids), 2)).astype(np.float32)
    return sizes * np.float32([-1, 1])


def by_hand(text: str, tokens: TokenisedPair, values: np.ndarray, segment: Segment) -> dict[str, tuple[float, str]]:
    """Each signal and the sentence that decides it, in float64, from the characters of the text."""
    rows = [i for i, its in enumerate(tokens.segments) if its == segment]
    spans = list(sentence_spans(text))
    # A token is of the first sentence that ends behind its first character.
    own = [next((n for n, (_, end) in enumerate(spans) if tokens.starts[i] < end), len(spans) - 1) for i in rows]
    means = []
    for side in (0, 1):
        column = [float(values[i, side]) for i in rows]
        whole = math.fsum(column) / len(column)
        each = [[value for value, of in zip(column, own, strict=True) if of == n] for n in range(len(spans))]
        means.append([(math.fsum(one) + 32 * whole) / (len(one) + 32) for one in each])
    assertive = []
    for (start, end), mean in zip(spans, means[0], strict=True):
        sentence = text[start:end].lower()
        hedges = sum(len(cue.split()) * len(re.findall(rf"\b{cue}\b", sentence)) for cue in CUES)
        assertive.append(-mean * max(0.0, 1 - 10 * hedges / len(re.findall(r"\w+", sentence))))
    texts = [text[start:end] for start, end in spans]
    columns = {"lowest_sentence_logprob": (min, means[0]), "highest_sentence_entropy": (max, means[1])}
    columns["surprising_assertion"] = (max, assertive)
    return {name: (best(column), texts[column.index(best(column))]) for name, (best, column) in columns.items()}


CLAUSES = ("The liver filters blood", "It may rain", "Yes", "In my opinion it is perhaps so", "Dr. No, 3.5 mg of it")
LONG = "It stands in the oldest of the many books on this and it may well be what they all wrote down in turn"


@given(
    st.lists(st.sampled_from([*CLAUSES, LONG]), min_size=1, max_size=5), st.sampled_from([". ", "!\n"]), st.integers(0)
)
def test_each_signal_is_its_formula(tokeniser: Tokeniser, clauses: list[str], stop: str, seed: int) -> None:
    """Over sentences: the lowest and highest means, drawn towards the segment's by 32 tokens, and the surprise asserted.

    The combination is their weighted sum, and each names the sentence that decided it as evidence.
    """
    text = stop.join(clauses) + stop.strip()
    tokens = read(tokeniser, text)
    values = drawn(tokens, seed)
    found = scored(tokens, values)
    expected = by_hand(text, tokens, values, Segment.RESPONSE)

    assert shown(found) == pytest.approx({name: value for name, (value, _) in expected.items()}, rel=1e-9)
    weighed = [weight * expected[name][0] for name, weight in zip(SENTENCE_SIGNALS, (1, 2, 4), strict=True)]
    assert found.score == pytest.approx(math.fsum(weighed), rel=1e-9)
    assert {name: sentence for name, (_, sentence) in expected.items()} == {
        str(span.feature): text[span.start : span.end].strip() for span in found.evidence
    }
    assert shown(found) == {str(span.feature): span.activation for span in found.evidence}


def test_nothing_is_asserted_where_every_sentence_is_hedged(tokeniser: Tokeniser) -> None:
    """The signal is exactly 0 there, however surprising the text, and without the hedges it is not."""
    hedged, plain = read(tokeniser, "It may rain. Perhaps it does."), read(tokeniser, "It will rain. It always does.")
    assert 0.0 == shown(scored(hedged, drawn(hedged, 0)))["surprising_assertion"]
    assert shown(scored(plain, drawn(plain, 0)))["surprising_assertion"] > 0


def test_one_sentence_has_the_plain_mean(tokeniser: Tokeniser) -> None:
    """Of a segment of one sentence, however short, the signals are the means over its tokens."""
    tokens = read(tokeniser, "Yes.")
    values = drawn(tokens, 1)
    logprob, entropy = values[tokens.segments == Segment.RESPONSE].astype(float).mean(axis=0)
    expected = {"lowest_sentence_logprob": logprob, "highest_sentence_entropy": entropy}
    assert shown(scored(tokens, values)) == pytest.approx(expected | {"surprising_assertion": -logprob}, rel=1e-12)


def test_a_short_sentence_has_to_say_more(tokeniser: Tokeniser) -> None:
    """A word of two tokens that is no more surprising than a long sentence on average is not the lowest of them."""
    text = f"Yes. {LONG}."
    tokens = read(tokeniser, text)
    starts = tokens.starts[tokens.segments == Segment.RESPONSE]
    values = np.zeros((len(tokens.ids), 2), np.float32)
    values[tokens.segments == Segment.RESPONSE, 0] = np.where(starts < len("Yes."), -3.2, -3.0)
    found = scored(tokens, values)
    assert -3.2 < shown(found)["lowest_sentence_logprob"] < -3.0
    values[tokens.segments == Segment.RESPONSE, 0] = np.where(starts < len("Yes."), 0.0, -3.0)
    spans = {str(span.feature): text[span.start : span.end].strip() for span in scored(tokens, values).evidence}
    assert f"{LONG}." == spans["lowest_sentence_logprob"]


def test_a_history_has_the_sentences_of_its_turns(tokeniser: Tokeniser) -> None:
    """A hedge of one turn hedges no sentence of another, and the evidence says which turn decided."""
    tokens = read(tokeniser, "Yes.", Turn("user", "It may rain."), Turn("assistant", "It will rain."))
    values = np.zeros((len(tokens.ids), 2), np.float32)
    values[:, 0] = np.where(tokens.turns == 1, -1.0, -9.0)
    found = scored(tokens, values, "history")
    where = {str(span.feature): (span.segment, span.turn) for span in found.evidence}
    assert (Segment.HISTORY, 0) == where["lowest_sentence_logprob"]
    assert (Segment.HISTORY, 1) == where["surprising_assertion"]


def test_no_more_sentences_than_asked_for(tokeniser: Tokeniser) -> None:
    """Of several signals those that added most name their sentences; whoever wants none gets none."""
    tokens = read(tokeniser, "It rains. It snows.")
    values = drawn(tokens, 2)
    every = scored(tokens, values).evidence
    assert every[:1] == scored(tokens, values, most=1).evidence
    assert () == scored(tokens, values, most=0).evidence
    assert all(isinstance(span, Evidence) for span in every)
