"""Spans of real calls, as a collector gets them: whose children they are, how long they took, and what they never hold."""

import asyncio
import logging
import re
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from collector import Collector, Span, collecting, log_records
from conftest import House
from scopewatch.client import AsyncClient
from scopewatch.tracing import names
from scopewatch.tracing.tracing import MOST_PAIR_SPANS
from scopewatch.v1 import monitor_pb2 as pb
from servers import LocalServer, config, direct, serving

PAGE = (Path(__file__).parents[1] / "docs" / "tracing.md").read_text(encoding="utf-8")
WORD = "qvxkanarie"
"""Stands in every text and label, and nowhere else."""
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE[:-1]}d-{PARENT}-00"
MALFORMED = {
    "short": f"00-{TRACE}-{PARENT}",
    "upper case": SAMPLED.upper(),
    "no trace": f"00-{'0' * 32}-{PARENT}-01",
    "no parent": f"00-{TRACE}-{'0' * 16}-01",
    "version ff": f"ff-{TRACE}-{PARENT}-01",
    "version 0 with more": f"{SAMPLED}-{WORD}",
    "long": SAMPLED + "-" * 600,
    "text": WORD,
}
STAGES = ["tokenise", "cache", "queue", "forward", "encode", "score"]


@dataclass
class Session:
    """Calls to a server that traces, and what came of them."""

    collector: Collector
    spans: list[Span] = field(default_factory=list)
    replies: dict[str, pb.ScoreResponse] = field(default_factory=dict)
    """Replies of single calls, by request id."""
    codes: dict[str, grpc.StatusCode] = field(default_factory=dict)
    open_metrics: str = ""
    plain: str = ""
    logged: list[logging.LogRecord] = field(default_factory=list)

    def call(self, request_id: str) -> Span:
        """The span of the call of this pair."""
        pair = self.pair(request_id)
        return next(span for span in self.spans if span.span_id == pair.parent_id)

    def pair(self, request_id: str) -> Span:
        (pair,) = (span for span in self.spans if span.about.get(names.REQUEST_ID) == request_id)
        return pair

    def below(self, span: Span) -> list[Span]:
        found = [one for one in self.spans if one.parent_id == span.span_id]
        return sorted(found, key=lambda one: one.begin_ns)


def request(request_id: str, text: str = "may be", **more: Any) -> pb.ScoreRequest:
    return pb.ScoreRequest(
        request_id=request_id,
        prompt=f"{WORD} what?",
        response=f"{WORD} {text}",
        labels={WORD: WORD},
        include_evidence=True,
        history=[pb.Turn(role="user", content=WORD), pb.Turn(role="assistant", content=WORD)],
        **more,
    )


async def calls(session: Session, address: str) -> None:
    """Every kind of call, with and without a context."""
    async with direct(address) as stub:

        async def score(sent: pb.ScoreRequest, *metadata: tuple[str, str]) -> None:
            try:
                session.replies[sent.request_id] = await stub.Score(sent, metadata=metadata, timeout=60)
            except grpc.aio.AioRpcError as error:
                session.codes[sent.request_id] = error.code()

        context = ("traceparent", SAMPLED), ("tracestate", "vendor=a:b")
        await score(request("sampled"), *context)
        await score(request("again"), *context)
        await score(request("windows", "not sure " * 400), *context)
        await score(request("unsampled"), ("traceparent", UNSAMPLED))
        await score(request("without"))
        for name, value in MALFORMED.items():
            await score(request(name), ("traceparent", value), ("tracestate", f"{WORD}=1"))
        await score(request("bad state"), ("traceparent", SAMPLED), ("tracestate", f"{WORD} {WORD}"))
        await score(request("failing", response_token_ids=[10**6]), *context)
        await score(request("refused", watchlist=WORD), *context)
        pairs = [request(f"many {number}", f"may {number % 3}") for number in range(MOST_PAIR_SPANS + 7)]
        pairs.append(request("many failing", response_token_ids=[10**6]))
        await stub.BatchScore(pb.BatchScoreRequest(requests=pairs), metadata=context, timeout=60)
        await stub.Explain(pb.ExplainRequest(pair=request("explained")), metadata=context, timeout=120)


SHOWN = ["scopewatch_trace_spans_total"] + [
    f"{name}_{part}"
    for name in ("grpc_server_handling_seconds", "scopewatch_stage_seconds")
    for part in ("bucket", "count", "sum")
]


async def from_a_traced_program(address: str) -> None:
    """A call by the package's own client, while the program has a span open."""
    span = NonRecordingSpan(SpanContext(int(TRACE, 16), int(PARENT, 16), is_remote=False, trace_flags=TraceFlags(1)))
    async with AsyncClient(address) as client:
        with use_span(span):
            await client.score(response="may be", request_id="client")


async def pages(server: LocalServer) -> None:
    """An explanation of a pair whose text is kept, and one of a pair that there is not."""
    for request_id in ("sampled", "nobody"):
        url = f"http://{server.watch_address}/explain?id={request_id}"
        with suppress(urllib.error.HTTPError):
            (await asyncio.to_thread(urllib.request.urlopen, url, timeout=120)).close()


def page(address: str, accept: str) -> str:
    query = "&".join(f"name[]={name}" for name in SHOWN)
    asked = urllib.request.Request(f"http://{address}/metrics?{query}", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=30) as told:
        return str(told.read().decode())


@pytest.fixture(scope="module")
def session(house: House, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A server that traces every call it may, and was told to stop while spans waited to be sent."""

    async def run() -> None:
        settings = config(
            house.watchlist,
            otlp_endpoint=collector.url,
            trace_share=1,
            max_tokens=256,
            log_pass_share=1,
            audit_dir=str(tmp_path_factory.mktemp("audit")),
            audit_text="all",
            watch_address="127.0.0.1:0",
        )
        async with serving(settings) as server:
            await calls(told, server.grpc_address)
            await from_a_traced_program(server.grpc_address)
            await pages(server)
            accept = "application/openmetrics-text; version=1.0.0"
            told.open_metrics = await asyncio.to_thread(page, server.metrics_address, accept)
            told.plain = await asyncio.to_thread(page, server.metrics_address, "text/plain")

    with collecting() as collector, log_records() as records:
        told = Session(collector, logged=records)
        asyncio.run(run())
    told.spans = collector.spans
    return told


def test_a_call_is_its_callers_child_and_its_pairs_are_its_own(session: Session) -> None:
    """Over the wire: the caller's span, the call's, the pair's, the stages', all in the caller's trace."""
    call, pair = session.call("sampled"), session.pair("sampled")
    assert (call.trace_id, call.parent_id, call.state) == (TRACE, PARENT, "vendor=a:b")
    assert call.name == "scopewatch.v1.MonitorService/Score"
    assert call.kind == 2  # SERVER, of opentelemetry.proto.trace.v1.Span
    assert call.about == {
        "rpc.system.name": "grpc",
        "rpc.method": "scopewatch.v1.MonitorService/Score",
        "rpc.response.status_code": "OK",
        "scopewatch.pairs": 1,
    }
    assert [span.name for span in session.below(pair)] == STAGES
    assert {span.trace_id for span in [pair, *session.below(pair)]} == {TRACE}
    assert session.collector.paths == {"/v1/traces"}


def test_a_program_that_traces_is_the_parent(session: Session) -> None:
    """The package's client sends the context of the span that is open where it is called."""
    call = session.call("client")
    assert (call.trace_id, call.parent_id) == (TRACE, PARENT)


def test_every_span_is_sent_before_the_server_ends(session: Session) -> None:
    """What waited when it was told to stop is there, and every span's parent is, too."""
    ids = {span.span_id for span in session.spans}
    assert {span.parent_id for span in session.spans} - ids == {"", PARENT}
    assert len(ids) == len(session.spans)


@pytest.mark.parametrize("request_id", ["sampled", "again"])
def test_stages_take_what_the_reply_says(session: Session, request_id: str) -> None:
    """Stages follow one another within their pair, the pair lies within its call, and each took what the reply tells."""
    timings, pair, call = session.replies[request_id].timings, session.pair(request_id), session.call(request_id)
    stages = session.below(pair)
    assert {one.name: one.end_ns - one.begin_ns for one in stages} == {
        stage: round(getattr(timings, f"{stage}_s") * 1e9) for stage in STAGES if getattr(timings, f"{stage}_s")
    }
    assert pair.end_ns - pair.begin_ns == round(timings.total_s * 1e9)
    edges = [pair.begin_ns, *(edge for one in stages for edge in (one.begin_ns, one.end_ns)), pair.end_ns]
    assert edges == sorted(edges)
    assert call.begin_ns <= pair.begin_ns
    assert pair.end_ns <= call.end_ns


def test_stages_stay_within_a_pair_that_was_read_in_windows(session: Session) -> None:
    """Windows of one batch each count it, so that stages may add up to more than the pair took: they end with it."""
    pair = session.pair("windows")
    assert pair.about[names.WINDOWS] == session.replies["windows"].coverage.windows > 1
    assert all(pair.begin_ns <= one.begin_ns <= one.end_ns <= pair.end_ns for one in session.below(pair))


def test_a_pair_says_what_came_of_it(session: Session) -> None:
    """Its verdict, how it was read, and one event an indicator, by the names of the conventions for evaluations."""
    reply, pair, again = session.replies["sampled"], session.pair("sampled"), session.pair("again")
    assert pair.about == {
        "scopewatch.request_id": "sampled",
        "scopewatch.watchlist": "test",
        "scopewatch.watchlist.digest": reply.provenance.watchlist_digest,
        "scopewatch.verdict": {pb.VERDICT_FLAG: "flag", pb.VERDICT_PASS: "pass"}[reply.verdict],
        "scopewatch.cached": False,
        "scopewatch.tokens": reply.coverage.tokens,
        "scopewatch.windows": 1,
    }
    assert again.about[names.CACHED] is True
    assert pair.events == [
        (
            "gen_ai.evaluation.result",
            {
                "gen_ai.evaluation.name": one.name,
                "gen_ai.evaluation.score.value": one.score,
                "gen_ai.evaluation.score.label": "flag" if one.flagged else "pass",
            },
        )
        for one in reply.indicators
        if not one.skipped_reason
    ]


def test_a_caller_decides_that_it_is_not_traced(session: Session) -> None:
    """An unsampled context makes no span, whatever the share."""
    assert session.replies["unsampled"].request_id == "unsampled"
    assert [span for span in session.spans if span.about.get(names.REQUEST_ID) == "unsampled"] == []
    assert f"{TRACE[:-1]}d" not in {span.trace_id for span in session.spans}


@pytest.mark.parametrize("request_id", ["without", *MALFORMED])
def test_without_a_context_that_can_be_read_a_trace_begins(session: Session, request_id: str) -> None:
    """A malformed context counts as none: the call is answered, and begins a trace of its own."""
    call = session.call(request_id)
    assert (call.parent_id, call.state) == ("", "")
    assert call.trace_id != TRACE
    assert session.replies[request_id].request_id == request_id


def test_a_state_that_cannot_be_read_is_left_out(session: Session) -> None:
    """The context itself still counts."""
    call = session.call("bad state")
    assert (call.trace_id, call.parent_id, call.state) == (TRACE, PARENT, "")


def test_a_pair_that_fails_has_a_span_with_the_reason(session: Session) -> None:
    """Its error, and none of what it was about; the status of the call is that of the reply."""
    call, pair = session.call("failing"), session.pair("failing")
    assert pair.failed
    assert pair.about[names.ERROR_TYPE] == "invalid_request"
    assert pair.events == session.below(pair) == []
    assert call.about[names.RPC_STATUS] == session.codes["failing"].name == "INVALID_ARGUMENT"
    assert not call.failed, "it is the caller's fault"


def test_a_pair_that_is_refused_at_the_door_has_a_span(session: Session) -> None:
    """Without the name of a watchlist that there is not, which may be text."""
    assert session.codes["refused"] is grpc.StatusCode.INVALID_ARGUMENT
    assert session.pair("refused").about == {
        "scopewatch.request_id": "refused",
        "scopewatch.watchlist": "unknown",
        "error.type": "unknown_watchlist",
    }


def test_of_a_large_call_some_pairs_have_spans(session: Session) -> None:
    """At most so many, those first that got no PASS; the call says how many it had and how many have none."""
    call = session.call("many failing")
    assert call.name == "scopewatch.v1.MonitorService/BatchScore"
    assert len(session.below(call)) == MOST_PAIR_SPANS
    assert (call.about[names.PAIRS], call.about[names.PAIRS_LEFT_OUT]) == (MOST_PAIR_SPANS + 8, 8)


def test_an_explanation_is_one_span(session: Session) -> None:
    """The pair that is read for it is nobody's to score."""
    (call,) = (one for one in session.spans if one.name == "scopewatch.v1.MonitorService/Explain")
    assert (call.trace_id, call.about[names.RPC_STATUS]) == (TRACE, "OK")
    assert session.below(call) == []


def test_an_explanation_on_the_watch_page_is_one_span(session: Session) -> None:
    """Of a trace of its own, since a browser sends no context; also where there is nothing to explain."""
    explained, nobody = (one for one in session.spans if one.name == "GET /explain")
    assert explained.about == {"http.request.method": "GET", "http.route": "/explain"}
    assert nobody.about == explained.about | {"error.type": "not_kept"}
    assert (explained.parent_id, explained.failed, nobody.failed) == ("", False, True)


def test_nothing_that_is_sent_holds_text(session: Session) -> None:
    """The raw bytes hold the ids, and no text, label, wrong watchlist or context that cannot be read."""
    raw = b"".join(session.collector.bodies)
    assert b"many failing" in raw
    assert WORD.encode() not in raw


def test_nothing_of_a_context_is_logged(session: Session) -> None:
    """The library would quote headers that it cannot read."""
    assert [one for one in session.logged if one.name.startswith("opentelemetry")] == []
    assert WORD not in "".join(str(vars(one)) for one in session.logged)


def test_lines_of_the_log_name_the_trace(session: Session) -> None:
    """Of pairs that are traced, and of no others."""
    found = {
        one.request_id: getattr(one, "trace_id", "") for one in session.logged if one.name == "scopewatch.verdicts"
    }
    assert found["sampled"] == found["failing"] == TRACE
    assert found["without"] == session.call("without").trace_id
    assert found["unsampled"] == ""


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("grpc_server_handling_seconds", {"grpc_method": "Score"}),
        ("scopewatch_stage_seconds", {"stage": "total"}),
        ("scopewatch_stage_seconds", {"stage": "forward"}),
    ],
)
def test_buckets_lead_to_traces(session: Session, name: str, labels: dict[str, str]) -> None:
    """In OpenMetrics buckets name a trace that was sent, with a value that falls into them."""
    buckets = samples(session.open_metrics, f"{name}_bucket", labels)
    named = [(before, one) for before, one in zip([None, *buckets], buckets, strict=False) if one.exemplar]
    assert named
    for before, one in named:
        assert one.exemplar.labels["trace_id"] in {span.trace_id for span in session.spans}
        assert (float(before.labels["le"]) if before else 0) < one.exemplar.value <= float(one.labels["le"])


def samples(text: str, name: str, labels: dict[str, str]) -> list[Any]:
    """The samples of a page in OpenMetrics, in its order."""
    families = text_string_to_metric_families(text)
    found = [sample for family in families for sample in family.samples]
    return [one for one in found if one.name == name and labels.items() <= one.labels.items()]


def test_pages_in_plain_text_have_no_traces(session: Session) -> None:
    """That format has no place for them, and is read by the parser for it."""
    assert TRACE in session.open_metrics
    assert TRACE not in session.plain
    assert {one.name for one in plain_families(session.plain)} >= {
        "grpc_server_handling_seconds",
        "scopewatch_stage_seconds",
    }


def test_what_became_of_spans_is_counted(session: Session) -> None:
    """Those that were sent when the page was made are among those that came."""
    counted = {
        one.labels["result"]: one.value for one in samples(session.open_metrics, "scopewatch_trace_spans_total", {})
    }
    assert counted.keys() == {"sent", "failed", "dropped"}
    assert 0 < counted["sent"] <= len(session.spans)
    assert counted["failed"] == counted["dropped"] == 0


def test_the_page_names_what_spans_have() -> None:
    """Each attribute and event that there is, and none that there is not."""
    ours = {value for name, value in vars(names).items() if name.isupper() and "." in value}
    told = set(re.findall(r"`((?:scopewatch|rpc|http|error|gen_ai)\.[a-z_.]+)`", PAGE))
    gone = {"rpc.system", "rpc.service", "rpc.grpc.status_code", "gen_ai.evaluation.explanation", "scopewatch.client"}
    assert told - gone == ours


def test_the_collectors_configuration_is_whole() -> None:
    """It is YAML, takes what is sent here, and its pipelines name components that it has."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    document = yaml.safe_load(text)
    assert document["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(":4318")
    for kinds in document["service"]["pipelines"].values():
        for kind, used in kinds.items():
            assert set(used) == set(document[kind])
