"""Does it matter? What taking features out of a reader changes, held against random ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from conftest import activations, watchlist_of
from scopewatch.app.spine import offline
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.engine.looks import Removed, Steps
from scopewatch.errors import EngineDied, EngineError, NotReady, SaeError
from scopewatch.explain.ablating import T, ablate
from scopewatch.explain.beyond_random import RESPONSE, change, conclusion
from scopewatch.explanation import Ablation, Wants
from scopewatch.identity import FeatureKey, FeatureTable
from scopewatch.metrics import Metrics
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.stages import Judged
from scopewatch.types import Activations, CoveredActivations, Pair, ScoreJob, Segment, TokenisedPair
from scopewatch.verdicts import ScoredPair, Verdict
from scopewatch.words.find import find_words
from scopewatch.words.lexicon import shipped
from spine import IDENTITY, FakeReader, build_monitor, fire, watchlist_set

WITH_HEAD = replace(IDENTITY, head=True)
COLUMNS = {str(feature): column for column, feature in enumerate(WITH_HEAD.features)}
LOGPROB = COLUMNS["reader:head/0"]
LOUD = {"name": "loud", "features": [{"feature": "early/1"}, {"feature": "late/0", "weight": -0.5}], "threshold": 3.0}
QUIET = {"name": "quiet", "features": [{"feature": "late/0"}], "threshold": 100.0}
MIXED = {"name": "mixed", "features": [{"feature": "early/4"}, {"feature": "late/0"}], "threshold": 1.0}
PAIR = Pair("may I?", "yes, of course you may")


class FakeLooks:
    """An engine in which a feature's removal takes its own activations away and does known things beside."""

    def __init__(self, *, has_head: bool = True, does: float = 0.0, random: float = 0.0) -> None:
        self.has_head = has_head
        self.does = does
        """What every token's log-probability loses, and the other features' activations, by the features' removal."""
        self.random = random
        """The standard deviation of the same for random ones."""
        self.asked: list[tuple[tuple[FeatureKey, ...], int | None]] = []
        self.error: Exception | None = None
        self.table = FeatureTable(WITH_HEAD.feature_ids if has_head else IDENTITY.feature_ids)

    def read(self, tokens: TokenisedPair) -> CoveredActivations:
        return CoveredActivations(self._fired(tokens, (), 0.0), self.table)

    def remove(
        self, tokens: TokenisedPair, features: Sequence[FeatureKey], *, seed: int | None = None
    ) -> Steps[Removed]:
        self.asked.append((tuple(features), seed))
        yield
        if self.error:
            raise self.error
        by = self.does if seed is None else self.random * np.random.default_rng(seed).normal()
        yield
        fired = self._fired(tokens, features if seed is None else (), by)
        return Removed(CoveredActivations(fired, self.table), 0.25)

    def _fired(self, tokens: TokenisedPair, without: Sequence[FeatureKey], by: float) -> Activations:
        fired, gone = fire(tokens.ids), [COLUMNS[str(feature)] for feature in without]
        rows = [
            (int(token), int(column), float(value) * (1 - by))
            for token, column, value in zip(fired.token, fired.column, fired.value, strict=True)
            if column not in gone
        ]
        if self.has_head:
            rows += [(token, LOGPROB, -float(code) / 50 - by * token) for token, code in enumerate(tokens.ids)]
        return activations(fired.n_tokens, *rows)


async def at_once(steps: Steps[T]) -> T:
    """Takes all steps of the engine's work."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


async def judged(*indicators: dict[str, Any], pair: Pair = PAIR) -> Judged:
    metrics = Metrics(CollectorRegistry())
    watchlist = replace(watchlist_of(*indicators), words={"words": shipped("hedges")})
    cache = LocalCache(1 << 20, metrics)
    monitor = build_monitor(cache, metrics, FakeReader(), watchlists=watchlist_set(watchlist))
    return await monitor.read(ScoreJob(pair, "", "id"))


async def one(looks: FakeLooks, *indicators: dict[str, Any], controls: int = 20, pair: Pair = PAIR) -> Ablation:
    (found,) = await ablate(await judged(*indicators, pair=pair), looks, at_once, controls=controls)
    return found


class TestNumbers:
    async def test_every_number_is_that_of_the_changed_run(self) -> None:
        """Before is as scored; after is judged on what fires without the features; the interval is numpy's."""
        looks = FakeLooks(does=0.3, random=0.1)
        own = await judged(LOUD, QUIET)
        (found,) = await ablate(own, looks, at_once, controls=30)
        (features, none), *random = looks.asked
        assert (features, none) == ((FeatureKey("early", 1),), None)
        (tokens,) = own.read.tokenised.readings
        watchlist = compile_watchlist(watchlist_of(LOUD, QUIET), WITH_HEAD)
        response = tokens.segments == Segment.RESPONSE

        async def numbers(seed: int | None) -> list[float]:
            covered = (await at_once(FakeLooks(does=0.3, random=0.1).remove(tokens, features, seed=seed))).covered
            fired = covered.activations
            mean = fired.value[(fired.column == LOGPROB) & response[fired.token]].mean(dtype=np.float64)
            return [mean, *(score.score for score in judge(watchlist, [tokens], [covered], max_evidence=0).indicators)]

        after, others = await numbers(None), np.array([await numbers(seed) for _, seed in random])
        assert [one.name for one in found.changes] == [RESPONSE, "loud", "quiet"]
        before = [-tokens.ids[response].mean() / 50, *(score.score for score in own.judgement.indicators)]
        np.testing.assert_allclose([one.before for one in found.changes], before, rtol=1e-6)
        np.testing.assert_allclose([one.after for one in found.changes], after, rtol=1e-6)
        np.testing.assert_allclose([one.random_mean for one in found.changes], others.mean(axis=0), rtol=1e-6)
        low, high = np.quantile(others, [0.025, 0.975], axis=0)
        np.testing.assert_allclose([one.random_low for one in found.changes], low, rtol=1e-6)
        np.testing.assert_allclose([one.random_high for one in found.changes], high, rtol=1e-6)
        outside = [not low[i] <= after[i] <= high[i] for i in range(3)]
        assert [one.beyond_random for one in found.changes] == outside == [True, True, True]
        assert (found.indicator, found.controls, found.removed) == ("loud", 30, 0.25)

    async def test_the_same_pair_gives_the_same_numbers(self) -> None:
        """Random sets are drawn by the pair and the indicator, each its own, and another pair has others."""
        looks = FakeLooks(does=0.1, random=0.2)
        found = await one(looks, LOUD, QUIET)
        assert found == await one(FakeLooks(does=0.1, random=0.2), LOUD, QUIET)
        seeds = {seed for _, seed in looks.asked}
        assert len(seeds) == 21
        other = FakeLooks()
        await one(other, LOUD, QUIET, pair=replace(PAIR, prompt="may we?"))
        assert seeds & {seed for _, seed in other.asked} == {None}
        renamed = FakeLooks()
        await one(renamed, LOUD | {"name": "noisy"}, QUIET)
        assert seeds & {seed for _, seed in renamed.asked} == {None}

    async def test_words_are_whole_and_those_that_changed_most(self) -> None:
        """A word's change is the sum over its tokens; at most eight are told, the most changed first."""
        pair = Pair("?", "one two, three four five six seven eight nine ten")
        found = await one(FakeLooks(does=0.5), LOUD, pair=pair)
        words = [pair.response[word.start : word.end] for word in found.words]
        starts = {word: pair.response.index(word) for word in pair.response.replace(",", "").split()}
        # A token is a character, behind one of the template and one of the prompt.
        expected = {word: -0.5 * sum(range(at + 2, at + 2 + len(word))) for word, at in starts.items()}
        most = sorted(expected, key=lambda word: expected[word])[:8]
        assert words == most
        np.testing.assert_allclose([word.change for word in found.words], [expected[word] for word in most], rtol=1e-5)
        assert {word.text for word in found.words} == {1}

    async def test_a_word_that_does_not_change_is_not_told(self) -> None:
        """Where nothing changes, there are no words."""
        assert (await one(FakeLooks(), LOUD)).words == ()


class TestFeatures:
    async def test_those_that_raised_the_score_are_taken_out(self) -> None:
        """Features whose contributions are above 0, of a combination those of its parts by the part's weight."""
        looks = FakeLooks()
        both = {"name": "both", "kind": "combination", "threshold": -100.0}
        both["combines"] = [{"indicator": "loud", "weight": -1.0}, {"indicator": "mixed", "weight": 0.25}]
        found = await ablate(await judged(LOUD, MIXED, both), looks, at_once, controls=1)
        assert {one.indicator: set(one.features) for one in found} == {
            "loud": {"early/1"},
            "mixed": {"early/4", "late/0"},
            # late/0 counts -0.5 times -1 in the one and 0.25 times 1 in the other; early/1 lowers it.
            "both": {"early/4", "late/0"},
        }

    async def test_flags_for_the_record_are_looked_into_and_others_are_not(self) -> None:
        """Severity info is flagged too; what is not flagged has no ablation."""
        found = await ablate(await judged(LOUD | {"severity": "info"}, QUIET), FakeLooks(), at_once, controls=2)
        assert [one.indicator for one in found] == ["loud"]
        assert await ablate(await judged(QUIET), FakeLooks(), at_once, controls=2) == ()

    async def test_what_has_no_features_says_so(self) -> None:
        """Of words, odd characters, or a sum that only its bias raised nothing can be taken out."""
        words = {"name": "words", "kind": "words", "lexicon": "hedges", "threshold": -1.0}
        probe = {"name": "probe", "kind": "probe", "features": [{"feature": "early/1"}], "threshold": -1.0}
        odd = {"name": "odd", "kind": "obfuscation", "threshold": -1.0}
        biased = {"name": "biased", "features": [{"feature": "late/0", "weight": -0.1}], "bias": 50.0}
        sums = {"name": "sums", "kind": "combination", "threshold": -100.0}
        sums["combines"] = [{"indicator": "words", "weight": 1.0}]
        looks = FakeLooks()
        found = await ablate(await judged(words, odd, probe, biased, sums), looks, at_once, controls=2)
        assert [one.conclusion.split(":")[0] for one in found] == [
            "It counts words",
            "It counts characters",
            "It is made of a probe's directions and of no features",
            "None of its features raised its score",
            "None of its parts is made of features",
        ]
        assert all((one.features, one.controls, one.changes, one.words) == ((), 0, (), ()) for one in found)
        assert looks.asked == []

    @pytest.mark.parametrize(
        "error", [SaeError("res: nothing of it can be taken out: it has no decoder"), EngineError("the reader failed")]
    )
    async def test_what_cannot_be_taken_out_says_why(self, error: Exception) -> None:
        """The conclusion is the error's text, and there is no number."""
        looks = FakeLooks()
        looks.error = error
        found = await one(looks, LOUD)
        assert found == Ablation(
            indicator="loud", features=("early/1",), conclusion=f"It could not be measured: {error}"
        )

    async def test_a_dead_engine_is_no_finding(self) -> None:
        """It is passed on, and so is a change of the watchlists meanwhile."""
        looks = FakeLooks()
        looks.error = EngineDied("gone")
        with pytest.raises(EngineDied):
            await one(looks, LOUD)
        looks = FakeLooks()
        looks.table = FeatureTable(WITH_HEAD.feature_ids[1:])
        with pytest.raises(NotReady, match="replaced"):
            await one(looks, LOUD)


class TestConclusion:
    async def test_features_that_do_more_than_random_ones(self) -> None:
        """What went farther than any end of the interval is told, with the interval."""
        found = await one(FakeLooks(does=0.3, random=0.01), LOUD, QUIET, controls=100)
        response, own, other = found.changes
        assert found.conclusion == (
            "Taking out its only feature changes, more than random features of equal norm do, "
            f"the response's log-probability by {response.after - response.before:+.3g} nats a token "
            f"(these: {response.random_low - response.before:+.3g} to {response.random_high - response.before:+.3g}), "
            f"the score of quiet by {other.after - other.before:+.3g} "
            f"(these: {other.random_low - other.before:+.3g} to {other.random_high - other.before:+.3g}). "
            f"Its own score falls from {own.before:.3g} to {own.after:.3g} by construction, which is no evidence."
        )

    async def test_features_that_do_nothing(self) -> None:
        """A flag whose features do nothing says so, though its own score falls."""
        found = await one(FakeLooks(does=0.001, random=0.3), LOUD, QUIET)
        assert found.conclusion.startswith(
            "Taking out its only feature does nothing that random features of equal norm do not do: of what "
            "was measured (the response's log-probability, the score of quiet) nothing leaves the interval of 20 random "
            "sets. Its own score falls from "
        )
        assert found.conclusion.endswith(
            "20 random sets are few: of further ones about 14% would lie outside of their interval."
        )

    async def test_without_the_head_the_response_is_not_known(self) -> None:
        """No change of the response is told, and no word; it is said why."""
        found = await one(FakeLooks(has_head=False, does=0.3, random=0.01), LOUD, QUIET)
        assert [one.name for one in found.changes] == ["loud", "quiet"]
        assert found.words == ()
        assert "is not known: the reader's head is not loaded." in found.conclusion

    async def test_indicators_of_the_same_features_are_no_evidence(self) -> None:
        """A sum of the indicator, or another of the same features, falls with it by construction."""
        same = LOUD | {"name": "same", "threshold": 1000.0}
        sums = {"name": "sums", "kind": "combination", "threshold": 1000.0}
        sums["combines"] = [{"indicator": "loud", "weight": 1.0}]
        found = await one(FakeLooks(has_head=False), same, LOUD, sums)
        assert [one.beyond_random for one in found.changes] == [True, True, True]
        assert found.conclusion.startswith("What taking out its only feature does, but for its own score, is not known")

    @given(
        st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=5),
        st.lists(st.floats(-5, 5), min_size=1, max_size=60),
        st.booleans(),
    )
    def test_the_sentence_is_true(
        self, numbers: list[tuple[float, float]], random: list[float], has_head: bool
    ) -> None:
        """It says "nothing" only if nothing lies outside, and "more" of just what lies outside and went farther."""
        names = ["own", RESPONSE if has_head else "first", *(f"i{number}" for number in range(len(numbers) - 2))]
        changes = [change(name, *pair, random) for name, pair in zip(names, numbers, strict=True)]
        said = conclusion(changes, ["own"], features=3, controls=len(random))
        own, *others = changes
        assert ("does nothing that random features" in said) == (not any(one.beyond_random for one in others))
        more, _, rest = (
            said.partition("; and, otherwise") if "; and, otherwise" in said else (said.split(". ")[0], "", "")
        )
        for one in others:
            name = "the response's log-probability" if one.name == RESPONSE else f"the score of {one.name}"
            farther = abs(one.after - one.before) > max(
                abs(value - one.before) for value in np.quantile(random, [0.025, 0.975])
            )
            if one.beyond_random and farther:
                assert f"{name} by" in more
                assert "changes, more than random features of equal norm do" in said
            elif one.beyond_random:
                assert f"{name} by" in rest or "changes, otherwise than" in said
            else:
                assert f"{name} by" not in said
        assert ("falls" in said) == (own.after < own.before)
        assert ("head is not loaded" in said) == (not has_head)

    @pytest.mark.parametrize("controls", [5, 20, 60])
    def test_how_often_one_more_random_set_lies_outside(self, controls: int) -> None:
        """What is said of few sets is what happens: of sets that are alike, so many lie outside of the others' interval."""
        draws = np.random.default_rng(0).uniform(size=(50_000, controls + 1))
        low, high = np.quantile(draws[:, 1:], [0.025, 0.975], axis=1)
        outside = ((draws[:, 0] < low) | (draws[:, 0] > high)).mean()
        said = conclusion(
            [change("own", 1, 0, [0.0]), change("a", 0, 0, [0.0])], ["own"], features=2, controls=controls
        )
        assert f"about {outside:.0%} would" in said


async def test_the_bundled_reader_end_to_end(tmp_path: Path) -> None:
    """On the reader that serves, of a text with odd characters, read both ways: numbers before are the scored ones, the
    response's log-probability is that of a watchlist that asks for it, and places are those of the caller's own text.
    """
    document = yaml.safe_load(BUNDLED_WATCHLIST.read_text())
    document["reader"]["path"] = str(BUNDLED_WATCHLIST.parent / document["reader"]["path"])
    document["saes"]["res"]["path"] = str(BUNDLED_WATCHLIST.parent / document["saes"]["res"]["path"])
    unlikely = {"name": "unlikely", "kind": "combination", "threshold": 100.0}
    document["indicators"].append(unlikely | {"combines": [{"signal": "mean_logprob", "weight": -1.0}]})
    (tmp_path / "watchlist.yaml").write_text(yaml.safe_dump(document | {"cleaned": "beside"}))
    text = "It m\u0456ght rain, p\u200derhaps \U0001f469\u200d\u2695\ufe0f, but we are not sure. Insulin probably lowers it."
    job = ScoreJob(Pair("Will it rain?", text), "", "id")
    wants = Wants(ablate=True, delete=True, controls=3)
    async with offline(Config(watchlist=(tmp_path / "watchlist.yaml",))) as spine:
        (scored,) = await spine.score([job])
        explanation = await spine.explain(job, wants)
        again = await spine.explain(job, wants)
        assert (explanation.ablations, explanation.deletion) == (again.ablations, again.deletion)
        assert isinstance(scored, ScoredPair)
        scores = {one.name: one.score for one in scored.indicators}
        (ablation,) = explanation.ablations
        changes = {one.name: one for one in ablation.changes}
        assert {name: changes[name].before for name in scores} == scores
        for number in ("before", "after", "random_mean"):
            told = getattr(changes["response log-probability"], number)
            assert told == pytest.approx(-getattr(changes["unlikely"], number), rel=1e-5)
        assert changes["speculation"].after < changes["speculation"].before
        assert 0 < ablation.removed < 1
        words = [explanation.texts[one.text].text[one.start : one.end] for one in ablation.words]
        assert set(words) <= {text[start:end] for start, end in find_words(text).spans}
        assert len(words) == 8
        assert explanation.deletion
        assert explanation.deletion.turned
        left = text
        for span in reversed(explanation.deletion.words):
            assert explanation.texts[span.text].text == text
            left = left[: span.start] + left[span.end + 1 :]
        (shorter,) = await spine.score([replace(job, pair=Pair("Will it rain?", left))])
        assert isinstance(shorter, ScoredPair)
        assert scored.verdict is Verdict.FLAG is not shorter.verdict
