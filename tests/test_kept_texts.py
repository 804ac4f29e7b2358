"""Kept texts are found again by the id of their request: the very pair, and only by its own tenant."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scopewatch.audit.kept_lines
from conftest import scored_pair
from scopewatch.audit.kept_lines import id_in_line, kept_job, line_of, lines_with
from scopewatch.audit.texts import Texts
from scopewatch.errors import NotKept
from scopewatch.events import PairScored
from scopewatch.types import Caller, Coverage, Pair, ScoreJob, TemplateInputs, Turn
from scopewatch.verdicts import Verdict

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)
CLINIC = Caller("triage", "clinic")
SCORED = scored_pair(Verdict.FLAG, (), Coverage(3, 1, 1, 1))


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def texts(tmp_path: Path, clock: Clock) -> Iterator[Texts]:
    kept = Texts(tmp_path, which="all", days=30, now=clock)
    yield kept
    kept.close()


def event(response: str = "it may be", request_id: str = "r-1", caller: Caller = CLINIC, **pair: object) -> PairScored:
    return PairScored(ScoreJob(Pair("p", response, **pair), "", request_id, caller=caller), SCORED)  # type: ignore[arg-type]


def responses(texts: Texts, request_id: str, caller: Caller = CLINIC) -> str:
    """The response that is found; the error's words where none is."""
    try:
        return texts.find(request_id, caller).pair.response
    except NotKept as error:
        return str(error)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ids = st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple)


@given(
    st.builds(
        Pair,
        prompt=text,
        response=text,
        history=st.lists(st.builds(Turn, text, text, text), max_size=2).map(tuple),
        inputs=st.builds(TemplateInputs, text, text, text, text),
        prompt_token_ids=ids,
        response_token_ids=ids,
    ),
    text,
)
def test_what_was_scored_is_what_is_found(pair: Pair, request_id: str) -> None:
    """Texts, turns with their fields, what the template was given and token ids are as they were; the watchlist is the one
    that judged."""
    line = line_of(NOW, event(request_id=request_id)._replace(job=ScoreJob(pair, "", request_id, caller=CLINIC)))

    assert line.count(b"\n") == 1
    assert id_in_line(request_id) in line
    assert kept_job(line, request_id, CLINIC) == ScoreJob(pair, SCORED.watchlist, request_id, caller=CLINIC)


def test_of_several_the_last_one_is_found(texts: Texts, clock: Clock) -> None:
    """Whatever day it was; and a pair that was answered just now is found, too."""
    for day in range(3):
        texts.keep([event(f"{day} {turn}") for turn in range(3)] + [event("another", "r-10"), event("another", "1")])
        assert responses(texts, "r-1") == f"{day} 2"
        clock.now += timedelta(days=1)


def test_another_tenants_pair_is_as_if_it_were_not_there(texts: Texts) -> None:
    """Callers of a tenant find each other's pairs; to others the words are those of an id that nobody has, and the id may
    be theirs as well."""
    texts.keep([event("ours", caller=Caller("colleague", "clinic")), event("theirs", caller=Caller("triage", "other"))])

    assert responses(texts, "r-1") == "ours"
    assert responses(texts, "r-1", Caller("x", "other")) == "theirs"
    assert responses(texts, "r-1", Caller("clinic", "nobody")) == responses(texts, "no such id", CLINIC)
    assert texts.find("r-1", CLINIC).caller == CLINIC


def test_lines_of_earlier_versions_are_read(tmp_path: Path, texts: Texts) -> None:
    """They do not tell the tenant: whoever has the name of who asked then may see them."""
    row = {"time": "2026-03-29T12:00:00.000+00:00", "request_id": "old", "caller": "triage", "watchlist": "w"}
    row |= {"verdict": "flag", "prompt": "p", "response": "old one"}
    turns = [{"role": "user", "content": "h"}]
    (tmp_path / "texts-2026-03-29.jsonl").write_text(json.dumps(row | {"history": turns}) + "\n")

    found = texts.find("old", CLINIC)
    assert (found.pair, found.watchlist) == (Pair("p", "old one", (Turn("user", "h"),)), "w")
    assert "no texts" in responses(texts, "old", Caller("other", "clinic"))


def test_what_was_torn_or_changed_is_passed_over(tmp_path: Path, texts: Texts) -> None:
    """A line that is none any more hides no other, and a text that imitates a line is none."""
    whole = line_of(NOW, event("good"))
    forged = 'x", "request_id": "r-1", "caller": "triage", "tenant": "clinic"'
    wrong = [
        whole[:-20] + b"\n",
        whole.replace(b'"prompt"', b'"pompt"'),
        whole.replace(b'"history": []', b'"history": [3]'),
    ]
    wrong += [b"[" + whole.strip() + b"]\n", line_of(NOW, event(forged, "other")), b'"request_id": "r-1", "caller"\n']
    (tmp_path / "texts-2026-03-29.jsonl").write_bytes(whole + b"".join(wrong) + whole[:-9])

    assert responses(texts, "r-1") == "good"


def test_a_file_that_goes_meanwhile_is_passed_over(tmp_path: Path) -> None:
    """Old days are deleted while somebody searches."""
    assert list(lines_with(tmp_path / "texts-2026-03-29.jsonl", b"a")) == []


@pytest.mark.parametrize("block", [1, 2, 7, 16, 64, 1 << 20])
def test_lines_are_found_wherever_blocks_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """A file is searched from its end block by block, and every line that holds the bytes is found once for each."""
    monkeypatch.setattr(scopewatch.audit.kept_lines, "_BLOCK_BYTES", block)
    lines = [b"abcab\n", b"xx\n", b"ab\n", b"\n", b"yab" + b"z" * 40 + b"\n", b"aab"]
    file = tmp_path / "lines"
    file.write_bytes(b"".join(lines))

    assert list(lines_with(file, b"ab")) == [lines[5], lines[4], lines[2], lines[0], lines[0]]
    assert list(lines_with(file, b"abcab")) == [lines[0]]
    assert list(lines_with(file, b"nothing")) == []


def test_a_search_holds_up_nobody(texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large file little is in memory at once, since texts of a day may be gigabytes."""
    file = tmp_path / "texts-2026-03-29.jsonl"
    file.write_bytes(line_of(NOW, event("good")))
    with file.open("ab") as stream:
        stream.truncate(1 << 28)
    read: list[int] = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *given: (read.append(given[1]), real(*given))[1])

    assert responses(texts, "r-1") == "good"
    assert max(read) <= 1 << 20


def test_the_caller_of_a_kept_pair_is_who_asks(texts: Texts) -> None:
    """So that what is read for it is counted as theirs."""
    texts.keep([event()])
    colleague = replace(CLINIC, name="colleague", weight=3.0)

    assert texts.find("r-1", colleague).caller == colleague
