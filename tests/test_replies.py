"""Replies made of serialised parts are the messages they would have been if made whole."""

import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from scopewatch.rpc.replies import batch_reply, renderer, score_reply
from scopewatch.types import (
    LABEL_NOTE,
    Coverage,
    Evidence,
    FeatureKey,
    FeatureScore,
    IndicatorScore,
    Pair,
    ScoredPair,
    ScoreJob,
    Segment,
    Timings,
    Verdict,
)
from scopewatch.v1 import monitor_pb2 as pb

MADE_BY = pb.Provenance(reader="r", watchlist="first", relation=pb.RELATION_READER_MODEL, version="1")
FEATURE = FeatureKey("mid", 3)
INDICATORS = (
    IndicatorScore(
        "alpha",
        2.5,
        1.0,
        flagged=True,
        severity="high",
        calibrated=True,
        probability=0.75,
        features=(FeatureScore(FEATURE, "a label", "max", 5.0, 2.5, "neuronpedia: m, n"),),
        evidence=(Evidence(1, 4, FEATURE, 5.0, Segment.HISTORY, 2),),
    ),
    IndicatorScore("beta", 0.0, 1.0, False, "info", calibrated=False, skipped_reason="empty_segment"),
)
COVERAGE = Coverage(9, 2, 3, 1, prompt_tokens_dropped=4)
TIMINGS = Timings(0.5, 0.25, 0.0, 1.5, 2.5, 0.125, 8.0)


def test_a_reply_is_what_it_would_be_in_one_piece() -> None:
    """Every field of the reply is that of the pair, the job and what produced the numbers."""
    body = renderer({"first": MADE_BY})("first", Verdict.FLAG, INDICATORS, COVERAGE)
    pair = ScoredPair(Verdict.FLAG, INDICATORS, COVERAGE, "first", TIMINGS, cached=True, body=body)
    expected = pb.ScoreResponse(
        request_id="mine",
        verdict=pb.VERDICT_FLAG,
        indicators=[
            pb.IndicatorScore(
                name="alpha",
                score=2.5,
                threshold=1.0,
                flagged=True,
                severity=pb.SEVERITY_HIGH,
                probability=0.75,
                features=[
                    pb.FeatureScore(
                        feature="mid/3",
                        label="a label",
                        pooling="max",
                        pooled=5.0,
                        contribution=2.5,
                        label_source="neuronpedia: m, n",
                    )
                ],
                evidence=[
                    pb.Evidence(start=1, end=4, feature="mid/3", activation=5.0, segment=pb.SEGMENT_HISTORY, turn=2)
                ],
                calibration=pb.CALIBRATION_CALIBRATED,
            ),
            pb.IndicatorScore(
                name="beta",
                threshold=1.0,
                severity=pb.SEVERITY_INFO,
                calibration=pb.CALIBRATION_UNCALIBRATED,
                skipped_reason="empty_segment",
            ),
        ],
        coverage=pb.Coverage(
            tokens=9, prompt_tokens=2, response_tokens=3, history_tokens=1, truncated=True, prompt_tokens_dropped=4
        ),
        provenance=MADE_BY,
        timings=pb.Timings(tokenise_s=0.5, cache_s=0.25, forward_s=1.5, encode_s=2.5, score_s=0.125, total_s=8.0),
        cached=True,
        label_note=LABEL_NOTE,
    )

    assert expected == pb.ScoreResponse.FromString(score_reply(ScoreJob(Pair("", "a"), "", "mine"), pair))


@pytest.mark.parametrize("size", [0, 1, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16_370, 16_384, 3_000_000])
def test_replies_of_any_size_fit_into_a_batch(size: int) -> None:
    """Sizes that take one, two and four bytes to write are all read back, next to each other."""
    reply = pb.ScoreResponse(request_id="i" * size)
    status = status_pb2.Status(code=3, message="m" * size)
    read = pb.BatchScoreResponse.FromString(batch_reply([reply.SerializeToString(), status, b""]))

    assert [reply, pb.ScoreResponse()] == [read.results[0].response, read.results[2].response]
    assert read.results[1].status == status
    assert ["response", "status", "response"] == [result.WhichOneof("outcome") for result in read.results]


@given(st.lists(st.one_of(st.text(max_size=300), st.integers(1, 16))))
def test_a_batch_is_what_it_would_be_in_one_piece(outcomes: list[str | int]) -> None:
    """Any list of replies and statuses reads as the message made of them."""
    parts = [
        pb.ScoreResponse(request_id=outcome) if isinstance(outcome, str) else status_pb2.Status(code=outcome)
        for outcome in outcomes
    ]
    whole = pb.BatchScoreResponse(
        results=[
            pb.BatchScoreResult(response=part)
            if isinstance(part, pb.ScoreResponse)
            else pb.BatchScoreResult(status=part)
            for part in parts
        ]
    )
    joined = batch_reply(part.SerializeToString() if isinstance(part, pb.ScoreResponse) else part for part in parts)

    assert whole == pb.BatchScoreResponse.FromString(joined)
