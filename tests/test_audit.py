"""The audit log cannot be changed unseen, and texts are kept where that is asked for."""

import asyncio
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from textwrap import dedent

import grpc
import pytest
from pydantic import ValidationError

from conftest import scored_pair, wait_until
from scopewatch.audit import ledger
from scopewatch.audit.ledger import Audit
from scopewatch.audit.records import NOTHING, Act, Head, line_of, record_of
from scopewatch.audit.texts import Texts
from scopewatch.audit.verify import Broken, verify
from scopewatch.audit.writer import Writer
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.errors import ConfigError, NotReady
from scopewatch.events import PairScored
from scopewatch.metrics import Metrics
from scopewatch.pipeline.cache import LocalCache
from scopewatch.types import Caller, Coverage, Pair, ScoreJob, Turn
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc
from scopewatch.verdicts import IndicatorScore, Verdict
from servers import ServerProcess
from spine import FakeReader, build_monitor

CANARY = "kanarie7f3a"
Open = Callable[..., Audit]


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 30, 23, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def opened(folder: Path, clock: Clock) -> Iterator[Open]:
    """Opens the folder, as often as it was closed before."""
    audits: list[Audit] = []

    def opened(**more: object) -> Audit:
        audits.append(Audit(folder, **{"instance": "pod-0", "now": clock} | more))
        return audits[-1]

    yield opened
    for audit in audits:
        audit.close()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*.jsonl"))


def records(folder: Path) -> list[dict[str, object]]:
    """Every record of a folder, read as whoever has only the documentation would read it."""
    return [json.loads(line) for file in files(folder) for line in file.read_text().splitlines()]


def acts(folder: Path) -> list[str]:
    return [str(record["action"]) for record in records(folder)]


def make_chain(folder: Path, days: int = 3, each: int = 3) -> None:
    """An audit log of so many days and of so many records on each, `segment`, `start` and `stop` not counted."""
    clock = Clock()
    audit = Audit(folder, instance="pod-0", now=clock)
    for day in range(days):
        clock.now += timedelta(days=min(day, 1))
        for number in range(each):
            audit.record("explain", f"caller-{number}", request_id=f"r{day}{number}", watchlist="test")
    audit.close()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    make_chain(folder)
    return folder


@pytest.fixture
def copy(chain: Path, tmp_path: Path) -> Path:
    """An audit log to tamper with."""
    return Path(shutil.copytree(chain, tmp_path / "copy"))


@contextmanager
def held_disk(monkeypatch: pytest.MonkeyPatch, call: str) -> Iterator[threading.Event]:
    """A disk that answers no `call` of the system while the block runs; the event is set once it was asked."""
    asked, answer, real = threading.Event(), threading.Event(), getattr(os, call)

    def held(*arguments: object) -> object:
        asked.set()
        answer.wait()
        return real(*arguments)

    monkeypatch.setattr(os, call, held)
    try:
        yield asked
    finally:
        monkeypatch.setattr(os, call, real)
        answer.set()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """A system on which no file grows beyond a size: of a longer write it takes a part first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestRecords:
    def test_a_record_says_who_did_what_and_when(self, opened: Open, folder: Path, clock: Clock) -> None:
        """Each record has the documented keys, and its file is its owner's alone."""
        opened().record("watchlists", "ops", "refused", old="a" * 64, new="b" * 64)

        assert records(folder)[-1] | {"hash": "", "previous": ""} == {
            "seq": 3,
            "time": "2026-03-30T23:00:00.000Z",
            "action": "watchlists",
            "caller": "ops",
            "outcome": "refused",
            "detail": {"old": "a" * 64, "new": "b" * 64},
            "previous": "",
            "hash": "",
        }
        assert [record["detail"] for record in records(folder)[:2]] == [
            {"instance": "pod-0", "after": ""},
            {"instance": "pod-0"},
        ]
        assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, *files(folder))] == [0o700, 0o600]

    def test_digests_are_as_documented(self, opened: Open, folder: Path) -> None:
        """A digest is that of the line without it, so that a shell can tell whether a line was changed."""
        audit = opened()
        audit.record("roles", digest="é\ud800\u2028\n")
        previous = NOTHING
        for line, record in zip(files(folder)[0].read_text().splitlines(), records(folder), strict=True):
            without = line.replace(f',"hash":"{record["hash"]}"', "")
            assert record["previous"] == previous
            previous = hashlib.sha256(without.encode()).hexdigest()
            assert record["hash"] == previous
        assert audit.head == previous

    def test_what_is_no_json_is_refused_where_it_is_said(self, opened: Open, folder: Path) -> None:
        """A mistake in the program is raised to the one who made it, and costs no other record."""
        audit = opened()
        for wrong in (object(), float("nan")):
            with pytest.raises((TypeError, ValueError)):
                audit.record("explain", wrong=wrong)
        audit.record("explain")
        assert acts(folder) == ["segment", "start", "explain"]

    def test_a_record_is_on_the_disk_when_it_returns(
        self, opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody is told that an act is recorded before the disk says so."""
        audit, done = opened(), threading.Event()

        def record() -> None:
            audit.record("explain")
            done.set()

        with held_disk(monkeypatch, "fsync") as asked:
            thread = threading.Thread(target=record)
            thread.start()
            assert asked.wait(30)
            assert not done.wait(0.05)
        thread.join()
        assert acts(folder)[-1] == "explain"

    def test_threads_share_one_chain(self, opened: Open, folder: Path) -> None:
        """Records from many threads are all there, once each, in one whole chain."""
        audit = opened()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: audit.record("explain", number=number), range(200)))
        assert sorted(r["detail"]["number"] for r in records(folder)[2:]) == list(range(200))
        assert verify(folder).broken is None

    def test_evidence_is_noted_without_text(self, opened: Open, folder: Path) -> None:
        """Whoever asked for evidence stands in the log with the request's id and its watchlist, and nobody else."""
        audit = opened()
        audit.evidence_given([event(request_id="a", include_evidence=True), event(request_id="b")])
        audit.close()
        noted = [(r["caller"], r["detail"]) for r in records(folder) if r["action"] == "evidence"]
        assert noted == [("triage", {"request_id": "a", "watchlist": "test"})]
        assert CANARY not in files(folder)[0].read_text()

    def test_the_head_is_logged(self, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
        """At the start and at the end the log says the digest of the last record, to be kept elsewhere."""
        caplog.set_level(logging.INFO)
        audit = opened()
        first = audit.head
        audit.close()
        assert [record.hash for record in caplog.records if record.message == "audit head"] == [first, audit.head]


class TestGoingOn:
    def test_a_chain_goes_on_after_a_restart(self, opened: Open, folder: Path, clock: Clock) -> None:
        """Records are counted on and chained over restarts and days; each file begins with the one before it."""
        for _ in range(2):
            audit = opened()
            audit.record("explain")
            clock.now += timedelta(hours=2)
            audit.record("explain")
            audit.close()
        assert [record["seq"] for record in records(folder)] == list(range(1, 11))
        assert [file.name for file in files(folder)] == ["audit-2026-03-30.jsonl", "audit-2026-03-31.jsonl"]
        first = json.loads(files(folder)[1].read_text().splitlines()[0])
        assert (first["action"], first["detail"]["after"]) == ("segment", "audit-2026-03-30.jsonl")
        assert verify(folder).records == 10

    def test_a_clock_that_is_set_back_changes_no_older_file(self, opened: Open, folder: Path, clock: Clock) -> None:
        """Files are never added to once there is a newer one."""
        audit = opened()
        clock.now += timedelta(days=1)
        audit.record("explain")
        clock.now -= timedelta(days=1)
        audit.record("explain")
        audit.close()
        opened().record("explain")
        assert len(files(folder)[0].read_text().splitlines()) == 2
        assert verify(folder).broken is None

    def test_a_folder_has_one_writer(self, opened: Open, folder: Path) -> None:
        """A second process is refused with what to do; once the first has closed, it may write."""
        audit = opened()
        with pytest.raises(ConfigError, match="every replica needs a folder of its own"):
            Audit(folder, instance="pod-1")
        audit.close()
        opened(instance="pod-1")
        assert records(folder)[-1]["detail"] == {"instance": "pod-1"}

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        """A service that was told to keep an audit log does not start without one."""
        (tmp_path / "file").write_text("")
        for make in (partial(Audit, instance="a"), partial(Texts, which="all", days=1)):
            with pytest.raises(ConfigError, match=f"audit_dir {tmp_path}/file/audit: cannot be written"):
                make(tmp_path / "file" / "audit")

    @pytest.mark.parametrize("cut", [1, 2, 100, 200, -2, -1])
    def test_half_a_line_is_kept_aside(self, folder: Path, opened: Open, cut: int) -> None:
        """Wherever the last line was torn, the chain goes on before it, and its bytes are kept and told of."""
        opened().close()
        file = files(folder)[0]
        *whole, last = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(whole) + last[:cut])
        assert [broken.what for broken in [verify(folder).broken] if broken] == ["torn"]

        opened()
        told = records(folder)[-1]
        assert acts(folder) == ["segment", "start", "start", "torn"]
        assert (folder / told["detail"]["file"]).read_bytes() == last[:cut]
        assert told["detail"]["sha256"] == hashlib.sha256(last[:cut]).hexdigest()
        assert verify(folder).broken is None

    @pytest.mark.parametrize("step", ["truncate", "rename", "fsync"])
    def test_no_crash_while_a_line_is_set_aside_loses_it(
        self, folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """Half a line is told of even if the process ends at any step of keeping it."""
        opened().close()
        file = files(folder)[0]
        with file.open("ab") as stream:
            stream.write(b'{"seq":4,"ti')
        with monkeypatch.context() as broken:
            broken.setattr(os, step, lambda *_: (_ for _ in ()).throw(OSError("crash")))
            with pytest.raises(ConfigError, match="crash"):
                opened()
        opened()
        told = [record["detail"] for record in records(folder) if record["action"] == "torn"]
        assert told
        assert (folder / told[-1]["file"]).read_bytes() == b'{"seq":4,"ti'
        assert verify(folder).broken is None

    def test_a_killed_process_loses_no_record_that_it_promised(self, folder: Path, opened: Open) -> None:
        """After SIGKILL in the middle of writing all records are there that `record` returned for."""
        program = dedent(f"""\
            import itertools
            from pathlib import Path
            from scopewatch.audit.ledger import Audit
            audit = Audit(Path({str(folder)!r}), instance="pod-0")
            for number in itertools.count():
                audit.record("explain", number=number)
                print(number, flush=True)
        """)
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for _ in range(20):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            promised = 20 + len(process.stdout.readlines())
        with files(folder)[0].open("ab") as stream:
            stream.write(b'{"seq":')
        opened(now=ledger.utc_now)
        numbers = [r["detail"]["number"] for r in records(folder) if r["action"] == "explain"]
        assert numbers in (list(range(promised)), list(range(promised + 1)))
        assert acts(folder)[-2:] == ["start", "torn"]
        assert verify(folder).broken is None

    def test_a_file_without_a_line_is_no_break(self, folder: Path, opened: Open, clock: Clock) -> None:
        """A process may end after it made a file and before it wrote to it."""
        opened().close()
        clock.now += timedelta(days=1)
        (folder / "audit-2026-03-31.jsonl").touch()
        opened().record("explain")
        assert acts(folder)[-3:] == ["segment", "start", "explain"]
        assert verify(folder).broken is None

    def test_a_chain_whose_end_was_changed_is_not_gone_on_from(self, folder: Path, opened: Open) -> None:
        """Nobody covers a change by restarting the service over it."""
        opened().close()
        file = files(folder)[0]
        file.write_text(file.read_text().replace('"stop"', '"stap"'))
        before = file.read_bytes()
        with pytest.raises(ConfigError, match=r"the last record of audit-2026-03-30\.jsonl was changed"):
            opened()
        assert file.read_bytes() == before


class TestADiskThatFails:
    def test_a_full_disk_refuses_acts_and_spoils_nothing(
        self, folder: Path, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        """While the disk is full `record` raises, loudly; with room again the chain goes on as if nothing had been."""
        audit = opened()
        with full_disk(files(folder)[0].stat().st_size + 50):
            for _ in range(3):
                with pytest.raises(NotReady, match="the audit log cannot be written"):
                    audit.record("watchlists", "ops")
        assert audit.failures == 3
        assert [record.failures for record in caplog.records if record.levelname == "ERROR"] == [1]
        audit.record("roles", "ops")
        assert acts(folder) == ["segment", "start", "roles"]
        assert verify(folder).broken is None

    def test_a_note_refuses_nobody(self, folder: Path, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
        """What belongs to scoring goes on without its record, which is counted and said."""
        audit = opened()
        with full_disk(files(folder)[0].stat().st_size):
            audit.evidence_given([event(include_evidence=True)])
            wait_until(lambda: audit.failures > 0, "the failure was not counted")
        assert "AUDIT RECORDS ARE LOST" in caplog.messages

    def test_a_file_that_was_taken_away_is_not_written_to(self, folder: Path, opened: Open) -> None:
        """Records do not vanish into a file that is deleted, nor behind what somebody else wrote."""
        audit = opened()
        files(folder)[0].write_text(files(folder)[0].read_text() + "more\n")
        with pytest.raises(NotReady):
            audit.record("explain")
        files(folder)[0].unlink()
        with pytest.raises(NotReady):
            audit.record("explain")

    def test_a_hanging_disk_holds_nobody_for_ever(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Acts are refused after a while, what waits is bounded, and the process can end."""
        monkeypatch.setattr(ledger, "_DISK_S", 0.05)
        monkeypatch.setattr(ledger, "_MOST_WAITING", 3)
        audit = opened()
        with held_disk(monkeypatch, "fsync") as asked:
            with pytest.raises(NotReady, match="does not answer"):
                audit.record("explain")
            assert asked.wait(30)
            for _ in range(5):
                audit.note("evidence")
            assert audit.failures == 3
            audit.close()
        assert "the audit log was not written to its end: the disk does not answer" in caplog.messages
        assert "AUDIT RECORDS ARE LOST" in caplog.messages


class TestVerify:
    def test_a_whole_chain_is_whole(self, chain: Path) -> None:
        """Every record is counted, over all days, and the head is the last one's digest."""
        found = verify(chain)
        last = records(chain)[-1]
        assert (found.records, found.head, found.broken) == (14, Head(14, str(last["hash"])), None)
        assert verify(chain, str(records(chain)[3]["hash"])) == found

    def test_any_changed_byte_is_found_on_its_line(self, copy: Path) -> None:
        """There is no byte of any record that can be another one."""
        file = files(copy)[1]
        whole = file.read_bytes()
        for at in range(0, len(whole), 13):
            if whole[at : at + 1] == b"\n":
                continue
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            broken = verify(copy).broken
            assert broken, at
            line = len(whole[:at].split(b"\n"))
            assert (broken.place, broken.what) == (f"{file}:{line}", "changed")

    @pytest.mark.parametrize("spelled", ["{ ", '{"seq":1,'])
    def test_a_line_is_written_in_one_way(self, copy: Path, spelled: str) -> None:
        """Spaces, or a key that stands twice, are a change, though a parser would see the same record."""
        file = files(copy)[0]
        file.write_text(file.read_text().replace("{", spelled, 1))
        assert broken_at(copy) == (f"{file}:1", "changed")

    @pytest.mark.parametrize("line", [1, 2, 3, 4])
    def test_a_line_that_is_missing_is_found(self, copy: Path, line: int) -> None:
        """Where a record was taken out, the next one does not fit; the beginning of the log is no exception."""
        file = files(copy)[0]
        lines = file.read_text().splitlines(keepends=True)
        del lines[line - 1]
        file.write_text("".join(lines))
        assert broken_at(copy) == (f"{file}:{line}", "missing")

    @pytest.mark.parametrize("day", [0, 1])
    def test_a_day_that_is_missing_is_found(self, copy: Path, day: int) -> None:
        """A file cannot be taken out, not even the first one, if the log does not say itself that it was too old."""
        before = files(copy)
        before[day].unlink()
        assert broken_at(copy) == (f"{before[day + 1]}:1", "missing")

    @pytest.mark.parametrize("first", [1, 2, 4])
    def test_lines_that_changed_places_are_found(self, copy: Path, first: int) -> None:
        """Records stand in their order."""
        file = files(copy)[1]
        lines = file.read_text().splitlines(keepends=True)
        lines[first - 1 : first + 1] = reversed(lines[first - 1 : first + 1]) if first < 4 else [lines[3], lines[3]]
        file.write_text("".join(lines))
        assert broken_at(copy) == (f"{file}:{first + (first == 4)}", "reordered")

    def test_a_line_that_stands_twice_is_found(self, copy: Path) -> None:
        """Nor can the last record be repeated."""
        file = files(copy)[-1]
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join([*lines, lines[-1]]))
        assert broken_at(copy) == (f"{file}:{len(lines) + 1}", "reordered")

    def test_a_record_that_was_written_anew_is_found(self, copy: Path) -> None:
        """A record with a digest of its own that fits is found by the one after it."""
        file = files(copy)[0]
        lines = file.read_bytes().splitlines(keepends=True)
        forged(lines, 2)
        file.write_bytes(b"".join(lines))
        assert broken_at(copy) == (f"{file}:4", "changed")

    def test_a_cut_off_end_is_found_by_its_head(self, copy: Path) -> None:
        """What is missing at the end is seen by whoever kept the head elsewhere, and by nobody else."""
        head = verify(copy).head.hash
        files(copy)[-1].unlink()
        assert verify(copy).broken is None
        assert broken_at(copy, head) == (f"{files(copy)[-1]}:4", "missing")

    def test_an_end_that_was_written_anew_is_found_by_its_head(self, copy: Path) -> None:
        """Whoever can write the folder can forge a chain from any record on, but not to the head that was kept."""
        head = verify(copy).head.hash
        lines = b"".join(file.read_bytes() for file in files(copy)).splitlines(keepends=True)
        for number in range(2, len(lines)):
            forged(lines, number)
        for file in files(copy):
            file.unlink()
        (copy / "audit-2026-03-30.jsonl").write_bytes(b"".join(lines))
        assert verify(copy).broken is None
        assert [broken.what for broken in [verify(copy, head).broken] if broken] == ["missing"]

    def test_old_days_are_deleted_and_the_chain_is_whole(self, folder: Path, opened: Open, clock: Clock) -> None:
        """After `audit_days` whole files go, the log says so, and what is kept can be verified, and no more be cut."""
        audit = opened(days=2)
        for _ in range(6):
            clock.now += timedelta(days=1)
            audit.record("explain")
        audit.close()
        kept = files(folder)
        assert [file.name for file in kept] == [f"audit-2026-04-0{day}.jsonl" for day in (3, 4, 5)]
        found = verify(folder)
        assert found.broken is None
        assert found.begins_after == records(folder)[0]["previous"] != NOTHING
        assert verify(folder, found.begins_after).broken is None
        kept[0].unlink()
        assert broken_at(folder) == (f"{kept[1]}:1", "missing")

    def test_nothing_is_deleted_that_the_log_could_not_tell_of(self, folder: Path, opened: Open, clock: Clock) -> None:
        """On a full disk old files stay."""
        audit = opened(days=1)
        clock.now += timedelta(days=5)
        with full_disk(0), suppress(NotReady):
            audit.record("explain")
        assert len(files(folder)[0].read_text().splitlines()) == 2
        audit.record("explain")
        audit.close()
        assert [file.name for file in files(folder)] == ["audit-2026-04-04.jsonl"]

    def test_a_file_that_cannot_be_deleted_fills_no_log(
        self, folder: Path, opened: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where deleting fails, on files that are protected from it say, that is said once a day and not recorded again."""
        audit = opened(days=1)
        clock.now += timedelta(days=5)
        with monkeypatch.context() as protected:
            protected.setattr(Path, "unlink", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
            for _ in range(3):
                audit.record("explain")
        audit.close()
        assert acts(folder).count("deleted") == 1
        assert verify(folder).broken is None

    def test_the_command_tells_by_its_exit_code(
        self, copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """`audit verify` exits with 0 for a whole log, with 1 and the place for another, with 2 where there is none."""
        run_verify(copy, code=0)
        head = verify(copy).head
        assert capfd.readouterr().out == f"14 records, head 14 {head.hash}\n"
        run_verify(copy, "--head", "f" * 64, code=1)
        file = files(copy)[0]
        file.write_text(file.read_text().replace("caller-1", "caller-9"))
        capfd.readouterr()
        run_verify(copy, code=1)
        assert capfd.readouterr().out.startswith(f"{file}:4: changed: ")
        run_verify(tmp_path, code=2)
        assert f"{tmp_path}: there is no audit-YYYY-MM-DD.jsonl" in capfd.readouterr().err


def broken_at(folder: Path, head: str = "") -> tuple[str, str]:
    broken = verify(folder, head).broken
    assert isinstance(broken, Broken)
    return broken.place, broken.what


def run_verify(folder: Path, *more: str, code: int) -> None:
    with pytest.raises(SystemExit) as left:
        main(["audit", "verify", str(folder), *more])
    assert left.value.code == code


def forged(lines: list[bytes], number: int) -> None:
    """Writes a record anew, for another caller, so that it fits the one before it."""
    before = record_of(lines[number - 1].rstrip())
    record = record_of(lines[number].rstrip())
    assert before
    assert record
    time = datetime.fromisoformat(record["time"])
    act = Act(time, record["action"], "somebody", record["outcome"], record["detail"])
    lines[number], _ = line_of(act, Head(before["seq"], before["hash"]))


def event(verdict: Verdict = Verdict.FLAG, **job: object) -> PairScored:
    """A scored pair with a canary in its texts."""
    of_job = {
        "pair": Pair(f"{CANARY} p", f"{CANARY} r", (Turn("user", f"{CANARY} h"),)),
        "watchlist": "",
        "request_id": "id",
        "labels": {"team": "a"},
        "caller": Caller("triage"),
    } | job
    flagged = (
        IndicatorScore("loud", 2.0, 1.0, verdict == Verdict.FLAG, "high", calibrated=False),
        IndicatorScore("told", 2.0, 1.0, True, "info", calibrated=False),
    )
    return PairScored(ScoreJob(**of_job), scored_pair(verdict, flagged, Coverage(3, 1, 1, 1)))


def test_what_is_being_written_still_takes_room() -> None:
    """What waits is bounded together with what the disk has taken in and not answered; room comes back as it does."""
    begun, go = threading.Semaphore(0), threading.Semaphore(0)

    def write(_: object) -> None:
        begun.release()
        go.acquire()

    writer = Writer[str]("test", write, lambda: None, most=2)
    assert writer.put("a")
    begun.acquire()
    assert [writer.put("b"), writer.put("c")] == [True, False]
    go.release()
    begun.acquire()
    assert [writer.put("c"), writer.put("d")] == [True, False]
    go.release(2)
    assert writer.close(30)
    assert not writer.put("e")


class TestTexts:
    @pytest.mark.parametrize(("which", "kept"), [("flag", ["0"]), ("all", ["0", "1", "2"])])
    def test_what_is_asked_for_is_kept(self, folder: Path, clock: Clock, which: str, kept: list[str]) -> None:
        """A line a pair, with its texts, in a file of the day that is its owner's alone and outside the chain."""
        texts = Texts(folder, which=which, days=30, now=clock)
        texts.keep([event(verdict, request_id=str(number)) for number, verdict in enumerate(reversed(Verdict))][::-1])
        texts.close()
        (file,) = folder.iterdir()
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert (file.name, stat.S_IMODE(file.stat().st_mode)) == ("texts-2026-03-30.jsonl", 0o600)
        assert [row for row in rows if row["verdict"] == "flag"] == [
            {
                "time": "2026-03-30T23:00:00.000+00:00",
                "request_id": next(row["request_id"] for row in rows if row["verdict"] == "flag"),
                "caller": "triage",
                "tenant": "",
                "watchlist": "test",
                "verdict": "flag",
                "prompt": f"{CANARY} p",
                "response": f"{CANARY} r",
                "history": [{"role": "user", "content": f"{CANARY} h"}],
            }
        ]
        assert len(rows) == len(kept)

    def test_texts_need_a_folder(self) -> None:
        """Whoever asks for texts and names no folder is told so before anything is served."""
        with pytest.raises(ValidationError, match="audit_text needs audit_dir"):
            Config(audit_text="flag")
        assert Config(audit_text="flag", audit_dir="/audit").audit_text == "flag"

    def test_texts_are_deleted_in_time(self, folder: Path, clock: Clock) -> None:
        """After `text_days` they go, whether or not anything is written, and with a restart too; the audit log stays."""
        make_chain(folder)
        before = files(folder)
        texts = Texts(folder, which="all", days=2, now=clock)
        for _ in range(4):
            texts.keep([event()])
            wait_until((folder / f"texts-{clock.now.date()}.jsonl").exists, "nothing was kept")
            clock.now += timedelta(days=1)
        texts.close()
        left = sorted(file.name for file in folder.glob("texts-*"))
        assert left[-1] == "texts-2026-04-02.jsonl"
        assert "texts-2026-03-30.jsonl" not in left
        clock.now += timedelta(days=9)
        Texts(folder, which="all", days=2, now=clock).close()
        assert not list(folder.glob("texts-*"))
        assert files(folder) == before

    def test_a_slow_disk_holds_up_nobody(
        self, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """While the disk does not answer, scoring goes on; what does not fit is dropped, counted and said once."""
        texts = Texts(folder, which="all", days=1, most_chars=100, now=clock)
        with held_disk(monkeypatch, "write") as asked:
            texts.keep([event()])
            assert asked.wait(30)
            for _ in range(10):
                texts.keep([event()])
            assert texts.dropped == 9
            assert caplog.messages == ["texts are not kept"]
        texts.close()
        assert len((folder / "texts-2026-03-30.jsonl").read_text().splitlines()) == 2

    def test_a_full_disk_spoils_no_line(self, folder: Path, clock: Clock) -> None:
        """What could not be written is counted, and every line of the file is whole."""
        texts = Texts(folder, which="all", days=1, now=clock)
        file = folder / "texts-2026-03-30.jsonl"
        texts.keep([event(request_id="before")])
        wait_until(lambda: file.exists() and file.read_text(), "nothing was kept")
        with full_disk(file.stat().st_size + 50):
            texts.keep([event()] * 3)
            wait_until(lambda: texts.dropped == 3, "what did not fit was not counted")
        texts.keep([event(request_id="after")])
        texts.close()
        assert [json.loads(line)["request_id"] for line in file.read_text().splitlines()] == ["before", "after"]

    def test_a_text_may_be_taken_out_by_hand(self, folder: Path, clock: Clock) -> None:
        """Whoever deletes a person's texts from the file of today stops nothing."""
        texts = Texts(folder, which="all", days=1, now=clock)
        file = folder / "texts-2026-03-30.jsonl"
        for _ in range(2):
            texts.keep([event()])
            wait_until(lambda: file.exists() and file.read_text(), "nothing was kept")
            file.unlink()
        texts.close()
        assert texts.dropped == 0


def everywhere() -> dict[str, pb.ScoreRequest]:
    """Requests with the canary in one field each, of texts and of everything that is not named to be logged."""
    texts = {"prompt": f"{CANARY} a", "response": f"{CANARY} insulin", "watchlist": CANARY}
    requests = {name: pb.ScoreRequest(**{"response": "a", name: text}) for name, text in texts.items()}
    for role, content, fields in (
        (CANARY, "a", ""),
        (f"{CANARY}\n", "a", ""),
        ("user", CANARY, ""),
        ("user", "a", CANARY),
    ):
        turn = pb.Turn(role=role, content=content, fields_json=fields)
        requests[f"turn {role} {content} {fields}"] = pb.ScoreRequest(response="a", history=[turn])
    for name in ("date", "tools_json", "documents_json", "arguments_json"):
        for text in (CANARY, f'[{{"{CANARY}": "{CANARY}"}}]', f'{{"{CANARY}": "{CANARY}"}}'):
            inputs = pb.TemplateInputs(**{name: text})
            requests[f"{name} {text}"] = pb.ScoreRequest(response="a", template_inputs=inputs)
    too_long = f"{CANARY} " * 2000
    requests |= {name: pb.ScoreRequest(**{"response": "a", name: too_long}) for name in ("request_id", "prompt")}
    requests["labels"] = pb.ScoreRequest(response="a", labels={too_long: too_long})
    return requests


def test_no_text_of_a_request_is_in_logs_or_metrics(server: ServerProcess) -> None:
    """Whatever a caller sends in whichever field, and whatever becomes of it, neither logs nor metrics hold it; but
    the id of a request is logged beside what became of it, and is in no metric."""
    requests = list(everywhere().values())
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = monitor_pb2_grpc.MonitorServiceStub(channel)
        for request in requests:
            with suppress(grpc.RpcError):
                stub.Score(request, timeout=60)
        for first in range(0, len(requests), 4):
            stub.BatchScore(pb.BatchScoreRequest(requests=requests[first : first + 4]), timeout=60)
        own = pb.ScoreRequest(request_id=f"own-{CANARY}", labels={"own": f"own-{CANARY}"})
        for own.response in ("dog", "rain", "gout", "sugar", "answer", "lazy fox", "insulin"):
            if stub.Score(own, timeout=60).verdict == pb.VERDICT_FLAG:
                break
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as page:
        assert CANARY not in page.read().decode()
    wait_until(lambda: any(CANARY in line for line in server.log), "the flag was not logged")
    (line,) = [line for line in server.log if CANARY in line]
    assert json.loads(line)["request_id"] == own.request_id
    assert line.count(CANARY) == 1


async def test_no_text_of_a_request_is_in_the_audit_log(folder: Path, metrics: Metrics) -> None:
    """The audit log tells who asked for evidence of which request, and keeps nothing of the request's texts."""
    audit = Audit(folder, instance="pod-0")
    monitor = build_monitor(LocalCache(0, metrics), metrics, FakeReader(), listeners=[audit.evidence_given])
    pair = Pair(CANARY, CANARY, (Turn("user", CANARY, f'{{"a": "{CANARY}"}}'),))
    job = ScoreJob(pair, "first", "id", include_evidence=True, labels={"a": CANARY}, caller=Caller("triage"))
    await monitor.score([job])
    await asyncio.to_thread(audit.close)
    assert "evidence" in acts(folder)
    assert CANARY not in json.dumps(records(folder))
