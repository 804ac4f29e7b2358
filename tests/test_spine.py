"""The whole spine over a real reader: its watchlists are replaced while calls run."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from conftest import House, save_sae, watchlist_document
from scopewatch.app.canaries.judging import Canaries
from scopewatch.app.load import load
from scopewatch.app.spine import Spine, running_spine
from scopewatch.config import Config
from scopewatch.engine.runner import Runner
from scopewatch.errors import ScopewatchError, WatchlistError
from scopewatch.metrics import Metrics
from scopewatch.types import EncodedBatch, Pair, ScoreJob, TemplateInputs, TokenIds
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from servers import eventually

TEXTS = [f"It may be gout, or it is number {number}." for number in range(12)]
DELTA = {"name": "delta", "features": [{"feature": "late/5"}, {"feature": "mid/20", "weight": -0.5}], "threshold": 0.0}
Write = Callable[..., Watchlist]


@pytest.fixture
def write(house: House) -> Write:
    """Writes a watchlist file beside the reader and reads it."""

    def write(file: str, **changes: object) -> Watchlist:
        path = house.folder / f"{file}.yaml"
        path.write_text(yaml.safe_dump(watchlist_document(**changes), sort_keys=False))
        return load_watchlist(path)

    return write


@asynccontextmanager
async def spine(*watchlists: Watchlist, metrics: Metrics | None = None, **settings: object) -> AsyncIterator[Spine]:
    config = Config(device="cpu", pack_dir="", **settings)
    loaded = await asyncio.to_thread(load, config, watchlists)
    async with running_spine(loaded, config, metrics or Metrics()) as running:
        yield running


def jobs(watchlist: str = "") -> list[ScoreJob]:
    return [ScoreJob(Pair("What is it?", text), watchlist, "id", include_evidence=True) for text in TEXTS]


async def score(running: Spine, watchlist: str = "") -> list[ScoredPair]:
    outcomes = await running.score(jobs(watchlist))
    assert [type(outcome) for outcome in outcomes] == [ScoredPair] * len(TEXTS)
    return outcomes  # type: ignore[return-value]


def said(pairs: list[ScoredPair]) -> list[object]:
    return [(pair.verdict, pair.indicators, pair.coverage, pair.judgement.made_by) for pair in pairs]


async def test_replaced_watchlists_score_as_if_they_had_been_loaded(write: Write, house: House) -> None:
    """Features added, removed and of an SAE that was not loaded: scores and evidence are those of a fresh start."""
    save_sae(house.folder / "more", 1, seed=7)
    saes = watchlist_document()["saes"] | {
        "more": {"path": "more/gemma-scope-2b-pt-res/layer_1/width_64/average_l0_20/params.npz"}
    }
    more = DELTA | {"features": [*DELTA["features"], {"feature": "more/9", "weight": 3.0}]}
    after = [write("after", saes=saes, indicators=[more]), write("beside", name="beside")]
    async with spine(write("before"), prefix_cache_bytes=1 << 20) as running:
        before = await score(running)
        await running.replace_watchlists(after)
        found = [said(await score(running, name)) for name in ("", "beside")]
        seen = running.watchlists
    async with spine(*after) as fresh:
        expected = [said(await score(fresh, name)) for name in ("", "beside")]
        assert seen.engine == fresh.watchlists.engine

    assert found == expected
    assert before[0].indicators[0].name == "alpha"
    assert (seen.version, list(seen.by_name)) == (2, ["test", "beside"])


async def test_calls_that_run_meanwhile_are_judged_by_one_set_or_the_other(write: Write) -> None:
    """While sets replace each other, every call is answered, wholly by the old or wholly by the new one."""
    first, second = write("first"), write("second", indicators=[DELTA])
    names = {first.digest: {"alpha", "beta", "gamma"}, second.digest: {"delta"}}
    async with spine(first, cache_bytes=0) as running:
        done = asyncio.Event()
        calls: list[list[ScoredPair | ScopewatchError]] = []

        async def keep_asking() -> None:
            while not done.is_set():
                calls.append(await running.score(jobs()[:3]))

        asking = [asyncio.create_task(keep_asking()) for _ in range(3)]
        for watchlist in (second, first, second):
            await running.replace_watchlists([watchlist])
            assert running.watchlists.by_name["test"].source.digest == watchlist.digest
            await score(running)
        done.set()
        await asyncio.gather(*asking)

    outcomes = [outcome for call in calls for outcome in call]
    assert {type(outcome) for outcome in outcomes} == {ScoredPair}
    assert {one.judgement.made_by.watchlist_digest for one in outcomes} == set(names)
    for call in calls:
        (digest,) = {one.judgement.made_by.watchlist_digest for one in call}
        assert [{part.name for part in one.indicators} for one in call] == [names[digest]] * 3


class Pause:
    """A place in another thread where the test can stop it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.go.wait(60)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 60)


async def test_calls_of_both_sets_share_the_engine_while_one_replaces_the_other(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the new set is read at once, though the engine still has one of the old set to read."""
    compared, reading = Pause(), Pause()
    compare, read = Canaries.compare, Runner.__call__

    async def compare_and_pause(canaries: Canaries, *watched: Any) -> None:
        await compare(canaries, *watched)
        await asyncio.to_thread(compared)

    def pause_once(runner: Runner, batch: list[TokenIds]) -> EncodedBatch:
        if compared.reached.is_set() and not reading.reached.is_set():
            reading()
        return read(runner, batch)

    monkeypatch.setattr(Canaries, "compare", compare_and_pause)
    monkeypatch.setattr(Runner, "__call__", pause_once)
    new = {"name": "new", "features": [{"feature": "late/9"}], "threshold": 0}
    async with spine(write("before"), cache_bytes=0) as running:
        replacing = asyncio.create_task(running.replace_watchlists([write("after", indicators=[new])]))
        await compared.wait()
        of_the_old = asyncio.create_task(running.score(jobs()[:1]))
        await reading.wait()
        compared.go.set()
        await eventually(lambda: running.watchlists.version == 2, "the set was not replaced")
        of_the_new = asyncio.create_task(running.score(jobs()[1:2]))
        await asyncio.sleep(0)
        assert not replacing.done()
        reading.go.set()
        (old,), (also_new,) = await of_the_old, await of_the_new
        await replacing
    assert [part.name for part in old.indicators] == ["alpha", "beta", "gamma"]
    assert [part.name for part in also_new.indicators] == ["new"]


async def test_a_threshold_costs_no_pass(write: Write) -> None:
    """What was computed before a change of thresholds, weights and poolings, and of fewer features, is still there."""
    document = watchlist_document()["indicators"]
    changed = [document[0] | {"threshold": 0.25, "pooling": "sum"}, document[1]]
    registry = CollectorRegistry()
    async with spine(write("before"), metrics=Metrics(registry)) as running:
        await score(running)
        computed = registry.get_sample_value("scopewatch_batch_tokens_count")
        await running.replace_watchlists([write("after", indicators=changed)])
        again = await score(running)

    assert all(pair.cached for pair in again)
    assert registry.get_sample_value("scopewatch_batch_tokens_count") == computed


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reader": {"path": "other"}}, "reader: another reader runs; restart the service to change it"),
        (
            {
                "saes": {
                    "deep": {
                        "path": "sae/gemma-scope-2b-pt-res/layer_2/width_64/average_l0_20/params.npz",
                        "hookpoint": "layers.3",
                    }
                },
                "indicators": [DELTA | {"features": [{"feature": "deep/5"}]}],
            },
            "layers.3.resid_post lies deeper than the 3 layers of the reader that are loaded; restart the service",
        ),
        ({"indicators": [DELTA | {"features": [{"feature": "late/4000"}]}]}, "4000"),
        (
            {
                "indicators": [
                    {
                        "name": "x",
                        "kind": "combination",
                        "combines": [{"signal": "mean_logprob", "weight": 1}],
                        "threshold": 0,
                    }
                ]
            },
            "its head is not loaded; restart the service",
        ),
    ],
    ids=["reader", "deeper", "no such feature", "head"],
)
async def test_what_cannot_run_changes_nothing(write: Write, changes: dict[str, object], told: str) -> None:
    """Watchlists that this process cannot run are refused with the mend, and calls are judged as before."""
    async with spine(write("before")) as running:
        before = said(await score(running))
        with pytest.raises(ScopewatchError) as refused:
            await running.replace_watchlists([write("after", **changes)])
        assert said(await score(running)) == before
        assert running.watchlists.version == 1
    assert told in str(refused.value)


async def test_no_watchlist_at_all_is_refused(write: Write) -> None:
    """A service without a watchlist would judge nothing."""
    async with spine(write("before")) as running:
        with pytest.raises(WatchlistError, match="at least one watchlist"):
            await running.replace_watchlists([])
        assert len(await score(running)) == len(TEXTS)


async def test_strict_cards_hold_for_a_replacement(write: Write) -> None:
    """A card that does not speak for what runs refuses a replacement as it refuses a start."""
    made_with = {"scopewatch": "1", "reader": "x", "reader_digest": "e" * 64, "dtype": "float32"}
    measured = [{"data": "d", "n": 9, "n_positive": 3}]
    card = {"date": "2026-11-01", "calibrated_on": "d", "n": 9, "measurements": measured, "made_with": made_with}
    async with spine(write("before"), strict_cards=True) as running:
        with pytest.raises(WatchlistError, match="the card was made with reader x"):
            await running.replace_watchlists([write("after", indicators=[DELTA | {"card": card}])])
        assert running.watchlists.version == 1


async def test_one_name_for_another_sae(write: Write, house: House, tmp_path: Path) -> None:
    """A new set may call another SAE by an old name; both stand side by side until the old calls are answered."""
    save_sae(house.folder / "other", 1, seed=11)
    saes = watchlist_document()["saes"] | {
        "mid": {"path": "other/gemma-scope-2b-pt-res/layer_1/width_64/average_l0_20/params.npz"}
    }
    after = write("after", saes=saes, name="test")
    async with spine(write("before")) as running:
        before = await score(running)
        await running.replace_watchlists([after])
        found = await score(running)
    async with spine(after) as fresh:
        assert said(found) == said(await score(fresh))
    assert said(found) != said(before)


async def test_a_reader_that_follows_the_clock_judges_a_pair_anew_every_day(
    write: Write, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judgement of yesterday is not today's, though the texts and what the cache holds are the same."""
    day = "2026-11-29"
    for module in ("scopewatch.app.dated", "scopewatch.reader.text.conversation"):
        monkeypatch.setattr(f"{module}.today", lambda: day)
    fixed = ScoreJob(Pair("", TEXTS[0], inputs=TemplateInputs(date="2026-11-30")), "", "id")
    async with spine(write("clock", reader={"path": "reader", "date": "today"})) as running:
        first, again = [(await running.score(jobs()[:1]))[0] for _ in range(2)]
        day = "2026-11-30"
        (later,) = await running.score(jobs()[:1])
        (asked,) = await running.score([fixed])

    digests = []
    for scored in (first, again, later, asked):
        assert isinstance(scored, ScoredPair)
        digests.append(scored.judgement.rendering_digest)
    assert digests[0] == digests[1] != digests[2] == digests[3]
