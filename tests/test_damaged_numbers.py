"""A number that is none never judges: NaN is above no threshold, and a verdict made of it would be PASS."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import activations, covered, engine_identity, watchlist_of
from scopewatch.errors import EngineError
from scopewatch.identity import ENTROPY, LOGPROB
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.compiled import CompiledWatchlist, compile_watchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.types import (
    Activations,
    Caller,
    Coverage,
    CoveredActivations,
    Pair,
    ReadText,
    ScoreJob,
    Segment,
    TokenisedPair,
)
from scopewatch.verdicts import ScoredPair, Verdict
from scopewatch.watch.terms import SIGNALS
from scopewatch.words.find import Counted
from spine import TABLE, FakeReader, build_monitor

ENGINE = replace(engine_identity(res=(2, 3)), head=True)
N_TOKENS = 6
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
EVERY_POOLING = [
    *({"kind": kind} for kind in ("max", "mean", "sum", "fraction_active", "last")),
    {"kind": "sentence_end", "over": "mean"},
    {"kind": "rolling_mean_max", "window": 2},
    {"kind": "k_of_n", "k": 1, "n": 3},
]


def read() -> TokenisedPair:
    numbers = np.arange(N_TOKENS, dtype=np.int32)
    segments = np.full(N_TOKENS, Segment.RESPONSE, np.int8)
    texts = (ReadText(Segment.RESPONSE, "oo. " * N_TOKENS),)
    coverage = Coverage(N_TOKENS, 0, N_TOKENS, 0)
    return TokenisedPair(numbers, segments, 0 * numbers, 4 * numbers, 4 * numbers + 4, coverage, texts=texts)


def verdict(watchlist: CompiledWatchlist, *fired: tuple[int, int, float]) -> Verdict:
    return judge(watchlist, [read()], [covered(activations(N_TOKENS, *fired), ENGINE)], max_evidence=9).verdict


def complaint(watchlist: CompiledWatchlist, *fired: tuple[int, int, float]) -> str:
    with pytest.raises(EngineError) as caught:
        verdict(watchlist, *fired)
    return str(caught.value).partition(":")[0]


def compiled(*indicators: dict[str, Any]) -> CompiledWatchlist:
    return compile_watchlist(watchlist_of(*indicators), ENGINE)


def features(**more: object) -> dict[str, Any]:
    return {"name": "it", "features": [{"feature": "res/2"}], **more}


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("pooling", EVERY_POOLING, ids=lambda pooling: pooling["kind"])
@pytest.mark.parametrize("token", [0, N_TOKENS - 1])
def test_an_activation_that_is_no_number_judges_nothing(pooling: dict[str, Any], value: float, token: int) -> None:
    """Whatever pools it, and whether or not it would show in the score."""
    assert "indicator it" == complaint(compiled(features(pooling=pooling)), (token, 0, value))


def test_the_indicator_that_reads_it_is_named() -> None:
    """Another feature's damage is nothing to an indicator that does not read it; by any of its names it is found."""
    other = {"name": "other", "features": [{"feature": "res/3"}]}
    assert "indicator other" == complaint(compiled(features(), other), (0, 1, float("nan")))
    assert Verdict.PASS == verdict(compiled(features()), (0, 1, float("nan")))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_prediction_that_is_no_number_judges_nothing(signal: str, value: float) -> None:
    """The reader's own predictions reach a verdict by combinations; one token's are enough, in whatever sentence."""
    both = {"name": "both", "kind": "combination", "combines": [{"signal": signal, "weight": 1.0}]}
    columns = [ENGINE.features.index(key) for key in (LOGPROB, ENTROPY)]
    for token in range(N_TOKENS):
        assert "indicator both" == complaint(compiled(both), *((token, column, value) for column in columns))


def test_weights_that_overflow_judge_nothing() -> None:
    """A sum beyond all numbers, to either side or to both, is no score."""
    for weights in [(1e308, 1e308), (-1e308, -1e308), (1e308, -1e308)]:
        terms = [{"feature": f"res/{index}", "weight": weight} for index, weight in zip((2, 3), weights, strict=True)]
        assert "indicator it" == complaint(compiled(features(features=terms)), (0, 0, 1e30), (0, 1, 1e30))


@pytest.mark.parametrize("weights", [[1e308, 1e308], [1e308, -1e308], [-1e308, 1.0]])
def test_a_combination_that_overflows_judges_nothing(weights: list[float]) -> None:
    """Its parts may be sound, and its sum none the less be no number."""
    parts = [features(name=name, threshold=1e31) for name in ("one", "two")]
    combines = [{"indicator": name, "weight": weight} for name, weight in zip(("one", "two"), weights, strict=True)]
    both = {"name": "both", "kind": "combination", "combines": combines}
    assert "indicator both" == complaint(compiled(*parts, both), (0, 0, 1e30))


def damaged(watchlist: CompiledWatchlist, **changes: object) -> CompiledWatchlist:
    """The watchlist with what no file may hold in its only indicator's source."""
    (one,) = watchlist.indicators
    return replace(watchlist, indicators=(replace(one, source=one.source.model_copy(update=changes)),))


@pytest.mark.parametrize("value", NOT_FINITE)
def test_numbers_of_a_watchlist_that_are_none_judge_nothing(value: float) -> None:
    """A weight, a bias, a threshold or Platt scaling that is no number, however it came there."""
    sound = compiled(
        features(
            probability={"slope": 1.0, "intercept": 0.0}, threshold_by_length={"slope": -0.1, "reference_tokens": 1}
        )
    )
    (one,) = sound.indicators
    platt = one.source.probability
    assert Verdict.FLAG == verdict(sound, (0, 0, 1.0))
    weighed = replace(sound, indicators=(replace(one, weights=np.array([value])),))
    assert "indicator it" == complaint(weighed, (0, 0, 1.0))
    for changes in ({"bias": value}, {"threshold": value}):
        assert "indicator it" == complaint(damaged(sound, **changes), (0, 0, 1.0))
    assert "indicator it" == complaint(
        damaged(sound, probability=platt.model_copy(update={"intercept": float("nan")})), (0, 0, 1.0)
    )


def test_a_threshold_that_grows_beyond_all_numbers_judges_nothing() -> None:
    """An infinite threshold would pass everything."""
    steep = features(threshold_by_length={"slope": 1.7e308, "reference_tokens": 1})
    assert "indicator it" == complaint(compiled(steep), (0, 0, 1.0))


def test_words_that_count_for_no_number_judge_nothing() -> None:
    """A bag of words whose weights are damaged makes no score."""

    class DamagedBag:
        digest = ""

        def counted(self, _: object) -> list[Counted]:
            return [Counted("ooo", 0, 1, float("nan"))]

    watchlist = watchlist_of({"name": "it", "kind": "words", "lexicon": ["ooo"]})
    assert "indicator it" == complaint(compile_watchlist(replace(watchlist, words={"it": DamagedBag()}), ENGINE))


async def test_only_the_pair_itself_fails(metrics: Metrics) -> None:
    """The other pairs of its call are answered, and what was damaged is neither remembered nor read from the cache."""

    class Damaging(FakeReader):
        async def submit(self, ids: np.ndarray, deadline_s: float | None, ahead_tokens: int, caller: Caller) -> Encoded:
            encoded = await super().submit(ids, deadline_s, ahead_tokens, caller)
            if self.asked[-1] == "damaged":
                sound = encoded.covered.activations
                none = Activations(sound.n_tokens, sound.token, sound.column, sound.value * np.float32("nan"))
                return replace(encoded, covered=CoveredActivations(none, TABLE))
            return encoded

    reader = Damaging()
    monitor = build_monitor(LocalCache(1 << 20, metrics), metrics, reader)
    jobs = [ScoreJob(Pair("", text), "", "id") for text in ("sound", "damaged", "also sound")]
    for _ in range(2):
        outcomes = await monitor.score(jobs)
        assert [ScoredPair, EngineError, ScoredPair] == [type(outcome) for outcome in outcomes]
        assert "indicator loud" in str(outcomes[1])
    assert ["sound", "damaged", "also sound", "damaged"] == reader.asked
