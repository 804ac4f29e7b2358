"""The smallest deletion: words without which the verdict is another, by a reader whose tokens are characters."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from conftest import activations, watchlist_of
from scopewatch.errors import EngineDied, EngineError, NotReady, Overloaded, ScopewatchError
from scopewatch.explain.deletion import smallest_deletion
from scopewatch.explanation import Deletion
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.monitor import Monitor
from scopewatch.pipeline.stages import Judged
from scopewatch.types import Activations, Caller, CoveredActivations, Pair, ScoreJob, Turn
from scopewatch.verdicts import Verdict
from spine import FakeReader, build_monitor, watchlist_set

DOCTOR = "\U0001f469\u200d\u2695\ufe0f"
"""One emoji of four code points, of which two are a joiner and a mark."""
WORDS = ("m", "mm", "maybe", "so", "x", DOCTOR, "m\u0301x", "\u0301", "n!", "?", "\u53ef", "1\ufe0f\u20e3")
FIRES = {"m": (0, 1.0), "!": (2, 1.5), "?": (0, 0.5), "\u200d": (1, 2.0), "\u0301": (1, 0.25), "\u53ef": (0, 2.0)}
"""The column that fires on a character, and how strongly."""


def watching(pooling: str = "sum", threshold: float = 2.0, **more: Any) -> dict[str, Any]:
    features = [{"feature": "early/1"}, {"feature": "early/4", "weight": 0.5}, {"feature": "late/0", "weight": -1.0}]
    return {"name": "guesses", "features": features, "pooling": pooling, "threshold": threshold} | more


class CharacterReader(FakeReader):
    """Fires on the characters of `FIRES`."""

    async def submit(self, ids: np.ndarray, deadline_s: float | None, ahead_tokens: int, caller: Caller) -> Encoded:
        await super().submit(ids, deadline_s, ahead_tokens, caller)
        return Encoded(CoveredActivations(fire(ids), self.table), queue_s=0.0, forward_s=0.0, encode_s=0.0)


def fire(ids: np.ndarray) -> Activations:
    return activations(len(ids), *((i, *FIRES[chr(code)]) for i, code in enumerate(ids.tolist()) if chr(code) in FIRES))


class Bench:
    """A monitor over such a reader, which counts how often it reads."""

    def __init__(self, *indicators: dict[str, Any]) -> None:
        metrics = Metrics(CollectorRegistry())
        self.reader = CharacterReader()
        watchlist = watchlist_of(*(indicators or (watching(),)))
        self.monitor: Monitor = build_monitor(
            LocalCache(1 << 20, metrics), metrics, self.reader, watchlists=watchlist_set(watchlist)
        )
        self.read: list[Pair] = []
        self.at_once = self.most_at_once = 0
        self.fails: dict[str, ScopewatchError] = {}
        """What comes of responses in place of a judgement."""

    async def judged(self, pair: Pair) -> Judged:
        return await self.monitor.read(ScoreJob(pair, "", "id"))

    async def again(self, job: ScoreJob) -> Judged:
        self.read.append(job.pair)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if job.pair.response in self.fails:
            raise self.fails[job.pair.response]
        return await self.monitor.read(job)

    async def deletion(self, pair: Pair, **more: Any) -> Deletion | None:
        return await smallest_deletion(await self.judged(pair), self.again, **more)

    async def verdict(self, pair: Pair) -> Verdict:
        return (await self.judged(pair)).judgement.verdict


def cut_out(found: Deletion, text: str, number: int) -> list[str]:
    return [text[span.start : span.end] for span in found.words if span.text == number]


class TestWhatIsFound:
    @settings(max_examples=150)
    @given(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=14),
        st.sampled_from(["sum", "max", "mean"]),
        st.sampled_from([0.1, 0.6, 2.0, 3.4]),
    )
    @example(["m", "m", DOCTOR, "m"], "sum", 2.0)
    @example(["\u53ef", "so"], "max", 0.6)
    def test_the_verdict_turns_and_no_word_can_be_put_back(
        self, words: Sequence[str], pooling: str, threshold: float
    ) -> None:
        """Scored afresh, the words that stay have the verdict that is told; with any one of the others it is FLAG."""

        async def check() -> None:
            bench = Bench(watching(pooling, threshold))
            text = " ".join(words)
            found = await bench.deletion(Pair("why", text))
            assume(found)
            assert found
            assert len(bench.read) == found.scored <= 128
            if not found.turned:
                assert (found.verdict, found.words) == ("flag", ())
                return
            gone = {(span.start, span.end) for span in found.words}
            assert gone == {span for span in gone if {*range(*span)} <= {*np.arange(len(text))}}
            left = without(text, gone)
            assert await bench.verdict(Pair("why", left)) == found.verdict != "flag"
            assert left.strip(" \u0301\ufe0f\u200d")
            for back in gone if len(gone) > 1 else ():
                assert await bench.verdict(Pair("why", without(text, gone - {back}))) is Verdict.FLAG

        asyncio.run(check())

    @pytest.mark.parametrize(
        "text", [f"{DOCTOR} is so", "so m\u0301x mm", f"a{DOCTOR}{DOCTOR} mm", "1\ufe0f\u20e3 mmm"]
    )
    async def test_nothing_is_cut_in_half(self, text: str) -> None:
        """What is seen as one character stays whole, or goes as a whole."""
        found = await Bench(watching("max", 0.1)).deletion(Pair("", text))
        assert found
        assert found.words
        edges = {0, *(place.end() for place in regex.finditer(r"\X", text))}
        assert {edge for span in found.words for edge in (span.start, span.end)} <= edges

    async def test_only_the_words_that_matter_go(self) -> None:
        """Of a long text the two words that make the flag are found, by few readings."""
        bench = Bench()
        plain = " ".join(["so", "x"] * 150)
        found = await bench.deletion(Pair("why", f"{plain} maybe {plain} mm, {plain}"))
        assert found
        assert found.conclusion.startswith("Without 'mm' the verdict is PASS; a greedy search found it")
        assert found.scored <= 8

    async def test_what_stands_on_many_words_is_found_within_the_bound(self) -> None:
        """Steps double, so that words which only together turn the verdict are found, and needless ones put back."""
        bench = Bench(watching("max", 0.6))
        found = await bench.deletion(Pair("why", " ".join(["so"] * 40 + ["m"] * 20 + ["x"] * 40)))
        assert found
        assert cut_out(found, bench.read[0].response, 0) == []
        assert [span.end - span.start for span in found.words] == [1] * 20
        assert found.conclusion.startswith("Without 'm', 'm', 'm', 'm', 'm', 'm', 'm', 'm' and 12 more the verdict")
        assert "with any one of them it is FLAG" in found.conclusion

    async def test_the_same_pair_gives_the_same_words(self) -> None:
        """There is no chance in it."""
        pair = Pair("why", "maybe so, m m or mm? maybe!")
        assert await Bench().deletion(pair) == await Bench().deletion(pair) is not None

    async def test_the_rest_of_a_prompt_may_go_too_where_the_prompt_is_judged(self) -> None:
        """Words go from the texts that flagged indicators read, parts included, and from no other."""
        prompt, history = watching(segment="prompt"), watching("max", 0.5, name="past", segment="history")
        pair = Pair("maybe mm so", "mmm mmm", (Turn("user", "so"), Turn("assistant", "m x")))
        found = await Bench(prompt | {"name": "asks"}, watching(threshold=50.0)).deletion(pair)
        assert found
        assert {(pair.prompt[span.start : span.end], span.text) for span in found.words} <= {("maybe", 2), ("mm", 2)}
        found = await Bench(history).deletion(pair)
        assert found
        assert [(span.text, span.start, span.end) for span in found.words] == [(1, 0, 1)]
        parts = [prompt | {"name": "asks", "threshold": 50.0}, watching(threshold=50.0)]
        both = {"name": "both", "kind": "combination", "threshold": 2.5}
        both["combines"] = [{"indicator": "asks", "weight": 1.0}, {"indicator": "guesses", "weight": 0.001}]
        found = await Bench(*parts, both).deletion(pair)
        assert found
        assert {span.text for span in found.words} == {2}


class TestWhatIsNot:
    async def test_only_flags_are_looked_into(self) -> None:
        """Of a verdict that is not FLAG there is nothing to tell, though an indicator of severity info is flagged."""
        assert await Bench().deletion(Pair("why", "so")) is None
        assert await Bench(watching(severity="info")).deletion(Pair("why", "mmmm")) is None

    async def test_something_always_stays(self) -> None:
        """Where only an empty text would pass, the verdict does not turn, and the conclusion says why."""
        bench = Bench(watching("max", 0.5))
        found = await bench.deletion(Pair("why", "m mm \u0301"))
        assert found == Deletion(
            turned=False,
            scored=4,
            verdict="flag",
            conclusion="4 shortened pairs were scored, and the verdict of each is FLAG. Something has to stay of every "
            "text, and a greedy search may miss words that would turn it.",
        )
        assert all("m" in pair.response for pair in bench.read)

    async def test_tokens_are_not_cut(self) -> None:
        """A text that the caller sent as tokens is left as it is, and is said to be."""
        pair = Pair("maybe", "mmm", response_token_ids=(1, 2))
        bench = Bench()
        found = await bench.deletion(pair)
        assert found
        assert found.conclusion == "Nothing of the response can be left out: the caller sent it as tokens."
        assert (found.turned, bench.read) == (False, [])
        asks = Bench(watching(segment="prompt"))
        found = await asks.deletion(replace(pair, prompt="mmm so", prompt_token_ids=(3,), response_token_ids=()))
        assert found
        assert found.conclusion == "Nothing of the prompt can be left out: the caller sent it as tokens."

    @pytest.mark.parametrize("most", [0, 1, 5, 40])
    async def test_the_bound_holds(self, most: int) -> None:
        """However long a text is, no more shortened pairs are read than may be, few of them at once; it is told so."""
        bench = Bench(watching("max", 0.5))
        found = await bench.deletion(Pair("why", "maybe mm " * 300), most_scored=most)
        assert found
        assert len(bench.read) == found.scored <= most
        assert bench.most_at_once <= 8192 / 2700
        assert not found.turned
        ended = "more are not tried, so that there may be words without which it is another"
        assert (ended in found.conclusion) == (found.scored == most)

    async def test_a_search_that_ends_at_the_bound_does_not_say_that_every_word_is_needed(self) -> None:
        """What was not tried is not promised."""
        bench = Bench(watching("max", 0.6))
        found = await bench.deletion(Pair("why", " ".join(["so"] * 40 + ["m"] * 20 + ["x"] * 40)), most_scored=60)
        assert found
        assert (found.turned, found.scored) == (True, 60)
        assert "some of them may be needless, since the search ended when 60 shortened pairs were scored" in (
            found.conclusion
        )


class TestFailures:
    async def test_what_cannot_be_read_is_left_out(self) -> None:
        """A shortened pair on which the reader fails is no candidate; how many there were is told."""
        bench = Bench()
        bench.fails["maybe so mm"] = EngineError("the reader failed on this pair")
        found = await bench.deletion(Pair("why", "maybe so mm m"))
        assert found
        assert found.turned
        assert len(bench.read) == found.scored + 1
        assert "(1 more could not be read)" in found.conclusion

    @pytest.mark.parametrize("error", [Overloaded("no room", retry_after_s=1.0), EngineDied("gone")])
    async def test_what_is_wrong_with_the_service_is_passed_on(self, error: ScopewatchError) -> None:
        """That there is no room, or no engine, says nothing of a pair."""
        bench = Bench()
        bench.fails["maybe so"] = error
        with pytest.raises(type(error)):
            await bench.deletion(Pair("why", "maybe so mm"))

    async def test_two_watchlists_are_not_mixed(self) -> None:
        """Where the watchlists are replaced meanwhile, there is no telling which words turned what."""
        bench = Bench()
        judged = await bench.judged(Pair("why", "maybe so mm"))
        await bench.monitor.replace(watchlist_set(watchlist_of(watching(threshold=1.0)), version=2))
        with pytest.raises(NotReady, match="replaced"):
            await smallest_deletion(judged, bench.again)


async def test_a_word_cannot_turn_the_sentence_that_names_it() -> None:
    """Characters that steer what is around them are spelled out, and long words are cut."""
    text = f"so \u202e\u2066? {'m' * 50} x"
    found = await Bench(watching("max", 0.1)).deletion(Pair("why", text))
    assert found
    assert f"'\\u202e\\u2066?' and '{'m' * 39}…'" in found.conclusion
    assert found.conclusion.isprintable()


def without(text: str, spans: set[tuple[int, int]]) -> str:
    """The text without spans, and without one space next to each: the one before, or else the one behind."""
    letters: list[str] = list(text)
    for start, end in sorted(spans):
        letters[start:end] = [""] * (end - start)
        if start and letters[start - 1] == " " and not combines(text, start - 1):
            letters[start - 1] = ""
        elif end < len(text) and letters[end] == " " and not combines(text, end):
            letters[end] = ""
    return "".join(letters)


def combines(text: str, at: int) -> bool:
    """Whether a mark stands on the space."""
    return text[at + 1 : at + 2] == "\u0301"
