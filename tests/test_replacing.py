"""Watchlists are replaced as a whole while calls run: what follows them, and what survives."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from conftest import engine_identity, table_of, watchlist_of
from scopewatch.doors.grpc.service import MonitorService
from scopewatch.doors.limits import Limits
from scopewatch.errors import NotReady, UnknownWatchlist
from scopewatch.identity import EngineIdentity
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.judgements import Judgements
from scopewatch.pipeline.monitor import Monitor
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.types import Caller, Pair, ScoreJob
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.watchlist import Watchlist
from spine import IDENTITY, WATCHLISTS, FakeReader, build_monitor, watchlist_set

JOB = ScoreJob(Pair("may I?", "yes, of course"), "", "id", include_evidence=True)


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture
def cache(metrics: Metrics) -> LocalCache:
    return LocalCache(1 << 20, metrics)


@pytest.fixture
def monitor(cache: LocalCache, metrics: Metrics, reader: FakeReader) -> Monitor:
    return build_monitor(cache, metrics, reader, judgements=Judgements(1 << 20))


async def score(monitor: Monitor, job: ScoreJob = JOB) -> ScoredPair:
    (outcome,) = await monitor.score([job])
    assert isinstance(outcome, ScoredPair)
    return outcome


def first(*features: dict[str, object], threshold: float = 3.0, digest: str = "1" * 64) -> Watchlist:
    """A watchlist that takes the name of the first one."""
    indicator = {"name": "loud", "features": list(features), "threshold": threshold}
    return replace(watchlist_of(indicator, name="first"), digest=digest)


def after(*watchlists: Watchlist, engine: EngineIdentity = IDENTITY) -> WatchlistSet:
    return watchlist_set(*watchlists, engine=engine, version=2)


@pytest.mark.parametrize("digest", ["0" * 64, "1" * 64], ids=["same file digest", "other file digest"])
async def test_a_watchlist_under_the_name_of_another_is_not_answered_for_by_it(monitor: Monitor, digest: str) -> None:
    """A judgement is remembered by what made it: another threshold under the same name is another judgement."""
    before = await score(monitor)
    loud, *others = WATCHLISTS["first"].indicators
    changed = (loud.model_copy(update={"threshold": 1e6}), *others)
    await monitor.replace(after(replace(WATCHLISTS["first"], indicators=changed, digest=digest)))
    then = await score(monitor)

    assert (before.indicators[0].threshold, then.indicators[0].threshold) == (3, 1e6)
    assert (before.indicators[0].flagged, then.indicators[0].flagged) == (True, False)
    assert then.judgement.made_by.watchlist_digest == digest


@pytest.mark.parametrize(
    "watchlist",
    [
        pytest.param(first({"feature": "early/1"}, threshold=0.25), id="threshold"),
        pytest.param(first({"feature": "early/1", "weight": 7.0}), id="weight"),
        pytest.param(first({"feature": "early/1", "pooling": "mean"}), id="pooling"),
        pytest.param(first({"feature": "late/0"}), id="fewer features"),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
async def test_cached_activations_survive(
    cache: LocalCache, metrics: Metrics, reader: FakeReader, monitor: Monitor, *, watchlist: Watchlist, restarted: bool
) -> None:
    """To change thresholds, weights or poolings, or to drop features, costs no pass of the reader.

    Neither while the service runs, nor when another process that watches only these features finds the cache.
    """
    await score(monitor)
    names = {str(key) for key in watchlist.features}
    fewer = engine_identity(early=(1,), late=(0,))
    kept = tuple(sae for sae in fewer.saes if any(name.startswith(sae.name) for name in names))
    wanted = after(watchlist, engine=replace(fewer, saes=kept))
    if restarted:
        monitor = build_monitor(cache, metrics, reader, watchlists=wanted)
    else:
        await monitor.replace(wanted)

    assert (await score(monitor)).cached
    assert len(reader.asked) == 1


async def test_a_pair_that_was_cached_without_a_feature_is_read_again(
    monitor: Monitor, reader: FakeReader, registry: CollectorRegistry
) -> None:
    """An added feature is never taken for silent: pairs that were read without it are read again, once."""
    await score(monitor)
    more = engine_identity(early=(1, 4, 9), late=(0,))
    reader.table = table_of(more)
    added = first({"feature": "early/9"}, threshold=0.0)
    await monitor.replace(after(added, WATCHLISTS["second"], engine=more))
    old_features = await score(monitor, replace(JOB, watchlist="second"))
    again = [await score(monitor) for _ in range(2)]

    assert [old_features.cached, *(one.cached for one in again)] == [True, False, True]
    assert len(reader.asked) == 2
    assert registry.get_sample_value("scopewatch_cache_requests_total", {"result": "miss"}) == 2


async def test_a_call_is_judged_by_the_watchlists_it_began_with(
    cache: LocalCache, metrics: Metrics, reader: FakeReader
) -> None:
    """A replacement is whole: it waits for the calls that began before, and none sees a part of each."""
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def submit(ids: np.ndarray, deadline_s: float | None, ahead_tokens: int, caller: Caller) -> Encoded:
        reading.set()
        await go_on.wait()
        return await reader.submit(ids, deadline_s, ahead_tokens, caller)

    monitor = build_monitor(cache, metrics, reader, submit=submit)
    begun = asyncio.create_task(score(monitor))
    await reading.wait()
    replacing = asyncio.create_task(monitor.replace(after(first({"feature": "early/4"}))))
    await asyncio.sleep(0)
    assert len(monitor.watchlists.by_name) == 1
    (gone,) = await monitor.score([replace(JOB, watchlist="second")])
    assert not replacing.done()
    go_on.set()
    await replacing

    assert [part.name for part in (await begun).indicators] == ["loud", "asks", "past"]
    assert [part.name for part in (await score(monitor)).indicators] == ["loud"]
    assert isinstance(gone, UnknownWatchlist)


async def test_activations_that_lack_a_feature_are_never_judged(monitor: Monitor, reader: FakeReader) -> None:
    """Should the engine not watch yet what a watchlist reads, the caller is told to try again, not that all is silent."""
    reader.table = table_of(engine_identity(early=(1, 4)))
    (outcome,) = await monitor.score([JOB])
    assert isinstance(outcome, NotReady)


async def test_counters_go_on(monitor: Monitor, metrics: Metrics, registry: CollectorRegistry) -> None:
    """What was counted stays counted when other watchlists are described, and new series start at 0."""
    for _ in range(3):
        await score(monitor)
    more = engine_identity(early=(1, 4, 9), late=(0,))
    fired = registry.get_sample_value("scopewatch_feature_fired_pairs_total", {"feature": "early/1"})
    wanted = after(first({"feature": "early/9"}), WATCHLISTS["second"], engine=more)
    metrics.describe(more, wanted.sources, {"version": "1"})
    await monitor.replace(wanted)

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"scopewatch_{name}", labels)

    assert fired == 3 == sample("feature_fired_pairs_total", feature="early/1")
    assert sample("pairs_total", watchlist="first", verdict="flag") == 3
    assert sample("indicator_score_count", watchlist="first", indicator="asks") == 3
    assert sample("stage_seconds_count", stage="total") == 3
    assert sample("feature_fired_pairs_total", feature="early/9") == 0
    assert sample("watchlist_info", watchlist="first", digest="0" * 12) is None
    assert sample("watchlist_info", watchlist="first", digest="1" * 12) == 1


async def test_the_bound_on_feature_series_holds_over_replacements(cache: LocalCache, reader: FakeReader) -> None:
    """Features that come later share the series of the others once there are as many as are allowed."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, max_feature_series=3)
    build_monitor(cache, metrics, reader)
    for number in range(9, 20):
        metrics.describe(engine_identity(early=(1, number)), [], {})
    (family,) = [f for f in registry.collect() if f.name == "scopewatch_feature_fired_pairs"]
    names = {sample.labels["feature"] for sample in family.samples if sample.name.endswith("_total")}
    assert names == {"early/1", "early/4", "late/0", "other"}


async def test_get_info_follows(monitor: Monitor, metrics: Metrics) -> None:
    """GetInfo tells of the watchlists that the next call is judged by."""
    service = MonitorService(metrics)
    service.open(monitor, Limits(1 << 20, 1000, 8, 4, 40, 4, 512, 8, 1 << 20))

    async def told() -> dict[str, str]:
        info = await service.GetInfo(pb.GetInfoRequest(), None)
        return {watchlist.name: watchlist.digest for watchlist in info.watchlists}

    assert await told() == {"first": "0" * 64, "second": "0" * 64}
    await monitor.replace(after(first({"feature": "early/4"})))
    assert await told() == {"first": "1" * 64}
