"""Jobs of a reader whose template is told today's date."""

from dataclasses import replace

from scopewatch.sources import today
from scopewatch.types import ScoreJob


def dated(job: ScoreJob) -> ScoreJob:
    """The job with the day that its caller leaves to the clock, so that no judgement of another day is remembered."""
    inputs = job.pair.inputs
    return replace(job, pair=replace(job.pair, inputs=replace(inputs, date=inputs.date or today())))
