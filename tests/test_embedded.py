"""Scoring inside a program: `scopewatch.score` and `scopewatch.open`."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

import scopewatch
from conftest import House
from scopewatch.client import Client, pb
from scopewatch.config import Config
from scopewatch.embedded.given_pairs import pairs_from
from scopewatch.embedded.kept import _KEPT
from scopewatch.embedded.results import Result, Results
from scopewatch.errors import ConfigError, DataError, NotReady, UnknownWatchlist
from scopewatch.types import Pair, Segment, Turn
from scopewatch.verdicts import Verdict
from servers import ServerProcess

PAIRS = [
    ("hello world", "It may rain tomorrow, perhaps."),
    {"prompt": "What is it?", "response": "It might be gout, but we are not sure."},
    {"messages": [{"role": "user", "content": "say it"}, {"role": "assistant", "content": "Insulin lowers sugar."}]},
]


@pytest.fixture(scope="module")
def scorer(house: House) -> Iterator[scopewatch.embedded.Scorer]:
    with scopewatch.open(house.watchlist) as opened:
        yield opened


def test_the_numbers_are_those_of_the_service(scorer: scopewatch.embedded.Scorer, server: ServerProcess) -> None:
    """Scores, thresholds, verdicts and evidence are a real server's, bit for bit."""
    with Client(server.grpc_address) as client:
        for given, pair in zip(PAIRS, pairs_from(PAIRS), strict=True):
            reply = client.score(prompt=pair.prompt, response=pair.response, include_evidence=True)
            (result,) = scorer.score([given])
            indicators = result.indicators

            assert result.verdict is not None
            assert pb.Verdict.Name(reply.verdict) == f"VERDICT_{result.verdict.name}"
            assert [one.name for one in reply.indicators] == list(indicators)
            for one in reply.indicators:
                mine = indicators[one.name]
                assert (one.score, one.threshold, one.flagged) == (mine.score, mine.threshold, mine.flagged)
                spans = [(part.start, part.end, part.activation) for part in mine.evidence]
                assert [(part.start, part.end, part.activation) for part in one.evidence] == spans


def test_evidence_comes_with_its_text(scorer: scopewatch.embedded.Scorer) -> None:
    """A span is shown by the characters that it is of."""
    turns = [("user", "Insulin lowers blood sugar. " * 9), ("assistant", "It may rain. " * 9), ("user", "Why?")]
    asked = [{"role": role, "content": text} for role, text in turns]
    results = scorer.score([*PAIRS, {"messages": [*asked, {"role": "assistant", "content": "We are not sure."}]}])
    shown = [(one.pair, found) for one in results for name in one.indicators for found in one.evidence(name)]

    assert {found[1].segment for _, found in shown} == {Segment.PROMPT, Segment.RESPONSE, Segment.HISTORY}
    for pair, (text, evidence) in shown:
        before = pair.history[evidence.turn].content if evidence.segment is Segment.HISTORY else pair.prompt
        whole = pair.response if evidence.segment is Segment.RESPONSE else before
        assert text == whole[evidence.start : evidence.end] != ""


def test_a_program_can_take_a_result_apart(scorer: scopewatch.embedded.Scorer) -> None:
    """All that is said of a pair are plain values, the terms of a score included."""
    scores = [one for result in scorer.score(PAIRS) for one in result.indicators.values()]
    for one in scores:
        features = asdict(one)["features"]
        assert [part["contribution"] for part in features] == [part.contribution for part in one.features]
    assert any(one.features for one in scores)


def test_what_limits_the_numbers_is_said(scorer: scopewatch.embedded.Scorer) -> None:
    """Indicators without a card say so, once for all results."""
    assert scorer.watchlists == ("test",)
    assert "alpha: uncalibrated: it has no card" in scorer.score(PAIRS).warnings


def test_a_running_event_loop_does_not_matter(scorer: scopewatch.embedded.Scorer) -> None:
    """In a notebook, whose loop runs, a call gives what it gives elsewhere."""

    async def cell() -> Results:
        return scorer.score(PAIRS)

    assert [one.scores for one in asyncio.run(cell())] == [one.scores for one in scorer.score(PAIRS)]


def test_a_pair_that_cannot_be_scored_has_not_passed(scorer: scopewatch.embedded.Scorer) -> None:
    """Its result has no verdict and says why; the others have theirs."""
    bad = {"prompt": "a", "response": "b", "prompt_token_ids": [1], "response_token_ids": [2**31 - 1]}
    good, failed = scorer.score([PAIRS[0], bad])

    assert good.verdict is not None
    assert (failed.verdict, failed.scores, failed.flagged) == (None, {}, ())
    assert "token" in failed.error
    assert "1 not scored" in repr(Results([good, failed]))
    assert "not scored: " in Results([failed])._repr_html_()


def test_other_names_are_refused(scorer: scopewatch.embedded.Scorer) -> None:
    """A watchlist that is not loaded is an error, not the default one."""
    with pytest.raises(UnknownWatchlist, match="no watchlist of this name"):
        scorer.score(PAIRS, watchlist="nothing")


def test_a_closed_scorer_says_so(house: House) -> None:
    """After its block it scores nothing, and closing it again does nothing."""
    with scopewatch.open(house.watchlist) as opened:
        pass
    opened.close()
    with pytest.raises(NotReady, match="closed"):
        opened.score(PAIRS)


def test_score_keeps_what_it_loaded(house: House, tmp_path: Path) -> None:
    """The reader is loaded once for calls that ask for the same; another watchlist takes its place."""
    try:
        first = scopewatch.score(PAIRS, house.watchlist)
        kept = _KEPT._scorer
        again = scopewatch.score(PAIRS, str(house.watchlist))
        assert _KEPT._scorer is kept
        assert [one.scores for one in first] == [one.scores for one in again]
        text = house.watchlist.read_text(encoding="utf-8").replace("path: reader", f"path: {house.reader}")
        other = tmp_path / "other.yaml"
        other.write_text(text.replace("path: sae/", f"path: {house.folder}/sae/"), encoding="utf-8")
        scopewatch.score(PAIRS, other)
        changed = _KEPT._scorer
        other.write_text(other.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
        scopewatch.score(PAIRS, other)
        assert len({id(kept), id(changed), id(_KEPT._scorer)}) == 3
        assert kept is not None
        assert kept._closed
    finally:
        _KEPT.close()


# Pairs


@pytest.mark.parametrize(
    "given",
    [
        [("a", "b"), ("", "c")],
        [["a", "b"], ["", "c"]],
        [{"prompt": "a", "response": "b"}, {"response": "c"}],
        pd.DataFrame({"prompt": ["a", None], "response": ["b", "c"], "score": [0.5, float("nan")]}),
        pa.table({"prompt": ["a", None], "response": ["b", "c"]}),
        (pair for pair in [("a", "b"), ("", "c")]),
    ],
    ids=["tuples", "lists", "objects", "pandas", "pyarrow", "generator"],
)
def test_pairs_come_as_programs_hold_them(given: object) -> None:
    """Tuples, objects and data frames are the same pairs."""
    assert pairs_from(given) == [Pair("a", "b"), Pair("", "c")]


def test_conversations_are_read_as_in_files() -> None:
    """An object has the names that a line of JSONL has."""
    turns = [{"role": role, "content": text} for role, text in (("system", "s"), ("user", "u"), ("assistant", "r"))]
    assert pairs_from([{"messages": turns}]) == [Pair("u", "r", (Turn("system", "s"),))]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a text", "pairs: expected several; write [...] around a single one"),
        ({"response": "a"}, "pairs: expected several"),
        (5, "pairs: expected an object with response"),
        (["a", "b"], "pairs[0]: expected an object with response"),
        ([("a", "b", "c")], "pairs[0]: expected an object with response"),
        ([("a", "b"), {"prompt": "a"}], "pairs[1]: response: expected text that is not empty; there are: prompt"),
        ([{"response": 5}] * 7, "and 2 more"),
    ],
)
def test_what_is_no_pair_is_named(given: object, said: str) -> None:
    """The message says which pair and what is wrong with it."""
    with pytest.raises(DataError) as caught:
        pairs_from(given)
    assert said in str(caught.value)


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_token": 5}, "max_token: no such setting; did you mean max_tokens?"),
        ({"grpc_address": "0.0.0.0:1"}, "grpc_address: no such setting"),
        ({"max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_given(settings: dict[str, object], said: str) -> None:
    """Errors speak of keywords, not of flags; a server's settings are refused."""
    with pytest.raises(ConfigError, match="^" + said.replace("?", r"\?")):
        scopewatch.open(**settings)


# Shown


def test_texts_are_text_on_the_page(scorer: scopewatch.embedded.Scorer) -> None:
    """A notebook's table shows what a response holds, and does not run it."""
    shown = scorer.score([("", "<script>alert(1)</script> perhaps")])._repr_html_()

    assert "&lt;script&gt;" in shown
    assert "<script" not in shown


def test_results_are_rows_of_a_data_frame(scorer: scopewatch.embedded.Scorer) -> None:
    """A row has the verdict, and each indicator's score in a column of its name."""
    results = scorer.score(PAIRS)
    frame = pd.DataFrame(results.rows())

    assert list(frame["alpha"]) == [one.scores["alpha"] for one in results]
    assert set(frame["verdict"]) <= {verdict.value for verdict in Verdict}
    assert isinstance(results[0], Result)
    assert len(results[1:]) == 2


# Importing


def test_importing_scopewatch_loads_nothing_and_a_program_ends_cleanly(house: House) -> None:
    """Neither numpy nor torch comes with the import; a program that scores and closes nothing exits with 0, silently."""
    program = f"""
import sys, scopewatch
assert not {{"torch", "numpy", "pydantic"}} & set(sys.modules)
assert {{"open", "score"}} <= set(dir(scopewatch))
print(len(scopewatch.score([("", "perhaps")], {str(house.watchlist)!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=200)

    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_where_only_the_client_is_installed_the_package_is_named(tmp_path: Path) -> None:
    """The client's distribution has no engine: what scores in a process says what to install."""
    (tmp_path / "scopewatch").mkdir()
    root = Path(scopewatch.__file__)
    (tmp_path / "scopewatch/__init__.py").write_bytes(root.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", "import scopewatch; scopewatch.score([])"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path)},
    )

    assert "ImportError: scopewatch.score scores in this process and needs the package scopewatch" in done.stderr
    assert done.stderr.endswith("pip install scopewatch\n")


def test_other_attributes_are_none() -> None:
    """The module has no attribute of any other name."""
    with pytest.raises(AttributeError, match="'scopewatch' has no attribute 'scored'"):
        _ = scopewatch.scored


def test_the_bundled_watchlist_is_the_default() -> None:
    """Without a watchlist the bundled one is meant, as it is for commands."""
    assert scopewatch.embedded.scorer.config_of() == Config()
