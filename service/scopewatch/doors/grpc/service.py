"""MonitorService: parse, call the spine, reply."""

import time
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

import grpc
from google.rpc import status_pb2
from grpc_status import rpc_status

import scopewatch
from scopewatch.doors.door import Spine
from scopewatch.doors.grpc.info import info_response, reload_refusal, reload_response
from scopewatch.doors.grpc.malformed import Malformed
from scopewatch.doors.grpc.replies import Replies, batch_reply
from scopewatch.doors.grpc.reply_size import Result, fitting
from scopewatch.doors.grpc.requests import Request, check_size, to_job
from scopewatch.doors.grpc.status import PUSHBACK, pushback_ms, to_status
from scopewatch.doors.limits import Limits, check_batch
from scopewatch.errors import FieldViolation, InvalidRequest, NotReady, ScopewatchError, SetupError
from scopewatch.metrics import Metrics
from scopewatch.types import ANYONE, ScoreJob
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc
from scopewatch.verdicts import ScoredPair

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["MonitorService"].full_name
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class MonitorService(monitor_pb2_grpc.MonitorServiceServicer):
    """Speaks protobuf for one spine. Refuses with UNAVAILABLE until `open` and after `close`.

    Args:
        metrics: Counts refused pairs.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._replies = Replies(scopewatch.__version__)
        self._refusal: NotReady | None = NotReady("warming up: the reader is being loaded")

    def open(self, spine: Spine, limits: Limits) -> None:
        """Starts accepting pairs.

        Args:
            spine: Scores the pairs.
            limits: What a request may hold.
        """
        self._spine = spine
        self._limits = limits
        self._info = 0, pb.GetInfoResponse()
        self._refusal = None

    def close(self) -> None:
        """Refuses from now on."""
        self._refusal = NotReady("the service is shutting down")

    async def Score(self, request: pb.ScoreRequest | Malformed, context: Context) -> bytes:
        try:
            self._admit(request)
            job = to_job(request, self._limits, self._spine.watchlists, _deadline_s(context))  # type: ignore[arg-type]
        except ScopewatchError as error:
            self._metrics.pair_failed(error.reason)
            await abort(context, error)
        (outcome,) = await self._spine.score([job])
        if isinstance(outcome, ScopewatchError):
            await abort(context, outcome)
        (reply,) = self._fitting([job], [outcome])
        if isinstance(reply, bytes):
            return reply
        await context.abort_with_status(rpc_status.to_status(reply))
        raise AssertionError("abort always raises")

    async def BatchScore(self, request: pb.BatchScoreRequest | Malformed, context: Context) -> bytes:
        try:
            self._admit(request)
            check_batch(len(request.requests), self._limits)  # type: ignore[union-attr]
        except ScopewatchError as error:
            await abort(context, error)
        deadline_s, watchlists = _deadline_s(context), self._spine.watchlists
        jobs: list[ScoreJob] = []
        outcomes: list[ScoreJob | status_pb2.Status] = []
        for item in request.requests:  # type: ignore[union-attr]
            try:
                jobs.append(to_job(item, self._limits, watchlists, deadline_s))
                outcomes.append(jobs[-1])
            except ScopewatchError as error:
                self._metrics.pair_failed(error.reason)
                outcomes.append(to_status(error))
        scored = iter(await self._spine.score(jobs) if jobs else [])
        return batch_reply(
            self._fitting(outcomes, [one if isinstance(one, status_pb2.Status) else next(scored) for one in outcomes])
        )

    async def GetInfo(self, request: pb.GetInfoRequest | Malformed, context: Context) -> pb.GetInfoResponse:
        try:
            self._admit(request)
        except ScopewatchError as error:
            await abort(context, error)
        watchlists = self._spine.watchlists
        if self._info[0] != watchlists.version:
            self._info = watchlists.version, info_response(watchlists, self._limits, scopewatch.__version__)
        return self._info[1]

    async def ReloadWatchlists(
        self, request: pb.ReloadWatchlistsRequest | Malformed, context: Context
    ) -> pb.ReloadWatchlistsResponse:
        try:
            self._admit(request)
            reloaded = await self._spine.reload_watchlists(ANYONE.name or "anyone")
        except ScopewatchError as error:
            await abort(context, reload_refusal(error) if isinstance(error, SetupError) else error)
        return reload_response(reloaded)

    def _admit(self, request: Request | Malformed) -> None:
        if self._refusal:
            raise self._refusal
        if isinstance(request, Malformed):
            raise InvalidRequest(FieldViolation(request.field, request.description))
        check_size(request, self._limits)

    def _fitting(
        self,
        jobs: Sequence[ScoreJob | status_pb2.Status],
        outcomes: Sequence[ScoredPair | ScopewatchError | status_pb2.Status],
    ) -> list[Result]:
        """What a call is answered, item by item, in one message that every client takes."""

        def shorter(number: int, most: int) -> bytes:
            return self._replies.shorter(jobs[number], outcomes[number], most)  # type: ignore[arg-type]

        whole = [self._result(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
        return fitting(whole, shorter, self._limits.max_reply_bytes)

    def _result(
        self, job: ScoreJob | status_pb2.Status, outcome: ScoredPair | ScopewatchError | status_pb2.Status
    ) -> Result:
        if isinstance(job, ScoreJob) and isinstance(outcome, ScoredPair):
            return self._replies.score(job, outcome)
        return to_status(outcome) if isinstance(outcome, ScopewatchError) else outcome


def _deadline_s(context: Context) -> float | None:
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s


async def abort(context: Context, error: Exception) -> NoReturn:
    """Ends an RPC with the error's status and details."""
    status = rpc_status.to_status(to_status(error))
    trailing = status.trailing_metadata
    if (pause_ms := pushback_ms(error)) is not None:
        trailing = (*trailing, (PUSHBACK, str(pause_ms)))
    await context.abort(status.code, status.details, trailing)
    raise AssertionError("abort always raises")
