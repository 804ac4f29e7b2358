"""Who may ask for what, over the wire: every method, role and way in; what is shown to whom; what is written down."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certificates import NOW, Authority
from conftest import House
from scopewatch.audit.verify import verify
from scopewatch.client import AsyncClient, pb, request
from scopewatch.doors.grpc.service import METHODS
from scopewatch.doors.role_file import Role, token_digest
from scopewatch.errors import NotAllowed, Overloaded, ScopewatchError, Unauthenticated
from scopewatch.v1 import monitor_pb2_grpc
from servers import NO_RETRIES, LocalServer, config, eventually, serving

NEEDED = {
    "Score": {"score"},
    "BatchScore": {"score"},
    "GetInfo": {"score", "explain", "submit", "admin"},
    "Explain": {"explain"},
    "ReloadWatchlists": {"admin"},
    "reflection": {"admin"},
    "health": None,
    "metrics": {"metrics"},
}
"""The roles of which each thing to ask for needs one; None for what anybody may ask."""
CALLERS = [*map(str, Role), "nobody"]
WAYS = ["token", "token over TLS", "certificate"]


def token(name: str) -> str:
    return f"swt_{name}_{'x' * 40}"


def role_file(folder: Path, **more: dict[str, Any]) -> Path:
    """One caller for each role, known by a token and by a certificate of its name; `more` adds to what it says of them."""
    callers = [
        {"name": role, "tokens": [token_digest(token(role))], "certificates": [f"CN={role}"], "roles": [role]}
        | more.get(role, {})
        for role in map(str, Role)
    ]
    file = folder / "roles.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "callers": callers}))
    return file


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def tls(authority: Authority, *, mutual: bool) -> dict[str, object]:
    files = authority.sign("server")
    settings: dict[str, object] = {"tls_cert": str(files.cert), "tls_key": str(files.key)}
    return settings | ({"tls_client_ca": str(authority.file)} if mutual else {})


@asynccontextmanager
async def asking(way: str, caller: str, address: str, authority: Authority) -> AsyncIterator[tuple[Any, Any]]:
    """A channel to a server, and the metadata of calls, by which a caller is known."""
    metadata = (("authorization", f"Bearer {token(caller)}"),) if way != "certificate" and caller != "nobody" else ()
    if way == "token":
        channel = grpc.aio.insecure_channel(address, options=NO_RETRIES)
    else:
        files = authority.sign(caller) if way == "certificate" else None
        shown = (files.key.read_bytes(), files.cert.read_bytes()) if files else (None, None)
        channel = grpc.aio.secure_channel(
            address, grpc.ssl_channel_credentials(authority.file.read_bytes(), *shown), options=NO_RETRIES
        )
    async with channel:
        yield channel, metadata


async def outcome(channel: grpc.aio.Channel, metadata: Any, asked: str) -> str:
    """How a call ends."""
    stub = monitor_pb2_grpc.MonitorServiceStub(channel)
    pair = request(response="a")
    requests = {
        "Score": pair,
        "BatchScore": pb.BatchScoreRequest(requests=[pair]),
        "Explain": pb.ExplainRequest(pair=pair),
    }
    try:
        if asked == "health":
            checked = health_pb2_grpc.HealthStub(channel).Check
            await checked(health_pb2.HealthCheckRequest(), timeout=60, metadata=metadata)
        elif asked == "reflection":
            streamed = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            # Not `write`, which fails by itself where the call was refused already.
            call = streamed(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), metadata=metadata)
            await call.read()
            call.cancel()
        else:
            await getattr(stub, asked)(requests.get(asked) or METHODS[asked](), timeout=60, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def expected(asked: str, caller: str) -> str:
    needed = NEEDED[asked]
    if needed is None or caller in needed:
        return "OK"
    return "UNAUTHENTICATED" if caller == "nobody" else "PERMISSION_DENIED"


@pytest.mark.parametrize("way", WAYS)
async def test_every_method_for_every_role(house: House, tmp_path: Path, authority: Authority, way: str) -> None:
    """Each caller may ask for what its role says and for nothing else, by whatever it is known; methods without an entry need
    `admin`; health needs nothing."""
    assert set(METHODS) <= NEEDED.keys(), "a method is missing from this table"
    secured = {} if way == "token" else tls(authority, mutual=way == "certificate")
    settings = config(house.watchlist, roles=str(role_file(tmp_path)), reflection=True, **secured)
    asked = [name for name in NEEDED if name != "metrics"]
    found: dict[tuple[str, str], str] = {}
    async with serving(settings) as server:
        for caller in CALLERS:
            async with asking(way, caller, server.grpc_address, authority) as (channel, metadata):
                for name in asked:
                    found[name, caller] = await outcome(channel, metadata, name)

    assert found == {(name, caller): expected(name, caller) for name, caller in product(asked, CALLERS)}


def scrape(server: LocalServer, authorization: str | None) -> int:
    """The status of the metrics page."""
    headers = {"Authorization": authorization} if authorization else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{server.metrics_address}/metrics", headers=headers), timeout=30
        ) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_the_metrics_page_needs_its_role(house: House, tmp_path: Path) -> None:
    """Where there is a role file, whoever reads the page shows a token of a caller with the role `metrics`."""
    async with serving(config(house.watchlist, roles=str(role_file(tmp_path)))) as server:
        found = {
            caller: await asyncio.to_thread(scrape, server, None if caller == "nobody" else f"Bearer {token(caller)}")
            for caller in CALLERS
        }
        wrong = await asyncio.to_thread(scrape, server, "Bearer wrong")

    assert found == dict.fromkeys(CALLERS, 403) | {"metrics": 200, "nobody": 401}
    assert wrong == 401


@pytest.mark.parametrize(
    "shown",
    [
        [("authorization", f"Bearer {token('score')}x")],
        [("authorization", "Bearer ")],
        [("authorization", token("score"))],
        [("authorization", f"Basic {token('score')}")],
        [("authorization", f"Bearer {token('score')}"), ("authorization", f"Bearer {token('score')}")],
        [("authorization", "Bearer " + "a" * 10_000)],
        [("x-authorization", f"Bearer {token('score')}")],
    ],
    ids=["longer", "empty", "no scheme", "another scheme", "twice", "huge", "another name"],
)
async def test_what_is_no_token_lets_nobody_in(house: House, tmp_path: Path, shown: list[tuple[str, str]]) -> None:
    """Forged and odd credentials are UNAUTHENTICATED, and the answer does not repeat them."""
    async with (
        serving(config(house.watchlist, roles=str(role_file(tmp_path)))) as server,
        grpc.aio.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await monitor_pb2_grpc.MonitorServiceStub(channel).GetInfo(pb.GetInfoRequest(), metadata=shown)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert token("score") not in repr(refused.value)


async def test_certificates_that_do_not_count_let_nobody_in(house: House, tmp_path: Path, authority: Authority) -> None:
    """A certificate of the right name by another signer, or one that has expired, makes no connection."""
    settings = config(house.watchlist, roles=str(role_file(tmp_path)), **tls(authority, mutual=True))
    shown = [Authority(tmp_path / "forger").sign("score"), authority.sign("score", ends=NOW - timedelta(minutes=1))]
    async with serving(settings) as server:
        for files in shown:
            credentials = grpc.ssl_channel_credentials(
                authority.file.read_bytes(), files.key.read_bytes(), files.cert.read_bytes()
            )
            async with grpc.aio.secure_channel(server.grpc_address, credentials, options=NO_RETRIES) as channel:
                assert await outcome(channel, (), "Score") == "UNAVAILABLE"


async def test_a_token_is_taken_away_while_the_service_runs(house: House, tmp_path: Path) -> None:
    """A token that leaves the role file lets nobody in from the next look on; a broken file changes nothing."""
    file = role_file(tmp_path)
    settings = config(house.watchlist, roles=str(file), watch_files_s=0.02)
    async with (
        serving(settings) as server,
        AsyncClient(server.grpc_address, token=token("score"), timeout_s=60) as client,
        asyncio.timeout(60),
    ):
        await client.score(response="a")
        good = file.read_text()
        file.write_text("version: 1\ncallers: [")
        await asyncio.sleep(0.2)
        await client.score(response="a")
        file.write_text(good.replace(token_digest(token("score")), token_digest(token("other"))))
        with pytest.raises(Unauthenticated):  # noqa: PT012 - one of these calls
            while await client.score(response="a"):
                pass


async def test_a_caller_is_shown_as_much_as_its_entry_says(house: House, tmp_path: Path) -> None:
    """`round_scores` leaves multiples of a step and the exact verdict; `shows_cached: false` leaves out what tells of others."""
    coarse = {"round_scores": 0.5, "shows_cached": False, "tenant": "all", "roles": ["score"]}
    file = role_file(tmp_path, submit=coarse, score={"tenant": "all"})
    async with serving(config(house.watchlist, roles=str(file))) as server:
        fields: dict[str, Any] = {"prompt": "is it?", "response": "it may be so", "include_evidence": True}
        async with AsyncClient(server.grpc_address, token=token("score"), timeout_s=60) as client:
            exact, again = await client.score(**fields), await client.score(**fields)
        async with AsyncClient(server.grpc_address, token=token("submit"), timeout_s=60) as client:
            shown = await client.score(**fields)
            (batched,) = await client.score_batch([request(**fields)])

    assert again.cached
    for reply in (shown, batched):
        assert isinstance(reply, pb.ScoreResponse)
        assert (reply.verdict, reply.cached, reply.timings) == (exact.verdict, False, pb.Timings())
        for coarse_one, one in zip(reply.indicators, exact.indicators, strict=True):
            assert coarse_one.flagged == one.flagged
            assert coarse_one.score % 0.5 == 0
            assert abs(coarse_one.score - one.score) <= 0.25
            assert all(part.contribution % 0.5 == 0 == part.pooled % 0.5 for part in coarse_one.features)
            assert all(span.activation % 0.5 == 0 for span in coarse_one.evidence)
            assert round(10 * coarse_one.probability, 6) % 1 == 0
    assert any(one.score % 0.5 for one in exact.indicators)


async def test_tenants_share_no_cache(house: House, tmp_path: Path) -> None:
    """What a caller of another tenant asked is computed again; callers of one tenant share it."""
    file = role_file(
        tmp_path,
        submit={"roles": ["score"], "tenant": "clinic"},
        admin={"roles": ["score"], "tenant": "clinic"},
    )
    cached = {}
    async with serving(config(house.watchlist, roles=str(file))) as server:
        for name in ("score", "submit", "admin"):
            async with AsyncClient(server.grpc_address, token=token(name), timeout_s=60) as client:
                cached[name] = (await client.score(response="it may be so")).cached

    assert cached == {"score": False, "submit": False, "admin": True}


async def test_quotas_hold_for_each_caller_alone(house: House, tmp_path: Path) -> None:
    """A caller beyond its rate or its tokens is told when to come again, and another one does not notice."""
    file = role_file(
        tmp_path,
        score={"pairs_per_s": 0.001},
        submit={"roles": ["score"], "tokens_per_minute": 1},
        admin={"roles": ["score"]},
    )
    async with serving(config(house.watchlist, roles=str(file))) as server:
        for name in ("score", "submit"):
            async with grpc.aio.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel:
                metadata = (("authorization", f"Bearer {token(name)}"),)
                codes = [await outcome(channel, metadata, "Score") for _ in range(2)]
                assert codes == ["OK", "RESOURCE_EXHAUSTED"], name
        async with AsyncClient(server.grpc_address, token=token("admin"), timeout_s=60) as client:
            for number in range(3):
                assert (await client.score(response=f"{number}")).verdict


async def test_what_is_asked_for_is_in_the_audit_log(house: House, tmp_path: Path) -> None:
    """Reloads, changed roles and evidence are written down with who asked, in a chain that verifies; texts are not."""
    canary = "the patient's name is Ada"
    folder, file = tmp_path / "audit", role_file(tmp_path)
    settings = config(house.watchlist, roles=str(file), audit_dir=str(folder), watch_files_s=0.02)
    async with serving(settings) as server:
        async with AsyncClient(server.grpc_address, token=token("score"), timeout_s=60) as client:
            await client.score(response=canary, request_id="mine", include_evidence=True)
            await client.score(response=canary)
        async with grpc.aio.insecure_channel(server.grpc_address, options=NO_RETRIES) as channel:
            assert await outcome(channel, (("authorization", f"Bearer {token('admin')}"),), "ReloadWatchlists") == "OK"
        file.write_text(file.read_text() + "\n")
        await eventually(lambda: len([act for act in acts(folder) if act["action"] == "roles"]) == 2, "no change noted")
    written = [(act["action"], act["caller"], act["outcome"]) for act in acts(folder)]

    assert [action for action, _, _ in written[:2]] == ["segment", "start"]
    assert ("evidence", "score", "ok") in written
    assert [act for act in written if act[0] == "reload_watchlists"] == [
        ("reload_watchlists", "admin", "asked"),
        ("reload_watchlists", "admin", "unchanged"),
    ]
    assert written[-1][0] == "stop"
    assert canary not in "".join(file.read_text() for file in folder.iterdir())
    assert verify(folder).broken is None


def acts(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of an audit log."""
    for file in sorted(folder.glob("audit-*.jsonl")):
        for line in file.read_text().splitlines():
            yield json.loads(line)


async def test_errors_of_access_come_back_as_what_they_are(house: House, tmp_path: Path) -> None:
    """The client raises Unauthenticated, NotAllowed and Overloaded, none of which it tries again in vain."""
    file = role_file(tmp_path, submit={"roles": ["score"], "max_calls": 1, "pairs_per_s": 0.001})
    kinds: dict[str, type[ScopewatchError] | None] = {}
    async with serving(config(house.watchlist, roles=str(file))) as server:
        for name in ("nobody", "metrics", "submit"):
            async with AsyncClient(server.grpc_address, token=token(name), timeout_s=2) as client:
                try:
                    await client.score(response="a")
                    await client.score(response="a")
                except ScopewatchError as error:
                    kinds[name] = type(error)

    assert kinds == {"nobody": Unauthenticated, "metrics": NotAllowed, "submit": Overloaded}
