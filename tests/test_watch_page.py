"""The watch page: what was flagged lately and why, for this machine alone, and without texts that nobody keeps."""

import asyncio
import http.client
import json
import re
import threading
import webbrowser
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

import explanations
from browser import Page, browser
from conftest import House, need, scored_pair
from scopewatch.audit.recent_flags import MOST_FLAGS, RecentFlags
from scopewatch.cli import main
from scopewatch.client import AsyncClient, pb
from scopewatch.doors.auth import Roles
from scopewatch.doors.http import watch_port
from scopewatch.doors.http.metrics_port import MetricsPort
from scopewatch.doors.http.watch_port import WatchPort
from scopewatch.doors.role_file import token_digest
from scopewatch.errors import ConfigError, EngineError, NotKept, NotReady, Overloaded, ScopewatchError
from scopewatch.events import PairScored
from scopewatch.explanation import Explanation, Wants
from scopewatch.metrics import Metrics
from scopewatch.report.watch_page import WatchPages
from scopewatch.types import ANYONE, Caller, Coverage, Pair, ScoreJob
from scopewatch.verdicts import IndicatorScore, Verdict
from servers import LocalServer, config, eventually, serving

NOW = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
ID = "req-2291"
HOSTILE = "</title><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">/../'\"&?id=%00\u202e\x1b[31m"
CANARY = "qvxkanarie"
TOKENS = {name: f"swt_{name}_{'x' * 40}" for name in ("clinic", "lawyers", "rounded", "scorer")}


def scored(
    request_id: str = ID, verdict: Verdict = Verdict.FLAG, caller: Caller = ANYONE, watchlist: str = "clinic"
) -> PairScored:
    """A pair on which one of two indicators was flagged."""
    flagged = verdict is Verdict.FLAG
    indicators = (
        IndicatorScore("speculation", 0.7312, 0.5, flagged, "high", calibrated=True),
        IndicatorScore("tone", 0.1, 0.9, flagged=False, severity="low", calibrated=True),
    )
    job = ScoreJob(Pair(f"{CANARY} p", f"{CANARY} r"), "", request_id, caller=caller)
    return PairScored(job, scored_pair(verdict, indicators, Coverage(9, 4, 5, 0), watchlist))


def remembering(*events: PairScored, text_kept: bool = True) -> RecentFlags:
    flags = RecentFlags(text_kept=text_kept, now=lambda: NOW)
    flags.remember(events)
    return flags


@dataclass
class FakeSpine:
    """Keeps the texts of some pairs, and explains them when the test lets it."""

    kept: dict[str, Explanation] = field(default_factory=lambda: {ID: explanations.flagged()})
    tenant: str = ""
    error: ScopewatchError | None = None
    asked: list[ScoreJob] = field(default_factory=list)
    wants: list[Wants] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    """The names of the threads on which pairs were explained."""
    held: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.held.set()

    def kept_pair(self, request_id: str, caller: Caller) -> ScoreJob:
        if request_id not in self.kept or caller.tenant != self.tenant:
            raise NotKept("no such text is kept")
        return ScoreJob(Pair("p", "r"), "", request_id, caller=caller)

    async def explain(self, job: ScoreJob, wants: Wants) -> Explanation:
        self.asked.append(job)
        self.wants.append(wants)
        self.threads.add(threading.current_thread().name)
        try:
            await self.held.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self.kept[job.request_id]


@dataclass(frozen=True)
class Answer:
    """What the port says."""

    status: int
    headers: dict[str, str]
    text: str


async def get(address: str, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """One request by a real client, with the headers of these names."""

    def ask() -> Answer:
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            text = reply.read().decode()
            return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, text)
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


@asynccontextmanager
async def watching(
    flags: RecentFlags | None = None, spine: Any = None, roles: Roles | None = None
) -> AsyncIterator[str]:
    """A watch port that is open, in front of a fake spine; its address."""
    port = WatchPort(
        "127.0.0.1:0",
        flags=flags or remembering(scored()),
        roles=roles or Roles.load(None),
        pages=WatchPages(),
    )
    address = (await port.listen())["watch_address"]
    if spine is not False:
        port.open(spine or FakeSpine())
    try:
        yield address
    finally:
        await port.close()


# What is remembered


def test_only_flags_are_remembered_and_no_text() -> None:
    """A flag holds when, which pair, by which watchlist and what raised it; what passed is not remembered, nor any text."""
    flags = remembering(scored("a"), scored("b", Verdict.PASS), scored("c", Verdict.INCOMPLETE), scored("d"))
    newest, oldest = flags.of("")

    assert [newest.request_id, oldest.request_id] == ["d", "a"]
    assert newest.time == NOW
    assert newest.watchlist == "clinic"
    assert [(one.name, one.score, one.threshold, one.severity) for one in newest.indicators] == [
        ("speculation", 0.7312, 0.5, "high")
    ]
    assert CANARY not in repr(flags.of(""))


def test_the_oldest_flags_of_a_tenant_are_forgotten() -> None:
    """Each tenant has its last 200 flags: those of another push none of them out, and are not among them."""
    quiet, loud = Caller("a", "clinic"), Caller("b", "lawyers")
    flags = remembering(scored("first", caller=quiet))
    flags.remember([scored(f"l{number}", caller=loud) for number in range(MOST_FLAGS + 50)])

    assert [flag.request_id for flag in flags.of("clinic")] == ["first"]
    assert [flag.request_id for flag in flags.of("lawyers")] == [f"l{number}" for number in range(249, 49, -1)]


def test_flags_are_read_while_others_are_remembered() -> None:
    """The page's thread reads them while the service goes on."""
    flags, done = remembering(), threading.Event()

    def remember() -> None:
        for number in range(20_000):
            flags.remember([scored(str(number))])
        done.set()

    service = threading.Thread(target=remember)
    service.start()
    while not done.is_set():
        ids = [int(flag.request_id) for flag in flags.of("")]
        assert ids == list(range(ids[0], ids[0] - len(ids), -1)) if ids else True
    service.join()


# The list


async def test_the_list_tells_what_was_flagged() -> None:
    """The page has each flag's time, id, watchlist, indicators with score, threshold and severity, and leads to why."""
    async with watching(remembering(scored("one"), scored("two/2"))) as at:
        answer = await get(at)

    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for part in ("2 pairs were flagged", "2026-03-01 12:30:05", "clinic", "speculation: 0.7312, above 0.5 (high)"):
        assert part in answer.text
    assert answer.text.index('href="/explain?id=two/2"') < answer.text.index('href="/explain?id=one"')
    assert "tone" not in answer.text


async def test_flags_can_be_read_by_programs() -> None:
    """`/flags.json` has the same."""
    async with watching() as at:
        answer = await get(at, "/flags.json")

    assert answer.headers["content-type"] == "application/json"
    raised = {"name": "speculation", "score": 0.7312, "threshold": 0.5, "severity": "high"}
    flag = {"time": NOW.isoformat(), "request_id": ID, "watchlist": "clinic", "text_kept": True, "indicators": [raised]}
    assert json.loads(answer.text) == {"flags": [flag]}


async def test_nothing_was_flagged() -> None:
    """An empty list says so, and has no empty table."""
    async with watching(remembering()) as at:
        answer = await get(at)

    assert "No pairs were flagged" in answer.text
    assert "<table" not in answer.text


async def test_head_has_no_page() -> None:
    """HEAD answers with the headers alone."""
    async with watching() as at:
        answer = await get(at, method="HEAD")

    assert (answer.status, answer.text) == (200, "")


# Explanations


async def test_a_flag_opens_its_explanation() -> None:
    """A pair whose text is kept is explained on the service's own event loop, and the page says why it was flagged."""
    spine = FakeSpine()
    async with watching(spine=spine) as at:
        answer = await get(at, f"/explain?id={ID}")

    assert answer.status == 200
    assert "dialysis" in answer.text
    assert spine.threads == {threading.current_thread().name}
    assert [(job.request_id, job.caller) for job in spine.asked] == [(ID, ANYONE)]
    assert spine.wants == [Wants()]


@pytest.mark.parametrize(
    ("text_kept", "remembered", "said", "status"),
    [
        (False, True, "--audit-text flag", 200),
        (True, True, "Its text was to be kept and is not there", 200),
        (True, False, "No flag is remembered under this id", 404),
    ],
)
async def test_without_a_text_the_page_says_what_is_known(
    text_kept: bool, remembered: bool, said: str, status: int
) -> None:
    """Where a text is not kept, the page has the scores, why there is no more, and how to keep texts."""
    flags = remembering(scored("another"), *[scored()] * remembered, text_kept=text_kept)
    async with watching(flags, FakeSpine(kept={})) as at:
        answer = await get(at, f"/explain?id={ID}")

    assert answer.status == status
    assert said in answer.text
    assert ("speculation: 0.7312, above 0.5 (high)" in answer.text) == remembered
    assert "another" not in answer.text
    assert CANARY not in answer.text


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Overloaded("16 explanations wait", retry_after_s=1.0), 503, "overloaded: 16 explanations wait"),
        (NotReady("shutting down"), 503, "not_ready: shutting down"),
        (EngineError("the reader failed"), 500, "engine_error: the reader failed"),
    ],
)
async def test_what_cannot_be_explained_is_told(error: ScopewatchError, status: int, said: str) -> None:
    """A pair that is not explained gets a line that says why, and the port goes on."""
    async with watching(spine=FakeSpine(error=error)) as at:
        answer, after = await get(at, f"/explain?id={ID}"), await get(at)

    assert (answer.status, after.status) == (status, 200)
    assert answer.text == f"{said}\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_nothing_is_explained_before_the_service_is_there() -> None:
    """While the reader is loaded, the list is there, and an explanation is 503."""
    async with watching(spine=False) as at:
        answers = [await get(at), await get(at, f"/explain?id={ID}")]

    assert [answer.status for answer in answers] == [200, 503]


@pytest.mark.parametrize("path", ["/explain", "/explain?id=", "/explain?other=1"])
async def test_an_explanation_needs_an_id(path: str) -> None:
    """Who names no pair is told how to."""
    async with watching() as at:
        answer = await get(at, path)

    assert (answer.status, answer.text) == (400, "name a pair: /explain?id=REQUEST_ID\n")


async def test_explanations_leave_room_for_the_list() -> None:
    """Of many explanations that take long four are made at once, the others are told to come again, and the list is there."""
    spine = FakeSpine()
    spine.held.clear()
    async with watching(spine=spine) as at:
        waiting = [asyncio.create_task(get(at, f"/explain?id={ID}")) for _ in range(4)]
        await eventually(lambda: len(spine.asked) == 4, "not as many were begun")
        refused, listed = await get(at, f"/explain?id={ID}"), await get(at)
        spine.held.set()
        answers = await asyncio.gather(*waiting)
        after = await get(at, f"/explain?id={ID}")

    assert (refused.status, listed.status, after.status) == (503, 200, 200)
    assert [answer.status for answer in answers] == [200] * 4


async def test_an_explanation_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the caller is answered, and what was asked for is no longer worked on."""
    monkeypatch.setattr(watch_port, "_EXPLAINED_S", 0.05)
    spine = FakeSpine()
    spine.held.clear()
    async with watching(spine=spine) as at:
        answer = await get(at, f"/explain?id={ID}")
        await asyncio.sleep(0)

    assert answer.status == 503
    assert spine.cancelled == 1


async def test_closing_gives_up_what_is_explained() -> None:
    """A port that closes while an explanation is made ends at once, and so does that work."""
    spine = FakeSpine()
    spine.held.clear()
    async with watching(spine=spine) as at:
        waiting = asyncio.create_task(get(at, f"/explain?id={ID}"))
        await eventually(lambda: spine.asked, "it was not begun")
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0)

    assert spine.cancelled == 1


# Who may look


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9465", 200),
        ("127.0.0.1:1", 200),
        ("127.8.8.8", 200),
        ("[::1]:9465", 200),
        ("scopewatch.example", 421),
        ("127.0.0.1.example:9465", 421),
        ("localhost.example", 421),
        ("unix:9465", 421),
        ("0.0.0.0:9465", 421),
        ("", 421),
    ],
)
@pytest.mark.parametrize("path", ["/", "/flags.json", f"/explain?id={ID}"])
async def test_the_page_is_read_under_this_machines_own_names(host: str, status: int, path: str) -> None:
    """A site whose name is rebound to this machine reads nothing: only loopback names and addresses are answered."""
    async with watching() as at:
        answer = await get(at, path, Host=host)

    assert answer.status == status
    assert (ID in answer.text) == (status == 200)


@pytest.mark.parametrize(
    ("dest", "status"), [("document", 200), ("iframe", 403), ("image", 403), ("empty", 403), ("script", 403)]
)
async def test_other_pages_can_not_load_it(dest: str, status: int) -> None:
    """A browser that loads the page for another page, or for a script of one, gets nothing, and nothing is explained."""
    spine = FakeSpine()
    async with watching(spine=spine) as at:
        answer = await get(at, f"/explain?id={ID}", Sec_Fetch_Dest=dest)

    assert answer.status == status
    assert len(spine.asked) == (status == 200)


@pytest.mark.parametrize("path", ["/", "/flags.json", f"/explain?id={ID}", "/explain?id=none", "/nowhere", "/explain"])
async def test_answers_are_neither_kept_nor_framed(path: str) -> None:
    """Every answer, refusals too, carries what keeps browsers from storing, framing, guessing and passing on."""
    async with watching() as at:
        headers = (await get(at, path)).headers

    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    if headers["content-type"].startswith("text/html"):
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert ("script-src" in policy) == (path == f"/explain?id={ID}")


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("PUT", 405), ("DELETE", 405), ("OPTIONS", 405)])
async def test_only_reading_is_answered(method: str, status: int) -> None:
    """Other methods than GET and HEAD are 405."""
    async with watching() as at:
        assert (await get(at, method=method)).status == status


async def test_a_long_request_is_refused() -> None:
    """A head of more than 8 KiB is 431."""
    async with watching() as at:
        assert (await get(at, f"/explain?id={'a' * 9000}")).status == 431


async def test_who_stalls_makes_room() -> None:
    """Beyond sixteen connections the one goes that has kept the port waiting longest, and the page is answered."""
    async with watching() as at:
        host, _, port = at.rpartition(":")
        stalled = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        answer = await get(at)
        for _, writer in stalled:
            writer.close()

    assert answer.status == 200


@pytest.fixture
def roles(tmp_path: Path) -> Roles:
    """Tenants who may have pairs explained, one of which sees rounded scores, and a caller who may only score."""
    callers = [
        {"name": name, "tenant": name, "tokens": [token_digest(TOKENS[name])], "roles": [role], "round_scores": step}
        for name, role, step in [
            ("clinic", "explain", 0.0),
            ("lawyers", "explain", 0.0),
            ("rounded", "explain", 0.5),
            ("scorer", "score", 0.0),
        ]
    ]
    file = tmp_path / "roles.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "callers": callers}))
    return Roles.load(file)


def basic(password: str, user: str = "me") -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        (basic("wrong"), 401),
        (basic(TOKENS["scorer"]), 401),
        ("Basic !!!", 401),
        ("Basic " + b64encode(b"\xff\xfe").decode(), 401),
        ("Basic " + b64encode(TOKENS["clinic"].encode()).decode(), 401),
        (f"Digest {TOKENS['clinic']}", 401),
        (basic(TOKENS["clinic"]), 200),
        (basic(TOKENS["clinic"], ""), 200),
        (basic(TOKENS["clinic"]).replace("Basic", "bASIC"), 200),
        (f"Bearer {TOKENS['clinic']}", 200),
    ],
)
@pytest.mark.parametrize("path", ["/", "/flags.json", f"/explain?id={ID}"])
async def test_where_there_are_roles_a_token_is_the_password(
    roles: Roles, authorization: str, status: int, path: str
) -> None:
    """With a role file the password is a token of a caller with the role `explain`; a browser asks for it after 401."""
    clinic = Caller("clinic", "clinic")
    async with watching(remembering(scored(caller=clinic)), FakeSpine(tenant="clinic"), roles) as at:
        answer = await get(at, path, **({"Authorization": authorization} if authorization else {}))

    assert answer.status == status
    assert (ID in answer.text) == (status == 200)
    if status == 401:
        assert answer.headers["www-authenticate"].startswith('Basic realm="')
        assert TOKENS["clinic"] not in answer.text


async def test_a_caller_sees_its_tenants_flags_alone(roles: Roles) -> None:
    """Neither the list nor an explanation tells a caller anything of another tenant's pair."""
    flags = remembering(scored("mine", caller=Caller("b", "lawyers")), scored("theirs", caller=Caller("c", "clinic")))
    shown = {"Authorization": basic(TOKENS["lawyers"])}
    spine = FakeSpine(kept={"theirs": explanations.flagged()}, tenant="clinic")
    async with watching(flags, spine, roles) as at:
        listed, explained = await get(at, **shown), await get(at, "/explain?id=theirs", **shown)

    assert "mine" in listed.text
    assert "theirs" not in listed.text
    assert explained.status == 404
    assert "speculation" not in explained.text
    assert spine.asked == []


async def test_scores_are_rounded_for_those_who_see_rounded_ones(roles: Roles) -> None:
    """A caller whose replies are rounded reads no finer score here."""
    flags = remembering(scored(caller=Caller("b", "rounded")))
    async with watching(flags, roles=roles) as at:
        page = await get(at, Authorization=basic(TOKENS["rounded"]))
        rows = await get(at, "/flags.json", Authorization=basic(TOKENS["rounded"]))

    assert "speculation: 0.5, above" in page.text
    assert "0.7312" not in page.text + rows.text


async def test_an_explanation_is_not_rounded(roles: Roles) -> None:
    """A caller whose replies are rounded gets no explanation, whose sums are exact, as by the RPC."""
    spine = FakeSpine(tenant="rounded")
    async with watching(remembering(scored(caller=Caller("b", "rounded"))), spine, roles) as at:
        answer = await get(at, f"/explain?id={ID}", Authorization=basic(TOKENS["rounded"]))

    assert (answer.status, spine.asked) == (403, [])
    assert answer.text.startswith("not_allowed: an explanation shows exact scores")


async def test_an_explanation_counts_for_its_caller(tmp_path: Path) -> None:
    """What is explained here is held against the caller's quota, as a call is."""
    poor = {"name": "poor", "tokens": [token_digest(TOKENS["clinic"])], "roles": ["explain"], "tokens_per_minute": 10}
    file = tmp_path / "roles.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "callers": [poor]}))
    shown = {"Authorization": basic(TOKENS["clinic"])}
    async with watching(spine=FakeSpine(tenant="poor"), roles=Roles.load(file)) as at:
        answers = [await get(at, f"/explain?id={ID}", **shown) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 503]
    assert "more than 10 tokens of this caller in a minute" in answers[1].text


# Hostile callers


@pytest.mark.parametrize("path", ["/", f"/explain?id={quote(HOSTILE)}"])
async def test_hostile_ids_are_text(path: str) -> None:
    """An id, or a watchlist's name, that is markup stands on the page as text, and leads to its own pair."""
    flags = remembering(scored(HOSTILE, watchlist=HOSTILE))
    spine = FakeSpine(kept={})
    async with watching(flags, spine) as at:
        answer = await get(at, path)

    assert answer.status == 200
    for tag in ("<script", "<img", "\u202e", "\x1b"):
        assert tag not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert (f'href="/explain?id={quote(HOSTILE)}"' in answer.text) == (path == "/")


async def test_an_id_comes_back_as_it_was() -> None:
    """Whatever a caller named a request, the link of the list opens that pair."""
    for request_id in (HOSTILE, "..", "a/../b", "a b+c", "é🤷🏽‍♀️", "%2e%2e", "#x", "&id=other"):
        spine = FakeSpine(kept={request_id: explanations.flagged()})
        async with watching(remembering(scored(request_id)), spine) as at:
            link = (await get(at)).text.partition('href="/explain')[2].partition('"')[0]
            answer = await get(at, f"/explain{link.replace('&amp;', '&')}")

        assert answer.status == 200
        assert [job.request_id for job in spine.asked] == [request_id]


def opened(page: Page, url: str) -> None:
    """Loads a page by its address."""
    page.said.clear()
    page.call("Page.navigate", url=url)
    page.wait_for("Page.loadEventFired")


@pytest.mark.system
async def test_a_browser_shows_the_pages_without_an_error(tmp_path: Path) -> None:
    """In Chromium the list opens an explanation by a click; nothing hostile runs, nothing else is loaded, no script fails."""
    need("chromium")
    flags = remembering(scored(HOSTILE), scored(ID))
    spine = FakeSpine(kept={ID: explanations.flagged(), HOSTILE: explanations.hostile()})

    def look(address: str) -> None:
        with browser(tmp_path / "profile") as page:
            opened(page, f"http://{address}/")
            assert page.value("[document.title, document.scripts.length]") == ["Recent flags", 0]
            for number, request_id in enumerate((ID, HOSTILE)):
                opened(page, f"http://{address}/")
                assert page.problems() == []
                page.said.clear()
                page.value(f"document.querySelectorAll('tbody a')[{number}].click()")
                page.wait_for("Page.loadEventFired")
                assert spine.asked[-1].request_id == request_id
                assert page.value("document.title") != "owned"
                assert page.value("document.scripts.length") > 0
                assert page.problems() == []
                assert {url.partition("?")[0] for url in page.requests()} == {f"http://{address}/explain"}

    async with watching(flags, spine) as at:
        await asyncio.to_thread(look, at)


@pytest.mark.system
@pytest.mark.parametrize("path", ["/", f"/explain?id={ID}"], ids=["list", "no text"])
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (390, False)], ids=["light", "dark", "phone"])
async def test_everybody_can_read_the_pages(tmp_path: Path, path: str, width: int, dark: bool) -> None:
    """axe-core finds nothing serious, and no page is wider than a phone's screen."""
    need("chromium")
    serious = (
        "axe.run(document).then(found => found.violations.filter(one => ['serious', 'critical'].includes(one.impact))"
        ".map(one => one.id + ' ' + one.nodes[0].html))"
    )

    def look(address: str) -> None:
        with browser(tmp_path / "profile") as page:
            page.look(width, dark=dark)
            opened(page, f"http://{address}{path}")
            page.value(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
            assert page.value(serious) == []
            assert page.value("document.documentElement.scrollWidth") <= width

    async with watching(remembering(scored("x" * 200), scored(HOSTILE), scored(ID)), FakeSpine(kept={})) as at:
        await asyncio.to_thread(look, at)


# A whole server


FLAGGED, PASSED = "hello world", "The quick brown fox"
"""Responses that the small watchlist flags and does not."""


@asynccontextmanager
async def watched(house: House, **settings: object) -> AsyncIterator[LocalServer]:
    """A server with a watch page that has scored one pair it flagged and one it did not."""
    async with serving(config(house.watchlist, watch_address="127.0.0.1:0", **settings)) as server:
        async with AsyncClient(server.grpc_address) as client:
            flagged = await client.score(prompt=CANARY, response=f"{FLAGGED} {CANARY}", request_id=HOSTILE)
            passed = await client.score(response=PASSED, request_id="passed")
        assert (flagged.verdict, passed.verdict) == (pb.VERDICT_FLAG, pb.VERDICT_PASS)
        yield server


def recorded(folder: Path) -> list[tuple[str, str, str]]:
    """What an audit log says of reading and explaining: the action, the outcome and the pair."""
    lines = [line for file in sorted(folder.glob("audit-*.jsonl")) for line in file.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return [
        (record["action"], record["outcome"], record["detail"]["request_id"])
        for record in records
        if record["action"] in {"explain", "read_kept_text"}
    ]


async def test_a_server_tells_why_it_flagged_a_pair(house: House, tmp_path: Path) -> None:
    """Where the operator keeps texts, the page explains the pair by the scored numbers, and the audit log says that it did."""
    async with watched(house, audit_dir=str(tmp_path), audit_text="flag") as server:
        listed = await get(server.watch_address)
        await eventually(lambda: list(tmp_path.glob("texts-*")), "no text was kept")
        explained = await get(server.watch_address, f"/explain?id={quote(HOSTILE)}")

    assert "1 pair was flagged" in listed.text
    assert "passed" not in listed.text
    assert CANARY not in listed.text
    assert explained.status == 200
    assert CANARY in explained.text
    assert recorded(tmp_path) == [
        ("read_kept_text", "asked", HOSTILE), ("explain", "asked", HOSTILE), ("explain", "ok", HOSTILE)
    ]  # fmt: skip
    score = re.search(r"alpha: (\S+), above", listed.text)
    assert score
    assert score[1] in explained.text


@pytest.mark.parametrize("kept", [False, True])
async def test_no_text_is_shown_that_the_operator_does_not_keep(house: House, tmp_path: Path, kept: bool) -> None:
    """Without `audit_text` no page holds a word of a pair, with an audit log and without one."""
    async with watched(house, **({"audit_dir": str(tmp_path)} if kept else {})) as server:
        answers = [
            await get(server.watch_address, path) for path in ("/", "/flags.json", f"/explain?id={quote(HOSTILE)}")
        ]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert "not kept" in answers[0].text
    assert "--audit-text flag" in answers[2].text
    assert not [answer for answer in answers if CANARY in answer.text]
    assert recorded(tmp_path) == []


async def test_there_is_no_page_unless_it_is_asked_for(house: House) -> None:
    """A server without `watch_address` listens on no third port."""
    async with serving(config(house.watchlist)) as server:
        assert server.watch_address == ""


async def test_an_address_that_is_taken_is_told_before_anything_is_loaded(house: House) -> None:
    """A watch page that cannot be bound ends the start with its setting's name."""
    async with watching() as at:
        with pytest.raises(ConfigError, match=f"watch_address {at}: Address already in use"):
            async with serving(config(house.watchlist, watch_address=at)):
                raise AssertionError("it serves")


@pytest.mark.usefixtures("logging_as_it_was")
class TestTheCommand:
    """`scopewatch watch`."""

    async def test_it_lists_the_flags(self, house: House, capsys: pytest.CaptureFixture[str]) -> None:
        """The terminal shows what the page lists, none of whose characters steers it, and where the page is."""
        async with watched(house) as server:
            code = await asyncio.to_thread(run, "--address", server.watch_address)
        out = capsys.readouterr().out

        assert code == 0
        assert out.splitlines()[-1] == f"http://{server.watch_address}/"
        assert "by test, text not kept" in out
        assert re.search(r"^  medium  alpha  \d\.\d+, above 1$", out, re.MULTILINE)
        assert "\x1b" not in out
        assert "\u202e" not in out

    async def test_a_token_says_who_looks(
        self, roles: Roles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With a role file the command shows the token of a file; without it, it says what to give."""
        file = tmp_path / "token"
        file.write_text(f"{TOKENS['clinic']}\n")
        async with watching(remembering(scored(caller=Caller("c", "clinic"))), roles=roles) as at:
            codes = [
                await asyncio.to_thread(run, "--address", at),
                await asyncio.to_thread(run, "--address", at, "--token-file", file),
            ]
        out, err = capsys.readouterr()

        assert codes == [1, 0]
        assert ID in out
        assert "unauthenticated: the server wants to know who asks; give --token-file" in err

    async def test_it_opens_the_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`--open` hands the page's address to the browser of the system."""
        opened: list[str] = []
        monkeypatch.setattr(webbrowser, "open", lambda url: bool(opened.append(url)) or True)
        async with watching() as at:
            assert await asyncio.to_thread(run, "--address", at, "--open") == 0

        assert opened == [f"http://{at}/"]

    async def test_another_page_is_no_watch_page(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The metrics port, named by mistake, is told to be none."""
        port = MetricsPort("127.0.0.1:0", metrics=Metrics())
        at = await port.listen()
        code = await asyncio.to_thread(run, "--address", at)
        await port.close()

        assert code == 1
        assert capsys.readouterr().err == f"scopewatch: not_ready: {at} is no watch page: HTTP status 404\n"

    @pytest.mark.parametrize(
        ("address", "said", "code"),
        [
            ("127.0.0.1:1", "; start the server with --watch-address 127.0.0.1:", 1),
            ("scopewatch.example:9465", "is on its own machine alone; forward its port", 2),
            ("9465", "expected host:port", 2),
        ],
    )
    def test_where_no_page_is(self, capsys: pytest.CaptureFixture[str], address: str, said: str, code: int) -> None:
        """An address that nothing listens on, that is another machine's, or none at all, is one clear line."""
        assert run("--address", address) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def run(*arguments: object) -> object:
    """The exit code of `scopewatch watch`."""
    with pytest.raises(SystemExit) as left:
        main(["watch", *map(str, arguments)])
    return left.value.code
