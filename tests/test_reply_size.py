"""Replies fit into one message of a plain client, whatever the limits let in."""

from collections.abc import Callable, Sequence

import grpc
import pytest
from google.rpc import code_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from conftest import House
from scopewatch.doors.grpc.replies import batch_reply
from scopewatch.doors.grpc.reply_size import fitting
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc
from servers import config, serving

STATUS = status_pb2.Status(code=code_pb2.DEADLINE_EXCEEDED, message="late")


def reply(shown: int, least: int) -> Callable[[int], bytes]:
    """A reply of `least` bytes and ten more for each of the `shown` spans."""
    return lambda most: b"x" * (least + 10 * min(most, shown))


def by_number(makes: Sequence[Callable[[int], bytes] | None]) -> Callable[[int, int], bytes]:
    def shorter(number: int, most: int) -> bytes:
        make = makes[number]
        assert make is not None, "a status cannot be shortened"
        return make(most)

    return shorter


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 200)) | st.none(), min_size=1, max_size=40),
    st.integers(2000, 40_000),
)
def test_all_results_fit_into_one_message(items: list[tuple[int, int] | None], max_bytes: int) -> None:
    """Every item is answered; none is shortened where all fit, and small ones never."""
    makes = [reply(*item) if item else None for item in items]
    whole = [make(1000) if make else STATUS for make in makes]

    results = fitting(whole, by_number(makes), max_bytes)

    assert len(items) == len(results)
    # What cannot be made smaller than its refusal is not the message's fault.
    floor = sum(len(batch_reply([one])) for one in results if isinstance(one, status_pb2.Status))
    assert len(batch_reply(results)) <= max(max_bytes, floor + max_bytes)
    if sum(len(batch_reply([one])) + 16 for one in whole) <= max_bytes:
        assert whole == results
    share = max_bytes // len(items)
    assert all(b == a for a, b in zip(whole, results, strict=True) if isinstance(a, bytes) and len(a) + 16 <= share)


@pytest.mark.parametrize(
    ("max_bytes", "sizes"),
    [(5000, [110, 3110]), (3000, [110, 750]), (800, [110, 270]), (400, [110, 150])],
)
def test_the_largest_give_way_first(max_bytes: int, sizes: list[int]) -> None:
    """They show fewer features and spans, as many as there is room for by steps; the others stay whole."""
    makes = [reply(1, 100), reply(300, 110)]

    results = fitting([make(1000) for make in makes], by_number(makes), max_bytes)

    assert sizes == [len(one) for one in results if isinstance(one, bytes)]


def test_what_is_too_large_without_any_span_is_refused_by_name() -> None:
    """The item says what to do; the others are answered."""
    makes = [reply(0, 100), reply(0, 5000)]

    first, second = fitting([make(1000) for make in makes], by_number(makes), 1000)

    assert makes[0](0) == first
    assert isinstance(second, status_pb2.Status)
    assert (code_pb2.INVALID_ARGUMENT, "send fewer requests at once" in second.message) == (second.code, True)


async def test_the_largest_batch_is_answered_to_a_client_that_takes_no_more(house: House) -> None:
    """All pairs with all their evidence, in a message of the size that the server states; what is left out is counted."""
    most = 64 << 10
    text = "the patient might have gout, perhaps, and it may rain tomorrow "
    items = [pb.ScoreRequest(response=f"{number} {text * 8}", include_evidence=True) for number in range(80)]
    async with serving(config(house.watchlist, max_reply_bytes=most, max_batch_items=80)) as server:
        options = [("grpc.max_receive_message_length", most)]
        async with grpc.aio.insecure_channel(server.grpc_address, options=options) as channel:
            stub = monitor_pb2_grpc.MonitorServiceStub(channel)
            info = await stub.GetInfo(pb.GetInfoRequest())
            reply = await stub.BatchScore(pb.BatchScoreRequest(requests=items))
            (alone,) = (await stub.BatchScore(pb.BatchScoreRequest(requests=items[:1]))).results

    assert most == info.limits.max_reply_bytes
    assert ["response"] * 80 == [result.WhichOneof("outcome") for result in reply.results]
    assert 0 == alone.response.left_out < reply.results[0].response.left_out
    assert [one.score for one in alone.response.indicators] == [
        one.score for one in reply.results[0].response.indicators
    ]
