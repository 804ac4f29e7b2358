"""Replicas that share one Redis and judge by different watchlists: what one writes never decides what another says."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from canary_files import config_of
from conftest import House, RedisServer, watchlist_document
from scopewatch.app.load import load
from scopewatch.app.spine import Spine, running_spine
from scopewatch.metrics import Metrics
from scopewatch.types import Pair, ScoreJob
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.watchlist import Watchlist, load_watchlist

TEXTS = [f"It may be gout, or it is number {number}." for number in range(6)]


def version(house: House, file: Path, *features: tuple[str, float]) -> Watchlist:
    """A watchlist of one indicator, which sums these features by these weights."""
    terms = [{"feature": feature, "weight": weight, "pooling": "sum"} for feature, weight in features]
    document = watchlist_document(name=file.stem, indicators=[{"name": "mark", "features": terms, "threshold": 1.0}])
    saes: Any = document["saes"]
    located = {name: {"path": str(house.folder / sae["path"])} for name, sae in saes.items()}
    file.write_text(yaml.safe_dump(document | {"reader": {"path": str(house.reader)}, "saes": located}))
    return load_watchlist(file)


async def replica(stack: AsyncExitStack, *watchlists: Watchlist, **settings: Any) -> Spine:
    """A spine that judges by these watchlists."""
    config = config_of(watchlists[0].file, **settings)
    config = config.model_copy(update={"watchlist": tuple(one.file for one in watchlists)})
    loaded = await asyncio.to_thread(load, config)
    return await stack.enter_async_context(running_spine(loaded, config, Metrics()))


async def score(spine: Spine, watchlist: str = "") -> list[ScoredPair]:
    outcomes = await spine.score([ScoreJob(Pair("a", text), watchlist, "id") for text in TEXTS])
    assert all(isinstance(one, ScoredPair) for one in outcomes)
    return [one for one in outcomes if isinstance(one, ScoredPair)]


@pytest.mark.system
async def test_replicas_of_two_versions_share_a_cache_and_no_verdict(
    house: House, redis_server: RedisServer, tmp_path: Path
) -> None:
    """While both are asked, one is rolled to the other's version and back: each reply's score is what the version that
    it names gives without any cache; and the cache is used.
    """
    first = version(house, tmp_path / "first.yaml", ("mid/3", 1.0), ("late/7", 0.5))
    second = version(house, tmp_path / "second.yaml", ("mid/3", -2.0), ("late/0", 3.0))
    shared = {"redis_url": redis_server.url, "cache_secret": "shared", "redis_timeout_s": 5.0}
    async with AsyncExitStack() as stack:
        alone = await replica(stack, first, second, cache_bytes=0)
        right = {one.digest: list(map(mark, await score(alone, one.name))) for one in (first, second)}
        assert all(abs(one - other) > 0.01 for one, other in zip(*right.values(), strict=True))
        fleet = [await replica(stack, one, **shared) for one in (first, second)]
        over = asyncio.Event()
        told: list[list[ScoredPair]] = []

        async def ask(spine: Spine) -> None:
            while not over.is_set():
                told.append(await score(spine))
                await asyncio.sleep(0.005)

        asking = [asyncio.create_task(ask(spine)) for spine in fleet]
        for watchlist in (second, first, second):
            await fleet[0].replace_watchlists([watchlist])
            told.append(await score(fleet[0]))
        over.set()
        await asyncio.gather(*asking)
    for pairs in told:
        (digest,) = {pair.judgement.made_by.watchlist_digest for pair in pairs}
        assert list(map(mark, pairs)) == pytest.approx(right[digest], rel=1e-5, abs=1e-6)
    every = [pair for pairs in told for pair in pairs]
    assert {pair.judgement.made_by.watchlist_digest for pair in every} == set(right)
    assert {pair.watchlists_version for pair in every} == {1, 2, 3, 4}
    assert sum(pair.cached for pair in every) > len(TEXTS)


def mark(pair: ScoredPair) -> float:
    """The score of the one indicator."""
    return pair.indicators[0].score
