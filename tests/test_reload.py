"""Watchlist files are read again: who may ask for it, what is told of it, and what changes of files are seen."""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from prometheus_client import CollectorRegistry

from conftest import House, watchlist_document
from scopewatch.app.file_watch import WatchedFiles, look_of
from scopewatch.app.load import load
from scopewatch.app.records import Records
from scopewatch.app.reload import Reloader, WatchlistFiles
from scopewatch.app.spine import running_spine
from scopewatch.errors import NotReady, WatchlistError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from servers import ServerProcess, config, direct, eventually, serving
from spine import IDENTITY, watchlist_set

WORDS = {"name": "w", "kind": "words", "lexicon": ["may"], "threshold": 0.5}
ASKED = pb.ScoreRequest(request_id="id", response="It may be gout.")


def write(file: Path, **changes: object) -> Path:
    """A watchlist file of words alone, of another content than any other."""
    document = {"version": 1, "name": file.stem, "reader": {"path": "reader"}, "indicators": [WORDS]}
    file.write_text(yaml.safe_dump(document | changes, sort_keys=False))
    return file


def threshold(value: float) -> dict[str, object]:
    return {"indicators": [WORDS | {"threshold": value}]}


class Process:
    """A reloader over real files; what it has replaced is remembered, and may be held up or refused."""

    def __init__(self, *live: Path, shadows: Sequence[Path] = ()) -> None:
        self.registry = CollectorRegistry()
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.replaced: list[list[str]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.refusal: Exception | None = None
        self.running = self._set(map(load_watchlist, live), map(load_watchlist, shadows), version=1)
        self.reloader = Reloader(
            WatchlistFiles(live, tuple(shadows)),
            lambda: self.running,
            self._replace,
            Metrics(self.registry).reloads,
            lambda action, outcome, **detail: self.told.append((action, outcome, detail)),
        )

    async def _replace(self, live: Sequence[Watchlist], shadows: Sequence[Watchlist]) -> WatchlistSet:
        self.replaced.append([one.name for one in (*live, *shadows)])
        await self.may_go_on.wait()
        if self.refusal:
            raise self.refusal
        self.running = self._set(live, shadows, version=self.running.version + 1)
        return self.running

    @staticmethod
    def _set(live: Iterable[Watchlist], shadows: Iterable[Watchlist], *, version: int) -> WatchlistSet:
        beside = tuple(compile_watchlist(one, IDENTITY) for one in shadows)
        return replace(watchlist_set(*live, version=version), shadows=beside)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"scopewatch_watchlist_{name}", labels)


async def test_files_that_say_the_same_replace_nothing(tmp_path: Path) -> None:
    """A reload of unchanged files is no new version, and is told as such to who asked and to the audit log."""
    file = write(tmp_path / "one.yaml")
    process = Process(file)
    file.touch()
    reloaded = await process.reloader.reload("SIGHUP")
    assert (reloaded.changed, reloaded.watchlists.version, process.replaced) == (False, 1, [])
    assert process.sample("reloads_total", result="unchanged") == 1
    digest = load_watchlist(file).digest
    detail = {"caller": "SIGHUP", "version": 1, "watchlists": {"one": digest}}
    assert process.told == [("reload_watchlists", "unchanged", detail)]


async def test_what_files_say_replaces_what_runs(tmp_path: Path) -> None:
    """One changed file is enough for a new version of all, be it a shadow's."""
    file, shadow = write(tmp_path / "one.yaml"), write(tmp_path / "two.yaml")
    process = Process(file, shadows=[shadow])
    write(file, **threshold(0.25))
    reloaded = await process.reloader.reload("ana")
    assert (reloaded.changed, reloaded.watchlists.version, process.replaced) == (True, 2, [["one", "two"]])
    assert process.sample("reloads_total", result="ok") == 1
    ((_, outcome, detail),) = process.told
    assert (outcome, detail["caller"], detail["version"]) == ("ok", "ana", 2)
    write(shadow, **threshold(0.25))
    assert (await process.reloader.reload("ana")).watchlists.version == 3
    assert not (await process.reloader.reload("ana")).changed


async def test_every_mistake_of_every_file_is_named_and_nothing_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error, the log and the audit log name them all; a metric says so until the files are what runs again."""
    one, two = write(tmp_path / "one.yaml"), write(tmp_path / "two.yaml")
    process = Process(one, two)
    right = one.read_bytes()
    write(one, version=2, indicators=[WORDS | {"threshold": "high"}])
    two.unlink()
    with pytest.raises(WatchlistError) as refused, caplog.at_level(logging.ERROR):
        await process.reloader.reload("ana")
    problems = str(refused.value).splitlines()
    for part in (
        "one.yaml:1: version",
        "indicators[0].threshold: Input should be a number",
        "two.yaml: cannot be read",
    ):
        assert any(part in problem for problem in problems), problems
    (line,) = [record for record in caplog.records if record.getMessage() == "watchlists were not replaced"]
    assert (line.callers, line.problems) == (["ana"], problems)
    assert process.told == [("reload_watchlists", "failed", {"caller": "ana", "problems": problems})]
    assert (process.running.version, process.replaced) == (1, [])
    assert (process.sample("reloads_total", result="failed"), process.sample("reload_failed")) == (1, 1)

    one.write_bytes(right)
    write(two)
    assert not (await process.reloader.reload("ana")).changed
    assert process.sample("reload_failed") == 0


async def test_a_refused_replacement_is_a_failed_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the engine or the canaries refuse is told as mistakes are; of a bug the log has the kind and the traceback."""
    file = write(tmp_path / "one.yaml")
    process = Process(file)
    write(file, **threshold(0.25))
    for refusal, told in ((WatchlistError("no such feature"), "no such feature"), (KeyError("text"), "KeyError")):
        process.refusal = refusal
        with pytest.raises(type(refusal)):
            await process.reloader.reload("file")
        assert process.told[-1][2]["problems"] == [told]
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]
    assert process.sample("reloads_total", result="failed") == 2


async def test_requests_that_come_meanwhile_share_the_next_reload(tmp_path: Path) -> None:
    """Only one reload runs at a time; whoever asks while it runs gets what the files say after it."""
    file = write(tmp_path / "one.yaml")
    process = Process(file)
    process.may_go_on.clear()
    write(file, **threshold(0.25))
    first = asyncio.create_task(process.reloader.reload("first"))
    await eventually(lambda: process.replaced, "the first reload did not begin")
    write(file, **threshold(0.125))
    others = [asyncio.create_task(process.reloader.reload(name)) for name in ("second", "third", "leaves")]
    await asyncio.sleep(0)
    others.pop().cancel()
    process.may_go_on.set()
    found = [await task for task in (first, *others)]
    assert [one.watchlists.version for one in found] == [2, 3, 3]
    assert [process.sample("reloads_total", result=result) for result in ("ok", "unchanged")] == [2, 0]
    assert [detail["caller"] for _, _, detail in process.told] == ["first", "second", "third", "leaves"]


async def test_a_closed_reloader_replaces_nothing(tmp_path: Path) -> None:
    """A shutdown stops a reload that runs, and refuses others."""
    file = write(tmp_path / "one.yaml")
    process = Process(file)
    process.may_go_on.clear()
    write(file, **threshold(0.25))
    running = asyncio.create_task(process.reloader.reload("ana"))
    await eventually(lambda: process.replaced, "the reload did not begin")
    await process.reloader.close()
    process.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(NotReady):
        await process.reloader.reload("ana")
    assert process.running.version == 1


async def test_only_content_that_stays_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that differs from look to look may be half written; what two looks find alike is read once."""
    file = write(tmp_path / "one.yaml")
    process = Process(file)
    held = look_of(process.running.sources)
    contents = ["half", "more", "whole", "whole", "whole", "again", "again", "again"]
    looks = iter([held, *({file: content} for content in contents)])
    asked: list[str] = []
    seen: list[str] = []
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look(_files: WatchedFiles) -> dict[Path, str]:
        found = next(looks, None)
        if found is None:
            loop.call_soon_threadsafe(over.set)
            return {file: "again"}
        seen.append(found[file])
        return found

    async def reload(caller: str) -> None:
        asked.append(f"{caller}: {seen[-1]}")
        process.reloader._tried = {file: seen[-1]}

    monkeypatch.setattr(WatchedFiles, "look", look)
    monkeypatch.setattr(process.reloader, "reload", reload)
    process.reloader.follow(0.001, asyncio.Event())
    await over.wait()
    await process.reloader.close()
    assert asked == ["file: whole", "file: again"]


def swapped(folder: Path, content: str) -> None:
    """As Kubernetes replaces a ConfigMap: a new folder, and the link to it replaced."""
    new = folder / f"..{len(list(folder.iterdir()))}"
    new.mkdir()
    (new / "one.yaml").write_text(content)
    link = folder / "..new"
    link.symlink_to(new.name)
    link.replace(folder / "..data")


def renamed(folder: Path, content: str) -> None:
    (folder / "part").write_text(content)
    (folder / "part").replace(folder / "one.yaml")


def in_place(folder: Path, content: str) -> None:
    before = (folder / "one.yaml").stat()
    (folder / "one.yaml").write_text(content)
    os.utime(folder / "one.yaml", ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [swapped, renamed, in_place])
def test_every_way_of_changing_a_file_is_seen(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    """A link that leads elsewhere, a file in another's place, and one written in place though its time is the old one."""
    file = tmp_path / "one.yaml"
    if change is swapped:
        file.symlink_to("..data/one.yaml")
        swapped(tmp_path, "name: one")
    else:
        file.write_text("name: one")
    files = WatchedFiles([file])
    before = files.look()
    file.touch()
    assert files.look() == before
    change(tmp_path, "name: two")
    assert files.look() != before
    change(tmp_path, "name: one")
    assert files.look() == before


def test_a_look_at_what_runs_is_what_was_read(tmp_path: Path) -> None:
    """Files as they were loaded are no news, a bag of words is one of them, and a missing file is another content."""
    bag = tmp_path / "bag.safetensors"
    bag.write_bytes(b"no bag")
    digest = "0" * 64
    words = {"name": "b", "kind": "words", "bag": {"path": bag.name, "sha256": digest}, "threshold": 0.5}
    file = write(tmp_path / "one.yaml", indicators=[WORDS, words])
    files = WatchedFiles([file])
    before = files.look()
    assert set(before) == {file, bag}
    bag.write_bytes(b"another")
    assert {path for path, found in files.look().items() if found != before[path]} == {bag}
    bag.unlink()
    assert files.look()[bag] == ""
    file.write_text("name: [")
    assert set(files.look()) == {file}

    write(file)
    assert look_of([load_watchlist(file)]) == files.look()


@pytest.fixture
def files(house: House, tmp_path: Path) -> Callable[..., Path]:
    """Writes a watchlist file that names the house's reader and SAEs."""

    def write(file: str, **changes: object) -> Path:
        document = watchlist_document(name=file) | changes
        document["reader"] = {"path": str(house.reader)}
        document["saes"] = {name: {"path": str(path)} for name, path in house.saes.items()}
        renamed = tmp_path / f"{file}.part"
        renamed.write_text(yaml.safe_dump(document, sort_keys=False))
        renamed.replace(tmp_path / f"{file}.yaml")
        return tmp_path / f"{file}.yaml"

    return write


def marked(value: float, feature: str = "mid/3") -> dict[str, object]:
    return {"indicators": [{"name": "alpha", "features": [{"feature": feature}], "threshold": value}]}


async def test_a_signal_a_changed_file_and_an_administrator_reload(files: Callable[..., Path]) -> None:
    """Each way leads to a new version, which every reply says; an added feature needs no restart."""
    file = files("live", **marked(1.0))
    settings = config(file, watch_files_s=0.02, device="cpu", pack_dir="")
    async with serving(settings) as server, direct(server.grpc_address) as stub:

        async def reply() -> tuple[int, str, float]:
            scored = await stub.Score(ASKED)
            made_by, (indicator,) = scored.provenance, scored.indicators
            return made_by.watchlists_version, made_by.watchlist_digest, indicator.threshold

        async def version(wanted: int) -> None:
            await eventually(lambda: server.metric("scopewatch_watchlist_version") == wanted, f"no version {wanted}")

        assert await reply() == (1, load_watchlist(file).digest, 1.0)
        files("live", **marked(2.0))
        await version(2)
        assert await reply() == (2, load_watchlist(file).digest, 2.0)

        files("live", **marked(3.0, "mid/40"))
        told = await stub.ReloadWatchlists(pb.ReloadWatchlistsRequest())
        assert [(one.name, one.digest) for one in told.watchlists] == [("live", load_watchlist(file).digest)]
        assert (told.version, await reply()) == (3, (3, load_watchlist(file).digest, 3.0))
        # The same judgement, remembered by now.
        assert (await stub.Score(ASKED)).cached
        assert await reply() == (3, load_watchlist(file).digest, 3.0)
        assert (await stub.GetInfo(pb.GetInfoRequest())).watchlists_version == 3
        again = await stub.ReloadWatchlists(pb.ReloadWatchlistsRequest())
        assert (again.version, again.changed) == (3, False)


async def test_a_hangup_reloads(files: Callable[..., Path]) -> None:
    """SIGHUP does not end the process, and makes it read its files though it does not look at them by itself."""
    settings = config(files("live", **marked(1.0)), watch_files_s=0, device="cpu", pack_dir="")
    async with serving(settings) as server, direct(server.grpc_address) as stub:
        files("live", **marked(2.0))
        await asyncio.sleep(0.1)
        assert server.metric("scopewatch_watchlist_version") == 1
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: server.metric("scopewatch_watchlist_version") == 2, "SIGHUP was not heard")
        assert (await stub.Score(ASKED)).indicators[0].threshold == 2.0


async def test_a_broken_file_changes_nothing(files: Callable[..., Path]) -> None:
    """An administrator gets FAILED_PRECONDITION with the mistakes; calls are judged as before; a metric says so."""
    settings = config(files("live", **marked(1.0)), watch_files_s=0.02, device="cpu", pack_dir="")
    async with serving(settings) as server, direct(server.grpc_address) as stub:
        files("live", **marked(2.0, "mid/4000"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ReloadWatchlists(pb.ReloadWatchlistsRequest())
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "live.yaml:13: indicators[0].features[0].feature" in refused.value.details()
        assert server.metric("scopewatch_watchlist_reload_failed") == 1
        scored = await stub.Score(ASKED)
        assert (scored.indicators[0].threshold, scored.provenance.watchlists_version) == (1.0, 1)
        files("live", indicators=[{"name": f"i{number}", "threshold": "ü" * 90} for number in range(200)])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ReloadWatchlists(pb.ReloadWatchlistsRequest())
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        first, *_, last = refused.value.details().splitlines()
        assert "live.yaml:11: indicators[0].features" in first
        assert re.fullmatch("[0-9]+ more mistakes are only in the server's log", last)
        files("live", **marked(1.0))
        await eventually(lambda: not server.metric("scopewatch_watchlist_reload_failed"), "the metric stayed")
        assert server.metric("scopewatch_watchlist_version") == 1


async def test_shadows_are_loaded_and_reloaded_with_the_live_ones(files: Callable[..., Path]) -> None:
    """A shadow's features are watched, too; callers see nothing of it; another file of it is another version."""
    live, shadow = files("live", **marked(1.0)), files("dark", **marked(-1.0, "late/9"))
    settings = config(live, shadow=(shadow,), shadow_share=1, watch_files_s=0, cache_bytes=0, device="cpu", pack_dir="")
    async with serving(settings) as server, direct(server.grpc_address) as stub:

        async def flags(indicator: str, wanted: float) -> None:
            labels = {"watchlist": "dark", "indicator": indicator}
            name = "scopewatch_shadow_flags_total"
            await eventually(lambda: server.metric(name, **labels) == wanted, f"{indicator} has not {wanted} flags")

        scored = await stub.Score(ASKED)
        await flags("alpha", 1)
        info = await stub.GetInfo(pb.GetInfoRequest())
        assert [watchlist.name for watchlist in info.watchlists] == ["live"]
        assert [indicator.name for indicator in scored.indicators] == ["alpha"]
        with pytest.raises(grpc.aio.AioRpcError, match="no watchlist of this name"):
            await stub.Score(pb.ScoreRequest(response="a", watchlist="dark"))

        files("dark", indicators=[{"name": "omega", "features": [{"feature": "late/11"}], "threshold": -1.0}])
        told = await stub.ReloadWatchlists(pb.ReloadWatchlistsRequest())
        assert (told.version, [one.name for one in told.watchlists]) == (2, ["live"])
        await stub.Score(ASKED)
        await flags("omega", 1)

        files("dark", name="live")
        with pytest.raises(grpc.aio.AioRpcError, match="already named 'live'"):
            await stub.ReloadWatchlists(pb.ReloadWatchlistsRequest())


async def test_the_audit_log_is_told_what_is_loaded_and_reloaded(files: Callable[..., Path]) -> None:
    """Which files ran from when on, and on whose word, can be read from it alone."""
    told: list[tuple[object, ...]] = []
    file = files("live", **marked(1.0))
    first = load_watchlist(file).digest
    settings = config(file, device="cpu", pack_dir="")
    loaded = await asyncio.to_thread(load, settings)

    class Written(Records):
        def asked(self, action: str, caller: str) -> None:
            told.append((action, "asked", caller))

        def told(self, action: str, outcome: str, /, *, caller: str = "", **detail: Any) -> None:
            told.append((action, outcome, caller, detail["version"], detail["watchlists"]["live"]))

    async with running_spine(loaded, settings, Metrics(), records=Written((), None)) as spine:
        files("live", **marked(2.0))
        await spine.reload_watchlists("ana")
    second = load_watchlist(file).digest
    assert told == [
        ("load_watchlists", "ok", "start", 1, first),
        ("reload_watchlists", "asked", "ana"),
        ("reload_watchlists", "ok", "ana", 2, second),
    ]


async def test_a_service_does_not_start_with_a_shadow_of_a_live_name(files: Callable[..., Path]) -> None:
    """Its metrics would be taken for the live one's."""
    settings = config(files("live"), shadow=(files("dark", name="live"),), device="cpu", pack_dir="")
    with pytest.raises(WatchlistError, match="already named 'live'"):
        await asyncio.to_thread(load, settings)


async def test_reloads_under_load_fail_no_call_and_mix_no_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a file changes twenty times in every way, each reply is of one version that was loaded; the two broken
    files are named in the log, and judge nothing.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    from reloads import File, under_reloads

    file = File(tmp_path)
    flags = ("--watchlist", str(file.path), "--watch-files-s", "0.05", "--device", "cpu", "--max-tokens", "256")
    with ServerProcess(*flags) as server:
        addresses = server.grpc_address, server.metrics_address
        found = await under_reloads(
            *addresses, file, lambda: server.process.send_signal(signal.SIGHUP), count=20, callers=4
        )
        assert server.stop() == 0
    assert (found["failures"], found["failed_calls"], found["mixed_replies"]) == ([], 0, 0)
    assert found["replies_of_an_earlier_version"] == 0
    assert (found["versions"], found["versions_that_judged"], found["broken_named"]) == (19, 19, 2)
    refusals = [line["problems"] for line in server.events("watchlists were not replaced")]
    assert len(refusals) >= 2
    assert all(str(file.path) in problems[0] for problems in refusals)
