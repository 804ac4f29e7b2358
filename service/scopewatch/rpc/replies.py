"""From results to reply messages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.message import Message
from google.rpc import status_pb2

from scopewatch.rpc.requests import Limits
from scopewatch.types import (
    LABEL_NOTE,
    Coverage,
    EngineIdentity,
    Evidence,
    IndicatorScore,
    Relation,
    ScoredPair,
    ScoreJob,
    Segment,
    Verdict,
)
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.watchlist import Card, Indicator, Watchlist

M = TypeVar("M", bound=Message)
_VERDICTS = {Verdict.PASS: pb.VERDICT_PASS, Verdict.FLAG: pb.VERDICT_FLAG}
_SEVERITIES = {
    "info": pb.SEVERITY_INFO,
    "low": pb.SEVERITY_LOW,
    "medium": pb.SEVERITY_MEDIUM,
    "high": pb.SEVERITY_HIGH,
}
_SEGMENTS = {
    Segment.PROMPT: pb.SEGMENT_PROMPT,
    Segment.RESPONSE: pb.SEGMENT_RESPONSE,
    Segment.HISTORY: pb.SEGMENT_HISTORY,
}
_RELATIONS = {Relation.SAME_MODEL: pb.RELATION_SAME_MODEL, Relation.READER_MODEL: pb.RELATION_READER_MODEL}
_RESULTS = pb.BatchScoreResponse.RESULTS_FIELD_NUMBER
_RESPONSE = pb.BatchScoreResult.RESPONSE_FIELD_NUMBER
_STATUS = pb.BatchScoreResult.STATUS_FIELD_NUMBER
_CALIBRATIONS = {True: pb.CALIBRATION_CALIBRATED, False: pb.CALIBRATION_UNCALIBRATED}


def provenance(watchlist: Watchlist, identity: EngineIdentity, version: str) -> pb.Provenance:
    """What produced a watchlist's numbers; the same for every reply, so made once."""
    return pb.Provenance(
        reader=identity.reader.name,
        reader_revision=identity.reader.revision,
        reader_digest=identity.reader.digest,
        watchlist=watchlist.name,
        watchlist_digest=watchlist.digest,
        relation=_RELATIONS[watchlist.reader.relation],
        version=version,
    )


def renderer(made_by: Mapping[str, pb.Provenance]) -> Callable[..., bytes]:
    """Makes the part of a reply that a judgement decides; `score_reply` puts the rest to it.

    Args:
        made_by: What produced the numbers, by watchlist name.
    """

    def render(watchlist: str, verdict: Verdict, indicators: Sequence[IndicatorScore], coverage: Coverage) -> bytes:
        reply = pb.ScoreResponse(
            verdict=_VERDICTS[verdict],
            indicators=[_indicator(score) for score in indicators],
            coverage=_mirror(pb.Coverage, coverage),
            provenance=made_by[watchlist],
            label_note=LABEL_NOTE if _shows_an_index_label(indicators) else "",
        )
        return reply.SerializeToString()

    return render


def score_reply(job: ScoreJob, pair: ScoredPair) -> bytes:
    """A serialised `ScoreResponse`. Messages merge by concatenation, so the rendered part is made once.

    https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    times = pair.timings
    rest = pb.ScoreResponse(
        request_id=job.request_id,
        timings=pb.Timings(
            tokenise_s=times.tokenise_s,
            cache_s=times.cache_s,
            queue_s=times.queue_s,
            forward_s=times.forward_s,
            encode_s=times.encode_s,
            score_s=times.score_s,
            total_s=times.total_s,
        ),
        cached=pair.cached,
    )
    return pair.body + rest.SerializeToString()


def batch_reply(results: Iterable[bytes | status_pb2.Status]) -> bytes:
    """A serialised `BatchScoreResponse` of serialised `ScoreResponse`s and statuses."""
    parts: list[bytes] = []
    for result in results:
        field = _RESPONSE if isinstance(result, bytes) else _STATUS
        body = result if isinstance(result, bytes) else result.SerializeToString()
        head = _field(field, len(body))
        parts += (_field(_RESULTS, len(head) + len(body)), head, body)
    return b"".join(parts)


def _field(number: int, size: int) -> bytes:
    """What stands before a length-delimited field: tag and size as varints."""
    head = bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def _shows_an_index_label(indicators: Sequence[IndicatorScore]) -> bool:
    return any(part.label_source.startswith("neuronpedia") for score in indicators for part in score.features)


def _indicator(score: IndicatorScore) -> pb.IndicatorScore:
    return pb.IndicatorScore(
        name=score.name,
        score=score.score,
        threshold=score.threshold,
        flagged=score.flagged,
        severity=_SEVERITIES[score.severity],
        probability=score.probability,
        features=[
            pb.FeatureScore(
                feature=str(part.feature),
                label=part.label,
                label_source=part.label_source,
                pooling=part.pooling,
                pooled=part.pooled,
                contribution=part.contribution,
            )
            for part in score.features
        ],
        evidence=[_evidence(span) for span in score.evidence],
        calibration=_CALIBRATIONS[score.calibrated],
        skipped_reason=score.skipped_reason,
    )


def _evidence(span: Evidence) -> pb.Evidence:
    return pb.Evidence(
        start=span.start,
        end=span.end,
        feature=str(span.feature),
        activation=span.activation,
        segment=_SEGMENTS[span.segment],
        turn=span.turn,
    )


def info_response(
    identity: EngineIdentity, watchlists: Iterable[Watchlist], limits: Limits, version: str
) -> pb.GetInfoResponse:
    """What this process reads with, watches and accepts."""
    return pb.GetInfoResponse(
        version=version,
        reader=_mirror(pb.ReaderInfo, identity.reader),
        saes=[
            pb.SaeInfo(
                name=sae.name,
                format=sae.format,
                architecture=sae.architecture,
                hookpoint=sae.hookpoint,
                d_in=sae.d_in,
                d_sae=sae.d_sae,
                digest=sae.digest,
                watched_features=len(sae.watched),
                neuronpedia=sae.neuronpedia,
                repo=sae.repo,
                revision=sae.revision,
            )
            for sae in identity.saes
        ],
        watchlists=[
            pb.WatchlistInfo(
                name=watchlist.name,
                digest=watchlist.digest,
                indicators=[_indicator_info(indicator) for indicator in watchlist.indicators],
            )
            for watchlist in watchlists
        ],
        limits=_mirror(pb.Limits, limits),
    )


def _indicator_info(indicator: Indicator) -> pb.IndicatorInfo:
    return pb.IndicatorInfo(
        name=indicator.name,
        label=indicator.label,
        severity=_SEVERITIES[indicator.severity],
        segment=_SEGMENTS[indicator.read_segment],
        threshold=indicator.threshold,
        calibration=_CALIBRATIONS[indicator.calibrated],
        card=_card(indicator.card) if indicator.card else None,
        features=len(indicator.features),
    )


def _card(card: Card) -> pb.Card:
    return pb.Card(
        date=card.date,
        calibrated_on=card.calibrated_on,
        n=card.n,
        measurements=[_mirror(pb.Measurement, measurement) for measurement in card.measurements],
        note=card.note,
    )


def _mirror(message_type: type[M], value: object) -> M:
    """A message whose every field has a namesake in `value`."""
    return message_type(**{name: getattr(value, name) for name in message_type.DESCRIPTOR.fields_by_name})
