"""MonitorService: parse, call the spine, reply."""

import time
from collections.abc import Mapping, Sequence

from google.protobuf.message import Message
from google.rpc import status_pb2

import scopewatch
from scopewatch.doors.door import Spine
from scopewatch.doors.grpc.info import info_response, reload_response
from scopewatch.doors.grpc.receiving import Context
from scopewatch.doors.grpc.replies import Replies, batch_reply
from scopewatch.doors.grpc.reply_size import Result, fitting
from scopewatch.doors.grpc.requests import to_job
from scopewatch.doors.grpc.status import from_status, to_status
from scopewatch.doors.limits import Limits, check_batch
from scopewatch.errors import ScopewatchError
from scopewatch.metrics import Metrics
from scopewatch.types import ANYONE, ScoreJob
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc
from scopewatch.verdicts import ScoredPair

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["MonitorService"].full_name
METHODS: Mapping[str, type[Message]] = {
    "Score": pb.ScoreRequest,
    "BatchScore": pb.BatchScoreRequest,
    "GetInfo": pb.GetInfoRequest,
    "ReloadWatchlists": pb.ReloadWatchlistsRequest,
}
"""The methods, and what each is asked with."""


class MonitorService(monitor_pb2_grpc.MonitorServiceServicer):
    """Speaks protobuf for one spine, once it is open. Failures are raised; whoever calls makes a status of them.

    Args:
        metrics: Counts refused pairs.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._replies = Replies(scopewatch.__version__)

    def open(self, spine: Spine, limits: Limits) -> None:
        """Takes what it is to ask and to hold to; no method may be called before.

        Args:
            spine: Scores the pairs.
            limits: What a request may hold.
        """
        self._spine = spine
        self.limits = limits
        self._info = 0, pb.GetInfoResponse()

    async def Score(self, request: pb.ScoreRequest, context: Context) -> bytes:
        try:
            job = to_job(request, self.limits, self._spine.watchlists, _deadline_s(context))
        except ScopewatchError as error:
            self._metrics.pair_failed(error.reason)
            raise
        (outcome,) = await self._spine.score([job])
        if isinstance(outcome, ScopewatchError):
            raise outcome
        (reply,) = self._fitting([job], [outcome])
        if isinstance(reply, bytes):
            return reply
        raise from_status(reply)

    async def BatchScore(self, request: pb.BatchScoreRequest, context: Context) -> bytes:
        check_batch(len(request.requests), self.limits)
        deadline_s, watchlists = _deadline_s(context), self._spine.watchlists
        jobs: list[ScoreJob] = []
        outcomes: list[ScoreJob | status_pb2.Status] = []
        for item in request.requests:
            try:
                jobs.append(to_job(item, self.limits, watchlists, deadline_s))
                outcomes.append(jobs[-1])
            except ScopewatchError as error:
                self._metrics.pair_failed(error.reason)
                outcomes.append(to_status(error))
        scored = iter(await self._spine.score(jobs) if jobs else [])
        return batch_reply(
            self._fitting(outcomes, [one if isinstance(one, status_pb2.Status) else next(scored) for one in outcomes])
        )

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:  # noqa: ARG002
        watchlists = self._spine.watchlists
        if self._info[0] != watchlists.version:
            self._info = watchlists.version, info_response(watchlists, self.limits, scopewatch.__version__)
        return self._info[1]

    async def ReloadWatchlists(
        self,
        request: pb.ReloadWatchlistsRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.ReloadWatchlistsResponse:
        return reload_response(await self._spine.reload_watchlists(ANYONE.name or "anyone"))

    def _fitting(
        self,
        jobs: Sequence[ScoreJob | status_pb2.Status],
        outcomes: Sequence[ScoredPair | ScopewatchError | status_pb2.Status],
    ) -> list[Result]:
        """What a call is answered, item by item, in one message that every client takes."""

        def shorter(number: int, most: int) -> bytes:
            return self._replies.shorter(jobs[number], outcomes[number], most)  # type: ignore[arg-type]

        whole = [self._result(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
        return fitting(whole, shorter, self.limits.max_reply_bytes)

    def _result(
        self, job: ScoreJob | status_pb2.Status, outcome: ScoredPair | ScopewatchError | status_pb2.Status
    ) -> Result:
        if isinstance(job, ScoreJob) and isinstance(outcome, ScoredPair):
            return self._replies.score(job, outcome)
        return to_status(outcome) if isinstance(outcome, ScopewatchError) else outcome


def _deadline_s(context: Context) -> float | None:
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s
