"""The spans of one pair: its own, and one for each stage that it passed."""

from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer, set_span_in_context

from scopewatch.events import PairFailed, PairScored
from scopewatch.tracing import names
from scopewatch.types import ScoreJob
from scopewatch.verdicts import IndicatorScore, Timings

_STAGES = {name.removesuffix("_s"): name for name in Timings.__dataclass_fields__ if name != "total_s"}
"""The stages in the order in which a pair passes them, and where its timings tell how long each took."""


def scored_span(tracer: Tracer, below: Context, event: PairScored, end_ns: int) -> None:
    """Makes the spans of a pair that was scored.

    Its stages stand one behind the other from its beginning. Their lengths were measured; what passed between them,
    waiting for other pairs of the call above all, was not, and is what is left at the end.

    Args:
        tracer: Makes spans.
        below: The context of the call.
        event: The pair.
        end_ns: When it was answered, in nanoseconds since 1970.
    """
    job, pair = event
    timings = pair.timings
    about: dict[str, str | bool | int] = {
        names.WATCHLIST: pair.watchlist,
        names.WATCHLIST_DIGEST: pair.judgement.made_by.watchlist_digest,
        names.VERDICT: str(pair.verdict),
        names.CACHED: pair.cached,
        names.TOKENS: pair.coverage.tokens,
        names.WINDOWS: pair.coverage.windows,
    }
    begin_ns = end_ns - _ns(timings.total_s)
    span = tracer.start_span(names.PAIR, below, attributes=_whose(job) | about, start_time=begin_ns)
    for score in pair.indicators:
        if not score.skipped_reason:
            span.add_event(names.EVALUATION, _evaluation(score), timestamp=end_ns)
    _stages(tracer, span, timings, begin_ns, end_ns)
    span.end(end_ns)


def failed_span(tracer: Tracer, below: Context, event: PairFailed, end_ns: int) -> None:
    """Makes the span of a pair that got an error, as `scored_span` does."""
    about: dict[str, str | bool | int] = {names.WATCHLIST: event.watchlist, names.ERROR_TYPE: event.reason}
    begin_ns = end_ns - _ns(event.total_s)
    span = tracer.start_span(names.PAIR, below, attributes=_whose(event.job) | about, start_time=begin_ns)
    span.set_status(Status(StatusCode.ERROR))
    span.end(end_ns)


def _stages(tracer: Tracer, pair: Span, timings: Timings, begin_ns: int, end_ns: int) -> None:
    below = set_span_in_context(pair)
    for stage, name in _STAGES.items():
        if seconds := getattr(timings, name):
            # The windows of a long answer that are read together each count their batch: the sum may be too long.
            last_ns = min(begin_ns + _ns(seconds), end_ns)
            tracer.start_span(stage, below, start_time=begin_ns).end(last_ns)
            begin_ns = last_ns


def _whose(job: ScoreJob) -> dict[str, str | bool | int]:
    about: dict[str, str | bool | int] = {names.REQUEST_ID: job.request_id}
    return about | {names.CALLER: job.caller.name} if job.caller.name else about


def _evaluation(score: IndicatorScore) -> dict[str, str | float]:
    return {
        names.EVALUATION_NAME: score.name,
        names.EVALUATION_SCORE: score.score,
        names.EVALUATION_LABEL: "flag" if score.flagged else "pass",
    }


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
