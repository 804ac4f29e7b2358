"""The command line: what it prints, what it exits with, and that every mistake is one clear line."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scopewatch
from conftest import House, free_port
from scopewatch.calibration.evaluation import Evaluation
from scopewatch.cli import _parser, main
from scopewatch.client import Client, request, to_dict
from scopewatch.config import SECRET_FILES, Config
from servers import ServerProcess

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

COMMANDS = sorted(next(action for action in _parser()._actions if isinstance(action.choices, dict)).choices)
PROMPT, RESPONSE = "hello world", "It may rain 🤷🏽‍♀️ tomorrow, perhaps."


class Terminal:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        """Standard output and error of a command that must exit with `code`."""
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert left.value.code == code, err
        assert "Traceback" not in err
        return out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def jsonl(file: Path, *rows: object) -> Path:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


# Help


def test_help_needs_no_model_library() -> None:
    """`--help` of every command exits with 0 and loads neither torch nor transformers nor gRPC."""
    program = f"""
import json, sys
from scopewatch.cli import main
codes = []
for command in {COMMANDS!r}:
    try:
        main([command, "--help"])
    except SystemExit as left:
        codes.append(left.code)
heavy = sorted({{"torch", "transformers", "grpc", "numpy"}} & set(sys.modules))
print(json.dumps([codes, heavy]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert [[0] * len(COMMANDS), []] == json.loads(done.stdout.splitlines()[-1])


def test_the_promised_commands_are_there() -> None:
    """The commands that others build on exist."""
    assert {"serve", "demo", "score", "evaluate", "activations"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_the_command(run: Terminal, command: str) -> None:
    """Help begins with the usage and says in a sentence what the command does."""
    out, _ = run(command, "--help")

    assert out.startswith(f"usage: scopewatch {command} ")
    assert ". " in out.replace("\n", " ")


@pytest.mark.parametrize("name", Config.model_fields)
def test_serve_has_a_flag_for_every_setting(run: Terminal, name: str) -> None:
    """Every setting is a flag of `serve`, with its meaning."""
    out, _ = run("serve", "--help")
    flat = " ".join(out.split())

    assert f"--{name.replace('_', '-')}" in flat
    assert " ".join(str(Config.model_fields[name].description).split()) in flat


@pytest.mark.parametrize("name", SECRET_FILES.values())
def test_help_says_who_sees_a_secret(run: Terminal, name: str) -> None:
    """A secret's flag warns that others can read it, and names the flag that takes a file instead."""
    # Lines break at hyphens too.
    flat = "".join(run("serve", "--help")[0].split())
    flag = f"--{name.replace('_', '-')}"

    assert f"{flag}-fileFILEfilethatholds{name},inplaceof{flag}" in flat
    assert f"everyuserofthismachineseeswhatstandshere:use{flag}-file" in flat


def test_version(run: Terminal) -> None:
    """`--version` prints the version."""
    assert run("--version") == (f"scopewatch {scopewatch.__version__}\n", "")


def test_python_m_scopewatch_is_the_command() -> None:
    """`python -m scopewatch` is the same program as the console script."""
    done = subprocess.run([sys.executable, "-m", "scopewatch"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("usage: scopewatch ")


# Wrong flags

ACTIVATIONS = ("activations", "--reader", "r", "--sae", "s", "--response", "a")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "required: COMMAND", id="no command"),
        pytest.param(["fly"], "invalid choice: 'fly'", id="unknown command"),
        pytest.param(["serve", "--prot", "1"], "unrecognized arguments: --prot 1", id="unknown flag"),
        pytest.param(
            ["serve", "--torch-compile"], "--torch-compile: leave it out, the reader's layers", id="former flag"
        ),
        pytest.param(["serve", "--max-tokens", "ten"], "--max-tokens: Input should be a valid integer", id="no number"),
        pytest.param(["serve", "--max-tokens", "4"], "--max-tokens: Input should be greater", id="too small"),
        pytest.param(["serve", "--max-tokens"], "expected one argument", id="no value"),
        pytest.param(["serve", "--max-queue-tokens", "16"], "at least max_tokens", id="limits do not fit"),
        pytest.param(["serve", "--log-level", "loud"], "--log-level: Input should be 'debug'", id="no such level"),
        pytest.param(["score"], "give either --response or --file", id="nothing to score"),
        pytest.param(["score", "--response", "a", "--file", "b"], "give either --response or --file", id="both"),
        pytest.param(["score", "--response", "\udcff"], "--response: not valid UTF-8", id="response not UTF-8"),
        pytest.param(["score", "--timeout-s", "soon"], "--timeout-s: invalid float", id="no seconds"),
        pytest.param(["evaluate", "data.jsonl"], "required: --indicator", id="no indicator"),
        pytest.param(["evaluate", "--indicator", "a"], "required: data", id="no data"),
        pytest.param([*ACTIVATIONS], "required: --features", id="no features"),
        pytest.param([*ACTIVATIONS, "--features", "1,b"], "expected numbers split by commas", id="features no numbers"),
        pytest.param([*ACTIVATIONS, "--features", "1,,2"], "expected numbers split by commas", id="feature left out"),
        pytest.param([*ACTIVATIONS, "--features=-1"], "not negative", id="negative feature"),
        pytest.param([*ACTIVATIONS, "--prompt", "\udcff", "--features", "1"], "not valid UTF-8", id="prompt not UTF-8"),
    ],
)
def test_wrong_flags_exit_with_2(run: Terminal, arguments: list[str], said: str) -> None:
    """A wrong command line exits with 2 and says what is wrong, without a traceback."""
    out, err = run(*arguments, code=2)

    assert out == ""
    assert said in err


def test_a_misspelt_variable_is_refused(run: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable that is no setting is an error with a suggestion, not silence."""
    monkeypatch.setenv("SCOPEWATCH_MAX_TOKEN", "64")

    assert run("serve", code=2) == (
        "",
        "scopewatch: SCOPEWATCH_MAX_TOKEN: no such setting; did you mean SCOPEWATCH_MAX_TOKENS?\n",
    )


# score


def test_score_prints_a_reply_for_people(run: Terminal, server: ServerProcess) -> None:
    """Without `--json` a pair is printed with its verdict, its texts and a line for each indicator."""
    address = ("--address", server.grpc_address, "--timeout-s", 120)
    out, err = run("score", *address, "--prompt", PROMPT, "--response", RESPONSE, "--evidence")

    assert err == ""
    assert out.startswith(("PASS  ", "FLAG  "))
    for part in (PROMPT, RESPONSE, "alpha", "beta", "not scored: empty_segment"):
        assert part in out


def test_score_prints_the_whole_reply_as_json(run: Terminal, server: ServerProcess) -> None:
    """`--json` prints the reply as the contract names it, on one line, and the same as a client gets."""
    with Client(server.grpc_address, timeout_s=120) as client:
        expected = client.score(prompt=PROMPT, response=RESPONSE, watchlist="second", include_evidence=True)
    out, _ = run(
        *("score", "--address", server.grpc_address, "--timeout-s", 120, "--prompt", PROMPT, "--response", RESPONSE),
        *("--watchlist", "second", "--evidence", "--json"),
    )

    assert out.count("\n") == 1
    assert to_dict(expected)["indicators"] == json.loads(out)["indicators"]


def test_score_reads_a_file(run: Terminal, server: ServerProcess, tmp_path: Path) -> None:
    """Every line of a file is scored, in order, though there are more than the server takes at once."""
    responses = [f"{n} may rain \u2028 line \x85 separators" for n in range(20)]
    file = jsonl(tmp_path / "pairs.jsonl", *({"prompt": PROMPT, "response": text, "label": 1} for text in responses))
    file.write_text(file.read_text(encoding="utf-8") + "\n\n  \n", encoding="utf-8")
    out, _ = run("score", "--address", server.grpc_address, "--timeout-s", 120, "--file", file, "--json")
    with Client(server.grpc_address, timeout_s=120) as client:
        expected = [client.score(prompt=PROMPT, response=text).indicators[0].score for text in responses]

    assert expected == pytest.approx([json.loads(line)["indicators"][0]["score"] for line in out.splitlines()])


def test_score_reads_standard_input(run: Terminal, server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--file -` reads the pairs from standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"response": "a"}\n{"response": "b"}\n'))
    out, _ = run("score", "--address", server.grpc_address, "--timeout-s", 120, "--file", "-", "--json")

    assert out.count("\n") == 2


def test_score_splits_what_is_too_large_for_one_message(run: Terminal, server: ServerProcess, tmp_path: Path) -> None:
    """Long pairs that exceed the server's message size together are sent in several messages."""
    rows = [{"response": f"{n}" + "也" * 19_000} for n in range(8)]
    file = jsonl(tmp_path / "long.jsonl", *rows)
    out, _ = run("score", "--address", server.grpc_address, "--timeout-s", 120, "--file", file, "--json")

    assert sum(request(**row).ByteSize() for row in rows) > 200_000
    assert [json.loads(line)["coverage"]["truncated"] for line in out.splitlines()] == [True] * 8


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_pair_that_fails_fails_alone(run: Terminal, server: ServerProcess, tmp_path: Path, form: str) -> None:
    """A refused pair is named in its place, the others are scored, and the exit code is 1."""
    file = jsonl(tmp_path / "pairs.jsonl", {"response": "a"}, {"response": " "}, {"response": "b"})
    flags = ["--json"] if form == "json" else []
    out, _ = run("score", "--address", server.grpc_address, "--timeout-s", 120, "--file", file, *flags, code=1)

    if form == "json":
        first, second, third = map(json.loads, out.splitlines())
        assert second == {"error": "response: is empty; there is nothing to score"}
        assert "verdict" in first
        assert "verdict" in third
    else:
        assert "\nfailed: response: is empty; there is nothing to score\n" in out
        assert out.count(" tokens, ") == 2


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("no json", id="no JSON"),
        pytest.param("[1]", id="a list"),
        pytest.param('"text"', id="a text"),
        pytest.param('{"prompt": "a"}', id="no response"),
        pytest.param('{"response": 5}', id="a number"),
        pytest.param('{"response": null}', id="null"),
        pytest.param('{"prompt": null, "response": "a"}', id="prompt null"),
        pytest.param('{"response": "\\ud83e"}', id="lone surrogate"),
    ],
)
def test_a_bad_line_is_named(run: Terminal, tmp_path: Path, line: str) -> None:
    """A line that holds no pair is named with file and number, before anything is sent."""
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"response": "a"}\n' + line + "\n")
    nowhere = f"127.0.0.1:{free_port()}"

    assert run("score", "--address", nowhere, "--file", file, code=2) == (
        "",
        f"scopewatch: {file}:2: expected an object with the text response and, if there is one, the text prompt\n",
    )


@pytest.mark.parametrize("kind", ["missing", "folder", "not UTF-8"])
def test_a_file_that_cannot_be_read_is_named(run: Terminal, tmp_path: Path, kind: str) -> None:
    """A file that is not there, no file or not text is one line with its name."""
    file = tmp_path / "pairs.jsonl"
    if kind == "folder":
        file.mkdir()
    elif kind == "not UTF-8":
        file.write_bytes(b'{"response": "\xff"}')
    _, err = run("score", "--file", file, code=2)

    assert err.startswith(f"scopewatch: {file}: cannot be read: ")
    assert err.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line(run: Terminal) -> None:
    """Without a server `score` exits with 1 and one line that says so."""
    _, err = run("score", "--address", f"127.0.0.1:{free_port()}", "--response", "a", code=1)

    assert err.startswith("scopewatch: not_ready: ")
    assert err.count("\n") == 1


# activations


def test_activations_have_the_documented_shape(run: Terminal, house: House) -> None:
    """`activations --json` prints exactly the documented object, one row per asked feature, one value per token."""
    out, _ = run(
        *("activations", "--reader", house.reader, "--sae", house.saes["mid"], "--features", "11,3"),
        *("--prompt", PROMPT, "--response", RESPONSE, "--json"),
    )
    table = json.loads(out)

    assert list(table) == ["reader", "sae", "hookpoint", "features", "tokens", "activations"]
    assert (table["reader"], table["sae"]) == ("reader", str(house.saes["mid"]))
    assert (table["hookpoint"], table["features"]) == ("layers.1.resid_post", [11, 3])
    assert {tuple(token) for token in table["tokens"]} == {("id", "text", "segment", "start", "end")}
    assert np.array(table["activations"]).shape == (2, len(table["tokens"]))


def test_activations_place_every_token(run: Terminal, house: House) -> None:
    """Tokens of the pair carry their place in its own text, template tokens none, and together they cover the pair."""
    out, _ = run(
        *("activations", "--reader", house.reader, "--sae", house.saes["mid"], "--features", "3"),
        *("--prompt", PROMPT, "--response", RESPONSE, "--json"),
    )
    texts = {"prompt": PROMPT, "response": RESPONSE}
    covered: dict[str, set[int]] = {"prompt": set(), "response": set()}
    for token in json.loads(out)["tokens"]:
        if token["segment"] is None:
            assert token["start"] is token["end"] is None
            continue
        assert token["text"] == texts[token["segment"]][token["start"] : token["end"]]
        covered[token["segment"]] |= set(range(token["start"], token["end"]))

    assert covered == {segment: set(range(len(text))) for segment, text in texts.items()}


def test_activations_come_in_the_order_asked_for(run: Terminal, house: House) -> None:
    """Row i of the activations is that of feature i on the command line, whichever comes first."""
    flags = ("activations", "--reader", house.reader, "--sae", house.saes["mid"], "--response", RESPONSE, "--json")
    rows = [json.loads(run(*flags, "--features", order)[0])["activations"] for order in ("3,11", "11,3")]

    assert rows[0] == rows[1][::-1]
    assert rows[0][0] != rows[0][1]


def test_activations_are_those_the_server_scores(run: Terminal, house: House, server: ServerProcess) -> None:
    """The largest activation on the response is what the server pools with `max`."""
    out, _ = run(
        *("activations", "--reader", house.reader, "--sae", house.saes["mid"], "--features", "3"),
        *("--prompt", PROMPT, "--response", RESPONSE, "--json"),
    )
    table = json.loads(out)
    expected = max(
        value
        for token, value in zip(table["tokens"], table["activations"][0], strict=True)
        if token["segment"] == "response"
    )
    with Client(server.grpc_address, timeout_s=120) as client:
        alpha = client.score(prompt=PROMPT, response=RESPONSE).indicators[0]

    assert [pytest.approx(expected, rel=1e-5)] == [part.pooled for part in alpha.features if part.feature == "mid/3"]


def test_activations_for_people(run: Terminal, house: House) -> None:
    """Without `--json` there is a heading and one line for each token."""
    flags = ("--reader", house.reader, "--sae", house.saes["mid"], "--features", "3,11", "--response", "not sure")
    table, _ = run("activations", *flags, "--json")
    out, _ = run("activations", *flags)

    assert out.split()[:4] == ["token", "segment", "3", "11"]
    assert out.count("\n") == 1 + len(json.loads(table)["tokens"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"reader": "/nowhere"}, "reader /nowhere: no such directory", id="no reader"),
        pytest.param({"reader": "nobody/nothing"}, "not in the local Hugging Face cache", id="hub id not there"),
        pytest.param({"sae": "layer_1/gone.npz"}, "layer_1/gone.npz: no such file", id="no SAE"),
        pytest.param({"features": "3,64"}, "--features: there is no feature 64", id="feature out of range"),
        pytest.param({"hookpoint": "layer nine"}, "hookpoint 'layer nine' is not known", id="hookpoint unknown"),
        pytest.param({"hookpoint": "layers.9.resid_post"}, "layer 9 is watched", id="layer too deep"),
        pytest.param({"device": "toaster"}, "device 'toaster'", id="no such device"),
    ],
)
def test_what_activations_cannot_find_is_one_line(
    run: Terminal, house: House, changes: dict[str, str], said: str
) -> None:
    """A wrong reader, SAE, feature, hookpoint or device exits with 2 and one line that names it."""
    flags: dict[str, Any] = {"reader": house.reader, "sae": house.saes["mid"], "features": "3", "response": "a"}
    _, err = run("activations", *(f"--{name}={value}" for name, value in (flags | changes).items()), code=2)

    assert said in err
    assert err.count("\n") == 1


# evaluate


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Labelled pairs of both kinds."""
    texts = ["It may rain", "we are not sure", "the lazy dog", "insulin lowers sugar", "perhaps gout", "hello world"]
    return jsonl(
        tmp_path / "labelled.jsonl",
        *({"prompt": PROMPT, "response": text, "label": n % 2, "source": "x"} for n, text in enumerate(texts)),
    )


def test_evaluate_measures_what_the_server_would_say(
    run: Terminal, house: House, server: ServerProcess, labelled: Path
) -> None:
    """`evaluate --json` has every number of an evaluation, computed from the scores that a server gives."""
    out, _ = run("evaluate", labelled, "--watchlist", house.watchlist, "--indicator", "alpha", "--json")
    found = json.loads(out)
    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    with Client(server.grpc_address, timeout_s=120) as client:
        alphas = [client.score(prompt=row["prompt"], response=row["response"]).indicators[0] for row in rows]
    positive = [alpha.score for alpha, row in zip(alphas, rows, strict=True) if row["label"]]
    negative = [alpha.score for alpha, row in zip(alphas, rows, strict=True) if not row["label"]]
    wins = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    flagged = [row["label"] for alpha, row in zip(alphas, rows, strict=True) if alpha.flagged]

    mistakes = {"false_positives", "false_negatives"}
    assert {*Evaluation.__dataclass_fields__, "interval", "beats_bag_of_words", *mistakes} == set(found)
    assert (found["indicator"], found["watchlist"], found["n"], found["n_positive"]) == ("alpha", "test", 6, 3)
    assert (found["threshold"], found["truncated"], found["calibrated"]) == (1.0, 0, False)
    assert found["auroc"] == pytest.approx(sum(wins) / len(wins))
    assert found["tpr"] == pytest.approx(sum(flagged) / 3)
    assert found["fpr"] == pytest.approx((len(flagged) - sum(flagged)) / 3)


def test_evaluate_for_people(run: Terminal, house: House, labelled: Path) -> None:
    """Without `--json` the numbers stand in aligned lines, with their intervals."""
    out, _ = run("evaluate", labelled, "--watchlist", house.watchlist, "--indicator", "alpha")

    assert {"AUROC", "threshold", "precision"} <= {line.split()[0] for line in out.splitlines() if line.strip()}


@pytest.fixture
def evaluate(run: Terminal, house: House, tmp_path: Path) -> Callable[..., str]:
    """Standard error of an `evaluate --strict` over a file of this text that must exit with 2, or with another code."""

    def call(text: str | None, indicator: str, *flags: str, code: int = 2) -> str:
        file = tmp_path / "labelled.jsonl"
        if text is not None:
            file.write_text(text)
        flags = flags or ("--strict",)
        out, err = run("evaluate", file, "--watchlist", house.watchlist, "--indicator", indicator, *flags, code=code)
        assert (out == "") is (code < 3)
        return err

    return call


GOOD = {"prompt": "a", "response": "b", "label": 0}


@pytest.mark.parametrize(
    ("rows", "indicator", "said"),
    [
        pytest.param([GOOD, GOOD | {"label": 1}], "omega", "watchlist test has alpha, beta, gamma", id="no indicator"),
        pytest.param(
            [GOOD, GOOD | {"label": 1}], "gamma", "labelled.jsonl:1: gamma cannot be scored", id="nothing to read"
        ),
        pytest.param([GOOD, GOOD], "alpha", "both labels, 0 and 1, are needed", id="one label"),
        pytest.param([GOOD, GOOD | {"label": 2}], "alpha", ":2: label: expected 0 or 1, not 2", id="label"),
        pytest.param(
            [GOOD, GOOD | {"label": True}],
            "alpha",
            ":2: label: expected 0 or 1, not True; write the number 1",
            id="truth",
        ),
        pytest.param([GOOD, {"label": 1}], "alpha", ":2: response: expected text", id="no response"),
        pytest.param([GOOD, GOOD | {"response": " ", "label": 1}], "alpha", ":2: response: expected", id="empty"),
        pytest.param([GOOD, GOOD | {"prompt": 5}], "alpha", ":2: prompt: expected text", id="prompt no text"),
        pytest.param([GOOD, [1]], "alpha", ":2: expected an object", id="no object"),
        pytest.param(None, "alpha", "labelled.jsonl: no such file", id="no file"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    evaluate: Callable[..., str], rows: list[object] | None, indicator: str, said: str
) -> None:
    """Data or an indicator that cannot be used exits with 2 and one line that says where."""
    text = None if rows is None else "\n".join(map(json.dumps, rows))
    err = evaluate(text, indicator)

    assert said in err
    assert err.count("\n") == 1


def test_many_wrong_lines_are_named_together(evaluate: Callable[..., str]) -> None:
    """The first five wrong lines are listed and the others counted; where no line can be used the exit code is 1."""
    err = evaluate("no\n" * 8, "alpha", "--json", code=1)

    assert [f"labelled.jsonl:{n}: " in err for n in range(1, 9)] == [True] * 5 + [False] * 3
    assert err.endswith("and 3 more rows\nexpected JSONL: one JSON object on each line\n")


def test_one_odd_row_does_not_end_an_evaluation(evaluate: Callable[..., str]) -> None:
    """Rows that cannot be read, and pairs that cannot be judged, are named and counted; the others are measured."""
    past = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "rain"}]
    rows = [GOOD | {"history": past, "label": n % 2, "response": f"rain {n}"} for n in range(6)]
    odd = {"messages": [*past[:1], {"role": "assistant", "tool_calls": []}], "label": 1}
    text = "\n".join([*map(json.dumps, rows), json.dumps(GOOD), json.dumps(odd), "{", ""])
    err = evaluate(text, "gamma", "--no-baselines", code=3)

    assert [line.partition("labelled.jsonl")[2] for line in err.splitlines()[-4:-1]] == [
        ":8: messages[1].content: expected text that is not empty",
        ":9: not JSON: Expecting property name enclosed in double quotes at column 2",
        ":7: gamma cannot be scored: empty_segment",
    ]
    assert err.splitlines()[-1] == (
        "scopewatch: read 9 rows, scored 6, left out 3: 1 no_text, 1 unreadable, 1 empty_segment"
    )


def test_what_is_left_needs_both_labels(evaluate: Callable[..., str]) -> None:
    """Where all pairs of a label are left out, nothing can be measured, and that is said."""
    past = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "rain"}]
    rows = [GOOD | {"history": past}, GOOD | {"label": 1}]

    assert "1 pairs, all of label 0; both labels" in evaluate("\n".join(map(json.dumps, rows)), "gamma", "--json")
    assert "none of 2 rows can be used" in evaluate(
        "\n".join(json.dumps(GOOD | {"label": label}) for label in (0, 1)), "gamma", "--json", code=1
    )
