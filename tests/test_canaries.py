"""Canary pairs: what both sets define alike has to score alike before one takes the other's place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import House, engine_identity, watchlist_document, watchlist_of
from scopewatch.app.canaries.definitions import definition_digests, definitions
from scopewatch.app.canaries.pairs import PAIRS, PASS_TOKENS, PASSES
from scopewatch.app.load import load
from scopewatch.app.spine import Spine, running_spine
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.engine.build import Engine
from scopewatch.engine.runner import Runner
from scopewatch.engine.watching import Watching
from scopewatch.errors import EngineError, WatchlistError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Cleaning, Pair, ScoreJob, TokenisedPair
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.watchlist import Watchlist, load_watchlist

IDENTITY = engine_identity(early=(1, 4), late=(0,))
JOB = ScoreJob(Pair("What is it?", "It may be gout."), "", "id")


def written(house: House, file: str, **changes: object) -> Watchlist:
    """A watchlist beside the reader, with this name."""
    path = house.folder / f"{file}.yaml"
    path.write_text(yaml.safe_dump(watchlist_document(name=file) | changes, sort_keys=False))
    return load_watchlist(path)


@asynccontextmanager
async def spine(*watchlists: Watchlist) -> AsyncIterator[tuple[Spine, Engine]]:
    settings = Config(device="cpu", pack_dir="", cache_bytes=0)
    loaded = await asyncio.to_thread(load, settings, watchlists)
    async with running_spine(loaded, settings, Metrics()) as running:
        yield running, loaded.engine


async def indicators(running: Spine) -> object:
    (outcome,) = await running.score([JOB])
    assert isinstance(outcome, ScoredPair)
    return outcome.judgement.made_by, outcome.indicators


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded for both sets is as in the files; what is loaded for the new one alone has other numbers."""
    prepare, asked = Engine.prepare, count(1)

    def spoiled(engine: Engine, saes: list[Any], *, head: bool) -> Watching:
        watching = prepare(engine, saes, head=head)
        if next(asked) == 1:
            return watching
        (placed, *others) = watching.encoders
        encoder = replace(placed.encoder, b_enc=placed.encoder.b_enc + np.float32(0.25))
        return replace(watching, encoders=(replace(placed, encoder=encoder), *others))

    monkeypatch.setattr(Engine, "prepare", spoiled)


async def test_a_set_that_scores_otherwise_than_it_is_defined_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names the indicator and both numbers; calls are judged, and the engine watches, as before."""
    async with spine(written(house, "before")) as (running, engine):
        before, watching = await indicators(running), engine.watching
        spoil(monkeypatch)
        with pytest.raises(WatchlistError) as refused:
            await running.replace_watchlists([written(house, "after")])
        assert (running.watchlists.version, engine.watching) == (1, watching)
        assert await indicators(running) == before
    told = str(refused.value).splitlines()
    assert told
    assert all("which is defined alike, scores " in line for line in told)
    assert "after.yaml:11: indicators[0]: after/alpha scores " in told[0]


async def test_an_engine_that_cannot_hold_both_sets_goes_on_with_the_old(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out while the new columns are put in place leaves the old ones, and calls are judged as before."""
    watch, asked = Runner.watch, count(1)

    def half_done(runner: Runner, *watched: Any, **more: Any) -> None:
        if next(asked) == 1:
            runner._encoders = {}
            raise MemoryError
        watch(runner, *watched, **more)

    async with spine(written(house, "before")) as (running, _):
        before = await indicators(running)
        monkeypatch.setattr(Runner, "watch", half_done)
        with pytest.raises(MemoryError):
            await running.replace_watchlists([written(house, "after")])
        assert (running.watchlists.version, await indicators(running)) == (1, before)


async def test_what_is_defined_otherwise_may_score_otherwise(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed weight is no mistake: nothing of the running set says what it should score."""
    document = watchlist_document()["indicators"][0]
    changed = {**document, "features": [{"feature": "mid/3", "weight": 2.0}]}
    async with spine(written(house, "before")) as (running, _):
        spoil(monkeypatch)
        after = await running.replace_watchlists([written(house, "after", indicators=[changed])])
    assert after.version == 2


async def test_a_score_that_is_no_number_is_refused(house: House) -> None:
    """Weights beyond what numbers hold are found before a caller gets them."""
    huge = {"name": "huge", "features": [{"feature": "mid/3", "weight": 1.7e308, "pooling": "sum"}], "threshold": 0.0}
    async with spine(written(house, "before")) as (running, _):
        with pytest.raises(WatchlistError, match="on a canary pair: indicator huge: its score"):
            await running.replace_watchlists([written(house, "after", indicators=[huge])])
        assert running.watchlists.version == 1


async def test_watchlists_that_fail_can_be_replaced_by_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine fails on what runs, there is nothing to compare with, and others may mend it."""
    async with spine(written(house, "before")) as (running, engine):
        runner, failed = engine.runner, [False]

        class FailsOnce:
            watch = runner.watch

            def alone(self, ids: Any) -> Any:
                if not failed[0]:
                    failed[0] = True
                    raise EngineError("no memory")
                return runner.alone(ids)

        engine.runner = FailsOnce()  # type: ignore[assignment]
        assert (await running.replace_watchlists([written(house, "after")])).version == 2
    assert failed == [True]


@pytest.mark.parametrize("reader", ["house", "plain_house", "bundled"])
@pytest.mark.parametrize("cleaning", list(Cleaning))
def test_canary_pairs_are_read_in_one_pass_and_in_several(
    reader: str, cleaning: Cleaning, request: pytest.FixtureRequest
) -> None:
    """Every reader takes all of them, one with a history and one in windows."""
    folder = BUNDLED_WATCHLIST.parent / "reader" if reader == "bundled" else request.getfixturevalue(reader).reader
    narrow = Tokeniser(folder, max_tokens=512, max_windows=8).for_passes(PASS_TOKENS, PASSES)
    readings = [one[0] for one in narrow.readings(PAIRS, [cleaning] * len(PAIRS))]
    assert all(isinstance(one, TokenisedPair) for one in readings)
    assert any(one.coverage.history_tokens for one in readings)
    assert readings[-1].coverage.windows > 1
    assert max(len(window) for one in readings for window in one.windows) <= PASS_TOKENS


def definition(indicator: dict[str, object], *others: dict[str, object], **watchlist: Any) -> object:
    made = replace(watchlist_of(indicator, *others), **watchlist)
    compiled = compile_watchlist(made, IDENTITY)
    return definitions(compiled)[0], definition_digests(compiled)[0]


PLAIN = {"features": [{"feature": "early/1", "weight": 2.0}, {"feature": "late/0"}]}
PART = {"name": "part", "features": [{"feature": "late/0"}]}
COMBINED = {"kind": "combination", "combines": [{"indicator": "part", "weight": 2.0}]}


@pytest.mark.parametrize(
    "same",
    [
        {"name": "renamed", "label": "for people"},
        {"threshold": 9.0, "severity": "high", "probability": {"slope": 1.0, "intercept": 0.0}},
        {"features": PLAIN["features"][::-1]},
        {"pooling": "mean", "features": [{**term, "pooling": "max"} for term in PLAIN["features"]]},
    ],
    ids=["name", "threshold", "order", "pooling said elsewhere"],
)
def test_what_does_not_decide_the_score_is_no_other_definition(same: dict[str, object]) -> None:
    """Whatever it is called and whatever becomes of its score, an indicator of the same parts is defined alike."""
    assert definition(PLAIN | same) == definition(PLAIN)


@pytest.mark.parametrize(
    "other",
    [
        {"bias": 0.5},
        {"segment": "prompt"},
        {"pooling": "mean"},
        {"features": PLAIN["features"][:1]},
        {"features": [{"feature": "early/4", "weight": 2.0}, {"feature": "late/0"}]},
        {"features": [{"feature": "early/1", "weight": 2.5}, {"feature": "late/0"}]},
    ],
    ids=["bias", "segment", "pooling", "fewer features", "other feature", "weight"],
)
def test_what_decides_the_score_is_another_definition(other: dict[str, object]) -> None:
    """Nothing is compared that may well differ."""
    assert definition(PLAIN | other) != definition(PLAIN)


def test_combinations_and_readings_are_part_of_the_definition() -> None:
    """A combination is defined by its parts' definitions, and everything by how texts are cleaned."""
    assert definition(COMBINED, PART) == definition(COMBINED, PART | {"threshold": 7.0})
    assert definition(COMBINED, PART) != definition(COMBINED, PART | {"bias": 1.0})
    assert definition(PLAIN) != definition(PLAIN, cleaned=Cleaning.INSTEAD)
    words = {"kind": "words", "lexicon": ["may"]}
    assert definition(words, words=load_words(("may",))) != definition(words, words=load_words(("might",)))


def load_words(entries: tuple[str, ...]) -> dict[str, Any]:
    from scopewatch.words.lexicon import Lexicon

    return {"i0": Lexicon(entries)}


def test_renamed_saes_are_the_same_features() -> None:
    """On one engine a feature is known by the files that make its numbers, not by what a watchlist calls them.

    What is recorded for later knows it by its name: that other files make its numbers then is what is to be found.
    """
    renamed = replace(IDENTITY, saes=tuple(replace(sae, name=f"{sae.name}-2") for sae in IDENTITY.saes))
    terms = [{"feature": "early-2/1", "weight": 2.0}, {"feature": "late-2/0"}]
    again = compile_watchlist(watchlist_of(PLAIN | {"features": terms}), renamed)
    same, named = definition(PLAIN)  # type: ignore[misc]
    assert (definitions(again)[0], definition_digests(again)[0] == named) == (same, False)
