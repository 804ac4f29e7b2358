"""Logs and data sets as users have them: which conversations, columns and files are read, and what is said of others."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scopewatch.errors import DataError, NothingUsable
from scopewatch.pairs.columns import Columns
from scopewatch.pairs.conversation import NoText, pair_of
from scopewatch.pairs.data_files import Reading, named_files, read_texts
from scopewatch.pairs.labelled import Labels, parse_row
from scopewatch.pairs.rows import check_readable, digest_of, rows_of
from scopewatch.types import Pair, TemplateInputs, Turn

ASKED = {"role": "user", "content": "Weather?"}
CALLING = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Ulm"}'}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "21"}
ANSWER = {"role": "assistant", "content": "It is warm."}
CALLED = Turn(
    "assistant",
    "",
    '{"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '
    '"{\\"city\\": \\"Ulm\\"}"}}]}',
)
LOGGED = {"choices": [{"index": 0, "message": ANSWER, "finish_reason": "stop"}], "usage": {"total_tokens": 9}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def pair(row: object, **columns: str) -> Pair:
    return pair_of(row, Columns(**columns))


# Conversations


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"messages": [ASKED, ANSWER]}, Pair("Weather?", "It is warm."), id="messages"),
        pytest.param(
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    ASKED,
                    ANSWER,
                    {"role": "user", "content": "ty"},
                ]
            },
            Pair("Weather?", "It is warm.", (Turn("system", "Be brief."),)),
            id="what follows the answer is dropped",
        ),
        pytest.param(
            {"messages": [ASKED, CALLING, RESULT, ANSWER]},
            Pair("", "It is warm.", (Turn("user", "Weather?"), CALLED, Turn("tool", "21", '{"tool_call_id": "c1"}'))),
            id="a tool's result before the answer",
        ),
        pytest.param({"messages": [ANSWER, ANSWER]}, Pair("", "It is warm.", (Turn(**ANSWER),)), id="two answers"),
        pytest.param({"messages": json.dumps([ASKED, ANSWER])}, Pair("Weather?", "It is warm."), id="JSON text"),
        pytest.param({"messages": [ASKED], "response": "Warm."}, Pair("Weather?", "Warm."), id="answer beside them"),
        pytest.param(
            {"messages": [ASKED, ANSWER], "response": "It is warm."}, Pair("Weather?", "It is warm."), id="twice"
        ),
        pytest.param(
            {"prompt": "a", "response": "b", "messages": [ASKED, ANSWER]}, Pair("a", "b"), id="prompt and response win"
        ),
        pytest.param(
            {"request": {"messages": [ASKED]}, "response": LOGGED}, Pair("Weather?", "It is warm."), id="call"
        ),
        pytest.param(
            {"request": {"messages": [ASKED]}, "response": "Warm."}, Pair("Weather?", "Warm."), id="call, text"
        ),
        pytest.param({"messages": [ASKED]} | LOGGED, Pair("Weather?", "It is warm."), id="choices beside messages"),
        pytest.param({"prompt": "Weather?", "response": LOGGED}, Pair("Weather?", "It is warm."), id="prompt and call"),
        pytest.param(
            {
                "custom_id": "x",
                "method": "POST",
                "body": {"model": "m", "messages": [ASKED]},
                "response": {"status_code": 200, "body": LOGGED},
                "error": None,
            },
            Pair("Weather?", "It is warm."),
            id="batch",
        ),
        pytest.param(
            {"id": "r", "response": {"body": LOGGED}}, Pair("", "It is warm."), id="batch without its request"
        ),
        pytest.param(
            {
                "system": "Be brief.",
                "conversations": [
                    {"from": "human", "value": "Weather?"},
                    {"from": "gpt", "value": "Warm.", "weight": None},
                ],
            },
            Pair("Weather?", "Warm.", (Turn("system", "Be brief."),)),
            id="ShareGPT",
        ),
        pytest.param(
            {"conversation": [ASKED, ANSWER], "system": "gpt-9"}, Pair("Weather?", "It is warm."), id="other name"
        ),
        pytest.param(
            {"prompt": "a", "response": "b", "history": [ASKED, CALLING, RESULT | {"name": "look"}]},
            Pair(
                "a",
                "b",
                (Turn("user", "Weather?"), CALLED, Turn("tool", "21", '{"tool_call_id": "c1", "name": "look"}')),
            ),
            id="history with calls",
        ),
        pytest.param(
            {"response_token_ids": [5, 6], "prompt_token_ids": [1, 2]},
            Pair("", "", prompt_token_ids=(1, 2), response_token_ids=(5, 6)),
            id="tokens alone",
        ),
        pytest.param(
            {"messages": [ASKED, ANSWER], "response_token_ids": [5]},
            Pair("Weather?", "It is warm.", response_token_ids=(5,)),
            id="messages with tokens",
        ),
    ],
)
def test_conversations_become_pairs(row: dict[str, Any], expected: Pair) -> None:
    """Whatever form a log has, the last answer is the response, and what stands before it keeps its order."""
    assert expected == pair(row)


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_text_parts_are_joined_by_lines(kind: str) -> None:
    """Parts of text are one text, a line each, in every message."""
    parts = [{"type": kind, "text": "one"}, {"type": kind, "text": "two"}]

    assert Pair("one\ntwo", "one\ntwo", (Turn("system", "one\ntwo"),)) == pair(
        {"messages": [{"role": role, "content": parts} for role in ("system", "user", "assistant")]}
    )


def test_fields_of_messages_are_kept() -> None:
    """All that a message says beside role and content goes to the template; what is null does not."""
    odd = {"role": "assistant", "content": "x", "reasoning_content": "é", "name": "n", "audio": None}
    (turn,) = pair({"messages": [odd, ANSWER]}).history

    assert Turn("assistant", "x", '{"reasoning_content": "é", "name": "n"}') == turn


def test_inputs_of_the_template_are_read_where_they_stand() -> None:
    """Tools, documents, arguments and the date, on the row or in its request, as values or as JSON text."""
    given_ = {
        "tools": TOOLS,
        "documents": [{"title": "t", "text": "x"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "date": "2026-03-04T05:06:07Z",
    }
    as_text = {name: json.dumps(value) if name != "date" else value for name, value in given_.items()}
    expected = TemplateInputs(
        date="2026-03-04",
        tools=json.dumps(TOOLS),
        documents='[{"title": "t", "text": "x"}]',
        arguments='{"enable_thinking": false}',
    )

    assert expected == pair({"messages": [ASKED, ANSWER]} | given_).inputs
    assert expected == pair({"messages": [ASKED, ANSWER]} | as_text).inputs
    assert expected == pair({"request": {"messages": [ASKED]} | given_, "response": LOGGED}).inputs
    assert TemplateInputs() == pair({"prompt": "a", "response": "b", "tools": None}).inputs


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param({"messages": [ASKED, CALLING]}, "messages[1].content: expected text that is not empty", id="call"),
        pytest.param({"messages": [ASKED]}, "messages: no message is an assistant's", id="no answer"),
        pytest.param({"request": {"messages": [ASKED, ANSWER, ASKED]}}, "response: expected text", id="request alone"),
        pytest.param(
            {"response": {"body": {"choices": [{"message": CALLING}]}}}, "response.choices[0].message", id="tool"
        ),
        pytest.param({"question": "a", "answer": "b"}, "there are: question, answer", id="other columns"),
    ],
)
def test_a_row_without_text_has_nothing_to_judge(row: dict[str, Any], said: str) -> None:
    """A call of a tool, or a conversation without an answer, is no mistake of the file: it has no text."""
    with pytest.raises(NoText) as caught:
        pair(row)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]},
            "messages[0].content[0]: a part of type 'image_url'; only text is read",
            id="image",
        ),
        pytest.param({"messages": "hi"}, "messages: expected a list of turns with role and content", id="no list"),
        pytest.param({"messages": "[1"}, "messages: is text, but not JSON", id="torn JSON text"),
        pytest.param({"messages": ["hi"]}, "messages[0]: expected an object with role and content", id="text"),
        pytest.param({"messages": [{"content": "a"}]}, "messages[0]: a turn has no role", id="no role"),
        pytest.param({"messages": [{"role": 1}]}, "messages[0].role: expected text", id="role"),
        pytest.param({"messages": [ASKED | {"content": {"a": 1}}]}, "messages[0].content: expected text", id="object"),
        pytest.param(
            {"messages": [ASKED | {"score": float("nan")}, ANSWER]}, "messages[0]: holds NaN or an infinite", id="NaN"
        ),
        pytest.param({"messages": [ASKED | {"n": "\ud800"}]}, "messages[0]: half a surrogate pair", id="surrogate"),
        pytest.param({"messages": [ASKED, ANSWER], "response": "b"}, "messages: ends with another answer", id="two"),
        pytest.param({"response": {"choices": [{}, {}]}}, "response.choices: holds 2 answers", id="two choices"),
        pytest.param({"response": {"choices": []}}, "response: expected text, or an object with choices", id="none"),
        pytest.param({"response": {"choices": [{"text": "a"}]}}, "response.choices[0].message: expected", id="chunk"),
        pytest.param({"response": {"error": "x"}}, "response: expected text, or an object with choices", id="error"),
        pytest.param({"response": "a", "tools": ["f"]}, "tools: expected a list of objects", id="tools"),
        pytest.param({"response": "a", "documents": "no"}, "documents: is text, but not JSON", id="documents"),
        pytest.param(
            {"response": "a", "chat_template_kwargs": [1]}, "chat_template_kwargs: expected an object", id="args"
        ),
        pytest.param({"response": "a", "date": "3 May"}, "date: expected YYYY-MM-DD", id="date"),
        pytest.param({"response": "a", "date": "2026-02-30"}, "date: expected YYYY-MM-DD", id="no such day"),
        pytest.param({"response": "a", "response_token_ids": [1, -1]}, "response_token_ids: expected a list", id="id"),
        pytest.param({"response": "a", "prompt_token_ids": [True]}, "prompt_token_ids: expected a list", id="truth"),
        pytest.param({"response": "a", "prompt_token_ids": [2**31]}, "prompt_token_ids: expected a list", id="large"),
        pytest.param({"response": "a", "prompt_token_ids": "1 2"}, "prompt_token_ids: is text, but not", id="id text"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(row: dict[str, Any], said: str) -> None:
    """What is wrong is told by its place in the row; nothing is left away to make a row readable."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}") as caught:
        pair(row)
    assert not isinstance(caught.value, NoText)


PARTS = ["role", "content", "from", "value", "type", "text", "messages", "choices", "message", "body", "tool_calls"]
PARTS += ["function", "arguments"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["[", "{", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PARTS) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = [
    "prompt",
    "response",
    "messages",
    "conversations",
    "history",
    "request",
    "body",
    "choices",
    "tools",
    "documents",
]
KEYS += ["chat_template_kwargs", "date", "system", "prompt_token_ids", "response_token_ids", "label", "group", "split"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5) | JSON)
def test_whatever_a_row_holds_it_is_a_pair_or_a_named_mistake(row: object) -> None:
    """Any JSON is read, or refused by one line; never a traceback."""
    try:
        found, said = parse_row(row, 1, "s", labels=Labels.IF_THERE), ""
    except ValueError as error:
        found, said = None, str(error)
    # Whatever is said can be printed and written to a file.
    assert said.isprintable()
    assert found is None or found.pair.response.strip() or found.pair.response_token_ids


# Columns


def test_columns_are_found_by_name_and_by_path() -> None:
    """A name with a dot goes before a path; a path leads through objects and lists."""
    row = {
        "in": {"text": "q"},
        "out": [{"text": "no"}, {"text": "path"}],
        "out.1.text": "literal",
        "y": 1,
        "n": {"g": 7},
    }
    columns = Columns(prompt="in.text", response="out.1.text", label="y", group="n.g", id="n.g", source="in.text")
    found = parse_row(row, 1, "s", labels=Labels.NEEDED, columns=columns)

    assert (Pair("q", "literal"), 1, "7", "7", "q") == (found.pair, found.label, found.group, found.id, found.source)
    assert Pair("q", "path") == pair({key: row[key] for key in ("in", "out")}, prompt="in.text", response="out.1.text")
    assert Pair("Weather?", "It is warm.") == pair({"log": {"chat": [ASKED, ANSWER]}}, messages="log.chat")


def test_an_unknown_column_is_told_with_those_there(tmp_path: Path) -> None:
    """A column that was named and that no row has is one line, before anything is loaded; one that some rows have is not."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"question": "a", "answer": "b", "odd": null}\n{"question": "c", "grade": 1}\nno JSON\n')

    check_readable([file], Columns(prompt="question", response="answer", label="grade", history="odd"))
    with pytest.raises(DataError) as caught:
        check_readable([file], Columns(response="anwser", group="topic"))
    assert str(caught.value) == (
        f"{file}: has no column for --response-column anwser, --group-column topic; there are: question, answer, odd, grade"
    )


def test_what_is_not_learnt_from_may_be_anything() -> None:
    """A label, or a split, of another kind matters only where it is needed."""
    row = {"response": "a", "label": "toxic", "split": "train"}

    assert parse_row(row, 1, "s", labels=Labels.IGNORED).label is None
    for labels in (Labels.NEEDED, Labels.IF_THERE):
        with pytest.raises(ValueError, match=r"^label: expected 0 or 1, not 'toxic'$"):
            parse_row(row, 1, "s", labels=labels)
    with pytest.raises(ValueError, match=r"^split: expected fit or held_out, not 'train'$"):
        parse_row(row | {"label": 1}, 1, "s", labels=Labels.NEEDED)


def test_copies_of_tokens_are_one_group() -> None:
    """Pairs that are given as tokens alone are copies where their tokens are the same, and only there."""
    rows = [{"response_token_ids": ids} for ids in ([1, 2], [1, 2], [1, 3])]
    one, same, other = (parse_row(row, 1, "s", labels=Labels.IGNORED).group for row in rows)

    assert one == same != other


# Files

ROWS = [
    {"prompt": "Weather?", "response": 'It, "perhaps",\nrains.', "label": 1, "id": "x", "messages": None},
    {"prompt": "", "response": "é", "label": 0, "id": None, "messages": None},
    {"prompt": None, "response": "", "label": 0, "id": None, "messages": [ASKED, ANSWER]},
]


def written(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    """The rows in a file of this format."""
    file = folder / f"data{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if suffix.startswith(".csv"):
        cells = [
            ["" if cell is None else json.dumps(cell) if isinstance(cell, list) else str(cell) for cell in row.values()]
            for row in rows
        ]
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [list(rows[0]), *cells]]
    content = ("\n".join(lines) + "\n").encode()
    file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet", ".log"])
def test_every_format_says_the_same(tmp_path: Path, suffix: str) -> None:
    """The pairs, labels and ids of a file do not depend on its format."""
    read = read_texts(written(tmp_path, suffix, ROWS), labels=Labels.NEEDED)

    assert [Pair("Weather?", ROWS[0]["response"]), Pair("", "é"), Pair("Weather?", "It is warm.")] == [
        item.pair for item in read.pairs
    ]
    assert ([1, 0, 0], "x", {"data"}) == (
        [item.label for item in read.pairs],
        read.pairs[0].id,
        {item.source for item in read.pairs},
    )
    # The first row of CSV begins behind the names, and goes on over two lines.
    assert ([2, 4, 5] if "csv" in suffix else [1, 2, 3]) == [item.line for item in read.pairs]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".csv.gz"])
def test_files_put_together_are_read_as_each(tmp_path: Path, suffix: str) -> None:
    """Byte order marks, and in CSV the names that come again, are no part of any row, and no row of their own."""
    parts = [written(tmp_path, suffix, ROWS[index : index + 1]).read_bytes() for index in (0, 1)]
    unpacked = [gzip.decompress(part) if suffix.endswith(".gz") else part for part in parts]
    whole = b"".join(b"\xef\xbb\xbf" + part for part in [*unpacked, unpacked[0]]) + b"\xef\xbb\xbf\n"
    file = tmp_path / f"whole{suffix}"
    file.write_bytes(gzip.compress(whole) if suffix.endswith(".gz") else whole)
    read = read_texts(file, labels=Labels.NEEDED)

    assert [1, 0, 1] == [item.label for item in read.pairs]
    assert [ROWS[0]["response"], "é", ROWS[0]["response"]] == [item.pair.response for item in read.pairs]
    assert not read.tally.left_out


def test_odd_rows_of_csv_are_left_out(tmp_path: Path) -> None:
    """A row with too many cells, or of another encoding, is named by its line; the others are read."""
    file = tmp_path / "a.csv"
    file.write_bytes(b"prompt,response\na,b\n\na,b,c\na,\xe4\nc,d\ne\n")
    read = read_texts(file)

    assert [(2, "b"), (6, "d")] == [(item.line, item.pair.response) for item in read.pairs]
    assert [
        f"{file}:4: has more cells than the first line has names",
        f"{file}:5: not UTF-8; save the file as UTF-8",
        f"{file}:7: response: expected text that is not empty",
    ] == [line.partition("; there are")[0] for line in read.tally.first]


def test_names_and_patterns_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns are sorted, files stand in the order given and once each, and a name with a bracket is a name first."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "x[1].jsonl", *(f"b-{digit}.jsonl" for digit in "7524816")):
        Path(name).write_text("{}\n")
    Path("b-3.jsonl").mkdir()

    found = named_files("b-*.jsonl", "a.jsonl", "./b-1.jsonl")
    assert [*(f"b-{digit}.jsonl" for digit in "1245678"), "a.jsonl"] == list(map(str, found))
    assert ["x[1].jsonl"] == list(map(str, named_files("x[1].jsonl")))
    assert [tmp_path / "a.jsonl"] == named_files(f"{tmp_path}/[a].jsonl")
    (tmp_path / os.fsdecode(b"\xff.jsonl")).touch()
    for name, said in {
        "\udcff*": r"'\udcff.jsonl': its name is not UTF-8; rename it",
        "c-*.jsonl": "c-*.jsonl: no file matches",
        "c.jsonl": "c.jsonl: no such file",
        "b-3.jsonl": "b-3.jsonl: is a folder; name its files, such as 'b-3.jsonl/*.jsonl'",
    }.items():
        with pytest.raises(DataError) as caught:
            named_files("a.jsonl", name)
        assert said == str(caught.value)


def test_pairs_of_several_files_know_theirs(tmp_path: Path) -> None:
    """Lines are counted in each file, and a row that cannot be used is named with its own."""
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for file in files:
        file.write_text('{"response": "x"}\n{}\n')
    read = read_texts(*files)

    assert [(f"{file}:1", file.stem) for file in files] == [(item.place, item.source) for item in read.pairs]
    assert (4, 2, {"no_text": 2}) == (read.tally.read, read.tally.used, read.tally.reasons)
    assert [f"{file}:2" for file in files] == [line.partition(": ")[0] for line in read.tally.first]
    with pytest.raises(DataError, match=f"^{files[0]}:2: response: expected text"):
        read_texts(*files, reading=Reading(strict=True))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl.gz", b"no gzip", "cannot be read: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"response": "a"}\n' * 999, mtime=0)[:-9],
            "cannot be read: Compressed file ended",
        ),
        ("a.parquet", b"PAR1", "not a Parquet file that can be read"),
        ("a.parquet.gz", b"", "a compressed Parquet file is not read; unpack it"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """What is wrong with a file as a whole is one line with its name: what is behind cannot be known."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_texts(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {said}")
    assert not isinstance(caught.value, NothingUsable)


def test_standard_input_is_read_and_can_be_read_again() -> None:
    """`-` is standard input: looked at for its columns, counted in a digest, and read, one after the other."""
    code = (
        "import sys; from pathlib import Path; from scopewatch.pairs.rows import *; from scopewatch.pairs.columns import *;"
        "dash = Path('-'); check_readable([dash], Columns(response='a')); print(digest_of(dash));"
        "print([(row.place, row.load()) for row in rows_of([dash], Columns())])"
    )
    told = subprocess.run([sys.executable, "-c", code], input=b'{"a": 1}\n\n{"a": 2}', capture_output=True, check=True)
    digest, rows = told.stdout.decode().splitlines()

    assert str([("-:1", {"a": 1}), ("-:3", {"a": 2})]) == rows
    assert 64 == len(digest)


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    """What a card names is what sha256sum says of the file, compressed or not."""
    file = written(tmp_path, ".jsonl.gz", ROWS)
    told = subprocess.run(["sha256sum", file], capture_output=True, check=True, text=True)

    assert told.stdout.split()[0] == digest_of(file)
    assert 3 == len(list(rows_of([file], Columns())))
