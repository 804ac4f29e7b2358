"""Canaries of a running service: it is not ready while they deviate, says so everywhere, and is ready again after."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
import yaml
from prometheus_client import CollectorRegistry

from canary_files import changed, config_of, copied, other_sae, recorded
from conftest import House, watchlist_document
from scopewatch.app.canaries.comparing import Verdict
from scopewatch.app.canaries.watching import CanaryWatch
from scopewatch.app.load import load
from scopewatch.app.spine import running_spine
from scopewatch.engine.runner import Runner
from scopewatch.errors import EngineDied, EngineError, NotReady, WatchlistError
from scopewatch.metrics import Metrics
from scopewatch.metrics.canary_counts import CanaryCounts
from scopewatch.types import Activations, Pair, ScoreJob, TokenIds
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.canary_file import Recorded, load_canaries
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from servers import config, direct, eventually, health, serving

SERVICE = "scopewatch.v1.MonitorService"
ASKED = pb.ScoreRequest(request_id="id", response="It may be gout.")


@pytest.fixture(scope="module")
def canaries(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Canaries of the small installation."""
    return recorded(house.watchlist, tmp_path_factory.mktemp("canaries") / "canaries.json")


class Flips:
    """Has the engine compute wrong values, of canaries and of all else, while it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wrong = self.failing = False
        alone = Runner.alone

        def flipped(runner: Runner, ids: TokenIds, *more: Any) -> Activations:
            if self.failing:
                raise EngineError("out of memory")
            right = alone(runner, ids, *more)
            value = right.value * np.float32(0.5 if self.wrong else 1)
            return Activations(right.n_tokens, right.token, right.column, value)

        monkeypatch.setattr(Runner, "alone", flipped)


async def code_of(address: str) -> tuple[str, str]:
    """The status of one call, and its message."""
    async with direct(address) as stub:
        try:
            await stub.Score(ASKED, timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
    return "OK", ""


def events(caplog: pytest.LogCaptureFixture, message: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == message]


async def test_a_service_that_computes_something_else_is_alive_and_not_ready(
    house: House, canaries: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With another SAE than the recorded one it starts, answers probes and scrapers, says what is wrong, and refuses
    pairs; once it is told that this SAE is meant, it is ready.
    """
    other = copied(house, tmp_path / "house")
    other_sae(other)
    meant = await asyncio.to_thread(recorded, other.watchlist, tmp_path / "meant.json")
    file = changed(canaries, tmp_path / "canaries.json")
    settings = config(other.watchlist, device="cpu", pack_dir="", canaries=str(file), canary_s=0, watch_files_s=0.05)
    caplog.set_level(logging.INFO, "scopewatch")
    async with serving(settings) as server:
        assert [await health(server.grpc_address, name) for name in ("", SERVICE)] == ["SERVING", "NOT_SERVING"]
        assert await code_of(server.grpc_address) == (
            "UNAVAILABLE", "the reader does not score canary pairs as recorded",
        )  # fmt: skip
        shown = {name: await asyncio.to_thread(server.metric, f"scopewatch_{name}") for name in ("ready", "canary_ok")}
        assert shown == {"ready": 0, "canary_ok": 0}
        off = server.metric("scopewatch_canary_deviation_ratio", watchlist="test", indicator="alpha")
        assert off > load_canaries(file).document.tolerances["float32"].scores
        (said,) = events(caplog, "canaries deviate: not ready")
        assert any(problem.startswith("test/alpha on pair 0: expected ") for problem in said.problems)  # type: ignore[attr-defined]
        assert said.differs == ("SAE mid",)  # type: ignore[attr-defined]

        meant.replace(file)
        await eventually(lambda: server.metric("scopewatch_ready") == 1, "it does not become ready")
        assert await health(server.grpc_address, SERVICE) == "SERVING"
        assert (await code_of(server.grpc_address))[0] == "OK"
        assert server.metric("scopewatch_canary_ok") == 1
        assert server.metric("scopewatch_canary_deviation_ratio", indicator="alpha") < 1e-5


async def test_a_device_that_begins_to_compute_wrong_is_found_on_the_schedule(
    house: House, canaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready, not ready, and ready again, as the device computes right, wrong, and right; no run is taken for a pair."""
    flips = Flips(monkeypatch)
    settings = config(house.watchlist, device="cpu", pack_dir="", canaries=str(canaries), canary_s=0.05)
    async with serving(settings) as server:
        for wrong in (False, True, False):
            flips.wrong = wrong
            runs = server.metric("scopewatch_canary_runs_total")
            await eventually(lambda runs=runs: server.metric("scopewatch_canary_runs_total") > runs + 1, "no runs")
            expected = "NOT_SERVING" if wrong else "SERVING"
            assert (await health(server.grpc_address, SERVICE), server.metric("scopewatch_ready")) == (
                expected, float(not wrong),
            )  # fmt: skip
        assert server.metric("scopewatch_canary_runs_total", result="deviated") >= 2
        assert server.metric("scopewatch_canary_last_run_timestamp_seconds") > 1.7e9
        pairs = ("pairs_total", "failed_pairs_total", "cache_requests_total", "batch_pairs_count", "tokens_total")
        assert {name: server.metric(f"scopewatch_{name}") for name in pairs} == dict.fromkeys(pairs, 0)


async def test_a_service_without_canaries_shows_no_metrics_of_them(house: House) -> None:
    """There is no gauge at 0 for an alert to take for a deviation."""
    async with serving(config(house.watchlist, device="cpu", pack_dir="")) as server:
        assert server.metric("scopewatch_ready") == 1
        page = await asyncio.to_thread(urlopen, f"http://{server.metrics_address}/metrics")
        samples = [line for line in page.read().decode().splitlines() if line.startswith("scopewatch_canary")]
    assert samples == []


async def watched(house: House, canaries: Path, **settings: Any) -> Any:
    loaded = await asyncio.to_thread(load, config_of(house.watchlist, canaries=str(canaries), **settings))
    return running_spine(loaded, config_of(house.watchlist, canaries=str(canaries), **settings), Metrics())


async def test_a_reload_that_would_deviate_changes_nothing(house: House, canaries: Path, tmp_path: Path) -> None:
    """Watchlists that score canaries otherwise than recorded are refused, with the file and the numbers; so are ones
    that the canaries know nothing of. Canaries that are not in order stop a reload as a broken watchlist does.
    """
    other = copied(house, tmp_path / "house")
    other_sae(other)
    document = absolute(house, watchlist_document())
    document["saes"]["mid"]["path"] = str(other.saes["mid"])
    new = [{"name": "delta", "features": [{"feature": "late/5"}], "threshold": 0.0}]
    wrong = written(tmp_path / "wrong.yaml", document)
    unknown = written(tmp_path / "unknown.yaml", absolute(house, watchlist_document(indicators=new)))
    file = changed(canaries, tmp_path / "canaries.json")
    async with await watched(house, file) as spine:
        await spine.watch_canaries()
        (before,) = await spine.score([ScoreJob(Pair("a", "It may be."), "", "id")])
        with pytest.raises(WatchlistError) as refused:
            await spine.replace_watchlists([wrong])
        assert "test/alpha on pair 0: expected" in str(refused.value)
        assert "(SAE mid changed since)" in str(refused.value)
        with pytest.raises(Exception, match="holds none of those of the watchlists"):
            await spine.replace_watchlists([unknown])
        file.write_text("{}")
        with pytest.raises(Exception, match="made_with: missing"):
            await spine.replace_watchlists([load_watchlist(house.watchlist)])
        assert spine.watchlists.version == 1
        (after,) = await spine.score([ScoreJob(Pair("a", "It may be."), "", "id")])
        assert after.judgement.indicators == before.judgement.indicators


def absolute(house: House, document: dict[str, Any]) -> dict[str, Any]:
    """A watchlist of the house that may lie anywhere."""
    saes = {name: {"path": str(house.folder / sae["path"])} for name, sae in document["saes"].items()}
    return document | {"reader": {"path": str(house.reader)}, "saes": saes}


def written(file: Path, document: dict[str, Any]) -> Watchlist:
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_watchlist(file)


async def test_pairs_are_refused_while_the_canaries_deviate(
    house: House, canaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gets a score that the reader cannot vouch for, not even one that the cache holds."""
    flips = Flips(monkeypatch)
    job = ScoreJob(Pair("a", "It may be."), "", "id")
    async with await watched(house, canaries, canary_s=0) as spine:
        await spine.score([job])
        flips.wrong = True
        await spine.watch_canaries()
        outcomes = await spine.score([job])
        assert [type(one) for one in outcomes] == [NotReady]
        flips.wrong = False
        await spine.reload_watchlists("admin")

        async def scored() -> bool:
            return isinstance((await spine.score([job]))[0], ScoredPair)

        await until(scored)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 - nobody tells it
            await asyncio.sleep(0.001)


class Schedule:
    """A watch whose judge says what the test wants."""

    def __init__(self, every_s: float = 0.001) -> None:
        self.registry = CollectorRegistry()
        self.says: list[Verdict | Exception] = []
        self.health: list[bool] = []
        self.runs = 0
        self.well = asyncio.Event()
        self.watch = CanaryWatch(self._judge, self._told, CanaryCounts(self.registry), every_s)

    async def _judge(self, _recorded: Recorded) -> Verdict:
        self.runs += 1
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, Exception):
            raise said
        return said

    async def _told(self, well: bool) -> None:
        self.health.append(well)
        if well:
            self.well.set()

    async def after(self, runs: int) -> None:
        async def are_done() -> bool:
            return self.runs >= runs

        await until(are_done)


OK = Verdict((), (), (), {("test", "alpha"): 0.0}, 0.0)
OFF = Verdict(("off",), (), (), {("test", "alpha"): 0.5}, 0.0)
FAILED = EngineError("no memory")


@pytest.mark.parametrize(
    ("says", "health", "runs"),
    [
        ([OK, OFF, OFF, OK], [False, True], {"ok": 1, "deviated": 2, "failed": 0}),
        ([OFF, OK, OFF, OK], [False, True, False, True], {"ok": 1, "deviated": 2, "failed": 0}),
        ([OK, FAILED, OK], [], {"ok": 1, "deviated": 0, "failed": 1}),
        ([OK, FAILED, FAILED, OK], [False, True], {"ok": 1, "deviated": 0, "failed": 2}),
        ([FAILED, OK], [False, True], {"ok": 0, "deviated": 0, "failed": 1}),
        ([OFF, FAILED, OK], [False, True], {"ok": 0, "deviated": 1, "failed": 1}),
    ],
    ids=[
        "off for a while",
        "off at the start",
        "one failure",
        "two failures",
        "failure at the start",
        "off and failed",
    ],
)
async def test_readiness_follows_the_runs(
    says: list[Verdict | Exception], health: list[bool], runs: dict[str, int], canaries: Path
) -> None:
    """A deviation counts at once, a failure of the reader from the second in a row on, or at the start at once."""
    schedule = Schedule()
    schedule.says = list(says)
    await schedule.watch.begin(load_canaries(canaries))
    await schedule.after(len(says) + 3)
    await schedule.watch.close()
    assert schedule.health == health
    counted = {
        result: schedule.registry.get_sample_value("scopewatch_canary_runs_total", {"result": result})
        for result in runs
    }
    assert counted | {"ok": 0} == {name: float(count) for name, count in runs.items()} | {"ok": 0}
    assert schedule.registry.get_sample_value("scopewatch_canary_ok") == 1


async def test_the_schedule_may_be_off_and_ends_with_the_engine(canaries: Path) -> None:
    """With 0 seconds the pairs are judged at the start and when somebody asks; a dead engine is judged no more."""
    schedule = Schedule(every_s=0)
    schedule.says = [OK]
    await schedule.watch.begin(load_canaries(canaries))
    await asyncio.sleep(0.02)
    assert schedule.runs == 1
    schedule.watch.again()
    await schedule.after(2)
    schedule.says = [EngineDied("gone")]
    schedule.watch.again()
    await schedule.after(3)
    await asyncio.sleep(0)
    schedule.watch.again()
    await asyncio.sleep(0.02)
    assert (schedule.runs, schedule.health) == (3, [])
    await schedule.watch.close()


async def test_canaries_may_go_and_come(canaries: Path) -> None:
    """Where there are none any more, nothing is shown of them, and nothing is ill for them."""
    schedule = Schedule()
    schedule.says = [OFF]
    await schedule.watch.begin(load_canaries(canaries))
    schedule.watch.take(None)
    schedule.watch.again()
    async with asyncio.timeout(20):
        await schedule.well.wait()
    assert schedule.registry.get_sample_value("scopewatch_canary_ok") is None
    schedule.watch.take(load_canaries(canaries))
    await schedule.after(schedule.runs + 2)
    assert schedule.registry.get_sample_value("scopewatch_canary_ok") == 0
    await schedule.watch.close()


async def test_the_same_deviation_is_logged_once(canaries: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reader that is off for a night does not fill the log."""
    caplog.set_level(logging.INFO, "scopewatch")
    schedule = Schedule()
    schedule.says = [OFF] * 6 + [OK]
    await schedule.watch.begin(load_canaries(canaries))
    await schedule.after(12)
    await schedule.watch.close()
    assert len(events(caplog, "canaries deviate: not ready")) == 1
    assert len(events(caplog, "canaries are as recorded")) == 1


async def test_texts_stand_in_no_line_of_the_log(
    house: House, canaries: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A deviation is told of by the pair's number."""
    document = json.loads(await asyncio.to_thread(canaries.read_text))
    for pair in document["pairs"]:
        pair["scores"] = {name: score and score + 1 for name, score in pair["scores"].items()}
    caplog.set_level(logging.DEBUG, "scopewatch")
    async with await watched(house, changed(canaries, tmp_path / "off.json", pairs=document["pairs"])) as spine:
        await spine.watch_canaries()
    said = "".join(str(vars(record)) for record in caplog.records)
    assert "test/alpha on pair 1" in said
    assert "evening" not in said
    assert "sourdough" not in said
