"""What a caller's bytes may cost: bounds hold before anything is inflated whole or decoded."""

import asyncio
import gzip
import zlib
from collections import Counter

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scopewatch.client import pb
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.doors.grpc.wire import counted, inflated
from scopewatch.errors import InvalidRequest
from servers import NO_RETRIES, ServerProcess, health, violations

EMPTY_REQUESTS, EMPTY_TURNS = b"\x0a\x00", b"\x22\x00"
MOST = 1000


def fields(message: pb.ScoreRequest | pb.BatchScoreRequest) -> int:
    """The fields of a message on all levels, counted in the decoded message; packed numbers are one field."""
    total = 0
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            total += 1
        elif descriptor.message_type.GetOptions().map_entry:
            total += sum(3 for _ in value)
        else:
            total += sum(1 + fields(item) for item in (value if descriptor.is_repeated else [value]))
    return total


WORDS = st.text(max_size=200)
TURNS = st.lists(st.builds(pb.Turn, role=WORDS.filter(bool), content=WORDS.filter(bool)), max_size=5)
REQUESTS = st.builds(
    pb.ScoreRequest,
    request_id=WORDS,
    prompt=WORDS,
    response=WORDS,
    history=TURNS,
    labels=st.dictionaries(WORDS.filter(bool), WORDS.filter(bool), max_size=4),
    include_evidence=st.booleans(),
    response_token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=30),
    template_inputs=st.builds(pb.TemplateInputs, date=WORDS),
)


@given(st.builds(pb.BatchScoreRequest, requests=st.lists(REQUESTS, max_size=5)))
def test_fields_are_counted_as_the_decoder_finds_them(message: pb.BatchScoreRequest) -> None:
    """The count over the bytes is that over the decoded message, on all levels."""
    assert counted(message.SerializeToString(), message.DESCRIPTOR, 10**6).fields == fields(message)


@given(st.binary(max_size=300))
def test_any_bytes_are_counted(data: bytes) -> None:
    """What is no message is counted without an error, for the decoder to name it; never more than half its bytes."""
    assert counted(data, pb.ScoreRequest.DESCRIPTOR, 10**6).fields <= len(data)


@pytest.mark.parametrize(
    ("data", "kind", "field"),
    [
        pytest.param(EMPTY_REQUESTS * (MOST + 1), pb.BatchScoreRequest, "requests", id="requests"),
        pytest.param(EMPTY_TURNS * (MOST + 1), pb.ScoreRequest, "history", id="turns"),
        pytest.param(b"\x32\x00" * (MOST + 1), pb.ScoreRequest, "labels", id="labels"),
        pytest.param(b"\x48\x01" * (MOST + 1), pb.ScoreRequest, "prompt_token_ids", id="unpacked ids"),
        pytest.param(b"\xf8\x7f\x00" * (MOST + 1), pb.ScoreRequest, "request", id="unknown fields"),
        pytest.param(b"\xfb\x7f\xfc\x7f" * MOST, pb.ScoreRequest, "request", id="unknown groups"),
        pytest.param(
            pb.BatchScoreRequest(requests=[pb.ScoreRequest.FromString(EMPTY_TURNS * MOST)]).SerializeToString(),
            pb.BatchScoreRequest,
            "requests",
            id="on an inner level",
        ),
    ],
)
def test_too_many_fields_are_refused_by_name(data: bytes, kind: type[pb.ScoreRequest], field: str) -> None:
    """A message with more fields than allowed, on whatever level, is refused, and the field they are in is named."""
    with pytest.raises(InvalidRequest) as refused:
        counted(data, kind.DESCRIPTOR, MOST)

    (violation,) = refused.value.violations
    assert violation.field == field
    assert f"more than {MOST} fields" in violation.description


def test_as_many_fields_as_allowed_are_taken() -> None:
    """The bound itself is allowed."""
    assert counted(EMPTY_REQUESTS * MOST, pb.BatchScoreRequest.DESCRIPTOR, MOST).fields == MOST


@given(st.binary(max_size=5000).filter(lambda data: data[:2] != b"\x1f\x8b"))
def test_gzip_is_inflated(data: bytes) -> None:
    """A compressed body becomes what it was, and one that is not compressed stays as it is."""
    assert inflated(gzip.compress(data), len(data)) == data
    assert inflated(data, 0) == data


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(gzip.compress(b"a" * 1001), "more than 1000 bytes when it is inflated", id="a byte too many"),
        pytest.param(gzip.compress(b"a" * (64 << 20)), "more than 1000 bytes when it is inflated", id="a bomb"),
        pytest.param(gzip.compress(b"a" * 500)[:-3], "cut short", id="cut short"),
        pytest.param(gzip.compress(b"a") + gzip.compress(b"b"), "something follows it", id="two members"),
        pytest.param(gzip.compress(b"a") + b"b", "something follows it", id="trailing bytes"),
        pytest.param(gzip.compress(b"a" * 500)[:-8] + b"\0" * 8, "damaged", id="wrong checksum"),
        pytest.param(b"\x1f\x8b\xff\xff\xff", "damaged", id="no gzip after all"),
    ],
)
def test_a_body_that_does_not_inflate_is_refused(body: bytes, said: str) -> None:
    """What is damaged, cut short or too large once inflated is refused, and says so."""
    with pytest.raises(InvalidRequest, match=said):
        inflated(body, 1000)


def raw(channel: grpc.Channel, method: str) -> grpc.UnaryUnaryMultiCallable:
    """A call that sends bytes as they are."""
    return channel.unary_unary(f"/{SERVICE_NAME}/{method}")


@pytest.mark.parametrize("method", ["Score", "BatchScore", "GetInfo"])
async def test_bombs_cost_little_and_health_answers(server: ServerProcess, method: str) -> None:
    """62 MB of empty fields, compressed to 63 kB or plain and from eight callers, are refused; the process stays small."""
    bomb = {"Score": EMPTY_TURNS, "BatchScore": EMPTY_REQUESTS, "GetInfo": EMPTY_TURNS}[method]

    def send(body: bytes, compression: grpc.Compression | None) -> str:
        with grpc.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel:
            try:
                raw(channel, method)(body, timeout=120, compression=compression)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    sent = [asyncio.to_thread(send, bomb * (31 << 20), grpc.Compression.Gzip)]
    sent += [asyncio.to_thread(send, bomb * 90_000, None) for _ in range(8)]
    answers = asyncio.gather(*sent)
    while not answers.done():
        assert await health(server.grpc_address, "") == "SERVING"
        await asyncio.sleep(0.05)

    assert Counter(await answers).keys() <= {"INVALID_ARGUMENT"}
    # 4 GiB before there were bounds; a server of this reader rests at a third of what is allowed here.
    assert server.metric("process_resident_memory_bytes") < 1.5e9


def test_compressed_requests_are_answered(server: ServerProcess) -> None:
    """A client that compresses by gzip gets the same answer; other compressions are UNIMPLEMENTED, not guessed at."""
    request = pb.ScoreRequest(response="it may be " * 100).SerializeToString()
    with grpc.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel:
        replies = [
            raw(channel, "Score")(request, timeout=120, compression=how) for how in (None, grpc.Compression.Gzip)
        ]
        with pytest.raises(grpc.RpcError) as refused:
            raw(channel, "Score")(request, timeout=120, compression=grpc.Compression.Deflate)

    plain, inflated_reply = (pb.ScoreResponse.FromString(reply).indicators for reply in replies)
    assert list(plain) == list(inflated_reply)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("compressed", [zlib.compress(b"a" * 100), gzip.compress(b"\x0a\x01", mtime=0)[:15]])
def test_a_damaged_body_names_the_request(server: ServerProcess, compressed: bytes) -> None:
    """A body that claims to be what it is not is INVALID_ARGUMENT, like any other that is no message."""
    with (
        grpc.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        raw(channel, "Score")(compressed, timeout=120)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(violations(refused.value)) == ["request"]


def test_a_body_is_inflated_no_further_than_a_message_may_be(server: ServerProcess) -> None:
    """The bound on a message holds for what a compressed one becomes, however few fields it has."""
    body = pb.ScoreRequest(response="a" * 10_000_000).SerializeToString()
    with (
        grpc.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        raw(channel, "Score")(body, timeout=120, compression=grpc.Compression.Gzip)

    assert "more than 200000 bytes when it is inflated" in violations(refused.value)["request"]
