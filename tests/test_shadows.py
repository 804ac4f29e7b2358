"""Shadow watchlists: what they say is counted, and no caller notices them."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import scopewatch.pipeline.shadows
from conftest import House, engine_identity, table_of, watchlist_of
from scopewatch.app.spine import offline
from scopewatch.config import Config
from scopewatch.errors import UnknownWatchlist
from scopewatch.metrics import Metrics
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.judgements import Judgements
from scopewatch.pipeline.monitor import Monitor
from scopewatch.pipeline.shadows import Shadows
from scopewatch.types import Cleaning, Pair, ScoreJob
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.watchlist import Watchlist
from servers import eventually
from spine import IDENTITY, WATCHLISTS, FakeReader, build_monitor, watchlist_set

STRICT = watchlist_of(
    {"name": "any", "features": [{"feature": "early/1"}], "threshold": 0.0},
    {"name": "never", "features": [{"feature": "late/0"}], "threshold": 1e9},
    name="strict",
)
LAX = watchlist_of({"name": "never", "features": [{"feature": "late/0"}], "threshold": 1e9}, name="lax")
JOB = ScoreJob(Pair("may I?", "yes, of course"), "", "id", include_evidence=True)
"""The first watchlist flags it."""
Build = Callable[..., Monitor]


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture
def build(metrics: Metrics, reader: FakeReader) -> Iterator[Build]:
    """A monitor with shadows that judge this share of the pairs."""
    made: list[Shadows] = []

    def build(*shadows: Watchlist, share: float = 1.0, cleaned: Cleaning = Cleaning.NONE, **more: Any) -> Monitor:
        live = [replace(one, cleaned=cleaned) for one in WATCHLISTS.values()]
        bound = tuple(compile_watchlist(one, IDENTITY) for one in shadows)
        metrics.shadows.describe(shadows)
        made.append(Shadows(share, b"secret", metrics.shadows))
        parts = {"cache": LocalCache(0, metrics), "watchlists": replace(watchlist_set(*live), shadows=bound)}
        return build_monitor(metrics=metrics, reader=reader, shadows=made[-1], **(parts | more))

    yield build
    for shadows in made:
        shadows.close()


@pytest.fixture
def sample(registry: CollectorRegistry) -> Callable[..., float | None]:
    return lambda name, **labels: registry.get_sample_value(f"scopewatch_{name}", labels)


async def scored(monitor: Monitor, *jobs: ScoreJob) -> list[ScoredPair]:
    outcomes = await monitor.score(jobs)
    assert all(isinstance(outcome, ScoredPair) for outcome in outcomes)
    return outcomes  # type: ignore[return-value]


async def counted(sample: Callable[..., float | None], wanted: float, **labels: str) -> None:
    """Waits until so many pairs were judged by a shadow, or so many were left out for a reason."""
    name = "shadow_skipped_total" if "reason" in labels else "shadow_pairs_total"
    await eventually(lambda: sample(name, **labels) == wanted, f"{name}{labels} never became {wanted}")


async def test_what_shadows_would_say_is_counted(build: Build, reader: FakeReader, sample: Callable[..., Any]) -> None:
    """Verdicts, flags and disagreements of every shadow are counted, from the activations that the caller's pair had."""
    await scored(build(STRICT, LAX), JOB)
    await counted(sample, 1, watchlist="strict", verdict="flag")
    await counted(sample, 1, watchlist="lax", verdict="pass")

    flags = [sample("shadow_flags_total", watchlist="strict", indicator=name) for name in ("any", "never")]
    assert flags == [1, 0]
    assert sample("shadow_disagreements_total", watchlist="lax", live="flag", shadow="pass") == 1
    assert sample("shadow_disagreements_total", watchlist="lax", live="pass", shadow="flag") == 0
    assert sample("shadow_disagreements_total", watchlist="strict", live="flag", shadow="flag") is None
    assert len(reader.asked) == 1


async def test_no_caller_notices_a_shadow(build: Build, sample: Callable[..., Any]) -> None:
    """Replies are those of a service without shadows; none can be named, and live metrics do not know them."""
    monitor = build(STRICT, LAX)
    (beside,) = await scored(monitor, JOB)
    (alone,) = await scored(build(), JOB)
    (named,) = await monitor.score([replace(JOB, watchlist="strict")])
    await counted(sample, 1, watchlist="strict", verdict="flag")

    assert (beside.verdict, beside.indicators, beside.judgement.made_by) == (
        *(alone.verdict, alone.indicators),
        alone.judgement.made_by,
    )
    assert isinstance(named, UnknownWatchlist)
    assert "strict" not in str(named)
    assert [one.name for one in monitor.watchlists.sources] == ["first", "second"]
    assert sample("pairs_total", watchlist="strict", verdict="flag") is None
    assert sample("indicator_flags_total", watchlist="strict", indicator="any", severity="medium") is None


async def test_a_shadow_that_fails_is_counted_and_logged_once(
    build: Build,
    sample: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Callers get their replies; the log names the shadow and the kind of error, once, and none of the text."""

    def fail(*_: object, **_more: object) -> None:
        raise ValueError(JOB.pair.response)

    monkeypatch.setattr(scopewatch.pipeline.shadows, "judge", fail)
    with caplog.at_level(logging.ERROR):
        await scored(build(STRICT), JOB, replace(JOB, pair=Pair("", "two")), replace(JOB, pair=Pair("", "three")))
        await counted(sample, 3, reason="failed")
    (line,) = caplog.records
    assert (line.watchlist, line.error) == ("strict", "ValueError")
    assert JOB.pair.response not in caplog.text


async def test_no_reply_waits_for_a_shadow(
    build: Build, sample: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a shadow is stuck, calls are answered; pairs beyond those that may wait for it are left out and counted."""
    stuck = threading.Event()
    judge = scopewatch.pipeline.shadows.judge
    monkeypatch.setattr(scopewatch.pipeline.shadows, "judge", lambda *a, **k: stuck.wait(60) and judge(*a, **k))
    monkeypatch.setattr(scopewatch.pipeline.shadows, "_MOST_WAITING", 2)
    monitor = build(STRICT)
    for number in range(5):
        await scored(monitor, replace(JOB, pair=Pair("", f"number {number}")))
    await counted(sample, 3, reason="busy")
    stuck.set()
    await counted(sample, 2, watchlist="strict", verdict="flag")
    await scored(monitor, JOB)
    await counted(sample, 3, watchlist="strict", verdict="flag")


async def test_a_share_of_the_pairs_is_judged_always_the_same(build: Build, sample: Callable[..., Any]) -> None:
    """About the share is chosen, by the request's id alone; a process that has the same secret chooses the same ones."""
    jobs = [replace(JOB, request_id=f"id {number}") for number in range(1000)]

    def chosen(share: float, secret: bytes) -> list[ScoreJob]:
        shadows = Shadows(share, secret, Metrics(CollectorRegistry()).shadows)
        return [job for job in jobs if shadows._chooses(job)]

    wanted = chosen(0.2, b"secret")
    assert 150 <= len(wanted) <= 250
    assert wanted != chosen(0.2, b"another")
    assert (chosen(0.0, b"secret"), chosen(1.0, b"secret")) == ([], jobs)
    # So many pairs at once fit into the queue.
    await scored(build(STRICT, share=0.2), *jobs)
    await counted(sample, len(wanted), watchlist="strict", verdict="flag")


async def test_cached_activations_that_lack_a_feature_are_not_judged(
    build: Build, metrics: Metrics, reader: FakeReader, sample: Callable[..., Any]
) -> None:
    """What was cached before a shadow watched its features says nothing of them: the pair is left out, not passed."""
    cache = LocalCache(1 << 20, metrics)
    reader.table = table_of(IDENTITY)
    more = engine_identity(early=(1, 4, 9), late=(0,))
    new = watchlist_of({"name": "new", "features": [{"feature": "early/9"}], "threshold": 0.0}, name="new")
    await scored(build(cache=cache), JOB)
    metrics.shadows.describe([new])
    watched = replace(watchlist_set(*WATCHLISTS.values(), engine=more), shadows=(compile_watchlist(new, more),))
    (hit,) = await scored(build(watchlists=watched, cache=cache), JOB)
    await counted(sample, 1, reason="features")
    assert hit.cached
    assert sample("shadow_pairs_total", watchlist="new", verdict="pass") == 0


async def test_a_remembered_judgement_is_left_out(build: Build, metrics: Metrics, sample: Callable[..., Any]) -> None:
    """A pair that comes again is neither tokenised nor judged again for a shadow's sake."""
    monitor = build(STRICT, LAX, judgements=Judgements(1 << 20), cache=LocalCache(1 << 20, metrics))
    await scored(monitor, JOB)
    await counted(sample, 1, watchlist="lax", verdict="pass")
    await scored(monitor, JOB)
    await counted(sample, 2, reason="remembered")
    assert sample("shadow_pairs_total", watchlist="lax", verdict="pass") == 1


@pytest.mark.parametrize(
    ("live", "shadow", "judged"),
    [
        (Cleaning.NONE, Cleaning.NONE, True),
        (Cleaning.BESIDE, Cleaning.NONE, True),
        (Cleaning.BESIDE, Cleaning.INSTEAD, True),
        (Cleaning.INSTEAD, Cleaning.INSTEAD, True),
        (Cleaning.NONE, Cleaning.BESIDE, False),
        (Cleaning.INSTEAD, Cleaning.NONE, False),
    ],
)
async def test_a_shadow_judges_the_readings_that_it_wants(
    build: Build, sample: Callable[..., Any], live: Cleaning, shadow: Cleaning, judged: bool
) -> None:
    """A shadow whose reading the caller's watchlist did not have made is left out: nothing is read for a shadow alone."""
    await scored(build(replace(STRICT, cleaned=shadow), cleaned=live), JOB)
    if judged:
        await counted(sample, 1, watchlist="strict", verdict="flag")
    else:
        await counted(sample, 1, reason="reading")


async def test_of_two_readings_a_shadow_gets_its_own(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where texts were read both ways, the plain reading is the first and the cleaned one the last."""
    seen: list[int] = []
    done = threading.Event()

    def judge(_watchlist: object, readings: tuple[Any, ...], covered: tuple[Any, ...], **_: object) -> None:
        seen.append([len(reading.ids) for reading in readings])
        done.set()

    monkeypatch.setattr(scopewatch.pipeline.shadows, "judge", judge)

    async def twice(pairs: list[Pair], _cleanings: object) -> list[tuple[Any, ...]]:
        plain = await FakeReader().tokenise(pairs, [])
        cleaned = await FakeReader().tokenise([replace(pair, prompt="") for pair in pairs], [])
        return [(*one, *other) for one, other in zip(plain, cleaned, strict=True)]

    for wanted in (Cleaning.NONE, Cleaning.BESIDE, Cleaning.INSTEAD):
        done.clear()
        await scored(build(replace(STRICT, cleaned=wanted), cleaned=Cleaning.BESIDE, tokenise=twice), JOB)
        await eventually(done.is_set, "the shadow did not judge")
    assert seen == [[21], [21, 15], [15]]


async def test_commands_that_read_files_have_no_shadows(house: House, tmp_path: Path) -> None:
    """A shadow that the environment names is the service's; a command does not even look at its file."""
    settings = Config(watchlist=(house.watchlist,), shadow=(tmp_path / "none.yaml",), device="cpu", pack_dir="")
    async with offline(settings) as spine:
        assert spine.watchlists.shadows == ()
