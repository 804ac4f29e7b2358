"""Scoring: from activations to a verdict, against the formulas written out in plain Python."""

import math
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import activations, covered, engine_identity, watchlist_of
from scopewatch.identity import EngineIdentity, FeatureId, FeatureKey, FeatureTable
from scopewatch.pipeline import scoring
from scopewatch.pipeline.compiled import CompiledWatchlist, compile_watchlist
from scopewatch.types import Activations, Coverage, CoveredActivations, ReadText, Segment, TokenisedPair
from scopewatch.verdicts import FeatureScore, IndicatorScore, Judgement, Label, Verdict

ENGINE = engine_identity(res=(2, 3, 5, 7))
FEATURES = ENGINE.features
SEGMENT = {"T": Segment.TEMPLATE, "P": Segment.PROMPT, "R": Segment.RESPONSE}
WIDTH = 3
"""Characters of every token in these tests."""


def read(layout: str, stops: Collection[int] = ()) -> TokenisedPair:
    """A pair from one letter a token: T(emplate), P(rompt), R(esponse), or the number of a history turn.

    The tokens whose numbers are in `stops` end with a full stop.
    """
    texts = {
        letter: "".join("oo\u3002" if i in stops else "ooo" for i, other in enumerate(layout) if other == letter)
        for letter in sorted({*layout} - {"T"})
    }
    segments = [SEGMENT.get(letter, Segment.HISTORY) for letter in layout]
    places = [layout[:i].count(letter) if letter != "T" else -1 for i, letter in enumerate(layout)]
    return TokenisedPair(
        ids=np.arange(len(layout), dtype=np.int32),
        segments=np.array(segments, np.int8),
        turns=np.array([int(letter) if letter.isdigit() else 0 for letter in layout], np.int32),
        starts=np.array([max(place, 0) * WIDTH for place in places], np.int32),
        ends=np.array([(place + 1) * WIDTH for place in places], np.int32),
        coverage=Coverage(len(layout), layout.count("P"), layout.count("R"), 0),
        texts=tuple(
            ReadText(SEGMENT.get(letter, Segment.HISTORY), text, int(letter) if letter.isdigit() else 0)
            for letter, text in texts.items()
        ),
    )


def compiled(*indicators: dict[str, Any]) -> CompiledWatchlist:
    return compile_watchlist(watchlist_of(*indicators), ENGINE)


def judge(
    watchlist: CompiledWatchlist,
    tokens: TokenisedPair,
    fired: Activations,
    *,
    max_evidence: int,
    engine: EngineIdentity = ENGINE,
) -> Judgement:
    return scoring.judge(watchlist, [tokens], [covered(fired, engine)], max_evidence=max_evidence)


def plain(judgement: Judgement) -> object:
    """All that a judgement says; two of them are never equal as objects."""
    return judgement.verdict, judgement.indicators, judgement.coverage, judgement.fired.tolist()


def term(index: int, weight: float = 1.0, **keys: object) -> dict[str, Any]:
    return {"feature": f"res/{index}", "weight": weight} | keys


def score(
    indicator: dict[str, Any],
    layout: str,
    *fired: tuple[int, int, float],
    max_evidence: int = 100,
    stops: Collection[int] = (),
) -> Any:
    tokens, found = read(layout, stops), activations(len(layout), *fired)
    return judge(compiled(indicator), tokens, found, max_evidence=max_evidence).indicators[0]


@dataclass(frozen=True)
class Case:
    layout: str
    fired: tuple[tuple[int, int, float], ...]
    stops: frozenset[int] = frozenset()
    """The tokens that end with a full stop."""

    @property
    def activations(self) -> Activations:
        return activations(len(self.layout), *self.fired)

    def column(self, letters: str, column: int) -> list[float]:
        """Activations of one column on the tokens of a segment, in order."""
        value = {(token, c): value for token, c, value in self.fired}
        return [value.get((i, column), 0.0) for i, letter in enumerate(self.layout) if letter in letters]

    def ends(self, letters: str) -> list[bool]:
        """Whether each token of a segment ends a sentence, as the last one of a text does without a stop."""
        last = {letter: i for i, letter in enumerate(self.layout)}.values()
        return [i in self.stops or i in last for i, letter in enumerate(self.layout) if letter in letters]


LETTERS = {"prompt": "P", "response": "R", "history": "01"}


MOST_TOKENS = 7
"""Tokens of one segment, or one history turn, in drawn pairs."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Pairs of up to some thirty tokens, template tokens anywhere, few and uneven activations.

    A few large numbers are drawn and taken apart, which takes a fraction of the time that many small ones take.
    """
    layout = "T"
    for letter in "01PR":
        length, kinds = draw(st.integers(0, MOST_TOKENS)), draw(st.integers(0, 4**MOST_TOKENS - 1))
        layout += "".join("T" if kinds >> 2 * i & 3 == 3 else letter for i in range(length)) + "T"
    places = len(layout) * len(FEATURES)
    fewest = draw(st.sampled_from([0, 15, 40]))
    # Two bytes a row: where, and how strongly, from 1/256 to 248. With so few strengths some are equal.
    drawn = draw(st.binary(min_size=2 * fewest, max_size=2 * 60))
    rows = [
        (place % places, (16 + byte % 16) / 16 * 2.0 ** (byte // 16 - 8))
        for place, byte in zip(drawn[::2], drawn[1::2], strict=False)
    ]
    fired = dict(reversed(rows))
    stops = draw(st.integers(0, 2 ** len(layout) - 1))
    return Case(
        layout,
        tuple((*divmod(place, len(FEATURES)), strength) for place, strength in fired.items()),
        frozenset(i for i in range(len(layout)) if stops >> i & 1),
    )


@st.composite
def poolings(draw: st.DrawFn) -> dict[str, Any]:
    kinds = ["max", "mean", "sum", "fraction_active", "rolling_mean_max", "k_of_n", "last", "sentence_end"]
    kind = draw(st.sampled_from(kinds))
    if kind == "last":
        return {"kind": kind} | draw(st.fixed_dictionaries({}, optional={"n": st.integers(1, 15)}))
    if kind == "sentence_end":
        return {"kind": kind, "over": draw(st.sampled_from(["mean", "max"]))}
    if kind == "rolling_mean_max":
        return {"kind": kind, "window": draw(st.integers(1, 15))}
    if kind == "k_of_n":
        k = draw(st.integers(1, 6))
        return {"kind": kind, "k": k} | draw(st.fixed_dictionaries({}, optional={"n": st.integers(k, 15)}))
    return {"kind": kind}


def by_hand(pooling: dict[str, Any], values: list[float], ends: Sequence[bool] = ()) -> float:
    """The formulas of `poolings.Pooling`, one token at a time."""
    kind = pooling["kind"]
    if kind == "last":
        kind, values = "mean", values[max(len(values) - pooling.get("n", 1), 0) :]
    if kind == "sentence_end":
        kind, values = pooling["over"], [value for value, end in zip(values, ends, strict=True) if end]
    n = len(values)
    match kind:
        case "max":
            return max(values)
        case "mean":
            return math.fsum(values) / n
        case "sum":
            return math.fsum(values)
        case "fraction_active":
            return len([value for value in values if value > 0]) / n
        case "rolling_mean_max":
            width = min(pooling["window"], n)
            return max(math.fsum(values[i : i + width]) / width for i in range(n - width + 1))
        case "k_of_n":
            k, width = pooling["k"], min(pooling.get("n", n), n)
            windows = [values[i : i + width] for i in range(n - width + 1)]
            reached = [v for w in windows for v in w if len([u for u in w if u >= v]) >= k]
            return max(reached, default=0.0)
    raise AssertionError(pooling)


@settings(max_examples=200)
@given(cases(), poolings(), st.sampled_from(list(LETTERS)), st.integers(0, 3))
def test_each_pooling_is_its_formula(case: Case, pooling: dict[str, Any], segment: str, column: int) -> None:
    """A feature of weight 1 scores what its pooling's formula gives for the segment's tokens."""
    values = case.column(LETTERS[segment], column)
    indicator = {"segment": segment, "pooling": pooling, "features": [term(FEATURES[column].index)]}
    found = score(indicator, case.layout, *case.fired, stops=case.stops)
    if not values:
        assert found.skipped_reason == "empty_segment"
    else:
        expected = by_hand(pooling, values, case.ends(LETTERS[segment]))
        assert found.score == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"kind": "max"}, 4.0),
        ({"kind": "mean"}, 9 / 12),
        ({"kind": "sum"}, 9.0),
        ({"kind": "fraction_active"}, 4 / 12),
        ({"kind": "rolling_mean_max", "window": 1}, 4.0),
        ({"kind": "rolling_mean_max", "window": 3}, 5 / 3),
        ({"kind": "rolling_mean_max", "window": 12}, 9 / 12),
        ({"kind": "rolling_mean_max", "window": 4096}, 9 / 12),
        ({"kind": "k_of_n", "k": 1}, 4.0),
        ({"kind": "k_of_n", "k": 2}, 3.0),
        ({"kind": "k_of_n", "k": 2, "n": 3}, 1.0),
        ({"kind": "k_of_n", "k": 2, "n": 4096}, 3.0),
        ({"kind": "k_of_n", "k": 4}, 1.0),
        ({"kind": "k_of_n", "k": 5}, 0.0),
        ({"kind": "k_of_n", "k": 13}, 0.0),
        ({"kind": "last"}, 1.0),
        ({"kind": "last", "n": 3}, 4 / 3),
        ({"kind": "last", "n": 4096}, 9 / 12),
        ({"kind": "sentence_end", "over": "mean"}, 4 / 3),
        ({"kind": "sentence_end", "over": "max"}, 3.0),
    ],
    ids=str,
)
def test_poolings_of_a_known_row(pooling: dict[str, Any], expected: float) -> None:
    """Twelve tokens with the activations 4 0 1 0 0 0 0 0 0 3 0 1 and stops at the 0 in 4th and the 3 in 10th place."""
    fired = [(0, 0, 4.0), (2, 0, 1.0), (9, 0, 3.0), (11, 0, 1.0)]
    found = score({"pooling": pooling, "features": [term(2)]}, "R" * 12, *fired, stops=(3, 9))
    assert found.score == pytest.approx(expected)


def test_a_turn_of_the_history_ends_a_sentence() -> None:
    """Of two turns without a stop the last tokens count; `last` reads the end of the later one."""
    fired = [(0, 0, 8.0), (1, 0, 2.0), (3, 0, 8.0), (4, 0, 4.0)]
    for pooling, expected in (({"kind": "sentence_end", "over": "mean"}, 3.0), ({"kind": "last", "n": 3}, 14 / 3)):
        indicator = {"segment": "history", "pooling": pooling, "features": [term(2)]}
        assert score(indicator, "00T11", *fired).score == pytest.approx(expected)


def test_evidence_is_what_the_pooling_read() -> None:
    """A feature that fires at tokens its pooling does not look at did not raise the score there; another pooling's may."""
    fired = [(0, 0, 9.0), (1, 0, 4.0), (2, 0, 7.0), (3, 0, 1.0), (0, 1, 5.0)]
    at_ends = {"kind": "sentence_end", "over": "mean"}
    last, ends, both = (
        score({"features": terms}, "RRRR", *fired, stops=(1,)).evidence
        for terms in (
            [term(2, pooling="last"), term(3, pooling="last")],
            [term(2, pooling=at_ends), term(3, -1.0)],
            [term(2, pooling="last"), term(2, pooling="max"), term(3, pooling=at_ends)],
        )
    )
    assert [(9, 12, 1.0)] == [(span.start, span.end, span.activation) for span in last]
    assert [(3, 6, 4.0), (9, 12, 1.0)] == [(span.start, span.end, span.activation) for span in ends]
    assert [(0, 12, 9.0)] == [(span.start, span.end, span.activation) for span in both]


@given(cases(), st.integers(1, 6), st.integers(0, 9), st.floats(0, 64, width=32), st.data())
def test_k_of_n_asks_for_k_tokens_above_the_threshold(
    case: Case, k: int, more: int, threshold: float, data: st.DataObject
) -> None:
    """With k_of_n, score > t exactly when some n consecutive tokens of the segment hold k tokens above t."""
    values = case.column("R", 0)
    if values:
        threshold = data.draw(st.sampled_from([threshold, *values]))
    n = k + more
    indicator = {"pooling": {"kind": "k_of_n", "k": k, "n": n}, "features": [term(2)], "threshold": threshold}
    found = score(indicator, case.layout, *case.fired)
    windows = [values[i : i + n] for i in range(max(len(values) - n, 0) + 1)]
    assert found.flagged == any(sum(value > threshold for value in window) >= k for window in windows)


@given(cases(), poolings(), st.sampled_from(list(LETTERS)))
def test_only_the_indicators_segment_counts(case: Case, pooling: dict[str, Any], segment: str) -> None:
    """Whatever fires on other segments, on template tokens or in unwatched columns changes nothing."""
    indicator = {"segment": segment, "pooling": pooling, "features": [term(2), term(5, -2)]}
    own = [row for row in case.fired if case.layout[row[0]] in LETTERS[segment] and row[1] in (0, 2)]
    assert score(indicator, case.layout, *case.fired, stops=case.stops) == score(
        indicator, case.layout, *own, stops=case.stops
    )


TERMS = st.lists(
    st.tuples(st.sampled_from([2, 3, 5, 7]), poolings(), st.floats(-4, 4, width=32).filter(bool)),
    min_size=1,
    max_size=8,
    unique_by=lambda row: (row[0], str(row[1])),
)


@given(cases(), TERMS, st.floats(-10, 10), st.floats(-10, 10))
def test_a_score_is_the_bias_plus_the_weighted_sum(
    case: Case, terms: list[tuple[int, dict[str, Any], float]], bias: float, threshold: float
) -> None:
    """score = bias + sum of weight times pooled; contributions add up to it and are sorted by size."""
    values = {f.index: case.column("R", column) for column, f in enumerate(FEATURES)}
    indicator = {
        "bias": bias,
        "threshold": threshold,
        "features": [term(index, weight, pooling=pooling) for index, pooling, weight in terms],
    }
    found = score(indicator, case.layout, *case.fired, stops=case.stops)
    if not values[2]:
        assert (found.skipped_reason, found.features, found.flagged) == ("empty_segment", (), False)
        return
    expected = [weight * by_hand(pooling, values[index], case.ends("R")) for index, pooling, weight in terms]
    assert found.score == pytest.approx(bias + math.fsum(expected), rel=1e-9, abs=1e-9)
    assert math.fsum(part.contribution for part in found.features) == pytest.approx(found.score - bias, abs=1e-9)
    sizes = [abs(part.contribution) for part in found.features]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found.features) == sum(contribution != 0 for contribution in expected)
    assert found.flagged == (found.score > threshold)


def test_each_term_is_shown_with_its_own_pooling_and_label() -> None:
    """A feature pooled in two ways is two terms; each keeps its pooled value, contribution and label."""
    indicator = {
        "pooling": "mean",
        "features": [term(2, 2.0, label="twice"), term(2, -1.0, pooling="max"), term(5, 9.0)],
    }
    found = score(indicator, "TRRRR", (1, 0, 4.0), (2, 0, 2.0))
    shown = [(str(p.feature), p.label, p.pooling, p.pooled, p.contribution) for p in found.features]
    assert shown == [("res/2", "", "max", 4.0, -4.0), ("res/2", "twice", "mean", 1.5, 3.0)]
    assert found.score == -1.0


@pytest.mark.parametrize(
    ("activation", "flagged", "verdict"),
    [
        pytest.param(0.5, False, Verdict.PASS, id="equal"),
        pytest.param(float(np.nextafter(np.float32(0.5), np.float32(1))), True, Verdict.FLAG, id="just above"),
        pytest.param(float(np.nextafter(np.float32(0.5), np.float32(0))), False, Verdict.PASS, id="just below"),
    ],
)
def test_the_threshold_is_strict(activation: float, flagged: bool, verdict: Verdict) -> None:
    """A score that equals the threshold is not flagged; the next number is."""
    judgement = judge(
        compiled({"features": [term(2)], "threshold": 0.5}),
        read("R"),
        activations(1, (0, 0, activation)),
        max_evidence=0,
    )
    assert (judgement.indicators[0].flagged, judgement.verdict) == (flagged, verdict)


@pytest.mark.parametrize(
    ("flags", "verdict"), [((0.5, 0.5), Verdict.FLAG), ((0.5, 9), Verdict.FLAG), ((9, 9), Verdict.PASS)], ids=str
)
def test_one_flagged_indicator_flags_the_pair(flags: tuple[float, float], verdict: Verdict) -> None:
    """The verdict is FLAG when any indicator is flagged, PASS when none is."""
    watchlist = compiled(*({"features": [term(2)], "threshold": threshold} for threshold in flags))
    assert judge(watchlist, read("R"), activations(1, (0, 0, 1.0)), max_evidence=0).verdict == verdict


@pytest.mark.parametrize(
    ("severity", "verdict"),
    [("info", Verdict.PASS), ("low", Verdict.FLAG), ("medium", Verdict.FLAG), ("high", Verdict.FLAG)],
)
def test_severity_info_is_for_the_record(severity: str, verdict: Verdict) -> None:
    """A flagged indicator of severity info is reported and leaves the verdict at PASS."""
    judgement = judge(
        compiled({"features": [term(2)], "threshold": 0.5, "severity": severity}),
        read("R"),
        activations(1, (0, 0, 1.0)),
        max_evidence=0,
    )
    assert (judgement.indicators[0].flagged, judgement.verdict) == (True, verdict)


@pytest.mark.parametrize(
    ("probability", "activation", "expected"),
    [
        pytest.param({"slope": 2.0, "intercept": -1.0}, 1.5, 1 / (1 + math.exp(-2.0)), id="platt"),
        pytest.param({"slope": 1.0, "intercept": 0.0}, 1e30, 1.0, id="far above"),
        pytest.param({"slope": 1e300, "intercept": -1e308}, 1.0, 0.0, id="far below"),
        pytest.param(None, 1.5, None, id="not calibrated"),
    ],
)
def test_a_probability_is_the_scaled_score(
    probability: dict[str, float] | None, activation: float, expected: float | None
) -> None:
    """Platt scaling turns the score into a probability, without overflow; no scaling, no probability."""
    found = score({"features": [term(2)], "probability": probability}, "R", (0, 0, activation))
    assert found.probability == (None if expected is None else pytest.approx(expected, rel=1e-12))


def test_an_empty_segment_is_skipped_and_says_so() -> None:
    """An indicator whose segment has no token is neither scored nor flagged, whatever its bias and threshold."""
    indicator = {"segment": "history", "features": [term(2)], "bias": 5.0, "probability": {"slope": 1, "intercept": 0}}
    found = score(indicator, "TPPRR", (1, 0, 3.0))
    assert (found.skipped_reason, found.score, found.flagged) == ("empty_segment", 0.0, False)
    assert (found.probability, found.features, found.evidence) == (None, (), ())


def test_a_segment_on_which_nothing_fires_scores_the_bias() -> None:
    """No activation is a score, not a skip: the bias alone, without features or evidence."""
    found = score({"features": [term(2), term(3)], "bias": 0.75}, "TRRR")
    assert (found.score, found.flagged, found.features, found.evidence) == (0.75, True, (), ())
    assert found.skipped_reason == ""


POSITIVE_AND_NEGATIVE = [
    term(2, 2.0),
    term(3, 0.5, pooling="mean"),
    term(5, -3.0),
    term(7, 1.0, pooling="sum"),
    term(2, 0.25, pooling="mean"),
]


@given(cases(), st.sampled_from(list(LETTERS)), st.integers(0, 6))
def test_evidence_is_the_runs_of_the_features_that_raised_the_score(
    case: Case, segment: str, max_evidence: int
) -> None:
    """Evidence holds every run of neighbouring tokens of a feature with positive weight, strongest first, cut off.

    Strength is the peak times the feature's largest weight.
    """
    expected = []
    weight = {0: 2.0, 1: 0.5, 3: 1.0}
    tokens = read(case.layout)
    positions = [i for i, letter in enumerate(case.layout) if letter in LETTERS[segment]]
    for column, factor in weight.items():
        values = case.column(LETTERS[segment], column)
        rows = [(value > 0, case.layout[i], i, value) for i, value in zip(positions, values, strict=True)]
        for (fired, turn), run in groupby(rows, key=lambda row: row[:2]):
            members = list(run)
            if fired:
                peak = max(value for *_, value in members)
                start, end = int(tokens.starts[members[0][2]]), int(tokens.ends[members[-1][2]])
                place = int(turn) if turn.isdigit() else 0
                expected.append((-factor * peak, place, start, end, str(FEATURES[column]), peak))
    found = score(
        {"segment": segment, "features": POSITIVE_AND_NEGATIVE}, case.layout, *case.fired, max_evidence=max_evidence
    )
    shown = [(span.turn, span.start, span.end, str(span.feature), span.activation) for span in found.evidence]
    key = [(strength, place, start, feature) for strength, place, start, _, feature, _ in expected]
    order = sorted(range(len(expected)), key=lambda i: key[i])
    assert shown == [expected[i][1:] for i in order][:max_evidence]
    assert {span.segment for span in found.evidence} <= {Segment[segment.upper()]}


@given(cases(), st.sampled_from(list(LETTERS)))
def test_evidence_lies_inside_the_text(case: Case, segment: str) -> None:
    """Every span is a non-empty part of the text of its own segment and turn."""
    found = score({"segment": segment, "features": POSITIVE_AND_NEGATIVE}, case.layout, *case.fired)
    for span in found.evidence:
        letter = str(span.turn) if segment == "history" else LETTERS[segment]
        assert 0 <= span.start < span.end <= WIDTH * case.layout.count(letter)


def test_neighbouring_tokens_merge_and_turns_split() -> None:
    """A run of tokens is one span with its peak; a gap, and the border of a history turn, end it."""
    indicator = {"segment": "history", "features": [term(2)]}
    fired = [(1, 0, 1.0), (2, 0, 3.0), (4, 0, 2.5), (6, 0, 2.0), (7, 0, 1.5)]
    found = score(indicator, "T0000T11TPR", *fired)
    assert [(span.turn, span.start, span.end, span.activation) for span in found.evidence] == [
        (0, 0, 6, 3.0),
        (0, 9, 12, 2.5),
        (1, 0, 6, 2.0),
    ]


def test_equally_strong_evidence_is_in_the_order_of_the_text() -> None:
    """Of two spans as strong as each other the earlier comes first, and on one token that of the first feature."""
    indicator = {"features": [term(2), term(3)]}
    found = score(indicator, "RRRRR", (0, 1, 2.0), (2, 0, 2.0), (4, 1, 2.0), (4, 0, 2.0))
    shown = [(span.start, str(span.feature)) for span in found.evidence]
    assert shown == [(0, "res/3"), (6, "res/2"), (12, "res/2"), (12, "res/3")]


def test_a_feature_that_lowers_the_score_is_no_evidence() -> None:
    """Evidence explains why a score is high: a negative weight has none, however strongly its feature fires."""
    found = score({"features": [term(2, -5.0), term(3, 0.1)]}, "RR", (0, 0, 9.0), (1, 1, 1.0))
    assert [str(span.feature) for span in found.evidence] == ["res/3"]


def test_the_watchlists_own_label_wins() -> None:
    """A feature shows its watchlist's label, else the one handed in, else none, and each time whose it is."""
    source = watchlist_of({"features": [term(2, label="mine"), term(3), term(5)]})
    others = {key: Label("theirs", "neuronpedia: a, b") for key in FEATURES[:2]}
    judgement = judge(
        compile_watchlist(source, ENGINE, others),
        read("R"),
        activations(1, (0, 0, 3.0), (0, 1, 2.0), (0, 2, 1.0)),
        max_evidence=0,
    )
    assert [("mine", "watchlist"), ("theirs", "neuronpedia: a, b"), ("", "")] == [
        (part.label, part.label_source) for part in judgement.indicators[0].features
    ]


@given(cases(), TERMS)
def test_scoring_is_a_pure_function(case: Case, terms: list[tuple[int, dict[str, Any], float]]) -> None:
    """The same input gives the same judgement twice, and scoring leaves its input as it was."""
    watchlist = compiled({"features": [term(index, weight, pooling=pooling) for index, pooling, weight in terms]})
    tokens, fired = read(case.layout), case.activations
    for array in (tokens.segments, tokens.turns, tokens.starts, tokens.ends, fired.token, fired.column, fired.value):
        array.flags.writeable = False

    def run() -> object:
        return plain(judge(watchlist, deepcopy(tokens), deepcopy(fired), max_evidence=5))

    assert plain(judge(watchlist, tokens, fired, max_evidence=5)) == run() == run()


@given(cases(), st.permutations([*ENGINE.feature_ids, FeatureId(b"another's", 2)]))
def test_the_order_of_the_columns_does_not_matter(case: Case, order: list[FeatureId]) -> None:
    """A watchlist is bound to columns by feature: another order, with features of others, gives the same judgement."""
    watchlist = compiled({"features": POSITIVE_AND_NEGATIVE})
    moved = [(token, order.index(ENGINE.feature_ids[column]), value) for token, column, value in case.fired]
    elsewhere = CoveredActivations(activations(len(case.layout), *moved), FeatureTable(tuple(order)))
    here = judge(watchlist, read(case.layout), case.activations, max_evidence=9)
    there = scoring.judge(watchlist, [read(case.layout)], [elsewhere], max_evidence=9)
    assert here.indicators == there.indicators


def test_a_table_that_lacks_a_feature_serves_no_watchlist_that_reads_it() -> None:
    """Activations serve a watchlist when they cover every feature it reads, and only then."""
    watchlist = compiled({"features": [term(2), term(5)]})
    ids = ENGINE.feature_ids
    assert watchlist.slots_of(FeatureTable((ids[2], ids[0]))) is not None
    assert watchlist.slots_of(FeatureTable((ids[0], ids[1], ids[3]))) is None


def test_one_feature_by_two_names_is_read_by_both() -> None:
    """An SAE that a watchlist has under two names gives both the same activations, wherever its column stands once."""
    named = replace(ENGINE, saes=(*ENGINE.saes, replace(ENGINE.saes[0], name="again")))
    both = {"features": [term(2), {"feature": "again/2", "weight": 10.0}]}
    watchlist = compile_watchlist(watchlist_of(both), named)
    found = judge(watchlist, read("R"), activations(1, (0, 0, 1.5)), max_evidence=9).indicators[0]
    assert found.score == 11 * 1.5
    assert {"res/2", "again/2"} == {str(span.feature) for span in found.evidence}


# Probes and combinations: the engine's columns are two SAE features, two probes, then the reader's own predictions.

PROBES = tuple(FeatureKey("probe", index) for index in (0, 1))
WHOLE = replace(engine_identity(res=(2, 3), probe=(0, 1)), head=True)


def judged(
    indicators: list[dict[str, Any]], case: Case, *, card_warnings: dict[str, str] | None = None
) -> dict[str, IndicatorScore]:
    watchlist = compile_watchlist(watchlist_of(*indicators), WHOLE, card_warnings=card_warnings)
    judgement = judge(watchlist, read(case.layout, case.stops), case.activations, max_evidence=100, engine=WHOLE)
    assert [indicator["name"] for indicator in indicators] == [score.name for score in judgement.indicators]
    return {score.name: score for score in judgement.indicators}


@st.composite
def whole_cases(draw: st.DrawFn) -> Case:
    """Pairs on which features are positive here and there, and probes and predictions have a value everywhere."""
    case = draw(cases())
    fired = [row for row in case.fired if row[1] < 2]
    values = (
        np.random.default_rng(draw(st.integers(0, 1 << 32))).normal(scale=9, size=(len(case.layout), 4)).astype("f4")
    )
    fired += [(token, 2 + column, float(value)) for (token, column), value in np.ndenumerate(values)]
    return replace(case, fired=tuple(fired))


SIGNED_TERMS = st.lists(
    st.tuples(
        st.integers(0, 1),
        poolings().filter(lambda pooling: pooling["kind"] in {"max", "mean", "sum", "last", "sentence_end"}),
        st.floats(-4, 4, width=32).filter(bool),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: (row[0], str(row[1])),
)


@given(whole_cases(), SIGNED_TERMS, st.floats(-10, 10), st.sampled_from(list(LETTERS)))
def test_a_probe_scores_the_tokens_below_zero_too(
    case: Case, terms: list[tuple[int, dict[str, Any], float]], bias: float, segment: str
) -> None:
    """score = bias + sum of weight times the pooled value, in float64, whatever the values' signs.

    Its evidence is where a direction that raised the score is above zero.
    """
    features = [{"feature": f"probe/{index}", "weight": weight, "pooling": pooling} for index, pooling, weight in terms]
    probe = {"name": "dense", "kind": "probe", "segment": segment, "features": features, "bias": bias}
    found = judged([probe], case)["dense"]
    values = [case.column(LETTERS[segment], column) for column in (2, 3)]
    if not values[0]:
        assert "empty_segment" == found.skipped_reason
        return
    ends = case.ends(LETTERS[segment])
    expected = [weight * by_hand(pooling, values[index], ends) for index, pooling, weight in terms]
    raised = {f"probe/{index}" for (index, _, weight), part in zip(terms, expected, strict=True) if part > 0 < weight}

    assert found.score == pytest.approx(bias + math.fsum(expected), rel=1e-9, abs=1e-9)
    assert raised == {str(span.feature) for span in found.evidence}
    assert all(span.activation > 0 for span in found.evidence)


def part(weight: float, **name: str) -> dict[str, Any]:
    return name | {"weight": weight}


@given(
    whole_cases(),
    st.lists(st.floats(-4, 4, width=32).filter(bool), min_size=4, max_size=4),
    st.floats(-10, 10),
    st.sampled_from(list(LETTERS)),
    st.permutations(range(3)),
)
def test_a_combination_weighs_scores_and_predictions(
    case: Case, weights: list[float], bias: float, segment: str, order: list[int]
) -> None:
    """score = bias + sum of weight times a part's score or the segment's mean prediction, wherever it stands in the file.

    Its parts are shown with what they added, largest first; without a token in the segment it is skipped, as with a
    part that is.
    """
    sparse = {"name": "sparse", "features": [{"feature": "res/2", "weight": 2.0}], "bias": 0.25}
    dense = {"name": "dense", "kind": "probe", "pooling": "mean", "features": [{"feature": "probe/1", "weight": -3.0}]}
    dense |= {"segment": "prompt", "label": "a direction"}
    combines = [
        part(weights[0], indicator="sparse"),
        part(weights[1], indicator="dense"),
        part(weights[2], signal="mean_logprob"),
        part(weights[3], signal="mean_entropy"),
    ]
    both = {"name": "both", "kind": "combination", "segment": segment, "combines": combines, "bias": bias}
    found = judged([[sparse, dense, both][place] for place in order], case)
    values = case.column(LETTERS[segment], 4)
    if not (values and case.column("R", 0) and case.column("P", 0)):
        assert ("empty_segment", 0.0, False) == (
            found["both"].skipped_reason,
            found["both"].score,
            found["both"].flagged,
        )
        assert () == found["both"].features
        return

    scores = [
        0.25 + 2 * by_hand({"kind": "max"}, case.column("R", 0)),
        -3 * by_hand({"kind": "mean"}, case.column("P", 3)),
        math.fsum(values) / len(values),
        math.fsum(case.column(LETTERS[segment], 5)) / len(values),
    ]
    expected = [weight * score for weight, score in zip(weights, scores, strict=True)]
    shown = {str(row.feature): row for row in found["both"].features}
    sizes = [abs(row.contribution) for row in found["both"].features]

    assert found["both"].score == pytest.approx(bias + math.fsum(expected), rel=1e-9, abs=1e-9)
    assert found["both"].flagged == (found["both"].score > 0.5)
    names = ["sparse", "dense", "mean_logprob", "mean_entropy"]
    assert dict(zip(names, expected, strict=True)) == pytest.approx({n: r.contribution for n, r in shown.items()})
    assert dict(zip(names, scores, strict=True)) == pytest.approx({n: r.pooled for n, r in shown.items()})
    assert sorted(sizes, reverse=True) == sizes
    assert ["score", "score", "mean", "mean"] == [shown[name].pooling for name in names]
    assert [("", ""), ("a direction", "watchlist")] == [(shown[n].label, shown[n].label_source) for n in names[:2]]


def test_a_skipped_part_skips_the_combination() -> None:
    """A combination that lacks a part is no score of the others: it has the part's reason, and flags nothing."""
    past = {"name": "past", "segment": "history", "features": [{"feature": "res/2"}]}
    both = {
        "name": "both",
        "kind": "combination",
        "combines": [part(1, indicator="past"), part(1, signal="mean_entropy")],
    }
    found = judged([both | {"threshold": -9.0}, past], Case("TPR", ((2, 5, 3.0),)))["both"]

    assert ("empty_segment", 0.0, False) == (found.skipped_reason, found.score, found.flagged)


def test_an_indicator_may_be_named_like_a_signal() -> None:
    """A combination that asks for a signal gets the reader's, whatever indicators are called."""
    namesake = {"name": "mean_logprob", "features": [{"feature": "res/2"}]}
    both = {"name": "both", "kind": "combination", "combines": [part(2, signal="mean_logprob")]}
    found = judged([namesake, both], Case("RR", ((0, 0, 7.0), (0, 4, -1.0), (1, 4, -2.0))))["both"]

    assert -3.0 == found.score
    assert (FeatureScore("mean_logprob", "", "mean", -1.5, -3.0),) == found.features


def test_a_combination_flags_and_has_a_probability_like_any_other() -> None:
    """Threshold, severity and Platt scaling work on a combination's score as on a feature's; it has no spans."""
    one = {"name": "one", "features": [{"feature": "res/2"}], "threshold": 99}
    both = {"name": "both", "kind": "combination", "combines": [part(0.5, indicator="one")], "severity": "high"}
    both |= {"threshold": 1.0, "probability": {"slope": 2.0, "intercept": -1.0}}
    found = judged([one, both], Case("R", ((0, 0, 4.0),)))["both"]

    assert (2.0, True, "high", ()) == (found.score, found.flagged, found.severity, found.evidence)
    assert found.probability == pytest.approx(1 / (1 + math.exp(-3.0)))


CARD = {
    "date": "2026-11-01",
    "calibrated_on": "dev",
    "n": 9,
    "measurements": [{"data": "test", "n": 3, "n_positive": 1, "auroc": 0.5}],
}


@pytest.mark.parametrize("layout", ["TPR", "TP"], ids=["scored", "skipped"])
def test_a_card_that_does_not_fit_makes_no_calibrated_score(layout: str) -> None:
    """With a warning an indicator of any kind is uncalibrated and carries it, scored or skipped; without, it is not."""
    features = {"features": [{"feature": "res/2"}], "card": CARD}
    combination = {"kind": "combination", "combines": [part(1, indicator="fits")], "card": CARD}
    indicators = [
        features | {"name": "fits"},
        features | {"name": "misfit"},
        combination | {"name": "both"},
        combination | {"name": "wrong"},
        {"name": "bare", "features": [{"feature": "res/2"}]},
    ]
    found = judged(indicators, Case(layout, ()), card_warnings={"misfit": "another SAE", "wrong": "another reader"})

    expected = [(True, ""), (False, "another SAE"), (True, ""), (False, "another reader"), (False, "")]
    assert expected == [(score.calibrated, score.card_warning) for score in found.values()]
