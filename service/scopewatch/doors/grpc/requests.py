"""From a request message to a job."""

import uuid

from scopewatch.doors.limits import Limits, check_job
from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.types import Pair, ScoreJob, Turn
from scopewatch.v1 import monitor_pb2 as pb


def to_job(request: pb.ScoreRequest, limits: Limits, deadline_s: float | None) -> ScoreJob:
    """Reads and validates one request.

    Args:
        request: The message.
        limits: What one request may hold.
        deadline_s: When the caller stops waiting, on the clock of `time.monotonic`; None for never.

    Raises:
        InvalidRequest: Names every field that is wrong.
    """
    # Protobuf decodes a text at every access.
    own_id, history = request.request_id, request.history
    job = ScoreJob(
        pair=Pair(
            prompt=request.prompt,
            response=request.response,
            history=tuple([Turn(turn.role, turn.content) for turn in history[: limits.max_history_turns]]),
        ),
        watchlist=request.watchlist,
        request_id=own_id or str(uuid.uuid4()),
        include_evidence=request.include_evidence,
        labels=dict(request.labels),
        deadline_s=deadline_s,
    )
    check_job(job, own_id, len(history), limits)
    return job


def check_size(request: pb.ScoreRequest | pb.BatchScoreRequest | pb.GetInfoRequest, limits: Limits) -> None:
    """Checks what a message takes on the wire.

    Raises:
        InvalidRequest: Too much; it names the field that takes most of it.
    """
    if (size := request.ByteSize()) > limits.max_message_bytes:
        most = limits.max_message_bytes
        raise InvalidRequest(
            FieldViolation(
                _largest_field(request),
                f"the message takes {size} bytes, most of them here; at most {most} are allowed",
            )
        )


def _largest_field(request: pb.ScoreRequest | pb.BatchScoreRequest | pb.GetInfoRequest) -> str:
    """Name of the field that makes a message too large."""
    if not isinstance(request, pb.ScoreRequest):
        return "requests"
    sizes = {
        "prompt": len(request.prompt.encode()),
        "response": len(request.response.encode()),
        "history": sum(turn.ByteSize() for turn in request.history),
        "labels": sum(len((key + value).encode()) for key, value in request.labels.items()),
    }
    return max(sizes, key=lambda field: sizes[field])
