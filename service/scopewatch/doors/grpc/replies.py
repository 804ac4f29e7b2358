"""From results to reply messages."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from weakref import WeakKeyDictionary

from google.rpc import status_pb2

from scopewatch.doors.grpc.mirrored import CALIBRATIONS, SEGMENTS, SEVERITIES, mirror
from scopewatch.doors.role_file import Account
from scopewatch.doors.rounding import rounded
from scopewatch.identity import Relation
from scopewatch.types import ScoreJob
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.verdicts import (
    LABEL_NOTE,
    Evidence,
    FeatureScores,
    IndicatorScore,
    Judgement,
    ScoredPair,
    Terms,
    Timings,
    Verdict,
)

_VERDICTS = {
    Verdict.PASS: pb.VERDICT_PASS,
    Verdict.FLAG: pb.VERDICT_FLAG,
    Verdict.INCOMPLETE: pb.VERDICT_INCOMPLETE,
}
_RELATIONS = {Relation.SAME_MODEL: pb.RELATION_SAME_MODEL, Relation.READER_MODEL: pb.RELATION_READER_MODEL}
_RESULTS = pb.BatchScoreResponse.RESULTS_FIELD_NUMBER
_RESPONSE = pb.BatchScoreResult.RESPONSE_FIELD_NUMBER
_STATUS = pb.BatchScoreResult.STATUS_FIELD_NUMBER
_INDICATORS = pb.ScoreResponse.INDICATORS_FIELD_NUMBER
_FEATURES = pb.IndicatorScore.FEATURES_FIELD_NUMBER
_REQUEST_ID = pb.ScoreResponse.REQUEST_ID_FIELD_NUMBER
_PROVENANCE = pb.ScoreResponse.PROVENANCE_FIELD_NUMBER
_TIMINGS = pb.ScoreResponse.TIMINGS_FIELD_NUMBER
_CACHED = pb.ScoreResponse(cached=True).SerializeToString()
_STAGES = [(field.name, field.number << 3 | 1) for field in pb.Timings.DESCRIPTOR.fields]
_DOUBLE = struct.Struct("<Bd")
"""A field of type double: tag, value."""
_POOLED = pb.FeatureScore.POOLED_FIELD_NUMBER << 3 | 1
_CONTRIBUTION = pb.FeatureScore.CONTRIBUTION_FIELD_NUMBER << 3 | 1
_NUMBERS = struct.Struct("<BdBd")
"""Both numbers of a feature."""


class Replies:
    """Serialised replies. The part that a judgement decides is made once and kept for as long as the judgement lives.

    Args:
        version: The version of scopewatch that replies name.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._bodies: WeakKeyDictionary[Judgement, dict[float, bytes]] = WeakKeyDictionary()
        """The part of each judgement, by what its scores are rounded to."""
        self._around: WeakKeyDictionary[Terms, list[tuple[bytes, bytes]]] = WeakKeyDictionary()

    def score(self, job: ScoreJob, pair: ScoredPair, account: Account) -> bytes:
        """A serialised `ScoreResponse`. Messages merge by concatenation, so a judgement's part is put in as it is.

        https://protobuf.dev/programming-guides/encoding/#last-one-wins

        Args:
            job: What was asked.
            pair: What is answered.
            account: Who asked, and how much it is shown.
        """
        step = account.round_scores
        bodies = self._bodies.get(pair.judgement)
        if bodies is None:
            bodies = self._bodies[pair.judgement] = {}
        if step not in bodies:
            bodies[step] = self._body(rounded(pair.judgement, step))
        return _whole(bodies[step], job, pair, account)

    def shorter(self, job: ScoreJob, pair: ScoredPair, account: Account, most: int) -> bytes:
        """The same, with at most so many features and so many spans of each indicator, the strongest ones."""
        judgement, left_out = _slimmer(pair.judgement, most)
        return _whole(self._body(rounded(judgement, account.round_scores), left_out), job, pair, account)

    def _body(self, judgement: Judgement, left_out: int = 0) -> bytes:
        parts = [pb.ScoreResponse(verdict=_VERDICTS[judgement.verdict]).SerializeToString()]
        for body in map(self._indicator, judgement.indicators):
            parts += (_field(_INDICATORS, len(body)), body)
        rest = pb.ScoreResponse(
            coverage=mirror(pb.Coverage, judgement.coverage),
            provenance=_provenance(judgement, self._version),
            label_note=LABEL_NOTE if _shows_an_index_label(judgement.indicators) else "",
            incomplete=judgement.incomplete,
            left_out=left_out,
        )
        parts.append(rest.SerializeToString())
        return b"".join(parts)

    def _indicator(self, score: IndicatorScore) -> bytes:
        parts = [_before_features(score).SerializeToString()]
        if isinstance(score.features, FeatureScores):
            around = self._around_numbers(score.features.of)
            for place, pooled, contribution in score.features.rows:
                before, after = around[place]
                parts += (before, _NUMBERS.pack(_POOLED, pooled, _CONTRIBUTION, contribution), after)
        else:
            # Words of callers' texts are not kept.
            for part in score.features:
                before, after = _about(str(part.feature), part.label, part.pooling, part.label_source)
                parts += (before, _NUMBERS.pack(_POOLED, part.pooled, _CONTRIBUTION, part.contribution), after)
        parts.append(_after_features(score).SerializeToString())
        return b"".join(parts)

    def _around_numbers(self, terms: Terms) -> list[tuple[bytes, bytes]]:
        """What stands around the numbers of each term, which is most of a reply; made once for all replies."""
        if terms not in self._around:
            self._around[terms] = [
                _about(str(term.feature), term.label.text, term.pooling, term.label.source) for term in terms
            ]
        return self._around[terms]


def _whole(body: bytes, job: ScoreJob, pair: ScoredPair, account: Account) -> bytes:
    """A judgement's part with what is of this call alone."""
    if not account.shows_cached:
        # How long it took tells as much.
        pair = replace(pair, timings=Timings(), cached=False)
    own_id = job.request_id.encode()
    version = _version(pair.watchlists_version)
    times = _timings(pair.timings)
    rest = (
        _field(_PROVENANCE, len(version)),
        version,
        _field(_REQUEST_ID, len(own_id)),
        own_id,
        _field(_TIMINGS, len(times)),
        times,
        _CACHED if pair.cached else b"",
    )
    return b"".join((body, *rest))


@lru_cache(16)
def _version(watchlists: int) -> bytes:
    """What a call adds to its judgement's `pb.Provenance`, for the judgement may be of an earlier version."""
    return pb.Provenance(watchlists_version=watchlists).SerializeToString()


def _about(feature: str, label: str, pooling: str, source: str) -> tuple[bytes, bytes]:
    """What stands before and after a feature's numbers."""
    before = pb.FeatureScore(feature=feature, label=label, pooling=pooling).SerializeToString()
    after = pb.FeatureScore(label_source=source).SerializeToString()
    return _field(_FEATURES, len(before) + _NUMBERS.size + len(after)) + before, after


def _slimmer(judgement: Judgement, most: int) -> tuple[Judgement, int]:
    """The judgement with so many features and spans an indicator, and how many that leaves out."""
    scores = judgement.indicators
    slim = tuple(replace(one, features=one.features[:most], evidence=one.evidence[:most]) for one in scores)
    left_out = sum(len(one.features) + len(one.evidence) for one in scores)
    left_out -= sum(len(one.features) + len(one.evidence) for one in slim)
    return replace(judgement, indicators=slim), left_out


def _provenance(judgement: Judgement, version: str) -> pb.Provenance:
    made_by = judgement.made_by
    return pb.Provenance(
        reader=made_by.reader,
        reader_revision=made_by.reader_revision,
        reader_digest=made_by.reader_digest,
        watchlist=made_by.watchlist,
        watchlist_digest=made_by.watchlist_digest,
        relation=_RELATIONS[made_by.relation],
        version=version,
        rendering_digest=judgement.rendering_digest,
        batch_invariant=made_by.batch_invariant,
    )


def _timings(timings: Timings) -> bytes:
    """A serialised `pb.Timings`: message objects cost several times the rest of a remembered reply."""
    return b"".join([_DOUBLE.pack(tag, seconds) for name, tag in _STAGES if (seconds := getattr(timings, name))])


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
    sources = (source for score in indicators for source in _label_sources(score))
    return any(source.startswith("neuronpedia") for source in sources)


def _label_sources(score: IndicatorScore) -> Iterable[str]:
    features = score.features
    if isinstance(features, FeatureScores):
        terms = features.of.terms
        return (terms[place].label.source for place, _, _ in features.rows)
    return (part.label_source for part in features)


def _before_features(score: IndicatorScore) -> pb.IndicatorScore:
    return pb.IndicatorScore(
        name=score.name,
        score=score.score,
        threshold=score.threshold,
        flagged=score.flagged,
        severity=SEVERITIES[score.severity],
        probability=score.probability,
    )


def _after_features(score: IndicatorScore) -> pb.IndicatorScore:
    return pb.IndicatorScore(
        evidence=[_evidence(span) for span in score.evidence],
        calibration=CALIBRATIONS[score.calibrated],
        skipped_reason=score.skipped_reason,
        card_warning=score.card_warning,
    )


def _evidence(span: Evidence) -> pb.Evidence:
    return pb.Evidence(
        start=span.start,
        end=span.end,
        feature=str(span.feature),
        activation=span.activation,
        segment=SEGMENTS[span.segment],
        turn=span.turn,
    )
