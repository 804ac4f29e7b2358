"""MonitorService: parse, call the spine, reply."""

import asyncio
from collections.abc import Mapping, Sequence

from google.protobuf.message import Message
from google.rpc import status_pb2

import scopewatch
from scopewatch.contract.status import from_status, to_status
from scopewatch.doors.door import Spine
from scopewatch.doors.explaining import check_sees_exact_scores, tokens_read
from scopewatch.doors.grpc.call import Call
from scopewatch.doors.grpc.explaining import explanation_reply, job_of, to_wants
from scopewatch.doors.grpc.info import info_response, reload_refusal, reload_response
from scopewatch.doors.grpc.replies import Replies, batch_reply
from scopewatch.doors.grpc.reply_size import Result, fitting
from scopewatch.doors.grpc.requests import to_job
from scopewatch.doors.limits import Limits, check_batch
from scopewatch.doors.role_file import Account
from scopewatch.errors import ScopewatchError, SetupError
from scopewatch.metrics import Metrics
from scopewatch.types import ScoreJob
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.verdicts import ScoredPair

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["MonitorService"].full_name
METHODS: Mapping[str, type[Message]] = {
    "Score": pb.ScoreRequest,
    "BatchScore": pb.BatchScoreRequest,
    "GetInfo": pb.GetInfoRequest,
    "Explain": pb.ExplainRequest,
    "ReloadWatchlists": pb.ReloadWatchlistsRequest,
}
"""The methods, and what each is asked with."""


class MonitorService:
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

    async def Score(self, request: pb.ScoreRequest, call: Call) -> bytes:
        try:
            call.quota.take(1)
            job = to_job(request, self.limits, self._spine.watchlists, call)
        except ScopewatchError as error:
            self._metrics.pair_failed(error.reason)
            raise
        (outcome,) = await self._scored([job], call)
        if isinstance(outcome, ScopewatchError):
            raise outcome
        (reply,) = self._fitting([job], [outcome], call.account)
        if isinstance(reply, bytes):
            return reply
        raise from_status(reply)

    async def BatchScore(self, request: pb.BatchScoreRequest, call: Call) -> bytes:
        check_batch(len(request.requests), self.limits)
        call.quota.take(len(request.requests))
        watchlists = self._spine.watchlists
        jobs: list[ScoreJob] = []
        outcomes: list[ScoreJob | status_pb2.Status] = []
        for item in request.requests:
            try:
                jobs.append(to_job(item, self.limits, watchlists, call))
                outcomes.append(jobs[-1])
            except ScopewatchError as error:
                self._metrics.pair_failed(error.reason)
                outcomes.append(to_status(error))
        scored = iter(await self._scored(jobs, call) if jobs else [])
        results = [one if isinstance(one, status_pb2.Status) else next(scored) for one in outcomes]
        return batch_reply(self._fitting(outcomes, results, call.account))

    async def Explain(self, request: pb.ExplainRequest, call: Call) -> bytes:
        wants = to_wants(request, self.limits)
        check_sees_exact_scores(call.account)
        call.quota.take(1)
        job = await job_of(request, self.limits, self._spine, call)
        explanation = await self._spine.explain(job, wants)
        call.quota.charge(tokens_read(explanation))
        return await asyncio.to_thread(explanation_reply, explanation, self.limits.max_reply_bytes)

    async def GetInfo(self, _request: pb.GetInfoRequest, _call: Call) -> pb.GetInfoResponse:
        watchlists = self._spine.watchlists
        if self._info[0] != watchlists.version:
            self._info = watchlists.version, info_response(watchlists, self.limits, scopewatch.__version__)
        return self._info[1]

    async def ReloadWatchlists(self, _request: pb.ReloadWatchlistsRequest, call: Call) -> pb.ReloadWatchlistsResponse:
        try:
            reloaded = await self._spine.reload_watchlists(call.account.caller.name or "anyone")
        except SetupError as error:
            raise reload_refusal(error) from None
        return reload_response(reloaded)

    async def _scored(self, jobs: Sequence[ScoreJob], call: Call) -> list[ScoredPair | ScopewatchError]:
        outcomes = await self._spine.score(jobs)
        read = (one for one in outcomes if isinstance(one, ScoredPair) and not one.cached)
        call.quota.charge(sum(one.judgement.coverage.tokens for one in read))
        return outcomes

    def _fitting(
        self,
        jobs: Sequence[ScoreJob | status_pb2.Status],
        outcomes: Sequence[ScoredPair | ScopewatchError | status_pb2.Status],
        account: Account,
    ) -> list[Result]:
        """What a call is answered, item by item, in one message that every client takes."""

        def shorter(number: int, most: int) -> bytes:
            return self._replies.shorter(jobs[number], outcomes[number], account, most)  # type: ignore[arg-type]

        whole = [self._result(job, outcome, account) for job, outcome in zip(jobs, outcomes, strict=True)]
        return fitting(whole, shorter, self.limits.max_reply_bytes)

    def _result(
        self,
        job: ScoreJob | status_pb2.Status,
        outcome: ScoredPair | ScopewatchError | status_pb2.Status,
        account: Account,
    ) -> Result:
        if isinstance(job, ScoreJob) and isinstance(outcome, ScoredPair):
            return self._replies.score(job, outcome, account)
        return to_status(outcome) if isinstance(outcome, ScopewatchError) else outcome
