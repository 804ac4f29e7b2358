"""Explanations of a running spine: who asks is written down first, and what they take is found in its parts."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from scopewatch.app.records import Records
from scopewatch.config import Config
from scopewatch.engine.worker import Worker
from scopewatch.explain.explainer import Explainer
from scopewatch.explain.turns import Turns
from scopewatch.explanation import Explanation, Wants
from scopewatch.identity import SaeIdentity
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher
from scopewatch.pipeline.monitor import Monitor
from scopewatch.types import ScoreJob
from scopewatch.verdicts import Label
from scopewatch.watch.labels import open_labels

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine

T = TypeVar("T")
_ACTION = "explain"


class Explanations:
    """Has pairs explained, and has it recorded who asked and what came of it; no text is recorded.

    Args:
        explainer: Explains.
        records: Where it is written down.
    """

    def __init__(self, explainer: Explainer, records: Records) -> None:
        self._explainer = explainer
        self._records = records

    async def explain(self, job: ScoreJob, wants: Wants) -> Explanation:
        """Tells why a pair gets its verdict, when the engine has time for it.

        Raises:
            NotReady: It cannot be recorded, or the watchlists are being replaced.
            ScopewatchError: As of `Explainer.explain`.
        """
        caller, request_id, outcome = job.caller.name, job.request_id, "failed"
        await asyncio.to_thread(self._records.asked, _ACTION, caller, request_id=request_id)
        try:
            explanation = await self._explainer.explain(job, wants)
            outcome = "ok"
        finally:
            self._records.told(_ACTION, outcome, caller=caller, request_id=request_id)
        return explanation


def explanations(
    engine: "Engine",
    worker: Worker,
    monitor: Monitor,
    batcher: Batcher,
    *,
    config: Config,
    metrics: Metrics,
    records: Records,
) -> Explanations:
    """The explanations of a spine that is made of these parts."""
    from scopewatch.engine.inside import Inside

    def labels(sae: SaeIdentity, features: Sequence[int]) -> Mapping[int, Label]:
        if not config.labels:
            return {}
        with open_labels(Path(config.labels)) as index:
            return index.labels_in(sae, features)

    async def run(job: Callable[[], T]) -> T:
        # A step that hangs would hold up all who score, and nobody would know.
        return await worker.run(job, tokens=engine.max_tokens)

    explainer = Explainer(
        read=monitor.read,
        running=lambda: monitor.watchlists,
        watched=lambda: engine.identity,
        inside=Inside(engine),
        turns=Turns(run, lambda: batcher.quiet_s),
        labels=labels,
        metrics=metrics.explanations,
        most=config.max_explanations,
    )
    return Explanations(explainer, records)
