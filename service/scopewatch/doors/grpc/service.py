"""MonitorService: parse, call the spine, reply."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from google.protobuf.message import Message

import scopewatch
from scopewatch.contract.status import from_status, to_status
from scopewatch.doors.door import Spine
from scopewatch.doors.explaining import check_sees_exact_scores, tokens_read
from scopewatch.doors.grpc.call import Call
from scopewatch.doors.grpc.explaining import explanation_reply, job_of, to_wants
from scopewatch.doors.grpc.info import info_response, reload_refusal, reload_response
from scopewatch.doors.grpc.replies import Replies, batch_reply
from scopewatch.doors.grpc.reply_size import Result, fitting
from scopewatch.doors.grpc.requests import to_job, to_refused
from scopewatch.doors.limits import Limits, check_batch
from scopewatch.doors.role_file import Account
from scopewatch.errors import ScopewatchError, SetupError
from scopewatch.events import PairFailed
from scopewatch.metrics import Metrics, reason_of
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
        metrics: Counts the pairs of requests that the spine is not asked with.
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
        with self._telling_refused([request], call):
            call.quota.take(1)
            job = to_job(request, self.limits, self._spine.watchlists, call)
        (outcome,) = await self._scored([job], call)
        if isinstance(outcome, ScopewatchError):
            raise outcome
        (reply,) = self._fitting([job], [outcome], call.account)
        if isinstance(reply, bytes):
            return reply
        raise from_status(reply)

    async def BatchScore(self, request: pb.BatchScoreRequest, call: Call) -> bytes:
        items = request.requests
        with self._telling_refused(items, call):
            check_batch(len(items), self.limits)
            call.quota.take(len(items))
            asked = [self._asked(item, call) for item in items]
        for item, one in zip(items, asked, strict=True):
            if isinstance(one, ScopewatchError):
                self._tell_refused([item], call, one)
        jobs = [one for one in asked if isinstance(one, ScoreJob)]
        scored = iter(await self._scored(jobs, call) if jobs else [])
        results = [one if isinstance(one, ScopewatchError) else next(scored) for one in asked]
        return batch_reply(self._fitting(asked, results, call.account))

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

    def _asked(self, item: pb.ScoreRequest, call: Call) -> ScoreJob | ScopewatchError:
        """The job of one item of a batch, or what is wrong with the item."""
        try:
            return to_job(item, self.limits, self._spine.watchlists, call)
        except ScopewatchError as error:
            return error

    @contextmanager
    def _telling_refused(self, items: Sequence[pb.ScoreRequest], call: Call) -> Iterator[None]:
        """Tells of pairs that an error keeps from the spine, which tells of those that it is asked for."""
        try:
            yield
        except BaseException as error:
            self._tell_refused(items, call, error)
            raise

    def _tell_refused(self, items: Sequence[pb.ScoreRequest], call: Call, error: BaseException) -> None:
        known_as, reason = self._spine.watchlists.known_as, reason_of(error)
        names = [known_as(item.watchlist) for item in items]
        self._metrics.funnel.refused(names, error)
        rows = zip(items, names, strict=True)
        self._spine.tell_failed([PairFailed(to_refused(item, self.limits, call), reason, name) for item, name in rows])

    async def _scored(self, jobs: Sequence[ScoreJob], call: Call) -> list[ScoredPair | ScopewatchError]:
        outcomes = await self._spine.score(jobs)
        read = (one for one in outcomes if isinstance(one, ScoredPair) and not one.cached)
        call.quota.charge(sum(one.judgement.coverage.tokens for one in read))
        return outcomes

    def _fitting(
        self,
        jobs: Sequence[ScoreJob | ScopewatchError],
        outcomes: Sequence[ScoredPair | ScopewatchError],
        account: Account,
    ) -> list[Result]:
        """What a call is answered, item by item, in one message that every client takes."""

        def shorter(number: int, most: int) -> bytes:
            return self._replies.shorter(jobs[number], outcomes[number], account, most)  # type: ignore[arg-type]

        whole = [self._result(job, outcome, account) for job, outcome in zip(jobs, outcomes, strict=True)]
        return fitting(whole, shorter, self.limits.max_reply_bytes)

    def _result(
        self, job: ScoreJob | ScopewatchError, outcome: ScoredPair | ScopewatchError, account: Account
    ) -> Result:
        if isinstance(outcome, ScopewatchError):
            return to_status(outcome)
        return self._replies.score(job, outcome, account)  # type: ignore[arg-type]
