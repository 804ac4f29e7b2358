"""Every way a request can be wrong is INVALID_ARGUMENT and names the field; the server stays well."""

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import asdict

import grpc
import numpy as np
import pytest
from _pytest.mark import ParameterSet
from google.rpc import code_pb2, error_details_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import free_port, watchlist_of
from scopewatch.client import AsyncClient, Client, pb, request
from scopewatch.contract.status import from_status
from scopewatch.doors.grpc.call import Call
from scopewatch.doors.grpc.requests import to_job
from scopewatch.doors.limits import MAX_VIOLATIONS, Limits
from scopewatch.doors.quota import Quota, QuotaLimits
from scopewatch.doors.role_file import anyone_may
from scopewatch.errors import InvalidRequest
from scopewatch.types import Pair, TemplateInputs, Turn
from scopewatch.v1 import monitor_pb2_grpc
from servers import NO_RETRIES, ServerProcess, violations
from spine import watchlist_set

Score = pb.ScoreRequest
USER, ASSISTANT = pb.Turn(role="user", content="a"), pb.Turn(role="assistant", content="b")
SURROGATE = b"\xed\xa0\x80"
"""What a careless encoder makes of U+D800; three bytes."""


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> monitor_pb2_grpc.MonitorServiceStub:
    return monitor_pb2_grpc.MonitorServiceStub(channel)


def refused(call: grpc.UnaryUnaryMultiCallable, message: object) -> dict[str, str]:
    """Fields named by the INVALID_ARGUMENT that the message must get."""
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=120)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return violations(caught.value)


TOO_LARGE = "bytes, most of them here; at most 200000 are allowed"


def bad_roles(*roles: str) -> list[ParameterSet]:
    return [
        pytest.param(
            Score(history=[USER, pb.Turn(role=role, content="b")], response="a"),
            "history[1].role",
            "letters, digits",
            id=f"role {role!r}",
        )
        for role in roles
    ]


def bad_inputs(field: str, said: str, *values: str) -> list[ParameterSet]:
    return [
        pytest.param(
            Score(response="a", template_inputs=pb.TemplateInputs(**{field: value})),
            f"template_inputs.{field}",
            said,
            id=f"{field} {value[:20]!r}",
        )
        for value in values
    ]


def bad_fields(said: str, *values: str) -> list[ParameterSet]:
    return [
        pytest.param(
            Score(response="a", history=[pb.Turn(role="user", content="b", fields_json=value), ASSISTANT]),
            "history[0].fields_json",
            said,
            id=f"fields {value!r}",
        )
        for value in values
    ]


BAD = [
    pytest.param(Score(prompt="a"), "response", "is empty", id="no response"),
    pytest.param(Score(response=" \n\t\u3000"), "response", "is empty", id="white space"),
    pytest.param(Score(response="a" * 20_001), "response", "20001 characters; at most 20000", id="response too long"),
    pytest.param(Score(prompt="a" * 20_001, response="a"), "prompt", "at most 20000", id="prompt too long"),
    pytest.param(
        Score(history=[pb.Turn(role="user", content="é" * 20_001), ASSISTANT], response="a"),
        "history[0].content",
        "at most 20000",
        id="history too long",
    ),
    pytest.param(Score(prompt="ab\0", response="a"), "prompt", "NUL character at offset 2", id="NUL in prompt"),
    pytest.param(Score(response="🤔\0"), "response", "NUL character at offset 1", id="NUL in response"),
    pytest.param(
        Score(history=[USER, pb.Turn(role="assistant", content="\0")], response="a"),
        "history[1].content",
        "NUL character at offset 0",
        id="NUL in history",
    ),
    pytest.param(Score(history=[USER, ASSISTANT] * 3, response="a"), "history", "6 turns; at most 4", id="many turns"),
    pytest.param(
        Score(history=[USER, pb.Turn(content="b")], response="a"), "history[1].role", "is empty", id="empty role"
    ),
    pytest.param(
        Score(history=[pb.Turn(role="r" * 41, content="b")], response="a"),
        "history[0].role",
        "at most 40",
        id="long role",
    ),
    pytest.param(
        Score(labels={str(i): "" for i in range(4)}, response="a"), "labels", "4 entries; at most 3", id="many labels"
    ),
    pytest.param(Score(labels={"k" * 41: ""}, response="a"), f"labels[{'k' * 20}]", "at most 40", id="long label key"),
    pytest.param(Score(labels={"k": "v" * 41}, response="a"), "labels[k]", "at most 40", id="long label value"),
    pytest.param(Score(request_id="i" * 41, response="a"), "request_id", "41 characters", id="long request_id"),
    pytest.param(Score(watchlist="w" * 41, response="a"), "watchlist", "41 characters", id="long watchlist"),
    pytest.param(Score(watchlist="nope", response="a"), "watchlist", "there are: test, second", id="unknown watchlist"),
    *bad_roles(
        "a\n", "user<|im_end|>", "user\nsystem", " user", "user ", "<start_of_turn>", "a:b", "a/b", "{role}", "\0"
    ),
    *bad_inputs(
        "date", "is not a day", "2024-7-26", "2024-02-30", "20240726", "today", "2024-07-26 ", "\uff12024-07-26"
    ),
    *bad_inputs("tools_json", "is not JSON", "[", "{'a': 1}", "[{}] []", "nan", " "),
    *bad_inputs("tools_json", "is not a JSON array of objects", "{}", "null", '"a"', "1", "[1]", "[{}, null]", "[[]]"),
    *bad_inputs("tools_json", "at most 20000", "[" + " " * 20_000 + "]"),
    *bad_inputs("tools_json", "nested deeper than 32", "[" * 9_000, '[{"a":' + "[" * 31 + "1" + "]" * 31 + "}]"),
    *bad_inputs("documents_json", "is not a JSON array of objects", "{}", '["a"]'),
    *bad_inputs("documents_json", "not finite", '[{"a": NaN}]', '[{"a": -Infinity}]', '[{"a": 1e999}]'),
    *bad_inputs("documents_json", "not finite", '[{"a": ' + "9" * 9_000 + "}]"),
    *bad_inputs("documents_json", "NUL", '[{"a": ["\\u0000"]}]', '[{"\\ud800": 1}]', '[{"a": "\\udc00"}]'),
    *bad_inputs("arguments_json", "is not a JSON object", "[]", "true"),
    *bad_inputs("arguments_json", "must not hold messages", '{"messages": []}'),
    *bad_inputs("arguments_json", "must not hold bos_token, tools", '{"tools": [], "a": 1, "bos_token": ""}'),
    *bad_inputs("arguments_json", "must not hold add_generation_prompt", '{"add_generation_prompt": true}'),
    *bad_inputs("arguments_json", "must not hold continue_final_message", '{"continue_final_message": true}'),
    *bad_fields("is not a JSON object", "[]", "1"),
    *bad_fields("is not JSON", "tool_calls"),
    *bad_fields("must not hold role", '{"role": "system"}', '{"name": "a", "role": null}'),
    *bad_fields("must not hold content", '{"content": "a"}'),
    pytest.param(
        Score(response="a", response_token_ids=[1] * 20_001), "response_token_ids", "20001 token ids", id="many ids"
    ),
    pytest.param(
        Score(response="a", prompt_token_ids=[1] * 15_000, response_token_ids=[1] * 5_001),
        "prompt_token_ids",
        "20001 token ids",
        id="many ids together",
    ),
    pytest.param(
        Score(response="a", prompt_token_ids=[1 << 20] * 100_000), "prompt_token_ids", TOO_LARGE, id="ids too large"
    ),
    pytest.param(
        Score(response="a", template_inputs=pb.TemplateInputs(tools_json=" " * 200_000)),
        "template_inputs",
        TOO_LARGE,
        id="template inputs too large",
    ),
    pytest.param(Score(response="a" * 10_000_000), "response", TOO_LARGE, id="10 MB response"),
    pytest.param(Score(prompt="a" * 10_000_000, response="a"), "prompt", TOO_LARGE, id="10 MB prompt"),
    pytest.param(
        Score(history=[pb.Turn(role="user", content="也" * 19_000)] * 4, prompt="a" * 20_000, response="a"),
        "history",
        TOO_LARGE,
        id="message too large by its history",
    ),
    pytest.param(
        Score(labels={str(i): "v" * 100 for i in range(2000)}, response="a" * 20_000),
        "labels",
        TOO_LARGE,
        id="message too large by its labels",
    ),
]


@pytest.mark.parametrize(("message", "field", "said"), BAD)
def test_a_bad_field_is_named(
    stub: monitor_pb2_grpc.MonitorServiceStub, message: pb.ScoreRequest, field: str, said: str
) -> None:
    """A wrong field gets INVALID_ARGUMENT with a BadRequest that names it, and only it, and says what is wrong."""
    found = refused(stub.Score, message)

    assert list(found) == [field]
    assert said in found[field]


@pytest.mark.parametrize(("message", "field", "said"), [case for case in BAD if case.values[2] != TOO_LARGE])
def test_a_bad_item_of_a_batch_gets_the_same_status(
    stub: monitor_pb2_grpc.MonitorServiceStub, message: pb.ScoreRequest, field: str, said: str
) -> None:
    """An item of a batch fails with the code and details that it would get alone, and fails no other item."""
    reply = stub.BatchScore(pb.BatchScoreRequest(requests=[Score(response="ok"), message]), timeout=120)
    good, bad = reply.results
    found = error_details_pb2.BadRequest()

    assert good.WhichOneof("outcome") == "response"
    assert bad.status.code == code_pb2.INVALID_ARGUMENT
    assert any(detail.Unpack(found) for detail in bad.status.details)
    assert [violation.field for violation in found.field_violations] == [field]
    assert said in found.field_violations[0].description


@pytest.mark.parametrize(
    ("message", "said"),
    [
        pytest.param(pb.BatchScoreRequest(), "at least one", id="empty"),
        pytest.param(
            pb.BatchScoreRequest(requests=[Score(response="a")] * 9), "9 requests; at most 8", id="many items"
        ),
        pytest.param(
            pb.BatchScoreRequest(requests=[Score(response="a" * 19_000)] * 11), "at most 200000", id="too large"
        ),
    ],
)
def test_a_bad_batch_is_refused_as_a_whole(
    stub: monitor_pb2_grpc.MonitorServiceStub, message: pb.BatchScoreRequest, said: str
) -> None:
    """A batch that is empty, too long or too large is refused by its `requests`."""
    found = refused(stub.BatchScore, message)

    assert list(found) == ["requests"]
    assert said in found["requests"]


def test_all_that_is_wrong_is_reported_together(stub: monitor_pb2_grpc.MonitorServiceStub) -> None:
    """A request with several mistakes is told all of them at once."""
    message = Score(
        prompt="\0",
        response="",
        history=[pb.Turn(role="", content="\0", fields_json="[]")],
        labels={"k": "v" * 41},
        request_id="i" * 41,
        watchlist="nope",
        template_inputs=pb.TemplateInputs(date="today"),
        prompt_token_ids=[1] * 20_001,
    )
    expected = [
        "prompt",
        "response",
        "history[0].role",
        "history[0].content",
        "history[0].fields_json",
        "prompt_token_ids",
        "template_inputs.date",
        "labels[k]",
        "request_id",
        "watchlist",
    ]

    assert expected == list(refused(stub.Score, message))
    (result,) = stub.BatchScore(pb.BatchScoreRequest(requests=[message]), timeout=120).results
    assert expected == [violation.field for violation in from_status(result.status).violations]


def test_very_many_mistakes_still_reach_the_caller(stub: monitor_pb2_grpc.MonitorServiceStub) -> None:
    """Thousands of mistakes are summed up, so that the status fits into the metadata a client accepts."""
    message = Score(response="a", labels={f"{i:04}{'😀' * 37}": "" for i in range(1000)})

    found = refused(stub.Score, message)

    assert len(found) == MAX_VIOLATIONS + 1
    assert found["request"] == f"{1001 - MAX_VIOLATIONS} more mistakes are not listed"


def raw(message: pb.ScoreRequest | pb.BatchScoreRequest, bad: bytes) -> bytes:
    """A message's bytes with `@@@` replaced by other three bytes."""
    data = message.SerializeToString()
    assert data.count(b"@@@") == 1
    return data.replace(b"@@@", bad)


@pytest.mark.parametrize("bad", [SURROGATE, b"\xff\xfe\xfd", b"\xc3(\xa0"], ids=["surrogate", "no lead", "cut short"])
@pytest.mark.parametrize(
    ("method", "message", "field"),
    [
        pytest.param("Score", Score(response="@@@"), "response", id="response"),
        pytest.param("Score", Score(prompt="a@@@b", response="a"), "prompt", id="prompt"),
        pytest.param("Score", Score(request_id="@@@"), "request_id", id="request_id"),
        pytest.param("Score", Score(watchlist="@@@"), "watchlist", id="watchlist"),
        pytest.param(
            "Score", Score(history=[USER, pb.Turn(role="user", content="@@@")]), "history[1].content", id="history"
        ),
        pytest.param("Score", Score(history=[pb.Turn(role="@@@")]), "history[0].role", id="role"),
        pytest.param("Score", Score(labels={"key": "@@@"}), "labels[0].value", id="label value"),
        pytest.param("Score", Score(labels={"@@@": "value"}), "labels[0].key", id="label key"),
        pytest.param(
            "BatchScore",
            pb.BatchScoreRequest(requests=[Score(response="a"), Score(), Score(response="@@@")]),
            "requests[2].response",
            id="item of a batch",
        ),
    ],
)
def test_bytes_that_are_not_utf8_are_found(
    channel: grpc.Channel, method: str, message: pb.ScoreRequest, field: str, bad: bytes
) -> None:
    """Text that is not UTF-8 on the wire is the caller's mistake, and the field is named however deep it lies."""
    found = refused(channel.unary_unary(f"/scopewatch.v1.MonitorService/{method}"), raw(message, bad))

    assert list(found) == [field]
    assert "not valid UTF-8" in found[field]


@pytest.mark.parametrize("method", ["Score", "BatchScore", "GetInfo"])
@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x12\x05a", b"\x0b" * 100], ids=["no tag", "cut short", "deep groups"]
)
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, method: str, data: bytes) -> None:
    """Garbage instead of a message is INVALID_ARGUMENT, not INTERNAL."""
    found = refused(channel.unary_unary(f"/scopewatch.v1.MonitorService/{method}"), data)

    assert list(found) == ["request"]
    assert "the bytes are not a scopewatch.v1." in found["request"]


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=64))
def test_any_bytes_get_an_answer(channel: grpc.Channel, data: bytes) -> None:
    """Whatever bytes come, the answer is a reply or INVALID_ARGUMENT."""
    code = grpc.StatusCode.OK
    try:
        channel.unary_unary("/scopewatch.v1.MonitorService/Score")(data, timeout=120)
    except grpc.RpcError as error:
        code = error.code()

    assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


def test_what_a_request_holds_is_what_is_asked_for() -> None:
    """Every field that the clients take reaches the pair that is scored, as the contract writes it."""
    calls = [{"function": {"name": "search", "arguments": {"q": "é"}}}]
    message = request(
        prompt="p",
        history=[
            Turn("user", "a", '{"name": "b"}'),
            {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None},
            {"role": "tool", "content": [{"type": "text", "text": "c"}, "d"], "tool_call_id": "7"},
            {"role": "assistant", "content": "e", "reasoning_content": "f"},
        ],
        template_inputs={
            "date": "2026-02-28",
            "tools": [{"type": "function"}],
            "documents": [],
            "arguments": {"enable_thinking": False},
        },
        prompt_token_ids=[1, 2],
        response_token_ids=np.array([3, 4], np.int32),
    )

    assert taken(message) == Pair(
        "p",
        "",
        (
            Turn("user", "a", '{"name": "b"}'),
            Turn("assistant", "", json.dumps({"tool_calls": calls}, ensure_ascii=False)),
            Turn("tool", "c\nd", '{"tool_call_id": "7"}'),
            Turn("assistant", "e", '{"reasoning_content": "f"}'),
        ),
        TemplateInputs("2026-02-28", '[{"type": "function"}]', "[]", '{"enable_thinking": false}'),
        (1, 2),
        (3, 4),
    )


def test_what_a_request_leaves_out_is_empty() -> None:
    """A template input that is not given, or is None, is empty, so that the reader's settings decide."""
    assert taken(request(response="a")) == Pair("", "a")
    assert taken(request(response="a", template_inputs={"date": None, "tools": None})) == Pair("", "a")


def taken(message: pb.ScoreRequest) -> Pair:
    """The pair that the door makes of a message."""
    return to_job(
        message,
        Limits(1 << 20, 1000, 8, 4, 40, 4, 512, 8, 1 << 20),
        watchlist_set(watchlist_of()),
        Call(anyone_may(round_scores=0.0), Quota(QuotaLimits()), None),
    ).pair


@pytest.mark.parametrize(
    "role", ["user", "tool", "developer", "ipython", "System", "knowledge base", "gpt-4.1_x", "用户", "7"]
)
def test_roles_are_what_chat_templates_call_them(role: str) -> None:
    """A role of letters and digits is taken, in any script and with the marks that names have."""
    assert taken(request(response="a", history=[Turn(role, "b")])).history == (Turn(role, "b"),)


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param({"tools_json": '[{"a": {"b": [1, 2.5, -1e300, true, null]}}]'}, id="every kind of value"),
        pytest.param({"tools_json": '[{"a": 1, "a": 2}]'}, id="a key twice"),
        pytest.param({"documents_json": '[{"a":' + "[" * 30 + "1" + "]" * 30 + "}]"}, id="nested"),
        pytest.param({"arguments_json": '{"token_count": 1, "date_string": "26 Jul 2024", "role": "a"}'}, id="names"),
        pytest.param({"date": "2024-02-29"}, id="leap day"),
    ],
)
def test_template_inputs_reach_the_reader_as_they_are_written(inputs: dict[str, str]) -> None:
    """What a chat template can be given is taken, text for text."""
    found = taken(Score(response="a", template_inputs=pb.TemplateInputs(**inputs))).inputs
    assert {name.removesuffix("_json"): text for name, text in inputs.items()}.items() <= asdict(found).items()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"template_inputs": {"tool": []}}, "template_inputs.tool"),
        ({"template_inputs": {"tools": [{"a": {1, 2}}]}}, "template_inputs.tools_json"),
        ({"template_inputs": {"arguments": {("a",): 1}}}, "template_inputs.arguments_json"),
        ({"template_inputs": {"date": dt.date(2024, 7, 26)}}, "template_inputs.date"),
        ({"history": [{"role": "user", "content": [{"type": "image_url"}]}]}, "history[0].content[0]"),
        ({"history": [{"role": "user", "content": ["a", 5]}]}, "history[0].content[1]"),
        ({"history": [{"role": "user", "content": {"text": "a"}}]}, "history[0].content"),
        ({"history": [{"role": 5, "content": "a"}]}, "history[0].role"),
        ({"history": [{"role": "user", "content": "", "audio": b"a"}]}, "history[0].fields_json"),
        ({"prompt": None}, "prompt"),
        ({"prompt_token_ids": [1, -1]}, "prompt_token_ids"),
        ({"response_token_ids": [1 << 32]}, "response_token_ids"),
        ({"response_token_ids": ["a"]}, "response_token_ids"),
        ({"response_token_ids": [1.5]}, "response_token_ids"),
    ],
)
def test_what_cannot_be_sent_is_named(fields: dict[str, object], field: str) -> None:
    """A value that has no place in a request is refused before it is sent, under the field's name."""
    with pytest.raises(InvalidRequest) as caught:
        request(**{"response": "a", **fields})

    assert [violation.field for violation in caught.value.violations] == [field]


SURROGATES = [
    pytest.param({"prompt": "a\ud800"}, "prompt", id="prompt"),
    pytest.param({"response": "\udfff"}, "response", id="response"),
    pytest.param({"watchlist": "\ud800"}, "watchlist", id="watchlist"),
    pytest.param({"request_id": "\ud800"}, "request_id", id="request_id"),
    pytest.param({"history": [Turn("user", "\ud83e")]}, "history[0].content", id="history"),
    pytest.param({"history": [Turn("\ud83e", "")]}, "history[0].role", id="role"),
    pytest.param({"labels": {"a": "b", "c": "\ud83e"}}, "labels[1]", id="label value"),
    pytest.param({"labels": {"\ud83e": "b"}}, "labels[0]", id="label key"),
    pytest.param({"history": [{"role": "user", "name": "\ud83e"}]}, "history[0].fields_json", id="other field"),
    pytest.param({"template_inputs": {"date": "\ud83e"}}, "template_inputs.date", id="date"),
    pytest.param({"template_inputs": {"tools": [{"\ud83e": 1}]}}, "template_inputs.tools_json", id="tools"),
]


@pytest.mark.parametrize(("fields", "field"), SURROGATES)
def test_the_clients_refuse_lone_surrogates_before_sending(fields: dict[str, object], field: str) -> None:
    """Half of a surrogate pair cannot be sent; both clients say so and name the field without asking a server."""
    nowhere = f"127.0.0.1:{free_port()}"

    async def ask_asyncio() -> None:
        async with AsyncClient(nowhere) as client:
            await client.score(**fields)

    with Client(nowhere) as client, pytest.raises(InvalidRequest) as blocking:
        client.score(**fields)
    with pytest.raises(InvalidRequest) as later:
        asyncio.run(ask_asyncio())

    assert [v.field for v in blocking.value.violations] == [v.field for v in later.value.violations] == [field]


def test_a_refused_pair_is_counted(server: ServerProcess, stub: monitor_pb2_grpc.MonitorServiceStub) -> None:
    """Refused pairs show in the metrics by reason, alone and in a batch."""

    def counted() -> tuple[float, float]:
        name = "scopewatch_failed_pairs_total"
        return server.metric(name, reason="invalid_request"), server.metric(name, reason="unknown_watchlist")

    before = counted()
    refused(stub.Score, Score(response=""))
    refused(stub.Score, Score(response="a", watchlist="nope"))
    stub.BatchScore(pb.BatchScoreRequest(requests=[Score(response=""), Score(response="a", watchlist="nope")]))

    assert counted() == (before[0] + 2, before[1] + 2)


def test_after_all_that_the_server_still_answers(server: ServerProcess) -> None:
    """Every bad request at once, several times over, and a good one among them is answered as if alone."""
    messages = [case.values[0] for case in BAD if case.values[0].ByteSize() < 1_000_000] * 3
    good = request(prompt="hello", response="It may rain tomorrow.")

    async def ask_all() -> list[pb.ScoreResponse | BaseException]:
        async with grpc.aio.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel:
            stub = monitor_pb2_grpc.MonitorServiceStub(channel)
            return await asyncio.gather(
                *(stub.Score(message, timeout=120) for message in [*messages, good]), return_exceptions=True
            )

    *bad, reply = asyncio.run(ask_all())

    assert {getattr(outcome, "code", lambda: None)() for outcome in bad} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert isinstance(reply, pb.ScoreResponse)
    with Client(server.grpc_address, timeout_s=120) as client:
        alone = client.score(prompt="hello", response="It may rain tomorrow.")
    assert [s.score for s in reply.indicators] == pytest.approx([s.score for s in alone.indicators], rel=1e-5)
