"""The verdict log: a line for each pair that did not pass and for a share of the others, as its page says, without text."""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from collector import collecting, log_records
from conftest import need, scored_pair
from scopewatch.config import BUNDLED_WATCHLIST
from scopewatch.errors import InvalidRequest
from scopewatch.events import PairFailed, PairScored
from scopewatch.logs import verdict_log
from scopewatch.logs.lines import JsonLines
from scopewatch.logs.verdict_log import MOST_FAILED_PER_S, VerdictLog
from scopewatch.metrics import Metrics
from scopewatch.pipeline.cache import LocalCache
from scopewatch.types import Caller, Coverage, Pair, ScoreJob, Trace, Turn
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.verdicts import IndicatorScore, Verdict
from servers import config, direct, serving
from spine import FakeReader, build_monitor

PAGE = Path(__file__).parents[1] / "docs" / "verdict-log.md"
WORD = "kanarie7f3a"
SECRET = "an example"
RAIN = "It may rain tomorrow, perhaps."
CONTEXT = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


def event(verdict: Verdict = Verdict.FLAG, **job: object) -> PairScored:
    """A scored pair with a word in all its texts, of which two indicators are flagged."""
    flagged = (
        IndicatorScore("loud", 2.0, 1.0, verdict == Verdict.FLAG, "high", calibrated=False),
        IndicatorScore("told", 2.0, 1.0, True, "info", calibrated=False),
    )
    return PairScored(asked(**job), scored_pair(verdict, flagged, Coverage(3, 1, 1, 1)))


def asked(**changes: object) -> ScoreJob:
    job = {
        "pair": Pair(f"{WORD} p", f"{WORD} r", (Turn("user", f"{WORD} h"),)),
        "watchlist": "",
        "request_id": "id",
        "labels": {WORD: WORD},
        "caller": Caller("triage"),
    }
    return ScoreJob(**(job | changes))


class TestLines:
    @pytest.fixture(autouse=True)
    def _logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "scopewatch.verdicts")

    @pytest.mark.parametrize("verdict", [Verdict.FLAG, Verdict.INCOMPLETE])
    def test_every_verdict_but_pass_is_logged(self, caplog: pytest.LogCaptureFixture, verdict: Verdict) -> None:
        """The line says whose pair it was, by what it was judged and how, and holds nothing of its texts and labels."""
        VerdictLog().scored([event(verdict), event(Verdict.PASS)])
        (line,) = caplog.records
        assert line.message == {"flag": "flagged", "incomplete": "incomplete"}[verdict]
        assert (line.request_id, line.caller, line.watchlist, line.verdict) == ("id", "triage", "test", verdict)
        assert line.indicators == (["loud"] if verdict == Verdict.FLAG else [])
        assert hasattr(line, "incomplete") == (verdict == Verdict.INCOMPLETE)
        assert WORD not in str(vars(line))

    @pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.3, 270, 330), (1.0, 1000, 1000)])
    def test_a_share_of_what_passed_is_logged(
        self, caplog: pytest.LogCaptureFixture, share: float, least: int, most: int
    ) -> None:
        """The request's id alone decides, so that another replica, or a retry, logs the same pairs."""
        events = [event(Verdict.PASS, request_id=str(number)) for number in range(1000)]
        VerdictLog(pass_share=share).scored(events)
        logged = [line.request_id for line in caplog.records]
        assert least <= len(logged) <= most
        caplog.clear()
        VerdictLog(pass_share=share).scored([*events[500:], *events[:500]])
        assert sorted(line.request_id for line in caplog.records) == sorted(logged)
        assert {line.message for line in caplog.records} <= {"passed"}

    def test_nothing_is_made_of_pairs_that_are_not_logged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pairs that passed cost neither a digest of their texts nor a line."""
        made = VerdictLog()
        monkeypatch.setattr(verdict_log, "hmac", None)
        monkeypatch.setattr(verdict_log, "hashlib", None)
        made.scored([event(Verdict.PASS)])
        with pytest.raises(AttributeError):
            made.scored([event(Verdict.FLAG)])

    def test_a_traced_pair_names_its_trace(self, caplog: pytest.LogCaptureFixture) -> None:
        """Others have no such field."""
        log = VerdictLog()
        log.scored([event(trace=Trace("a" * 32, "b" * 16)), event()])
        log.failed([PairFailed(asked(trace=Trace("c" * 32, "b" * 16)), "overloaded", "test")])
        assert [getattr(line, "trace_id", None) for line in caplog.records] == ["a" * 32, None, "c" * 32]

    def test_without_a_secret_digests_are_the_processes_own(self, caplog: pytest.LogCaptureFixture) -> None:
        """Equal texts have equal digests, and none that others could make of a guess."""
        log, other = VerdictLog(), VerdictLog()
        log.scored([event(), event()])
        other.scored([event()])
        first, second, third = (line.response_digest for line in caplog.records)
        assert first == second != third
        guesses = [hmac.digest(key, f"{WORD} r".encode(), "sha256").hex() for key in (b"", b"verdict log")]
        assert first not in [*guesses, hashlib.sha256(f"{WORD} r".encode()).hexdigest()]

    def test_odd_texts_have_digests(self, caplog: pytest.LogCaptureFixture) -> None:
        """Also those of files that hold half a character; an empty text has none."""
        VerdictLog().scored([event(pair=Pair("", "\ud800"))])
        (line,) = caplog.records
        assert len(line.response_digest) == 64
        assert not hasattr(line, "prompt_digest")

    def test_failed_pairs_are_logged_up_to_a_rate(self, caplog: pytest.LogCaptureFixture) -> None:
        """Beyond it they are counted, and the next line says how many are missing."""
        now_s = 100.0
        log = VerdictLog(clock=lambda: now_s)
        failed = [PairFailed(asked(), "overloaded", "test", 0.25)] * (MOST_FAILED_PER_S + 7)
        log.failed(failed)
        assert [line.message for line in caplog.records] == ["failed"] * MOST_FAILED_PER_S
        assert (caplog.records[0].reason, caplog.records[0].timings_ms) == ("overloaded", {"total": 250.0})
        assert WORD not in str(vars(caplog.records[0]))
        caplog.clear()
        now_s = 101.0
        log.failed(failed[:2])
        assert [line.message for line in caplog.records] == ["failed pairs were left out", "failed", "failed"]
        assert caplog.records[0].pairs == 7


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The lines of a real server over the bundled watchlist, by their event."""

    async def run() -> None:
        settings = config(BUNDLED_WATCHLIST, cache_secret=SECRET, log_pass_share=1, max_windows=1, otlp_endpoint=url)
        async with serving(settings) as server, direct(server.grpc_address) as stub:
            rain = pb.ScoreRequest(request_id="r-1", prompt="Will it rain?", response=RAIN, labels={"team": "a"})
            long = pb.ScoreRequest(request_id="r-2", prompt="Count.", response="1 2 3 4 5 6 7 8 9 " * 70)
            passing = pb.ScoreRequest(request_id="r-3", prompt="Which day is it?", response="It is Monday.")
            wrong = pb.ScoreRequest(request_id="r-4", response="It is Monday.", response_token_ids=[10**6])
            await stub.Score(rain, metadata=[CONTEXT], timeout=60)
            for request in (long, passing, wrong):
                try:
                    await stub.Score(request, timeout=60)
                except grpc.aio.AioRpcError as error:
                    assert request is wrong, error  # noqa: PT017

    with log_records() as records, collecting() as collector:
        url = collector.url
        asyncio.run(run())
    lines = [JsonLines().format(one) for one in records if one.name == "scopewatch.verdicts"]
    return {line["event"]: line for line in map(json.loads, lines)}


def examples() -> dict[str, dict[str, Any]]:
    """The lines that the page shows, by their event."""
    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return {line["event"]: line for line in map(json.loads, block.splitlines())}


def lasting(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what is another each time: when it was, how long stages took, and what a watchlist's file holds."""
    timings = list(line["timings_ms"])
    return line | {"time": "", "timings_ms": timings, "watchlist_digest": len(line.get("watchlist_digest", ""))}


@pytest.mark.parametrize("name", ["flagged", "incomplete", "passed", "failed"])
def test_the_page_shows_real_lines(written: dict[str, dict[str, Any]], name: str) -> None:
    """The fields of each, in their order, and their values."""
    real = written[name]
    assert lasting(examples()[name]) == lasting(real), json.dumps(real)
    assert list(examples()[name]) == list(real)


def test_the_page_tells_every_field(written: dict[str, dict[str, Any]]) -> None:
    """Those of its table are those of the lines, and so are the stages."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = [name for names, _, _ in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(told) == sorted({name for line in written.values() for name in line})
    (stages,) = (text for names, _, text in rows if "timings_ms" in names)
    real = {stage for line in written.values() for stage in line["timings_ms"]}
    assert set(re.findall(r"`(\w+)`", stages)) == real | {"queue"}


def test_a_text_is_found_by_the_command_of_the_page(written: dict[str, dict[str, Any]]) -> None:
    """Whoever has the secret and the text makes the digest that stands in the line."""
    need("openssl")
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    made = subprocess.run(
        ["bash", "-ec", command],
        env={"SECRET": SECRET, "TEXT": RAIN, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert made.stdout.decode().split()[0] == written["flagged"]["response_digest"]


async def test_whoever_listens_is_told_of_every_pair_that_fails(metrics: Metrics) -> None:
    """With the reason that metrics count and the watchlist that was to judge, also where the call was given up."""
    reader, told = FakeReader(), list[PairFailed]()
    monitor = build_monitor(LocalCache(0, metrics), metrics, reader, failure_listeners=[told.extend])
    reader.refuses["bad"] = InvalidRequest()
    good, bad, lost = (ScoreJob(Pair("", text), name, text) for text, name in (("a", ""), ("bad", ""), ("b", "none")))
    await monitor.score([good, bad, lost])
    assert [(one.job, one.reason, one.watchlist) for one in told] == [
        (bad, "invalid_request", "first"),
        (lost, "unknown_watchlist", "unknown"),
    ]

    told.clear()
    begun = asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    waiting = asyncio.create_task(
        build_monitor(LocalCache(0, Metrics()), Metrics(), reader, submit=hang, failure_listeners=[told.extend]).score(
            [good]
        )
    )
    await begun.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert [(one.job, one.reason) for one in told] == [(good, "cancelled")]

    told.clear()
    reader.tokenise = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=WORD):
        await build_monitor(LocalCache(0, Metrics()), Metrics(), reader, failure_listeners=[told.extend]).score([good])
    assert [(one.job, one.reason) for one in told] == [(good, "failed")]


async def fail(*_: object) -> list[object]:
    raise ValueError(WORD)
