"""Explain over the wire, by a real server and client: the scored numbers, who may ask, what is kept, what is counted."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from conftest import House, watchlist_document
from scopewatch.client import AsyncClient, Client, pb, request
from scopewatch.doors.role_file import token_digest
from scopewatch.errors import NotAllowed, NotKept, NotReady, Overloaded, ScopewatchError
from scopewatch.explanation import Explanation
from servers import Gate, config, direct, eventually, serving, violations

PAIR: dict[str, Any] = {
    "prompt": "is it gout?",
    "response": "it may be so. The patient might have gout, but we are not sure.",
    "history": [{"role": "user", "content": "hello world"}, {"role": "assistant", "content": "I do not know"}],
}
CALLERS = {
    "asks": {"roles": ["score", "explain"], "tenant": "clinic"},
    "colleague": {"roles": ["explain"], "tenant": "clinic"},
    "stranger": {"roles": ["explain"]},
    "coarse": {"roles": ["explain"], "round_scores": 0.5},
    "poor": {"roles": ["score", "explain"], "tokens_per_minute": 100},
    "single": {"roles": ["explain"], "max_calls": 1},
}


def token(name: str) -> str:
    return f"swt_{name}_{'x' * 40}"


@pytest.fixture
def roles(tmp_path: Path) -> str:
    callers = [{"name": name, "tokens": [token_digest(token(name))], **more} for name, more in CALLERS.items()]
    file = tmp_path / "roles.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "callers": callers}))
    return str(file)


def client(server: Any, name: str = "") -> AsyncClient:
    return AsyncClient(server.grpc_address, token=token(name) if name else None, timeout_s=60)


async def failure(call: Any) -> ScopewatchError:
    with pytest.raises(ScopewatchError) as failed:
        await call
    return failed.value


@pytest.mark.parametrize("cleaned", ["none", "beside", "instead"])
async def test_its_numbers_are_those_of_score(house: House, tmp_path: Path, cleaned: str) -> None:
    """Scores, thresholds, probabilities, pooled values, contributions, coverage and provenance are those of `Score`, to the
    last bit, whichever of the two is asked first; and the sums add up."""
    document = watchlist_document(cleaned=cleaned)
    (house.folder / f"cleaned-{cleaned}.yaml").write_text(yaml.safe_dump(document))
    async with serving(config(house.folder / f"cleaned-{cleaned}.yaml")) as server, client(server) as asking:
        for pair in (PAIR, {"response": "\uff49t \uff4day be so"}):
            first = await asking.explain(request_id="r-1", **pair)
            scored = await asking.score(request_id="r-1", **pair)
            again = await asking.explain(request_id="r-1", **pair)
            assert again == first
            check_same(first, scored)
            assert scored.cached


def check_same(explanation: Explanation, scored: pb.ScoreResponse) -> None:
    assert f"VERDICT_{explanation.verdict.upper()}" == pb.Verdict.Name(scored.verdict)
    assert len(explanation.indicators) == len(scored.indicators) == 3
    for told, one in zip(explanation.indicators, scored.indicators, strict=True):
        assert (told.name, told.score, told.threshold, told.flagged) == (
            *(one.name, one.score, one.threshold, one.flagged),
        )
        assert told.probability == (one.probability if one.HasField("probability") else None)
        assert {(t.feature, t.pooled, t.contribution) for t in told.terms} == {
            (f.feature, f.pooled, f.contribution) for f in one.features
        }
    assert explanation.coverage.tokens == scored.coverage.tokens
    assert explanation.provenance.watchlist_digest == scored.provenance.watchlist_digest
    assert explanation.provenance.reader_digest == scored.provenance.reader_digest
    assert explanation.request_id == scored.request_id == "r-1"


async def test_all_of_it_arrives(house: House) -> None:
    """With the reader whole, every part is there: tokens with their log-probabilities, whole dictionaries, sentences, ablation
    and deletion; both clients get the same."""
    document: dict[str, Any] = watchlist_document()
    document["indicators"][0]["threshold"] = -10
    (house.folder / "flags.yaml").write_text(yaml.safe_dump(document))
    async with serving(config(house.folder / "flags.yaml", explain_whole=True)) as server:
        wanted: dict[str, Any] = {"top": 3, "ablate": True, "delete": True, "request_id": "r", **PAIR}
        async with client(server) as asking:
            told = await asking.explain(**wanted)
        with Client(server.grpc_address, timeout_s=60) as blocking:
            same = await asyncio.to_thread(blocking.explain, **wanted)

    assert told == same
    n = len(told.tokens.start)
    assert n == told.coverage.prompt_tokens + told.coverage.response_tokens + told.coverage.history_tokens
    assert len(told.tokens.logprob) == n
    assert min(told.tokens.logprob) < 0
    assert {text.text for text in told.texts} == {
        *("is it gout?", "hello world", "I do not know", PAIR["response"]),
    }
    assert [sae.sae for sae in told.saes] == ["late", "mid"]
    for sae in told.saes:
        assert [len(segment.features) for segment in sae.segments] == [3, 3, 3]
        assert len(sae.tokens) == len(sae.unexplained) == n
        assert max(len(token.feature) for token in sae.tokens) == 3
    assert len(told.sentences) == 2
    assert told.verdict == "flag"
    assert {one.indicator for one in told.ablations} == {one.name for one in told.indicators if one.flagged}
    assert told.deletion
    assert told.deletion.scored > 0


async def test_wrong_requests_name_the_field(house: House) -> None:
    """Neither or both of `pair` and `kept`, more than is told, and what is wrong with the pair, each by its path."""
    wrong = {
        "kept": [
            pb.ExplainRequest(),
            pb.ExplainRequest(pair=request(response="a"), kept="r"),
            pb.ExplainRequest(kept="a" * 999),
        ],
        "top": [pb.ExplainRequest(pair=request(response="a"), top=65)],
        "pair.response": [pb.ExplainRequest(pair=pb.ScoreRequest(prompt="a"))],
        "pair.watchlist": [pb.ExplainRequest(pair=request(response="a", watchlist="nobody"))],
        "pair.history[0].role": [pb.ExplainRequest(pair=request(response="a", history=[{"role": "", "content": "a"}]))],
    }
    async with serving(config(house.watchlist)) as server, direct(server.grpc_address) as stub:
        for field, messages in wrong.items():
            for message in messages:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Explain(message, timeout=60)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert list(violations(refused.value)) == [field]


async def test_where_none_are_made_that_is_said(house: House) -> None:
    """The refusal names the setting, and is no reason to try again."""
    async with serving(config(house.watchlist, max_explanations=0)) as server, direct(server.grpc_address) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="max_explanations is 0") as refused:
            await stub.Explain(pb.ExplainRequest(pair=request(response="a")), timeout=60)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_as_many_wait_as_may(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than may wait is told when to come back; scoring is not held up by those who wait; each is counted."""
    gate = Gate(monkeypatch)
    async with (
        serving(config(house.watchlist, max_explanations=2), gate) as server,
        direct(server.grpc_address) as stub,
    ):
        await stub.Score(request(response="known"), timeout=60)
        gate.close()
        asked = [pb.ExplainRequest(pair=request(response=f"{number} may be")) for number in range(3)]
        waiting = [asyncio.ensure_future(stub.Explain(one, timeout=60)) for one in asked[:2]]
        await eventually(lambda: len(gate.batches) == 3, "it is not read")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Explain(asked[2], timeout=60)
        assert (await stub.Score(request(response="known"), timeout=60)).cached
        gate.open()
        replies = await asyncio.gather(*waiting)
        outcomes = {
            outcome: await asyncio.to_thread(server.metric, "scopewatch_explanations_total", outcome=outcome)
            for outcome in ("ok", "overloaded")
        }
        seconds = await asyncio.to_thread(server.metric, "scopewatch_explanation_seconds_count")

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(refused.value.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    assert all(one.explanation.request_id for one in replies)
    assert (outcomes, seconds) == ({"ok": 2, "overloaded": 1}, 2)


async def test_whoever_hangs_up_leaves_their_place(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled call is counted and forgotten; with one place, the next one is explained."""
    gate = Gate(monkeypatch)
    async with (
        serving(config(house.watchlist, max_explanations=1), gate) as server,
        direct(server.grpc_address) as stub,
    ):
        gate.close()
        left = stub.Explain(pb.ExplainRequest(pair=request(response="it may be")), timeout=60)
        reading = asyncio.ensure_future(left)
        await eventually(lambda: len(gate.batches) == 2, "it is not read")
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        gate.open()
        await eventually(
            lambda: server.metric("scopewatch_explanations_total", outcome="cancelled") == 1, "it was not counted"
        )
        await stub.Explain(pb.ExplainRequest(pair=request(response="it may be")), timeout=60)


async def test_a_client_tries_again_where_that_helps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explanation for which there was no place is asked for again by the client when it was told to."""
    gate = Gate(monkeypatch)
    async with (
        serving(config(house.watchlist, max_explanations=1), gate) as server,
        client(server) as asking,
    ):
        gate.close()
        both = [asyncio.create_task(asking.explain(response=f"{number} may be")) for number in range(2)]
        await eventually(lambda: server.metric("scopewatch_explanations_total", outcome="overloaded"), "no refusal")
        gate.open()
        found = await asyncio.gather(*both)
    assert len(found) == 2


async def test_scoring_goes_on_beside_it(house: House) -> None:
    """While explanations are made one after another, pairs are scored, by the numbers that they have alone."""
    async with serving(config(house.watchlist)) as server, client(server) as asking:
        texts = [f"{number} it may be so" for number in range(40)]
        explaining = [asyncio.create_task(asking.explain(response=text, ablate=True)) for text in texts[:6]]
        beside = [await asking.score(response=text) for text in texts]
        explained = await asyncio.gather(*explaining)
    async with serving(config(house.watchlist)) as server, client(server) as asking:
        alone = [await asking.score(response=text) for text in texts]

    assert [[one.score for one in reply.indicators] for reply in beside] == [
        [one.score for one in reply.indicators] for reply in alone
    ]
    assert [[one.score for one in reply.indicators] for reply in explained] == [
        [one.score for one in reply.indicators] for reply in alone[:6]
    ]


async def test_watchlists_are_replaced_while_explanations_are_made(house: House) -> None:
    """Each explanation is of one version: where two versions call different SAEs by one name, none is told under the other's."""
    file = house.folder / "swapped.yaml"
    documents = [watchlist_document(), watchlist_document()]
    saes: dict[str, Any] = documents[1]["saes"]  # type: ignore[assignment]
    saes["mid"], saes["late"] = saes["late"], saes["mid"]
    hookpoints = [
        {"mid": f"layers.{mid}.resid_post", "late": f"layers.{late}.resid_post"} for mid, late in ((1, 2), (2, 1))
    ]
    file.write_text(yaml.safe_dump(documents[0]))
    found: list[Explanation] = []
    over = asyncio.Event()
    async with serving(config(file, watch_files_s=0)) as server, client(server) as asking:

        async def explaining(number: int) -> None:
            while not over.is_set():
                found.append(await asking.explain(response=f"{number} may be {len(found)}", ablate=True))

        busy = [asyncio.create_task(explaining(number)) for number in range(3)]
        for turn in range(1, 5):
            file.write_text(yaml.safe_dump(documents[turn % 2]))
            await asking.reload_watchlists()
            # Those that were begun before may still be of the version before.
            await eventually(lambda at=turn + 1: any(one.provenance.watchlists_version == at for one in found), "none")
        over.set()
        await asyncio.gather(*busy)

    for one in found:
        expected = hookpoints[(one.provenance.watchlists_version + 1) % 2]
        assert {sae.sae: sae.hookpoint for sae in one.saes} == expected


async def test_who_may_see_a_kept_pair(house: House, tmp_path: Path, roles: str) -> None:
    """A pair that is kept is explained by its id as if it were sent again, for its own tenant; to others it is as if there were
    none, in the same words."""
    settings = config(house.watchlist, roles=roles, audit_dir=str(tmp_path / "audit"), audit_text="all")
    exact: dict[str, Any] = {
        "template_inputs": {"date": "2026-01-02"},
        "response": "",
        "response_token_ids": [41, 17, 53, 29],
        "watchlist": "test",
    }
    async with serving(settings) as server:
        async with client(server, "asks") as asking:
            scored = await asking.score(request_id="r-1", **PAIR)
            await asking.score(request_id="exact", **(PAIR | exact))
            sent = await asking.explain(request_id="r-1", **PAIR)
            sent_exact = await asking.explain(request_id="exact", **(PAIR | exact))
            nobodys = await failure(asking.explain(kept="nobody's"))
            assert await asking.explain(kept="r-1") == sent
        async with client(server, "colleague") as asking:
            assert await asking.explain(kept="r-1") == sent
            assert await asking.explain(kept="exact") == sent_exact
        async with client(server, "stranger") as asking:
            anothers = await failure(asking.explain(kept="r-1"))

    check_same(sent, scored)
    assert isinstance(nobodys, NotKept)
    assert (type(anothers), str(anothers)) == (type(nobodys), str(nobodys))


async def test_without_kept_texts_an_id_finds_nothing(house: House) -> None:
    """Whoever runs the service is told which setting keeps texts."""
    async with serving(config(house.watchlist)) as server, client(server) as asking:
        assert "audit_text" in str(await failure(asking.explain(kept="r-1")))


async def test_every_explanation_is_recorded_and_no_text(house: House, tmp_path: Path, roles: str) -> None:
    """The audit log says who asked for which pair before it is made, and what came of it; also of ids that are not there."""
    folder = tmp_path / "audit"
    settings = config(house.watchlist, roles=roles, audit_dir=str(folder), audit_text="all")
    async with serving(settings) as server:
        async with client(server, "asks") as asking:
            await asking.score(request_id="r-1", **PAIR)
            await asking.explain(request_id="r-2", **PAIR)
        async with client(server, "colleague") as asking:
            await asking.explain(kept="r-1")
        async with client(server, "stranger") as asking:
            await failure(asking.explain(kept="r-1"))
    written = [json.loads(line) for file in folder.glob("audit-*") for line in file.read_text().splitlines()]

    told = [act for act in written if act["action"] in {"explain", "read_kept_text"}]
    assert [(act["action"], act["caller"], act["outcome"], act["detail"]["request_id"]) for act in told] == [
        ("explain", "asks", "asked", "r-2"),
        ("explain", "asks", "ok", "r-2"),
        ("read_kept_text", "colleague", "asked", "r-1"),
        ("explain", "colleague", "asked", "r-1"),
        ("explain", "colleague", "ok", "r-1"),
        ("read_kept_text", "stranger", "asked", "r-1"),
    ]
    assert all("gout" not in json.dumps(act) for act in written)


async def test_what_cannot_be_recorded_is_not_made(house: House, tmp_path: Path) -> None:
    """Where the audit log was taken away, explanations are refused; scoring goes on."""
    folder = tmp_path / "audit"
    async with serving(config(house.watchlist, audit_dir=str(folder), audit_text="all")) as server:
        async with client(server) as asking:
            await asking.score(request_id="r-1", **PAIR)
        async with AsyncClient(server.grpc_address, timeout_s=2) as asking:
            for file in folder.glob("audit-*"):
                file.unlink()
            refused = [await failure(asking.explain(**named)) for named in (PAIR, {"kept": "r-1"})]
            await asking.score(**PAIR)

    assert {type(error) for error in refused} <= {NotReady}
    assert all("audit log cannot be written" in str(error) for error in refused)


async def test_rounded_scores_are_not_explained(house: House, roles: str) -> None:
    """Whoever sees rounded scores is told what it takes; the exact sum would show what rounding hides."""
    async with serving(config(house.watchlist, roles=roles)) as server, client(server, "coarse") as asking:
        refused = await failure(asking.explain(**PAIR))
    assert isinstance(refused, NotAllowed)
    assert "round_scores: 0" in str(refused)


async def test_quotas_count_what_an_explanation_reads(house: House, roles: str) -> None:
    """A caller pays for the passes over its pair, and has the calls at once that its entry says."""
    async with serving(config(house.watchlist, roles=roles)) as server:
        async with AsyncClient(server.grpc_address, token=token("poor"), timeout_s=2) as asking:
            told = await asking.explain(**PAIR)
            assert told.coverage.tokens < 100 < 2 * told.coverage.tokens
            assert isinstance(await failure(asking.score(response="a")), Overloaded)
        async with direct(server.grpc_address) as stub:
            known = (("authorization", f"Bearer {token('single')}"),)
            asked = pb.ExplainRequest(pair=request(**PAIR))
            outcomes = await asyncio.gather(
                *(stub.Explain(asked, metadata=known, timeout=60) for _ in range(2)), return_exceptions=True
            )
        codes = sorted(one.code().name for one in outcomes if isinstance(one, grpc.aio.AioRpcError))
    assert codes == ["RESOURCE_EXHAUSTED"]


async def test_a_reply_fits_the_message(house: House) -> None:
    """Where the explanation is too large, the client is told what was left out, last among what to trust."""
    long = "it may be so, but we are not sure. " * 12
    async with serving(config(house.watchlist, max_reply_bytes=1 << 16)) as server, client(server) as asking:
        told = await asking.explain(top=64, response=long)
        whole = await asking.explain(top=1, response=long)
    assert "features of the whole dictionary on each token" in told.trust[-1]
    assert told.trust[:-1] == whole.trust
    assert told.indicators == whole.indicators
