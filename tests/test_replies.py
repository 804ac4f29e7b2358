"""Replies made of serialised parts are the messages they would have been if made whole, and GetInfo tells all."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from conftest import engine_identity, judgement, watchlist_of
from scopewatch.doors.grpc.info import info_response
from scopewatch.doors.grpc.replies import Replies, batch_reply
from scopewatch.doors.limits import Limits
from scopewatch.doors.role_file import anyone_may
from scopewatch.identity import FeatureKey, Relation
from scopewatch.types import Coverage, Pair, ScoreJob, Segment
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.verdicts import (
    LABEL_NOTE,
    Evidence,
    FeatureScore,
    IndicatorScore,
    Provenance,
    ScoredPair,
    Timings,
    Verdict,
)
from scopewatch.watch.cards import AlsoMeasured, BeyondWords, Card, DataFile, Fragility, MadeWith, Measurement
from spine import watchlist_set

MADE_BY = Provenance("first", "a" * 64, Relation.READER_MODEL, "r", "main", "b" * 64)
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
    IndicatorScore(
        "gamma",
        -0.5,
        1.0,
        flagged=False,
        severity="low",
        calibrated=False,
        card_warning="another SAE",
        features=(
            FeatureScore("alpha", "", "score", 2.5, -1.25, ""),
            FeatureScore("mean_logprob", "", "mean", -0.75, 0.75, ""),
        ),
    ),
)
COVERAGE = Coverage(
    9,
    2,
    3,
    1,
    prompt_tokens_dropped=4,
    windows=2,
    unlocated=("prompt",),
    shortened=("history[1].content",),
    folded=True,
    invisible_chars=5,
    lookalike_chars=6,
)
TIMINGS = Timings(0.5, 0.25, 0.0, 1.5, 2.5, 0.125, 8.0)


def test_a_reply_is_what_it_would_be_in_one_piece() -> None:
    """Every field of the reply is that of the pair, the job and what produced the numbers."""
    made = replace(
        judgement(Verdict.FLAG, INDICATORS, COVERAGE),
        made_by=MADE_BY,
        incomplete=("prompt: 4 of 6 tokens were not read",),
        rendering_digest="e" * 64,
    )
    pair = ScoredPair(made, TIMINGS, cached=True, watchlists_version=3)
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
            pb.IndicatorScore(
                name="gamma",
                score=-0.5,
                threshold=1.0,
                severity=pb.SEVERITY_LOW,
                features=[
                    pb.FeatureScore(feature="alpha", pooling="score", pooled=2.5, contribution=-1.25),
                    pb.FeatureScore(feature="mean_logprob", pooling="mean", pooled=-0.75, contribution=0.75),
                ],
                calibration=pb.CALIBRATION_UNCALIBRATED,
                card_warning="another SAE",
            ),
        ],
        coverage=pb.Coverage(
            tokens=9,
            prompt_tokens=2,
            response_tokens=3,
            history_tokens=1,
            truncated=True,
            prompt_tokens_dropped=4,
            windows=2,
            unlocated=["prompt"],
            shortened=["history[1].content"],
            folded=True,
            invisible_chars=5,
            lookalike_chars=6,
        ),
        provenance=pb.Provenance(
            reader="r",
            reader_revision="main",
            reader_digest="b" * 64,
            watchlist="first",
            watchlist_digest="a" * 64,
            relation=pb.RELATION_READER_MODEL,
            version="1",
            rendering_digest="e" * 64,
            watchlists_version=3,
        ),
        incomplete=["prompt: 4 of 6 tokens were not read"],
        timings=pb.Timings(tokenise_s=0.5, cache_s=0.25, forward_s=1.5, encode_s=2.5, score_s=0.125, total_s=8.0),
        cached=True,
        label_note=LABEL_NOTE,
    )

    replies = Replies("1")
    assert expected == pb.ScoreResponse.FromString(
        replies.score(ScoreJob(Pair("", "a"), "", "mine"), pair, anyone_may(round_scores=0.0))
    )
    # The second time, the judgement's part is at hand; what is the caller's own is not.
    other = replace(pair, timings=Timings(total_s=1.0), cached=False, watchlists_version=1 << 20)
    again = pb.ScoreResponse.FromString(
        replies.score(ScoreJob(Pair("", "a"), "", "other"), other, anyone_may(round_scores=0.0))
    )
    assert (again.request_id, again.cached, again.timings) == ("other", False, pb.Timings(total_s=1.0))
    assert again.provenance.watchlists_version == 1 << 20
    assert (again.indicators, again.provenance.watchlist) == (expected.indicators, "first")


def test_a_reply_is_kept_no_longer_than_its_judgement() -> None:
    """What a door keeps of judgements is bounded by what the spine keeps of them."""
    replies, job = Replies("1"), ScoreJob(Pair("", "a"), "", "mine")
    pair = ScoredPair(judgement(Verdict.PASS, (), COVERAGE), TIMINGS, cached=False)
    replies.score(job, pair, anyone_may(round_scores=0.0))
    alive = weakref.ref(pair.judgement)
    del pair
    gc.collect()
    assert alive() is None


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


# GetInfo.

IDENTITY = replace(engine_identity(mid=(3,)), head=True)
MADE_WITH = MadeWith(
    scopewatch="0.9",
    reader="google/gemma-2-2b",
    reader_revision="abc",
    reader_digest=IDENTITY.reader.digest,
    dtype="float32",
    template_digest="c" * 64,
    rendering_digest="d" * 64,
    saes={"mid": IDENTITY.saes[0].digest},
    words={"hedges": "e" * 64},
)
BEYOND = BeyondWords(
    words="bag_of_words",
    together=0.90625,
    over_words=0.09375,
    over_words_low=0.0625,
    over_words_high=0.125,
    over_own=0.03125,
    over_own_low=0.015625,
    over_own_high=0.046875,
)
CARD = Card(
    date="2026-11-01",
    calibrated_on="train.jsonl",
    n=300,
    data=(DataFile(name="train.jsonl", sha256="a" * 64, n=400, n_positive=120),),
    traffic=(DataFile(name="train.jsonl", sha256="a" * 64, n=400, n_positive=120),),
    max_fpr=0.01,
    confidence=0.95,
    measurements=(
        Measurement(
            data="train.jsonl: groups held out",
            n=100,
            n_positive=40,
            auroc=0.875,
            auroc_low=0.75,
            auroc_high=0.9375,
            tpr=0.5,
            fpr=0.0078125,
            fpr_groups=0.01171875,
            fpr_upper=0.015625,
            ece=0.0625,
            baselines={"bag_of_words": 0.8125, "response_length": 0.5},
        ),
    ),
    beats_bag_of_words=True,
    beside_bag_of_words="better",
    beyond_words=BEYOND,
    fragility=(Fragility(change="upper case", n=40, auroc=0.75, survival=0.5),),
    stands_on="may",
    leaks=("response_length",),
    made_with=MADE_WITH,
    note="Short texts only.",
)
ALSO = AlsoMeasured(
    dtype="bfloat16",
    device="cuda",
    date="2026-11-02",
    scopewatch="0.9",
    n=100,
    flags_changed=7,
    measurements=CARD.measurements,
    digest="b" * 64,
)
LIMITS = Limits(1, 2, 3, 4, 5, 6, 7, 8, 9)


def indicator_infos(*indicators: dict[str, object]) -> list[pb.IndicatorInfo]:
    watchlists = watchlist_set(watchlist_of(*indicators), engine=IDENTITY)
    return list(info_response(watchlists, LIMITS, "1").watchlists[0].indicators)


def fields(message: Message, path: str = "") -> Iterator[tuple[str, object]]:
    """Every field of a message and of the messages in it, whether it was set or not."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            yield path + field.name, tuple(value) if field.is_repeated else value
        elif field.message_type.GetOptions().map_entry:
            yield path + field.name, dict(value)
        else:
            for one in value if field.is_repeated else [value]:
                yield from fields(one, f"{path}{field.name}.")


def test_a_card_is_told_whole() -> None:
    """Every field that the contract has for cards holds what the watchlist's card says, and every one of that is told.

    The quantiles of benign pairs are not: they are long, and `Explain` tells what follows from them.
    """
    card = CARD.model_copy(update={"also_measured": (ALSO,)}).in_dtype("bfloat16")
    (info,) = indicator_infos({"features": [{"feature": "mid/3"}], "card": card})
    lists = {"data", "traffic", "measurements", "made_with", "beyond_words", "fragility", "reference", "also_measured"}
    held = {
        **CARD.model_dump(exclude=lists),
        **{f"beyond_words.{name}": value for name, value in BEYOND},
        **{f"fragility.{name}": value for name, value in CARD.fragility[0]},
        **{f"data.{name}": value for name, value in CARD.data[0]},
        **{f"traffic.{name}": value for name, value in CARD.traffic[0]},
        **{f"measurements.{name}": value for name, value in CARD.measurements[0]},
        **{f"made_with.{name}": value for name, value in MADE_WITH},
        **{f"measured_in.{name}": value for name, value in ALSO if name not in ("measurements", "digest")},
    }
    told = dict(fields(info.card))

    assert held == told
    assert all(told.values())


def test_what_a_card_does_not_say_is_absent() -> None:
    """Numbers that were not measured are left out, not told as zeros."""
    measured = Measurement(data="traffic", n=9, n_positive=0)
    bare = Card(date="2026-11-01", calibrated_on="traffic", n=9, measurements=(measured,))
    (info,) = indicator_infos({"features": [{"feature": "mid/3"}], "card": bare})
    (measurement,) = info.card.measurements

    assert {"date", "calibrated_on", "n", "measurements"} == {field.name for field, _ in info.card.ListFields()}
    assert {"data", "n"} == {field.name for field, _ in measurement.ListFields()}


def test_indicators_say_what_they_are_made_of_and_whether_their_card_fits() -> None:
    """Kind, parts, calibration and the reason against a card are told of every indicator."""
    fits = CARD.model_copy(
        update={"made_with": MADE_WITH.model_copy(update={"template_digest": "", "rendering_digest": ""})}
    )
    parts = [{"indicator": "fits", "weight": 1}, {"signal": "mean_logprob", "weight": 1}]
    infos = indicator_infos(
        {"name": "fits", "features": [{"feature": "mid/3"}], "card": fits},
        {"name": "misfit", "features": [{"feature": "mid/3"}], "card": CARD},
        {"name": "dense", "kind": "probe", "features": [{"feature": "mid/3"}]},
        {"name": "both", "kind": "combination", "combines": parts, "card": CARD},
    )
    why = "the card was made with another chat template"

    assert [
        (pb.INDICATOR_KIND_FEATURES, 1, [], pb.CALIBRATION_CALIBRATED, ""),
        (pb.INDICATOR_KIND_FEATURES, 1, [], pb.CALIBRATION_UNCALIBRATED, why),
        (pb.INDICATOR_KIND_PROBE, 1, [], pb.CALIBRATION_UNCALIBRATED, ""),
        (pb.INDICATOR_KIND_COMBINATION, 0, ["fits", "mean_logprob"], pb.CALIBRATION_UNCALIBRATED, why),
    ] == [(info.kind, info.features, list(info.combines), info.calibration, info.card_warning) for info in infos]
    assert [True, True, False, True] == [info.HasField("card") for info in infos]
