"""`scopewatch explain` and `score --explain`: pairs from every place, the same answer here and there, and clear mistakes."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import explanations
from conftest import House
from scopewatch.cli import main
from scopewatch.cli.explanation_output import Output
from scopewatch.client import Client
from scopewatch.doors.role_file import token_digest
from scopewatch.explanation import Explanation
from scopewatch.lifecycle.explanation_files import pages_of
from servers import ServerProcess

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

FLAGGED = {"id": "a/1", "prompt": "hello world", "response": "hello world"}
PASSED = {"id": "b", "prompt": "what then?", "response": "It may rain tomorrow, perhaps."}
LONG = {
    "id": "talk",
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "rain"},
        {"role": "user", "content": "what then?"},
        {"role": "assistant", "content": "the quick brown fox"},
    ],
}
ROWS = [FLAGGED, PASSED, LONG, {**FLAGGED, "id": "again"}, {**PASSED, "id": "b"}]
INPUTS = [
    {"response": "a", "date": "2026-01-02", "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"response": "a", "documents": [{"title": "t", "text": "x"}], "chat_template_kwargs": {"enable_thinking": False}},
    {"response_token_ids": [41, 17, 53], "prompt_token_ids": [2, 61, 37]},
    {"response": "a", "history": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
]
"""What a chat template is given beside the messages, token ids, and fields of a message."""
TOKENS = {name: f"swt_{name}_{'x' * 40}" for name in ("explainer", "scorer")}


class Terminal:
    """Runs commands in this process, which explain by the small watchlist if no server is named."""

    def __init__(self, capsys: pytest.CaptureFixture[str], house: House) -> None:
        self._capsys = capsys
        self._watchlist = ("--watchlist", house.watchlist)

    def __call__(self, *arguments: object, code: int = 0, command: str = "explain") -> tuple[str, str]:
        """Standard output and error of a command that must exit with `code`."""
        here = () if "--address" in arguments or "--watchlist" in arguments else self._watchlist
        with pytest.raises(SystemExit) as left:
            main([command, *map(str, (*arguments, *here))])
        out, err = self._capsys.readouterr()
        assert left.value.code == code, err
        assert "Traceback" not in err
        return out, err

    def documents(self, *arguments: object, code: int = 0) -> list[Explanation]:
        """The explanations that a command prints as JSON."""
        out, _ = self(*arguments, "--json", "-", code=code)
        return [Explanation.model_validate_json(line) for line in out.splitlines()]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], house: House) -> Terminal:
    return Terminal(capsys, house)


def jsonl(file: Path, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "data.jsonl")


@pytest.fixture(scope="module")
def server(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that loads the reader whole, keeps all texts, and knows its callers."""
    folder = tmp_path_factory.mktemp("served")
    callers = [
        {"name": "explainer", "tokens": [token_digest(TOKENS["explainer"])], "roles": ["score", "explain"]},
        {"name": "scorer", "tokens": [token_digest(TOKENS["scorer"])], "roles": ["score"]},
    ]
    roles = folder / "roles.yaml"
    roles.write_text(yaml.safe_dump({"version": 1, "callers": callers}))
    flags = ("--roles", roles, "--audit-dir", folder / "audit", "--audit-text", "all", "--explain-whole")
    running = ServerProcess("--watchlist", str(house.watchlist), *map(str, flags))
    yield running
    assert running.stop() == 0


@pytest.fixture
def asking(server: ServerProcess, tmp_path: Path) -> list[object]:
    """The arguments that ask the server as a caller who may have pairs explained."""
    token = tmp_path / "token"
    token.write_text(TOKENS["explainer"])
    return ["--address", server.grpc_address, "--token-file", token]


def alike(one: Explanation, other: Explanation) -> bool:
    """Whether two explanations say the same, but for the ids of the requests."""
    return one.model_copy(update={"request_id": ""}) == other.model_copy(update={"request_id": ""})


# Which pairs


def test_a_pair_is_explained_as_the_server_explains_and_scores_it(run: Terminal, asking: list[object]) -> None:
    """This process, which loads all there is, and a server that does too say the same, by the very scores of `Score`."""
    pair = ["--prompt", FLAGGED["prompt"], "--response", FLAGGED["response"]]
    (here,), (there,) = run.documents(*pair), run.documents(*pair, *asking)
    address = str(asking[1])
    with Client(address, token=TOKENS["explainer"]) as client:
        reply = client.score(prompt=FLAGGED["prompt"], response=FLAGGED["response"])

    assert alike(here, there)
    assert [(one.name, one.score, one.flagged) for one in here.indicators] == [
        (one.name, one.score, one.flagged) for one in reply.indicators
    ]
    assert here.verdict == "flag"
    assert here.tokens.logprob, "the head is loaded, so that all is told"
    assert not here.ablations
    assert here.deletion is None


def test_more_is_told_where_it_is_asked_for(run: Terminal) -> None:
    """`--ablate`, `--delete` and `--top` reach the explanation."""
    (told,) = run.documents("--response", FLAGGED["response"], "--ablate", "--delete", "--top", 3)

    assert [ablation.indicator for ablation in told.ablations] == ["alpha"]
    assert told.deletion is not None
    assert {len(segment.features) for sae in told.saes for segment in sae.segments} == {3}


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        (["--row", 1], ["a/1"]),
        (["--row", 4, "--row", 2], ["b", "again"]),
        (["--id", "talk"], ["talk"]),
        (["--id", "b"], ["b", "b"]),
        (["--row", 1, "--id", "b"], ["a/1", "b", "b"]),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_of_a_file_are_found(
    run: Terminal, tmp_path: Path, suffix: str, chosen: list[object], ids: list[str]
) -> None:
    """A row is chosen by its number or its id, of which there may be several, from all formats that scan reads."""
    file = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([*ROWS], pa.schema(
            [("id", pa.string()), ("prompt", pa.string()), ("response", pa.string()),
             ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))])), file)  # fmt: skip
    else:
        jsonl(file)

    assert [told.request_id for told in run.documents(file, *chosen)] == ids


def test_a_conversation_is_explained_whole(run: Terminal, data: Path, asking: list[object]) -> None:
    """What stands before the prompt goes along, here and to a server."""
    (here,), (there,) = run.documents(data, "--id", "talk"), run.documents(data, "--id", "talk", *asking)

    assert [(text.segment, text.text) for text in here.texts] == [
        ("history", "hello"), ("history", "rain"), ("prompt", "what then?"), ("response", "the quick brown fox")
    ]  # fmt: skip
    assert alike(here, there)


def test_all_that_a_pair_holds_goes_along(run: Terminal, tmp_path: Path, asking: list[object]) -> None:
    """What decides how a pair is read is the same for a server as here: what the template was given, token ids, fields."""
    data = jsonl(tmp_path / "data.jsonl", INPUTS)
    rows = [word for number in range(len(INPUTS)) for word in ("--row", number + 1)]
    here, there = run.documents(data, *rows), run.documents(data, *rows, *asking)

    assert len({told.provenance.rendering_digest for told in here}) == len(INPUTS)
    assert [alike(*both) for both in zip(here, there, strict=True)] == [True] * len(INPUTS)


def test_a_server_is_asked_by_one_of_its_watchlists(run: Terminal, asking: list[object]) -> None:
    """With a server `--watchlist` names one that it has loaded; another name is told."""
    (told,) = run.documents("--response", "a", *asking, "--watchlist", "test")
    _, err = run("--response", "a", *asking, "--watchlist", "nobodys", code=1)

    assert told.provenance.watchlist == "test"
    assert err.startswith("failed: --response: pair.watchlist: ")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        (["--flagged"], ["a/1", "talk", "again"]),
        (["--flagged", 2], ["a/1", "talk"]),
        (["--row", 3], ["talk"]),
        (["--id", "b", "--row", 1], ["a/1", "b", "b"]),
    ],
)
def test_rows_of_a_scan_are_found_in_their_files(
    run: Terminal, data: Path, suffix: str, chosen: list[object], ids: list[str]
) -> None:
    """A scan's result names the file and the row of each pair; the pair is found there, and gets the same verdict."""
    result = data.with_name(f"result{suffix}")
    run(data, "--out", result, command="scan")
    out, err = run("--scan", result, *chosen, "--json", "-")

    assert [json.loads(line)["request_id"] for line in out.splitlines()] == ids
    assert err == ""


def test_another_watchlist_than_the_scans_is_told(run: Terminal, data: Path, tmp_path: Path, house: House) -> None:
    """Where the verdict is another than the scan's, a line says so."""
    result, strict = tmp_path / "result.jsonl", house.folder / "strict.yaml"
    run(data, "--out", result, command="scan")
    strict.write_text(house.watchlist.read_text().replace("threshold: 1.0", "threshold: 100.0"))
    _, err = run("--scan", result, "--row", 1, "--watchlist", strict)

    assert err == f"{data}:1: the scan said flag; by test it is pass\n"


def test_a_file_that_changed_since_the_scan_is_refused(run: Terminal, data: Path, tmp_path: Path) -> None:
    """A row that is another pair now, or is gone, or a file that is gone, is no pair of that scan."""
    result = tmp_path / "result.jsonl"
    run(data, "--out", result, command="scan")
    jsonl(data, [{**FLAGGED, "id": "other"}])
    changed = run("--scan", result, "--row", 1, code=2)[1]
    gone = run("--scan", result, "--row", 3, code=2)[1]
    data.unlink()
    missing = run("--scan", result, "--row", 1, code=2)[1]

    assert f"{data}:1: has id 'other', and the scan had 'a/1'; the file is not as it was scanned" in changed
    assert f"{data}:3: there is no such row; the file is not as it was scanned" in gone
    assert f"{data}: no such file, though {result} names it" in missing


def test_a_pair_that_the_server_keeps_is_explained(run: Terminal, asking: list[object]) -> None:
    """A scored pair is explained by its id, from the text that the server keeps; an id that it does not know is told, and
    the others are explained.
    """
    address = str(asking[1])
    with Client(address, token=TOKENS["explainer"]) as client:
        for request_id in ("kept-1", "kept-2"):
            client.score(prompt=FLAGGED["prompt"], response=FLAGGED["response"], request_id=request_id)
    told = run.documents("--kept", "kept-1", "--kept", "kept-2", *asking)
    out, err = run("--kept", "nobody", "--kept", "kept-1", "--json", "-", *asking, code=1)

    assert [one.request_id for one in told] == ["kept-1", "kept-2"]
    assert told[0].texts[-1].text == FLAGGED["response"]
    assert [json.loads(line)["request_id"] for line in out.splitlines()] == ["kept-1"]
    assert err.startswith("failed: nobody: ")


# Where it goes


def test_a_terminal_gets_text(run: Terminal, data: Path) -> None:
    """Where nothing else is named, each pair's explanation is printed."""
    out, err = run(data, "--row", 1, "--row", 2)

    assert err == ""
    assert out.index("FLAG  a/1") < out.index("PASS  b")


def test_one_pair_is_one_page(run: Terminal, data: Path, tmp_path: Path) -> None:
    """A name that ends in .html is the page; it is not replaced unless that is asked for."""
    page = tmp_path / "page.html"
    out, _ = run(data, "--row", 1, "--html", page)
    first = page.read_text()
    refused = run(data, "--row", 2, "--html", page, code=2)[1]
    several = run(data, "--row", 1, "--row", 2, "--html", page, "--overwrite", code=2)[1]
    assert page.read_text() == first
    run(data, "--row", 2, "--html", page, "--overwrite")

    assert out == f"{page}: FLAG\n"
    assert "a/1" in first
    assert f"{page}: exists already; give another name, or --overwrite" in refused
    assert f"{page}: is one page, and there are 2 pairs; name a folder, without .html" in several
    assert page.read_text() != first


def test_several_pairs_are_a_folder_of_pages(run: Terminal, data: Path, tmp_path: Path) -> None:
    """Each pair has a page in the folder, named by its id; JSON beside it has a line for each."""
    folder, lines = tmp_path / "new" / "pages", tmp_path / "told.jsonl"
    out, _ = run(data, "--row", 1, "--id", "b", "--html", folder, "--json", lines)
    again = run(data, "--row", 1, "--html", folder, code=2)[1]

    assert sorted(page.name for page in folder.iterdir()) == ["a_1.html", "b (2).html", "b.html"]
    assert out == f"{folder / 'a_1.html'}: FLAG\n{folder / 'b.html'}: PASS\n{folder / 'b (2).html'}: PASS\n"
    told = [Explanation.model_validate_json(line) for line in lines.read_text().splitlines()]
    assert [one.request_id for one in told] == ["a/1", "b", "b"]
    assert f"{folder / 'a_1.html'}: exists already" in again


def test_pages_of_hostile_ids_stay_in_their_folder() -> None:
    """No id leads out of the folder, hides its page, or takes the place of another's page."""
    ids = [
        "../../etc/passwd",
        "/root",
        "..",
        ".",
        "",
        "-rf",
        ".hidden",
        "a\nb",
        "A",
        "a",
        "x" * 500,
        "日本",
        "a b",
        "a_b",
        "\0",
    ]
    pages = pages_of(Path("pages"), ids)

    assert {page.parent for page in pages} == {Path("pages")}
    assert len({page.name.lower() for page in pages}) == len(ids)
    assert not [page for page in pages if page.name.startswith((".", "-")) or not page.name.isprintable()]
    assert max(len(page.name.encode()) for page in pages) <= 255
    assert pages[11].name == "日本.html"


def test_pages_show_benign_pairs_of_the_operators_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The texts of the benign pairs that a card names are looked up in the data it was made with, by id or by line."""
    told = explanations.flagged()
    named = [pair.id for one in told.indicators for pair in one.benign_pairs]
    data = jsonl(tmp_path / "benign.jsonl", [
        {"id": named[0], "prompt": "the first of them", "response": "and its answer"},
        {"prompt": "nobody asks for it", "response": "qvxunnamed", "label": 1},
        {"prompt": "the second, by its line", "response": "and its answer"},
    ])  # fmt: skip
    by_line = told.model_copy(
        update={
            "indicators": tuple(
                one.model_copy(update={"benign_pairs": tuple(
                    pair.model_copy(update={"id": "benign.jsonl:3"}) if pair.id == named[1] else pair
                    for pair in one.benign_pairs)})
                for one in told.indicators
            )
        }
    )  # fmt: skip
    page = tmp_path / "page.html"
    args = argparse.Namespace(html=page, json=None, overwrite=False, reference_data=[str(data)])
    Output(args, ["one"]).write(0, by_line)

    assert "the first of them" in page.read_text()
    assert "the second, by its line" in page.read_text()
    assert "qvxunnamed" not in page.read_text()
    assert capsys.readouterr().out == f"{page}: FLAG\n"


# Mistakes

ONE = ["--response", "a"]
HERE = ["--address", "127.0.0.1:1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to explain: --response, DATA with --row or --id, --scan RESULT, or --kept REQUEST_ID"),
        (["--prompt", "a"], "say what to explain"),
        (["--row", "1"], "say what to explain"),
        ([*ONE, "--kept", "b"], "give one of --response and --kept"),
        (["DATA", "--scan", "r", *ONE, "--row", "1"], "give one of --response and DATA and --scan"),
        (["DATA", "--row", "1", "--prompt", "a"], "--prompt: belongs to --response"),
        ([*ONE, "--id", "b"], "--row and --id: belong to DATA or --scan"),
        (["DATA", "--row", "1", "--flagged"], "--flagged: belongs to --scan"),
        (["DATA"], "DATA: say which of its rows with --row or --id"),
        (["--scan", "r"], "--scan: say which rows with --row, --id or --flagged"),
        (["--scan", "r", "--row", "1", "--flagged"], "--flagged: not together with --row and --id"),
        (["--kept", "a"], "--kept: the text is kept by a server; name it with --address"),
        ([*ONE, "--tls-ca", "f"], "--tls-ca: says how a server is asked; name it with --address"),
        ([*ONE, "--timeout-s", "5"], "--timeout-s: says how a server is asked"),
        ([*ONE, "--insecure", "--token-file", "f"], "--token-file, --insecure: says how a server is asked"),
        ([*ONE, *HERE, "--device", "cpu"], "--device: the server of --address has its own"),
        ([*ONE, *HERE, "--labels", "f"], "--labels: the server of --address has its own"),
        (["--kept", "a", *HERE, "--watchlist", "w"], "--watchlist: a kept pair is explained by the watchlist that"),
        ([*ONE, "--watchlist", "a", "b"], "--watchlist: a pair is explained by one watchlist, not 2"),
        ([*ONE, "--reference-data", "DATA"], "--reference-data: its texts are shown on the page; give --html"),
        ([*ONE, "--id-column", "name"], "--id-column: belongs to DATA or --scan"),
        ([*ONE, "--top", "0"], "argument --top: '0': expected a number from 1 to 64"),
        ([*ONE, "--top", "65"], "argument --top: '65': expected a number from 1 to 64"),
        (["DATA", "--row", "0"], "argument --row: '0': expected a number of at least 1"),
        (["DATA", "--row", "9"], "data.jsonl: has no row 9"),
        (["DATA", "--row", "1", "--id", "z"], "data.jsonl: has no row with id 'z'"),
        (["DATA", "--row", "1", "--json", "FOLDER"], "is a folder; name a file to write"),
        (["DATA", "--row", "1", "--json", "DATA"], "data.jsonl: exists already"),
        (["DATA", "--row", "1", "--html", "DATA"], "data.jsonl is no folder"),
        (["--scan", "DATA", "--row", "1"], "data.jsonl:1: expected a row of a result, with file, row, id, verdict"),
        (["--scan", "FOLDER/none.parquet", "--row", "1"], "none.parquet: cannot be read: No such file"),
        (["--scan", "FOLDER/odd.parquet", "--row", "1"], "odd.parquet: not a Parquet file"),
        (["--scan", "FOLDER/other.parquet", "--row", "1"], "other.parquet: has no column file; expected a result of"),
        (["--scan", "FOLDER/result.txt", "--row", "1"], "result.txt: expected a name that ends in .jsonl or .parquet"),
        (["--scan", "FOLDER/stdin.jsonl", "--row", "1"], "its pairs came from standard input"),
        (["--scan", "FOLDER/stdin.jsonl", "--flagged"], "stdin.jsonl: no row is flagged"),
        (["--scan", "FOLDER/stdin.jsonl", "--row", "7"], "stdin.jsonl: has no row 7"),
        (["FOLDER/bad.jsonl", "--row", "1"], "bad.jsonl:1: response: expected text"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(run: Terminal, data: Path, arguments: list[str], said: str) -> None:
    """What does not fit together, or is not there, is told in a line that names it, before anything is loaded."""
    folder = data.parent
    (folder / "odd.parquet").write_bytes(b"PAR1 odd")
    pq.write_table(pa.table({"row": [1]}), folder / "other.parquet")
    jsonl(folder / "stdin.jsonl", [{"file": "-", "row": 1, "id": "a", "verdict": "pass"}])
    jsonl(folder / "bad.jsonl", [{"response": 1}])
    filled = [word.replace("DATA", str(data)).replace("FOLDER", str(folder)) for word in arguments]
    _, err = run(*filled, code=2)

    assert said in err.splitlines()[-1]
    assert len(err.splitlines()) == 1 or "usage:" in err


def test_a_server_that_is_not_there_is_told(run: Terminal) -> None:
    """Where no server answers, the command ends with 1."""
    _, err = run(*ONE, *HERE, "--timeout-s", 0.5, code=1)

    assert len(err.splitlines()) == 1


def test_one_pair_that_fails_does_not_take_the_others(run: Terminal, tmp_path: Path, asking: list[object]) -> None:
    """A pair that cannot be explained is told by its place; the others are explained, and the exit code is 1."""
    data = jsonl(tmp_path / "data.jsonl", [{"response": "x" * 100_001}, FLAGGED])
    out, err = run(data, "--row", 1, "--row", 2, "--json", "-", *asking, code=1)

    assert [json.loads(line)["request_id"] for line in out.splitlines()] == ["a/1"]
    assert err == f"failed: {data}:1: pair.response: holds 100001 characters; at most 100000 are allowed\n"


# Beside scores


def score(run: Terminal, server: ServerProcess, file: Path, caller: str, *more: object, code: int) -> str:
    file.write_text(TOKENS[caller])
    pair = ("--prompt", FLAGGED["prompt"], "--response", FLAGGED["response"])
    return run(*pair, "--address", server.grpc_address, "--token-file", file, *more, command="score", code=code)[0]


def test_scores_are_explained(run: Terminal, server: ServerProcess, tmp_path: Path) -> None:
    """`score --explain` prints after each pair's lines why it got its verdict, and adds it to the JSON."""
    plain = score(run, server, tmp_path / "token", "explainer", code=0)
    text = score(run, server, tmp_path / "token", "explainer", "--explain", code=0)
    line = score(run, server, tmp_path / "token", "explainer", "--explain", "--json", code=0)
    told = json.loads(line)

    assert len(text.splitlines()) > len(plain.splitlines()) + 10
    assert "How far to trust this" in text
    explanation = Explanation.model_validate(told["explanation"])
    assert explanation.request_id == told["request_id"]
    assert [one["score"] for one in told["indicators"]] == [one.score for one in explanation.indicators]
    assert "explanation" not in json.loads(score(run, server, tmp_path / "token", "explainer", "--json", code=0))


def test_scores_are_printed_where_explanations_are_not_allowed(
    run: Terminal, server: ServerProcess, tmp_path: Path
) -> None:
    """Without the role `explain` the scores are there, and a line says what is missing; the exit code is 1."""
    text = score(run, server, tmp_path / "token", "scorer", "--explain", code=1)
    line = score(run, server, tmp_path / "token", "scorer", "--explain", "--json", code=1)

    assert text.startswith("FLAG")
    assert text.splitlines()[-1].startswith("  not explained: this needs the role explain")
    assert json.loads(line)["verdict"] == "VERDICT_FLAG"
    assert json.loads(line)["explanation_error"].startswith("this needs the role explain")
