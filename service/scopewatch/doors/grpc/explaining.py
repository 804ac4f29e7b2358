"""Requests for explanations, and replies that fit into one message."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from scopewatch.contract.explanation_messages import to_message
from scopewatch.doors.door import Spine
from scopewatch.doors.grpc.call import Call
from scopewatch.doors.grpc.requests import to_job
from scopewatch.doors.limits import Limits
from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.explanation import MOST_TOP, Explanation, Wants
from scopewatch.types import ScoreJob
from scopewatch.v1 import monitor_pb2 as pb


def to_wants(request: pb.ExplainRequest, limits: Limits) -> Wants:
    """What a request wants.

    Raises:
        InvalidRequest: It names no pair or two, or wants more than is told; names every field that is wrong.
    """
    wrong: list[FieldViolation] = []
    if request.HasField("pair") == bool(request.kept):
        said = "is given beside pair" if request.kept else "is empty, and so is pair"
        wrong.append(FieldViolation("kept", f"{said}; give one of the two"))
    if len(request.kept) > limits.max_label_chars:
        said = f"holds {len(request.kept)} characters; at most {limits.max_label_chars} are allowed"
        wrong.append(FieldViolation("kept", said))
    if request.top > MOST_TOP:
        wrong.append(FieldViolation("top", f"is {request.top}; at most {MOST_TOP} features are told"))
    if wrong:
        raise InvalidRequest(*wrong)
    wants = Wants(ablate=request.ablate, delete=request.delete)
    return replace(wants, top=request.top) if request.top else wants


async def job_of(request: pb.ExplainRequest, limits: Limits, spine: Spine, call: Call) -> ScoreJob:
    """The pair that a request is about.

    Raises:
        InvalidRequest: Names every field of the pair that is wrong.
        NotKept: The texts of the pair are not kept, or are another tenant's.
    """
    if request.kept:
        job = await asyncio.to_thread(spine.kept_pair, request.kept, call.account.caller)
        return replace(job, deadline_s=call.deadline_s)
    try:
        return to_job(request.pair, limits, spine.watchlists, call)
    except InvalidRequest as error:
        within = (replace(one, field=f"pair.{one.field}") for one in error.violations)
        raise type(error)(*within) from None


def explanation_reply(explanation: Explanation, max_bytes: int) -> bytes:
    """The serialised reply; what makes it too large is left out of it, and said to be.

    Args:
        explanation: The explanation.
        max_bytes: The size of the message.

    Raises:
        InvalidRequest: It is too large even without.
    """
    response = pb.ExplainResponse(explanation=to_message(explanation))
    for what, shorten in _shorter():
        before = response.ByteSize()
        if before <= max_bytes:
            break
        shorten(response.explanation)
        if response.ByteSize() < before:
            response.left_out.append(what)
    if (size := response.ByteSize()) > max_bytes:
        said = (
            f"its explanation takes {size} bytes at the least, and {max_bytes} are sent at most; explain a shorter one"
        )
        raise InvalidRequest(FieldViolation("pair", said))
    return response.SerializeToString()


def _shorter() -> Iterator[tuple[str, Callable[[pb.Explanation], None]]]:
    """What is left out of an explanation that is too large, first of all what is told of single tokens."""
    for most in (8, 1, 0):
        rest = f"all but the {most} strongest" if most else "the"
        yield f"{rest} features of the whole dictionary on each token", partial(_cut_tokens, most)
    yield "where the watched features fired", _clear_feature_heat
    yield "the share of each token that is not explained", _clear_unexplained
    yield "where the indicators fired", _clear_indicator_heat
    yield "all but the 8 strongest features of the whole dictionary on each segment", _cut_segments
    yield "the watched features that fired", lambda told: told.ClearField("features")


def _cut_tokens(most: int, told: pb.Explanation) -> None:
    for sae in told.saes:
        for token in sae.tokens:
            del token.feature[most:], token.activation[most:]


def _clear_feature_heat(told: pb.Explanation) -> None:
    for feature in told.features:
        feature.ClearField("heat")


def _clear_unexplained(told: pb.Explanation) -> None:
    for sae in told.saes:
        sae.ClearField("unexplained")


def _clear_indicator_heat(told: pb.Explanation) -> None:
    for indicator in told.indicators:
        indicator.ClearField("heat")


def _cut_segments(told: pb.Explanation) -> None:
    for sae in told.saes:
        for segment in sae.segments:
            del segment.features[8:]
