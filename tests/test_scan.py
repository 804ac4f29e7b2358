"""A file through the online scorer: the numbers are the server's, no row is lost, and what is done stays done."""

import asyncio
import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import scopewatch
from conftest import House, scored_pair, wait_until
from scopewatch.cli import main
from scopewatch.client import Client, pb
from scopewatch.errors import (
    DataError,
    EngineDied,
    EngineError,
    FieldViolation,
    InvalidRequest,
    NothingUsable,
    NotReady,
    ScopewatchError,
)
from scopewatch.lifecycle.chunks import Unread, chunks_of
from scopewatch.lifecycle.out import Out, out_of
from scopewatch.lifecycle.result_rows import Origin, scored
from scopewatch.lifecycle.scan import Wanted, parts_for, scan
from scopewatch.lifecycle.shards import Scanned
from scopewatch.lifecycle.until_signal import until_signal
from scopewatch.pairs import rows
from scopewatch.pairs.columns import Columns
from scopewatch.pairs.data_files import Reading
from scopewatch.pairs.left_out import Tally
from scopewatch.types import Coverage, ScoreJob, Turn
from scopewatch.verdicts import IndicatorScore, ScoredPair, Verdict
from servers import ServerProcess
from spine import IDENTITY, WATCHLISTS

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

ORIGIN = Origin.of(WATCHLISTS["first"], IDENTITY, 64)


@dataclass
class FakeScorer:
    """Scores a pair by the number that is its response; the second indicator has nothing to read."""

    instead: dict[str, ScopewatchError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        self.asked += [job.pair.response for job in jobs]
        return [self.instead.get(job.pair.response) or self._score(job.pair.response) for job in jobs]

    def _score(self, text: str) -> ScoredPair:
        score = 0.1 * float(text)
        indicators = (
            IndicatorScore("loud", score, 0.5, score > 0.5, "high", calibrated=True, probability=0.25),
            IndicatorScore(
                "past", 0.0, 0.5, flagged=False, severity="low", calibrated=False, skipped_reason="empty_segment"
            ),
        )
        coverage = Coverage(9, 4, 4, 0, response_tokens_dropped=int(text == "7"))
        return scored_pair(Verdict("flag" if score > 0.5 else "pass"), indicators, coverage, "w")


def scan_now(data: Path, out: Path, score: Callable[..., Any], *more_data: Path, **more: Any) -> Scanned:
    """Scans files; `out` is a folder where `each` names a format."""
    options = {"origin": ORIGIN, "indicators": ["loud", "past"], "at_once": 3}
    options |= {name: more.pop(name) for name in options if name in more}
    wanted = Wanted([data, *more_data], Out(out, more.pop("each", "")), **{"part_rows": 4} | more)
    return asyncio.run(scan(wanted, score, **options))


def parts_of(out: Path) -> Path:
    return Out(out).parts


def part_files(out: Path) -> list[Path]:
    """The finished parts of a result."""
    return list(parts_of(out).glob("*/part-*.jsonl"))


def jsonl(file: Path, *found: object) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return file


def numbers(file: Path, count: int) -> Path:
    return jsonl(file, *({"response": str(number)} for number in range(count)))


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a result, without what made them."""
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in asdict(ORIGIN)} for row in found]


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert code == left.value.code


# The numbers


def conversations() -> list[dict[str, Any]]:
    """Long and short, with and without prompt and history."""
    texts = ["It may rain.", "hello world " * 1600, "perhaps 🤷🏽‍♀️", "the quick brown fox", "It is so."]
    return [
        {
            "id": f"p{number}",
            "prompt": "what then? " * (number % 3),
            "response": f"{texts[number % 5]} {number}",
            "history": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "rain"}] * (number % 2),
        }
        for number in range(30)
    ]


def answered(file: Path, number: int, pair: dict[str, Any], reply: pb.ScoreResponse) -> dict[str, Any]:
    """A server's reply as a row."""
    row: dict[str, Any] = {"file": str(file), "row": number, "id": pair["id"]}
    row["verdict"] = pb.Verdict.Name(reply.verdict).removeprefix("VERDICT_").lower()
    row["incomplete"] = " ".join(reply.incomplete) or None
    for part in reply.indicators:
        row[f"{part.name}.score"] = None if part.skipped_reason else part.score
        row[f"{part.name}.flagged"] = part.flagged
        row[f"{part.name}.probability"] = part.probability if part.HasField("probability") else None
        row[f"{part.name}.skipped_reason"] = part.skipped_reason or None
    for name in ("tokens", "truncated", "response_tokens_dropped"):
        row[name] = getattr(reply.coverage, name)
    return row | {"error": None}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_numbers_are_the_servers(house: House, server: ServerProcess, tmp_path: Path, suffix: str) -> None:
    """Verdict, scores, flags, probabilities, what was skipped and cut: all as a real server answers over gRPC."""
    pairs, data, out = conversations(), tmp_path / f"data{suffix}", tmp_path / f"scores{suffix}"
    if suffix == ".jsonl":
        jsonl(data, *pairs)
    else:
        pq.write_table(pa.Table.from_pylist(pairs), data, row_group_size=7)
    run("scan", data, "--out", out, "--watchlist", house.watchlist, "--part-rows", 8)
    expected = []
    with Client(server.grpc_address, timeout_s=60) as client:
        for number, pair in enumerate(pairs, 1):
            history = [Turn(**turn) for turn in pair["history"]]
            reply = client.score(prompt=pair["prompt"], response=pair["response"], history=history)
            expected.append(answered(data, number, pair, reply))

    assert expected == read(out)
    assert {"flag", "pass"} == {row["verdict"] for row in expected}
    assert {True, False} == {row["truncated"] for row in expected}
    assert {None, "empty_segment"} == {row["gamma.skipped_reason"] for row in expected}


def test_both_formats_say_the_same_and_what_made_it(tmp_path: Path) -> None:
    """Parquet has the rows of JSONL; what made them is in its metadata, in JSONL in every row."""
    data = numbers(tmp_path / "data.jsonl", 9)
    for suffix in (".jsonl", ".parquet"):
        scan_now(data, tmp_path / f"out{suffix}", FakeScorer())
    metadata = pq.read_schema(tmp_path / "out.parquet").metadata
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    assert read(tmp_path / "out.jsonl") == read(tmp_path / "out.parquet")
    assert asdict(ORIGIN) == json.loads(metadata[b"scopewatch"])
    assert all(asdict(ORIGIN).items() <= line.items() for line in lines)
    assert (WATCHLISTS["first"].digest, IDENTITY.reader.digest, scopewatch.__version__) == (
        ORIGIN.watchlist_digest,
        ORIGIN.reader_digest,
        ORIGIN.scopewatch,
    )


def test_a_row_holds_what_was_said_of_its_pair(tmp_path: Path) -> None:
    """Every column, of a pair that is flagged and cut; a skipped indicator has no score."""
    data = jsonl(tmp_path / "data.jsonl", {"response": "7", "id": 12, "label": "anything"})

    assert Scanned(1, 0, Tally(1)) == scan_now(data, tmp_path / "out.parquet", FakeScorer())
    (row,) = read(tmp_path / "out.parquet")
    assert {
        "file": str(data),
        "row": 1,
        "id": "12",
        "verdict": "flag",
        "incomplete": None,
        "loud.score": 0.1 * 7,
        "loud.flagged": True,
        "loud.probability": 0.25,
        "loud.skipped_reason": None,
        "past.score": None,
        "past.flagged": False,
        "past.probability": None,
        "past.skipped_reason": "empty_segment",
        "tokens": 9,
        "truncated": True,
        "response_tokens_dropped": 1,
        "error": None,
    } == row


# Rows that cannot be scored


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(b"{", "unreadable: not JSON: Expecting property name", id="no JSON"),
        pytest.param(b'{"response": "\xff"}', "unreadable: not UTF-8 at byte 14", id="no UTF-8"),
        pytest.param(b"[" * 100_000, "unreadable: nested too deeply", id="nested"),
        pytest.param(b"[1]", "unreadable: expected an object", id="no object"),
        pytest.param(b'{"prompt": "a"}', "no_text: response: expected text that is not empty", id="no response"),
        pytest.param(b'{"response": 1}', "unreadable: response: expected text", id="no text"),
        pytest.param(b'{"response": "\\ud800"}', "unreadable: response: half a surrogate pair", id="surrogate"),
        pytest.param(b'{"response": "a", "history": "b"}', "unreadable: history: expected a list", id="history"),
        pytest.param(b'{"response": "%s"}' % (b"a" * 200_000), "unreadable: longer than 150000 bytes", id="too long"),
    ],
)
def test_a_line_that_cannot_be_read_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, said: str
) -> None:
    """What is wrong stands in its own row, at its line; blank lines are none, and the others are scored."""
    monkeypatch.setattr(rows, "_MAX_LINE_BYTES", 150_000)
    data = tmp_path / "data.jsonl"
    data.write_bytes(b'{"response": "1"}\n' + line + b'\n\n{"response": "9"}')

    found = scan_now(data, tmp_path / "out.jsonl", FakeScorer())
    assert (1, 3, {said.partition(":")[0]: 1}) == (found.flagged, found.tally.read, found.tally.reasons)
    assert found.tally.first[0].startswith(f"{data}:2: {said.partition(': ')[2]}")
    first, wrong, last = read(tmp_path / "out.jsonl")
    assert [(1, "pass", None), (4, "flag", None)] == [
        (row["row"], row["verdict"], row["error"]) for row in (first, last)
    ]
    assert wrong.pop("error").startswith(said)
    assert {str(data), 2, None} == {wrong.pop("file"), wrong.pop("row"), *wrong.values()}


def test_a_cell_that_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    """Nothing, bytes that are no text: each is an error in its own row of Parquet."""
    column = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\2\0\0\0"), pa.py_buffer(b"1\xff"), pa.py_buffer(b"\3")
    )
    pq.write_table(pa.table({"response": column}), tmp_path / "data.parquet")

    found = scan_now(tmp_path / "data.parquet", tmp_path / "out.parquet", FakeScorer())
    assert (3, {"unreadable": 1, "no_text": 1}) == (found.tally.read, found.tally.reasons)
    assert [
        None,
        "unreadable: not UTF-8 at byte 0; save it as UTF-8",
        "no_text: response: expected text that is not empty",
    ] == [row["error"] for row in read(tmp_path / "out.parquet")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InvalidRequest(FieldViolation("history", "is odd")), "invalid_request: history: is odd"),
        (EngineError("the reader failed"), "engine_error: the reader failed"),
    ],
)
def test_a_pair_that_cannot_be_scored_is_a_row(tmp_path: Path, error: ScopewatchError, said: str) -> None:
    """What is wrong with one pair, whatever its cause, keeps its place and its id."""
    data = jsonl(tmp_path / "data.jsonl", {"response": "1"}, {"response": "2", "id": "odd"}, {"response": "3"})
    scan_now(data, tmp_path / "out.jsonl", FakeScorer({"2": error}))

    assert [(1, "1", None), (2, "odd", said), (3, "3", None)] == [
        (row["row"], row["id"], row["error"]) for row in read(tmp_path / "out.jsonl")
    ]


def test_rows_that_failed_show_in_the_exit_code(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result is written whole, and the command exits with 3, and with 1 where no row at all could be scored."""
    data = jsonl(tmp_path / "data.jsonl", {"response": "It may rain."}, {}, {"response": " "})
    run("scan", data, "--out", tmp_path / "out.jsonl", "--watchlist", house.watchlist, code=3)
    out, err = capsys.readouterr()

    assert 3 == len(read(tmp_path / "out.jsonl"))
    assert out.startswith(f"{tmp_path / 'out.jsonl'}: 3 rows, ")
    assert [
        f"{data}:2: response: expected text that is not empty; there are: none",
        f"{data}:3: response: expected text that is not empty",
        "scopewatch: read 3 rows, scored 1, left out 2: 2 no_text",
    ] == err.splitlines()[-3:]
    jsonl(data, {}, {"response": " "})
    run("scan", data, "--out", tmp_path / "none.jsonl", "--watchlist", house.watchlist, code=1)
    assert 2 == len(read(tmp_path / "none.jsonl"))


def test_what_was_not_read_whole_is_a_verdict_of_its_own(tmp_path: Path) -> None:
    """INCOMPLETE stands in its row with the reason, and is counted by itself."""

    async def score(jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        whole = await FakeScorer()(jobs)
        cut = replace(
            whole[0].judgement, verdict=Verdict.INCOMPLETE, incomplete=("A text was cut.", "So was one more.")
        )
        return [replace(whole[0], judgement=cut), *whole[1:]]

    found = scan_now(numbers(tmp_path / "data.jsonl", 3), tmp_path / "out.jsonl", score)

    assert (0, 1, 3, {}) == (found.flagged, found.incomplete, found.tally.read, found.tally.reasons)
    assert [("incomplete", "A text was cut. So was one more."), ("pass", None), ("pass", None)] == [
        (row["verdict"], row["incomplete"]) for row in read(tmp_path / "out.jsonl")
    ]


def test_strict_ends_at_the_first_row_that_cannot_be_scored(tmp_path: Path) -> None:
    """Where every row has to be used, the first that cannot be read or scored is named, and no result is written."""
    data = jsonl(tmp_path / "data.jsonl", {"response": "1"}, {"response": "2"}, {})
    for instead, said in (
        ({"2": InvalidRequest(FieldViolation("history", "is odd"))}, f"{data}:2: history: is odd"),
        ({}, f"{data}:3: response: expected text that is not empty; there are: none"),
    ):
        with pytest.raises(DataError) as caught:
            scan_now(data, tmp_path / "out.jsonl", FakeScorer(instead), reading=Reading(strict=True))
        assert said == str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_several_files_are_one_result(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of a pattern, of any format, are scored one after the other, their columns named by flags."""
    monkeypatch.chdir(tmp_path)
    jsonl(Path("log-2.jsonl"), {"output": {"text": "It may rain."}, "key": "b"})
    pq.write_table(pa.table({"output": [{"text": "hello"}], "key": ["a"]}), "log-1.parquet")
    scan_them = ["scan", "log-*", "--out", "out.jsonl", "--watchlist", house.watchlist, "--id-column", "key"]
    run(*scan_them, "--response-column", "output.text")

    assert [("log-1.parquet", 1, "a"), ("log-2.jsonl", 1, "b")] == [
        (row["file"], row["row"], row["id"]) for row in read(Path("out.jsonl"))
    ]
    run(*scan_them, "--overwrite", "--response-column", "text", code=2)
    said = "scopewatch: log-1.parquet: has no column text or messages; there are: output, key\n"
    assert said == capsys.readouterr().err


def test_other_columns_are_another_scan(tmp_path: Path) -> None:
    """Parts that were made of other columns of the same files are never mixed in."""
    data = jsonl(tmp_path / "data.jsonl", *({"response": str(number), "b": "1"} for number in range(9)))
    with pytest.raises(EngineDied):
        scan_now(data, tmp_path / "out.jsonl", FakeScorer({"8": EngineDied("gone")}))

    with pytest.raises(DataError, match="was begun with another columns; delete the folder"):
        scan_now(data, tmp_path / "out.jsonl", FakeScorer(), reading=Reading(Columns(response="b")))


# What is done stays done


@pytest.mark.parametrize("error", [EngineDied("gone"), NotReady("closing")], ids=lambda error: error.reason)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_going_on_asks_only_for_what_is_missing(tmp_path: Path, error: ScopewatchError, suffix: str) -> None:
    """A failure of the scorer itself ends the scan; the next one begins after the last finished part."""
    data, out = numbers(tmp_path / "data.jsonl", 19), tmp_path / f"out{suffix}"
    scan_now(data, tmp_path / f"whole{suffix}", FakeScorer())
    with pytest.raises(type(error)):
        scan_now(data, out, FakeScorer({"10": error}))
    assert not out.exists()
    second = FakeScorer()

    assert Scanned(13, 0, Tally(19)) == scan_now(data, out, second)
    assert [str(number) for number in range(8, 19)] == second.asked
    assert read(tmp_path / f"whole{suffix}") == read(out)
    assert not parts_of(out).exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)], ids=["SIGKILL", "SIGTERM"])
def test_a_scan_that_was_killed_goes_on(house: House, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Killed half-way, the same command goes on, and the result is that of a scan nobody disturbed."""
    data = jsonl(tmp_path / "data.jsonl", *({"response": f"It may rain {count}."} for count in range(300)))
    command = ["scan", str(data), "--watchlist", str(house.watchlist), "--part-rows", "10", "--out"]
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    program = [sys.executable, "-m", "scopewatch", *command, str(out)]
    scanning = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(part_files(out)) > 1, "no part was finished", 120)
    scanning.send_signal(number)
    _, err = scanning.communicate(timeout=60)

    assert code == scanning.returncode, err
    assert (f"scopewatch: stopped; the same command goes on with {parts_of(out)}" in err) is (code > 0)
    assert "Traceback" not in err
    assert not out.exists()
    assert 2 <= len(part_files(out)) < 30
    run(*command, out)
    run(*command, whole)
    assert whole.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_work_and_is_told(number: signal.Signals) -> None:
    """Ctrl-C and Kubernetes' signal end what runs; whoever waited for it learns which came."""

    async def work() -> Scanned:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()
        raise AssertionError

    assert number == asyncio.run(until_signal(work()))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"part_rows": 5}, "part_rows", id="part size"),
        pytest.param(
            {"origin": Origin.of(WATCHLISTS["second"], IDENTITY, 32)}, "engine_digest, watchlist", id="origin"
        ),
        pytest.param({}, "content of {data}", id="data"),
    ],
)
def test_parts_of_something_else_are_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    """Parts made of other data, by another watchlist or engine, or of another size are never mixed in."""
    data, out = numbers(tmp_path / "data.jsonl", 9), tmp_path / "out.jsonl"
    with pytest.raises(EngineDied):
        scan_now(data, out, FakeScorer({"8": EngineDied("gone")}))
    if not change:
        numbers(data, 10)
    with pytest.raises(DataError) as refused:
        scan_now(data, out, FakeScorer(), **change)

    assert str(refused.value) == (
        f"{parts_of(out)}: was begun with another {named.format(data=data)}; delete the folder to begin anew, or give another --out"
    )


def test_parts_before_the_first_is_finished_bind_nobody(tmp_path: Path) -> None:
    """Where nothing was finished there is nothing to mix, so that other settings may begin."""
    data, out = numbers(tmp_path / "data.jsonl", 9), tmp_path / "out.jsonl"
    with pytest.raises(EngineDied):
        scan_now(data, out, FakeScorer({"1": EngineDied("gone")}))

    assert not parts_of(out).exists()
    assert 9 == scan_now(data, out, FakeScorer(), part_rows=5).tally.read


def test_two_scans_do_not_write_one_result(tmp_path: Path) -> None:
    """While one scan writes, another to the same place is refused."""
    data, out = numbers(tmp_path / "data.jsonl", 9), tmp_path / "out.jsonl"

    async def scan_again(_: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        await scan(Wanted([data], Out(out)), FakeScorer(), origin=ORIGIN, indicators=[], at_once=1)
        raise AssertionError

    with pytest.raises(DataError, match="another scan is writing here"):
        scan_now(data, out, scan_again)


# Files


def test_files_are_checked_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong name, a missing file or folder, a result that is there, a missing library: each is one clear error."""
    data, out = numbers(tmp_path / "data.jsonl", 1), tmp_path / "out.jsonl"

    def refused(data: Path, out: Path) -> str:
        with pytest.raises(DataError) as error:
            out_of(str(out), "").check([data], overwrite=False)
        return str(error.value)

    assert f"{tmp_path / 'out.csv'}: expected a name that ends in .jsonl or .parquet" == refused(
        data, tmp_path / "out.csv"
    )
    assert f"{tmp_path / 'no'}: no such folder" == refused(data, tmp_path / "no" / "out.jsonl")
    out.touch()
    assert f"{out}: exists already; give another --out, or --overwrite" == refused(data, out)
    Out(out).check([data], overwrite=True)
    (out.with_name("same.jsonl")).symlink_to(data)
    for itself in (data, out.with_name("same.jsonl")):
        with pytest.raises(DataError, match="is the file to be scored; give another --out"):
            Out(itself).check([data], overwrite=True)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "Parquet files need pyarrow: pip install 'scopewatch[calibration]'" in refused(data, tmp_path / "a.parquet")
    assert 1 == scan_now(data, out, FakeScorer()).tally.read


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "not a Parquet file that can be read", id="empty"),
        pytest.param(b"PAR1 and no more PAR1", "not a Parquet file that can be read", id="torn"),
        pytest.param({"text": ["a"]}, "has no column response or messages; there are: text", id="other columns"),
        pytest.param({"response": pa.array([], pa.string())}, "holds no rows", id="no rows"),
    ],
)
def test_a_parquet_file_that_cannot_be_used_is_named(tmp_path: Path, content: Any, said: str) -> None:
    """What is wrong with the whole file is one error with its name."""
    data = tmp_path / "data.parquet"
    if isinstance(content, bytes):
        data.write_bytes(content)
    else:
        pq.write_table(pa.table(content), data)

    with pytest.raises(DataError) as error:
        scan_now(data, tmp_path / "out.jsonl", FakeScorer())
    assert str(error.value).startswith(f"{data}: {said}")


def test_a_large_row_group_is_never_whole_in_memory(tmp_path: Path) -> None:
    """A file of one row group of 64 MB is read in less than half of that."""
    texts = [os.urandom(4000).hex() for _ in range(8000)]
    pq.write_table(pa.table({"response": texts}), tmp_path / "data.parquet", row_group_size=8000)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    found, most = [], 0
    for row in rows.rows_of([tmp_path / "data.parquet"], Columns()):
        found.append((row.number, row.load() == {"response": texts[row.number - 1]}))
        most = max(most, pool.bytes_allocated() - before)

    assert [(number, True) for number in range(1, 8001)] == found
    assert 0 < most < 32_000_000


def test_scan_takes_one_watchlist(house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two watchlists would be two results."""
    data = numbers(tmp_path / "data.jsonl", 1)
    run("scan", data, "--out", tmp_path / "a.jsonl", "--watchlist", house.watchlist, house.watchlist, code=2)

    assert "scan scores against one watchlist, not 2; run it once for each" in capsys.readouterr().err


# Where it goes on


def bytes_read() -> int:
    """The number of bytes that this process has read so far, as the kernel counts them."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


def write_lines(file: Path, found: list[dict[str, object]]) -> None:
    """JSONL with a byte order mark, blank lines and Windows' ends of lines."""
    with gzip.open(file, "wb") if file.suffix == ".gz" else file.open("wb") as stream:
        stream.write(b"\xef\xbb\xbf\n")
        for row in found:
            stream.write(json.dumps(row).encode() + b"\r\n\n")


def write_csv(file: Path, found: list[dict[str, object]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, found[0])
        writer.writeheader()
        writer.writerows(found)


def write_parquet(file: Path, found: list[dict[str, object]]) -> None:
    pq.write_table(pa.Table.from_pylist(found), file, row_group_size=3)


FORMS = {
    "data.jsonl": write_lines,
    "data.jsonl.gz": write_lines,
    "data.csv": write_csv,
    "data.parquet": write_parquet,
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_goes_on_at_every_part(tmp_path: Path, name: str) -> None:
    """Wherever a scan is stopped, the next one asks for exactly the rows behind, under their own numbers."""
    data = tmp_path / name
    FORMS[name](data, [{"response": str(number), "id": f"line\n{number}"} for number in range(11)])
    scan_now(data, tmp_path / "whole.jsonl", FakeScorer())
    for stop in range(0, 11, 2):
        out = tmp_path / f"{stop}.jsonl"
        with pytest.raises(EngineDied):
            scan_now(data, out, FakeScorer({str(stop): EngineDied("gone")}), part_rows=2)
        second = FakeScorer()
        scan_now(data, out, second, part_rows=2)

        assert [str(number) for number in range(stop, 11)] == second.asked
        assert (tmp_path / "whole.jsonl").read_text() == out.read_text()


def test_what_is_done_is_not_read_again(tmp_path: Path) -> None:
    """Of 40 MB, of which all but the end is done, a scan that goes on reads less than a tenth."""
    data = jsonl(tmp_path / "data.jsonl", *({"response": str(n), "more": "x" * 400_000} for n in range(100)))
    with pytest.raises(EngineDied):
        scan_now(data, tmp_path / "out.jsonl", FakeScorer({"97": EngineDied("gone")}))
    before = bytes_read()
    scan_now(data, tmp_path / "out.jsonl", FakeScorer())

    assert bytes_read() - before < data.stat().st_size / 10


def test_a_file_that_was_touched_is_read_and_one_that_changed_refused(tmp_path: Path) -> None:
    """Another time of change is no other content; another content of the same size is."""
    data, out = numbers(tmp_path / "data.jsonl", 9), tmp_path / "out.jsonl"
    with pytest.raises(EngineDied):
        scan_now(data, out, FakeScorer({"8": EngineDied("gone")}))
    os.utime(data, (1, 1))
    with pytest.raises(EngineDied):
        scan_now(data, out, FakeScorer({"8": EngineDied("gone")}))
    data.write_text(data.read_text().replace('"3"', '"4"'))
    with pytest.raises(DataError, match="was begun with another content of"):
        scan_now(data, out, FakeScorer())


def test_many_short_files_are_scored_together(tmp_path: Path) -> None:
    """Files of one row each are given to the scorer by as many as it takes, and stand in the order of their names."""
    sizes: list[int] = []

    class Counting(FakeScorer):
        async def __call__(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
            sizes.append(len(jobs))
            return await super().__call__(jobs)

    files = [jsonl(tmp_path / f"{number}.jsonl", {"response": str(number)}) for number in range(9)]
    found = scan_now(files[0], tmp_path / "out.jsonl", Counting(), *files[1:], at_once=4, part_rows=4)

    assert ([4, 4, 1], 9) == (sizes, found.tally.read)
    assert [str(file) for file in files] == [row["file"] for row in read(tmp_path / "out.jsonl")]


# A folder of results


@pytest.mark.parametrize("each", ["jsonl", "parquet"])
def test_each_file_has_a_result_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: str) -> None:
    """Results lie under the names of their files; what is done is left alone, and a file that came later is scored."""
    monkeypatch.chdir(tmp_path)
    Path("logs/old").mkdir(parents=True)
    first, second = numbers(Path("logs/a.jsonl"), 9), numbers(Path("logs/old/a.jsonl"), 3)
    assert Scanned(3, 0, Tally(12)) == scan_now(first, Path("out"), FakeScorer(), second, each=each)
    third, again = numbers(Path("logs/b.jsonl"), 2), FakeScorer()

    assert Scanned(3, 0, Tally(14)) == scan_now(first, Path("out"), again, second, third, each=each)
    assert ["0", "1"] == again.asked
    assert [9, 3, 2] == [len(read(Path("out/logs", f"{name}.{each}"))) for name in ("a", "old/a", "b")]
    alone = tmp_path / f"alone.{each}"
    scan_now(first, alone, FakeScorer())
    assert read(alone) == read(Path(f"out/logs/a.{each}"))


def test_a_result_that_is_gone_or_to_be_replaced_is_made_again(tmp_path: Path) -> None:
    """A result that was deleted is made anew; with `overwrite` all are; another's file is in nobody's way unasked."""
    data, out = numbers(tmp_path / "data.jsonl", 3), tmp_path / "out"
    result = Out(out, "jsonl").of(data)
    for prepare, overwrite, asked in (
        (lambda: None, False, 3),
        (lambda: None, False, 0),
        (result.unlink, False, 3),
        (lambda: None, True, 3),
    ):
        prepare()
        scorer = FakeScorer()
        scan_now(data, out, scorer, each="jsonl", overwrite=overwrite)
        assert asked == len(scorer.asked)
    other = Out(tmp_path / "other", "jsonl")
    other.of(data).parent.mkdir(parents=True)
    other.of(data).touch()
    with pytest.raises(DataError, match="exists already; give another --out, or --overwrite"):
        scan_now(data, other.path, FakeScorer(), each="jsonl")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["a.jsonl", "a.csv"],
            "a.csv: its result would be out/a.jsonl, as that of a.jsonl; scan csv files into another",
        ),
        (["out/b.jsonl"], "out/b.jsonl: lies in out, where the results go; give another --out"),
        (["../a.jsonl"], "../a.jsonl: has no place of its own below out; give --out a file name"),
        (["-"], "-: has no place of its own below out; give --out a file name"),
    ],
)
def test_files_whose_results_have_no_place_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], said: str
) -> None:
    """Two files are never written to one result, nor results scored as data."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as refused:
        out_of("out/", "").check([Path(name) for name in names], overwrite=False)
    assert str(refused.value).startswith(said)


def test_how_a_name_says_what_the_result_is(tmp_path: Path) -> None:
    """A folder that is there, or a slash at the end; the format of a file stands in its name."""
    assert Out(tmp_path, "jsonl") == out_of(str(tmp_path), "")
    assert Out(Path("new"), "parquet") == out_of("new/", "parquet")
    assert Out(Path("new.parquet")) == out_of("new.parquet", "")
    with pytest.raises(DataError, match="give --each only where --out is a folder"):
        out_of("new.parquet", "jsonl")


def test_parts_that_came_out_of_order_are_kept(tmp_path: Path) -> None:
    """Where a later part was finished first, only those that are missing are scored, and the result is in order."""
    data, out = numbers(tmp_path / "data.jsonl", 11), Out(tmp_path / "out.jsonl")
    chunks = list(chunks_of(Unread(data, 2), Columns()))
    assert [(number, number == 5) for number in range(6)] == [(chunk.number, chunk.is_last) for chunk in chunks]
    wanted = Wanted([data], out, part_rows=2)
    with parts_for(wanted, ORIGIN, ["loud", "past"]) as parts:
        for number in (3, 0, 1):
            (rows,) = asyncio.run(scored([chunks[number]], FakeScorer(), ["loud", "past"], 3))
            parts.add(chunks[number], rows)
            parts.add(chunks[number], [])
    again = FakeScorer()
    scan_now(data, out.path, again, part_rows=2)

    assert ["4", "5", "8", "9", "10"] == again.asked
    scan_now(data, tmp_path / "whole.jsonl", FakeScorer(), part_rows=2)
    assert (tmp_path / "whole.jsonl").read_text() == out.path.read_text()


def test_a_file_without_rows_takes_nothing_from_those_that_were_scored_before(tmp_path: Path) -> None:
    """In a folder, what is known of other files stays: their results are neither refused nor made again."""
    data, empty, out = numbers(tmp_path / "data.jsonl", 3), numbers(tmp_path / "empty.jsonl", 0), tmp_path / "out"
    scan_now(data, out, FakeScorer(), each="jsonl")
    with pytest.raises(NothingUsable, match="holds no rows"):
        scan_now(empty, out, FakeScorer(), each="jsonl")
    again = FakeScorer()

    assert Scanned(0, 0, Tally(3)) == scan_now(data, out, again, each="jsonl")
    assert [] == again.asked
