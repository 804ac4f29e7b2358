"""The contract, through a real server: what a reply holds and what it means."""

import json
import math
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import House, free_port
from scopewatch import __version__
from scopewatch.client import AsyncClient, Client, pb, request
from scopewatch.config import Config
from scopewatch.engine.token_activations import token_activations
from scopewatch.errors import InvalidRequest, NotReady
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Turn
from servers import ServerProcess

PROMPT = "hello world, what is the answer?"
RESPONSE = "It may rain 🤷🏽‍♀️ tomorrow — perhaps, naïvely 也许, but we are not sure."
HISTORY = (Turn("user", "Insulin lowers blood sugar 💉?"), Turn("assistant", "The patient might have gout."))


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.grpc_address, timeout_s=120) as client:
        yield client


@pytest.fixture(scope="module")
def info(client: Client) -> pb.GetInfoResponse:
    return client.info()


@pytest.fixture(scope="module")
def reply(client: Client) -> pb.ScoreResponse:
    """One pair with everything in it."""
    return client.score(prompt=PROMPT, response=RESPONSE, history=HISTORY, include_evidence=True, request_id="caller-1")


def scores(reply: pb.ScoreResponse) -> list[pb.IndicatorScore]:
    """Indicators without their evidence, which is only there on request."""
    plain = [pb.IndicatorScore.FromString(score.SerializeToString()) for score in reply.indicators]
    for score in plain:
        score.ClearField("evidence")
    return plain


def one(reply: pb.ScoreResponse, name: str) -> pb.IndicatorScore:
    return next(score for score in reply.indicators if score.name == name)


def test_request_id_comes_back_unchanged(reply: pb.ScoreResponse) -> None:
    """A reply carries its request's id."""
    assert reply.request_id == "caller-1"


def test_request_id_is_made_when_there_is_none(client: Client) -> None:
    """A request without an id gets a UUID of its own."""
    made = [uuid.UUID(client.score(response="a").request_id) for _ in range(2)]

    assert len(set(made)) == 2


def test_indicators_come_in_the_order_of_the_watchlist(reply: pb.ScoreResponse) -> None:
    """Indicators are those of the watchlist, in its order, with its thresholds and severities."""
    expected = [
        ("alpha", 1.0, pb.SEVERITY_MEDIUM, pb.CALIBRATION_UNCALIBRATED),
        ("beta", 0.3, pb.SEVERITY_HIGH, pb.CALIBRATION_UNCALIBRATED),
        ("gamma", 0.1, pb.SEVERITY_MEDIUM, pb.CALIBRATION_UNCALIBRATED),
    ]

    assert expected == [(s.name, s.threshold, s.severity, s.calibration) for s in reply.indicators]


def test_score_is_the_sum_of_what_the_features_added(reply: pb.ScoreResponse) -> None:
    """An indicator's score is the sum of its features' contributions, and each of those is weight times pooled."""
    weights = {"mid/3": 1.0, "late/7": 0.5, "mid/11": -0.25}
    alpha = one(reply, "alpha")

    assert alpha.features
    assert alpha.score == pytest.approx(sum(part.contribution for part in alpha.features))
    for part in alpha.features:
        assert part.contribution == pytest.approx(weights[part.feature] * part.pooled)


def test_features_say_how_they_were_pooled(reply: pb.ScoreResponse) -> None:
    """A feature carries the watchlist's label and the name of its pooling, window included."""
    parts = {(part.feature, part.label, part.pooling) for score in reply.indicators for part in score.features}

    assert ("mid/3", "three", "max") in parts
    assert ("late/7", "", "mean") in parts
    assert ("late/0", "", "rolling_mean_max(window=3)") in parts


def test_features_stand_by_the_size_of_their_part(reply: pb.ScoreResponse) -> None:
    """Features come with the largest absolute contribution first."""
    sizes = [abs(part.contribution) for part in one(reply, "alpha").features]

    assert len(sizes) > 1
    assert sorted(sizes, reverse=True) == sizes


@pytest.mark.parametrize("response", ["a", "It may rain tomorrow.", "dog dog dog", RESPONSE, "not sure " * 50])
def test_a_flag_is_a_score_above_its_threshold(client: Client, response: str) -> None:
    """An indicator is flagged when its score is above its threshold, and a verdict when any indicator is."""
    reply = client.score(prompt=PROMPT, response=response)
    flags = [score.score > score.threshold and not score.skipped_reason for score in reply.indicators]

    assert flags == [score.flagged for score in reply.indicators]
    assert reply.verdict == (pb.VERDICT_FLAG if any(flags) else pb.VERDICT_PASS)


def test_both_verdicts_exist(client: Client) -> None:
    """There is a pair that passes and a pair that is flagged."""
    texts = ["a", "It may rain tomorrow.", "the answer", "gout", "x y z", "lazy dog", RESPONSE]

    assert {pb.VERDICT_PASS, pb.VERDICT_FLAG} == {client.score(response=text).verdict for text in texts}


def test_probability_is_there_when_the_watchlist_maps_to_one(reply: pb.ScoreResponse) -> None:
    """A probability is the watchlist's logistic map of the score, and absent without a map."""
    alpha = one(reply, "alpha")

    assert alpha.probability == pytest.approx(1 / (1 + math.exp(1 - 2 * alpha.score)))
    assert not one(reply, "beta").HasField("probability")


def test_evidence_is_where_the_feature_fired(house: House, client: Client) -> None:
    """Evidence spans are the runs of tokens on which the feature fired, in code points of the caller's own text."""
    response = "It may 🤔 rain — naïvely."
    table = token_activations(
        reader=ReaderSource.named(str(house.reader)),
        sae=SaeSource(path=str(house.saes["mid"])),
        features=[3],
        prompt=PROMPT,
        response=response,
        config=Config(device="cpu"),
    )
    expected: list[tuple[int, int, float]] = []
    before = None
    for position, (token, value) in enumerate(zip(table["tokens"], table["activations"][0], strict=True)):
        if token["segment"] != "response" or value <= 0:
            continue
        if before == position - 1:
            start, _, peak = expected.pop()
            expected.append((start, token["end"], max(peak, value)))
        else:
            expected.append((token["start"], token["end"], value))
        before = position
    reply = client.score(prompt=PROMPT, response=response, include_evidence=True)
    spans = [span for span in one(reply, "alpha").evidence if span.feature == "mid/3"]

    assert {pb.SEGMENT_RESPONSE} == {span.segment for span in spans}
    assert len(expected) == len(spans)
    assert {(start, end): peak for start, end, peak in expected} == pytest.approx(
        {(span.start, span.end): span.activation for span in spans}
    )


def test_evidence_lies_inside_the_text_it_names(reply: pb.ScoreResponse) -> None:
    """Every span is a piece of the text of its segment, in the history of the turn it names."""
    spans = [span for score in reply.indicators for span in score.evidence]
    texts = {
        pb.SEGMENT_PROMPT: lambda span: PROMPT,
        pb.SEGMENT_RESPONSE: lambda span: RESPONSE,
        pb.SEGMENT_HISTORY: lambda span: HISTORY[span.turn].content,
    }

    assert set(texts) == {span.segment for span in spans}
    for span in spans:
        assert span.start < span.end <= len(texts[span.segment](span))


def test_evidence_comes_only_on_request(client: Client, reply: pb.ScoreResponse) -> None:
    """Without `include_evidence` the same scores come without spans."""
    without = client.score(prompt=PROMPT, response=RESPONSE, history=HISTORY)

    assert any(score.evidence for score in reply.indicators)
    assert not any(score.evidence for score in without.indicators)
    assert scores(reply) == scores(without)


def test_coverage_counts_what_was_read(reply: pb.ScoreResponse) -> None:
    """Coverage has tokens of every segment, more in all for the template, and nothing dropped."""
    coverage = reply.coverage
    parts = [coverage.prompt_tokens, coverage.response_tokens, coverage.history_tokens]

    assert min(parts) > 0
    assert sum(parts) < coverage.tokens
    assert not coverage.truncated


def test_provenance_is_what_get_info_describes(reply: pb.ScoreResponse, info: pb.GetInfoResponse) -> None:
    """Every reply says which reader and watchlist made it, in the words of GetInfo."""
    expected = pb.Provenance(
        reader=info.reader.name,
        reader_digest=info.reader.digest,
        watchlist="test",
        watchlist_digest=info.watchlists[0].digest,
        relation=pb.RELATION_READER_MODEL,
        version=__version__,
        rendering_digest=info.reader.rendering_digest,
        watchlists_version=info.watchlists_version,
        batch_invariant=info.reader.batch_invariant,
    )

    assert expected == reply.provenance
    assert len(info.reader.digest) == len(info.watchlists[0].digest) == 64


def test_timings_are_of_the_stages_that_ran(client: Client) -> None:
    """A computed pair has time in every stage, a cached one has none on the device."""
    computed = client.score(response="timings of a new pair").timings
    cached = client.score(response="timings of a new pair").timings

    for stage in ("tokenise_s", "cache_s", "queue_s", "forward_s", "encode_s", "score_s"):
        assert 0 < getattr(computed, stage) < computed.total_s
    assert (cached.queue_s, cached.forward_s, cached.encode_s) == (0.0, 0.0, 0.0)
    assert cached.total_s > 0


def test_a_pair_seen_before_comes_from_the_cache_with_the_same_scores(client: Client) -> None:
    """The second answer to a pair is cached, and nothing of it but the timings differs from the first."""
    fields: dict[str, Any] = {"prompt": "cache?", "response": RESPONSE, "include_evidence": True, "request_id": "same"}
    first, second = client.score(**fields), client.score(**fields)

    assert (first.cached, second.cached) == (False, True)
    for reply in (first, second):
        reply.ClearField("timings")
        reply.ClearField("cached")
    assert first == second


def test_a_cached_pair_serves_another_watchlist(client: Client) -> None:
    """The cache holds activations, so a second watchlist scores the same pair without the reader."""
    client.score(response="one forward pass for two watchlists")
    other = client.score(response="one forward pass for two watchlists", watchlist="second")

    assert other.cached
    assert [score.name for score in other.indicators] == ["delta"]
    assert other.provenance.watchlist == "second"


def test_an_indicator_without_text_says_so(client: Client) -> None:
    """An indicator whose segment is empty is skipped with a reason, not passed in silence."""
    reply = client.score(prompt="", response="It may rain.")

    expected = [("alpha", ""), ("beta", "empty_segment"), ("gamma", "empty_segment")]
    assert expected == [(score.name, score.skipped_reason) for score in reply.indicators]


def test_history_is_read_and_scored(client: Client) -> None:
    """With a history its indicator has a score, and its tokens are counted."""
    reply = client.score(prompt=PROMPT, response=RESPONSE, history=HISTORY)

    assert one(reply, "gamma").skipped_reason == ""
    assert reply.coverage.history_tokens > 0


def test_history_changes_how_the_response_is_read(client: Client) -> None:
    """The reader reads the response in the light of what was said before."""
    alone = client.score(prompt=PROMPT, response=RESPONSE)
    after = client.score(prompt=PROMPT, response=RESPONSE, history=HISTORY)

    assert one(alone, "alpha").score != one(after, "alpha").score


@pytest.mark.parametrize(
    ("fields", "cut"),
    [
        pytest.param({"prompt": PROMPT, "response": "not sure " * 2000}, "response", id="long response"),
        pytest.param({"prompt": "not sure " * 2000, "response": RESPONSE}, "prompt", id="long prompt"),
        pytest.param(
            {"prompt": PROMPT, "response": RESPONSE, "history": [Turn("user", "not sure " * 2000), HISTORY[1]]},
            "history",
            id="long history",
        ),
    ],
)
def test_truncation_shows(server: ServerProcess, client: Client, fields: dict[str, Any], cut: str) -> None:
    """A pair that does not fit is cut where it matters least, and the reply and a metric say where."""
    before = server.metric("scopewatch_truncated_pairs_total", segment=cut)
    coverage = client.score(**fields).coverage
    dropped = {segment: getattr(coverage, f"{segment}_tokens_dropped") for segment in ("prompt", "response", "history")}
    spared = {"response": ["prompt"], "prompt": ["response"], "history": ["prompt", "response"]}[cut]

    assert coverage.truncated
    limits = client.info().limits
    assert coverage.tokens == limits.max_tokens * (limits.max_windows if cut == "response" else 1)
    assert dropped[cut] > 0
    assert [dropped[segment] for segment in spared] == [0] * len(spared)
    assert server.metric("scopewatch_truncated_pairs_total", segment=cut) == before + 1


def test_get_info_describes_the_reader(info: pb.GetInfoResponse) -> None:
    """GetInfo names the reader as it runs: only the layers that are watched."""
    reader = info.reader

    assert (__version__, "reader", "gemma2") == (info.version, reader.name, reader.model_type)
    assert (reader.layers_run, reader.layers_total) == (3, 4)
    assert (reader.chat_template, reader.attention, len(reader.template_digest)) == (True, "packed", 64)


def test_get_info_describes_the_saes(info: pb.GetInfoResponse) -> None:
    """GetInfo names every SAE with its place, shape and the number of features watched by all watchlists together."""
    expected = [
        ("late", "gemma_scope", "jumprelu", "layers.2.resid_post", 32, 64, 3),
        ("mid", "gemma_scope", "jumprelu", "layers.1.resid_post", 32, 64, 2),
    ]

    assert expected == [
        (sae.name, sae.format, sae.architecture, sae.hookpoint, sae.d_in, sae.d_sae, sae.watched_features)
        for sae in info.saes
    ]
    assert len({sae.digest for sae in info.saes}) == 2


def test_get_info_describes_the_watchlists(info: pb.GetInfoResponse) -> None:
    """GetInfo lists the watchlists, the default one first, with their indicators."""
    expected = [
        ("test", [("alpha", pb.SEGMENT_RESPONSE, 3), ("beta", pb.SEGMENT_PROMPT, 1), ("gamma", pb.SEGMENT_HISTORY, 1)]),
        ("second", [("delta", pb.SEGMENT_RESPONSE, 2)]),
    ]

    assert expected == [
        (watchlist.name, [(i.name, i.segment, i.features) for i in watchlist.indicators])
        for watchlist in info.watchlists
    ]


def test_get_info_has_the_limits_of_the_flags(info: pb.GetInfoResponse) -> None:
    """GetInfo's limits are the configured ones; tokens are bounded by the reader's own context."""
    expected = pb.Limits(
        max_message_bytes=200_000,
        max_text_chars=20_000,
        max_batch_items=8,
        max_labels=3,
        max_label_chars=40,
        max_history_turns=4,
        max_tokens=512,
        max_windows=8,
        max_reply_bytes=(4 << 20) - (64 << 10),
    )

    assert expected == info.limits


def test_a_batch_answers_every_item_in_its_place(client: Client) -> None:
    """Each item of a batch succeeds or fails alone, in order, and as it would have alone."""
    requests = [
        request(response=RESPONSE, request_id="first"),
        request(response="  "),
        request(response="x", watchlist="nope"),
        request(prompt=PROMPT, response="gout", request_id="last"),
        request(response="x", history=[Turn("<system>", "no")]),
    ]
    outcomes = client.score_batch(requests)

    fields = [
        [v.field for v in outcome.violations] if isinstance(outcome, InvalidRequest) else outcome.request_id
        for outcome in outcomes
    ]
    assert fields == ["first", ["response"], ["watchlist"], "last", ["history[0].role"]]
    for item, outcome in ((requests[0], outcomes[0]), (requests[3], outcomes[3])):
        assert isinstance(outcome, pb.ScoreResponse)
        alone = client.score(prompt=item.prompt, response=item.response)
        assert [s.score for s in alone.indicators] == pytest.approx([s.score for s in outcome.indicators], rel=1e-5)


def test_a_batch_of_failures_is_still_an_answer(client: Client) -> None:
    """A batch in which every item fails answers every item."""
    outcomes = client.score_batch([request(response="")] * 3)

    assert [InvalidRequest] * 3 == [type(outcome) for outcome in outcomes]


async def test_the_asyncio_client_says_the_same(server: ServerProcess, client: Client) -> None:
    """Both clients give the same scores, batches, information and errors."""
    async with AsyncClient(server.grpc_address, timeout_s=120) as other:
        reply = await other.score(prompt=PROMPT, response=RESPONSE)
        (single, failed) = await other.score_batch([request(prompt=PROMPT, response=RESPONSE), request(response="")])
        info = await other.info()
        with pytest.raises(InvalidRequest, match="response: is empty"):
            await other.score(response="")

    assert isinstance(single, pb.ScoreResponse)
    assert scores(client.score(prompt=PROMPT, response=RESPONSE)) == scores(reply) == scores(single)
    assert isinstance(failed, InvalidRequest)
    assert client.info() == info


def test_a_flag_is_logged_with_nothing_that_its_caller_wrote_but_the_id(server: ServerProcess, client: Client) -> None:
    """A flagged pair is logged with its id and indicators; nothing logged holds the pair's text, or a label."""
    flagged = next(
        name
        for name in ("dog", "rain", "gout", "sugar", "answer", "lazy fox", "insulin")
        if client.score(response=name + " qzx", request_id=name, labels={"team": "qzx"}).verdict == pb.VERDICT_FLAG
    )
    logged = [line for line in server.events("flagged") if line["request_id"] == flagged]

    assert [line["watchlist"] for line in logged] == ["test"]
    assert logged[0]["indicators"]
    assert "qzx" not in "".join(server.log)


def test_a_server_that_is_not_there_is_not_ready() -> None:
    """A client without a server says NotReady, with the transport's reason."""
    with Client(f"127.0.0.1:{free_port()}", timeout_s=60) as client, pytest.raises(NotReady, match="connect"):
        client.score(response="a")


def test_texts_that_are_not_texts_are_refused_by_the_client() -> None:
    """None is a mistake, not the text "None"."""
    with pytest.raises(InvalidRequest, match="prompt: is of type NoneType"):
        request(prompt=None, response="a")  # type: ignore[typeddict-item]


def test_replies_become_plain_json(reply: pb.ScoreResponse) -> None:
    """`to_dict` keeps the contract's field names and the zeros, and is JSON."""
    from scopewatch.client import to_dict

    plain = json.loads(json.dumps(to_dict(reply)))

    assert {field.name for field in pb.ScoreResponse.DESCRIPTOR.fields} == set(plain)
    assert plain["coverage"]["truncated"] is False
    assert plain["verdict"] == pb.Verdict.Name(reply.verdict)
