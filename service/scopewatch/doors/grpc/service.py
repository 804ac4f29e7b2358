"""MonitorService: parse, call the spine, reply."""

import logging
import time
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
from google.rpc import status_pb2
from grpc_status import rpc_status

from scopewatch.doors.grpc.malformed import Malformed
from scopewatch.doors.grpc.replies import batch_reply, score_reply
from scopewatch.doors.grpc.requests import Limits, check_batch, to_job
from scopewatch.doors.grpc.status import PUSHBACK, pushback_ms, to_status
from scopewatch.errors import FieldViolation, InvalidRequest, NotReady, Overloaded, ScopewatchError
from scopewatch.metrics import Metrics
from scopewatch.types import ScoredPair, ScoreJob, Verdict
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc

log = logging.getLogger(__name__)
verdict_log = logging.getLogger("scopewatch.verdicts")

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["MonitorService"].full_name
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Spine(Protocol):
    async def score(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]: ...


class MonitorService(monitor_pb2_grpc.MonitorServiceServicer):
    """Speaks protobuf for one spine. Refuses with UNAVAILABLE until `open` and after `close`.

    Args:
        metrics: Counts refused pairs.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._refusal: NotReady | None = NotReady("warming up: the reader is being loaded")

    def open(
        self,
        spine: Spine,
        *,
        limits: Limits,
        info: pb.GetInfoResponse,
    ) -> None:
        """Starts accepting pairs.

        Args:
            spine: Scores them, and has `replies.renderer` make their bodies.
            limits: What a request may hold.
            info: The answer to GetInfo.
        """
        self._spine = spine
        self._limits = limits
        self._info = info
        self._refusal = None

    def close(self) -> None:
        """Refuses from now on."""
        self._refusal = NotReady("the service is shutting down")

    async def Score(self, request: pb.ScoreRequest | Malformed, context: Context) -> bytes:
        try:
            self._admit(request)
            job = to_job(request, self._limits, _deadline_s(context))  # type: ignore[arg-type]
        except ScopewatchError as error:
            self._metrics.pair_failed(error.reason)
            await abort(context, error)
        (outcome,) = await self._spine.score([job])
        if isinstance(outcome, ScopewatchError):
            await abort(context, outcome)
        return self._reply(job, outcome)

    async def BatchScore(self, request: pb.BatchScoreRequest | Malformed, context: Context) -> bytes:
        try:
            self._admit(request)
            check_batch(request, self._limits)  # type: ignore[arg-type]
        except ScopewatchError as error:
            await abort(context, error)
        deadline_s = _deadline_s(context)
        jobs: list[ScoreJob] = []
        outcomes: list[ScoreJob | status_pb2.Status] = []
        for item in request.requests:  # type: ignore[union-attr]
            try:
                jobs.append(to_job(item, self._limits, deadline_s))
                outcomes.append(jobs[-1])
            except ScopewatchError as error:
                self._metrics.pair_failed(error.reason)
                outcomes.append(to_status(error))
        scored = iter(await self._spine.score(jobs) if jobs else [])
        return batch_reply(
            outcome if isinstance(outcome, status_pb2.Status) else self._result(outcome, next(scored))
            for outcome in outcomes
        )

    async def GetInfo(self, request: pb.GetInfoRequest | Malformed, context: Context) -> pb.GetInfoResponse:
        try:
            self._admit(request)
        except ScopewatchError as error:
            await abort(context, error)
        return self._info

    def _admit(self, request: pb.ScoreRequest | pb.BatchScoreRequest | pb.GetInfoRequest | Malformed) -> None:
        if self._refusal:
            raise self._refusal
        if isinstance(request, Malformed):
            raise InvalidRequest(FieldViolation(request.field, request.description))
        if (size := request.ByteSize()) > self._limits.max_message_bytes:
            field, most = _largest_field(request), self._limits.max_message_bytes
            raise InvalidRequest(
                FieldViolation(field, f"the message takes {size} bytes, most of them here; at most {most} are allowed")
            )

    def _result(self, job: ScoreJob, outcome: ScoredPair | ScopewatchError) -> bytes | status_pb2.Status:
        return to_status(outcome) if isinstance(outcome, ScopewatchError) else self._reply(job, outcome)

    def _reply(self, job: ScoreJob, pair: ScoredPair) -> bytes:
        if pair.verdict is Verdict.FLAG:
            flagged = [score.name for score in pair.indicators if score.flagged and score.severity != "info"]
            verdict_log.info(
                "flagged",
                extra={
                    "request_id": job.request_id,
                    "watchlist": pair.watchlist,
                    "indicators": flagged,
                    "labels": dict(job.labels),
                },
            )
        return score_reply(job, pair)


def _deadline_s(context: Context) -> float | None:
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s


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


async def abort(context: Context, error: Exception) -> NoReturn:
    """Ends an RPC with the error's status and details."""
    status = rpc_status.to_status(to_status(error))
    trailing = status.trailing_metadata
    if isinstance(error, Overloaded):
        trailing = (*trailing, (PUSHBACK, str(pushback_ms(error))))
    await context.abort(status.code, status.details, trailing)
    raise AssertionError("abort always raises")
