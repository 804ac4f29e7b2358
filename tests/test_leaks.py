"""A text that stands in every field of every request, whatever becomes of the call, is nowhere but in its caller's reply."""

import asyncio
import base64
import gc
import gzip
import json
import re
import signal
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from redis import Redis

from conftest import House, RedisServer, need, wait_until, watchlist_document
from scopewatch.client import pb
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.doors.role_file import token_digest
from scopewatch.logs.lines import JsonLines
from scopewatch.v1 import monitor_pb2_grpc
from servers import NO_RETRIES, ServerProcess, config, serving

pytestmark = pytest.mark.system

WORD = "qvxkanarie"
"""Stands in every text."""
NAME = "qvxlabel"
"""Stands in what the log may hold of a pair: its request id; and in labels where the request is refused for them."""
TEXT = f'{WORD} é {{"{WORD}": 1}}\nWARNING {WORD}\x1b[31m \u2028 may be'
OWN = f'{NAME}é\n{{"event": "{NAME}"}}\x1b[31m'
IDS = [41, 17, 53, 29, 61, 37, 43, 19]
"""Token ids of a response."""
TOKENS = {name: f"swt_{name}qvxtoken{'x' * 30}" for name in ("own", "poor", "watcher", "other")}

FAULTS = """
import os, sys, time
from pathlib import Path
import scopewatch.app.server as server
import scopewatch.explain.explainer as explainer
import scopewatch.pipeline.monitor as monitor
import scopewatch.pipeline.shadows as shadows
from scopewatch.cli import main
from scopewatch.pipeline.cached_value import CachedValues

file, text, real = Path(os.environ["FAULT"]), os.environ["QUOTED"], server.load

def failing(name, work):
    def fails(*given, **named):
        if file.read_text() == name:
            raise ValueError("cannot do this with " + text)
        return work(*given, **named)
    return fails

def load(config):
    from scopewatch.engine.passes import Passes

    loaded = real(config)
    Passes.read = failing("reader", Passes.read)
    runner, tokenisers = failing("engine", loaded.engine.runner), type(loaded.engine.tokeniser)
    def run(batch):
        if file.read_text() == "slow":
            time.sleep(0.5)
        encoded = runner(batch)
        if file.read_text() == "pair":
            encoded.activations[:] = [ValueError(text) for _ in batch]
        return encoded
    loaded.engine.runner = run
    tokenisers.readings = failing("tokenise", tokenisers.readings)
    return loaded

def leaves(code, leave=os._exit):
    loaded = [name for name in sys.modules if name.startswith(("scopewatch.tracing", "opentelemetry."))]
    Path(os.environ["LOADED"]).write_text("\\n".join(loaded))
    leave(code)

os._exit = leaves
server.load = load
monitor.judge = failing("judge", monitor.judge)
shadows.judge = failing("shadow", shadows.judge)
explainer.explained = failing("document", explainer.explained)
CachedValues.dump = failing("dump", CachedValues.dump)
main(sys.argv[1:])
"""


def forms(word: str) -> dict[str, bytes]:
    """How a word may stand somewhere: as it is, escaped or not; in hex, in base64 wherever it begins, and backwards."""
    raw = word.encode()
    found = {"plain": raw, "hex": raw.hex().encode(), "reversed": raw[::-1]}
    for shift in range(3):
        # What its neighbours have no part in.
        coded = base64.b64encode(b"\0" * shift + raw)
        found[f"base64 at {shift}"] = coded[-(-shift * 8 // 6) : -4 if coded.endswith(b"=") else None]
    return found


FORMS = {f"{form} of {word}": raw for word in (WORD, "qvxtoken") for form, raw in forms(word).items()} | {
    "ids": ", ".join(map(str, IDS)).encode(),
    "ids in bytes": b"".join(number.to_bytes(4, "little") for number in IDS),
}
OWN_FORMS = {f"{form} of {NAME}": raw for form, raw in forms(NAME).items()}


def request(number: int, **changes: Any) -> pb.ScoreRequest:
    """A request that holds the text wherever it may; the number makes it one that is not cached."""
    given = {
        "request_id": OWN,
        "prompt": f"{TEXT} {number}",
        "response": f"{TEXT} not sure {number}",
        "history": [pb.Turn(role="user", content=TEXT), pb.Turn(role="assistant", content=TEXT)],
        "labels": {WORD: f"{WORD} é", f"{WORD}\n": TEXT[:200]},
        "include_evidence": True,
    }
    return pb.ScoreRequest(**(given | changes))


WRONG = [
    {"history": [pb.Turn(role=OWN, content=TEXT)]},
    {"history": [pb.Turn(role=WORD, content=TEXT)]},
    {"history": [pb.Turn(role="user", content=TEXT, fields_json=TEXT)]},
    {"history": [pb.Turn(role="user", content=TEXT, fields_json=json.dumps({WORD: TEXT, "content": TEXT}))]},
    {"template_inputs": pb.TemplateInputs(date=TEXT, tools_json=TEXT, documents_json=TEXT, arguments_json=TEXT)},
    {"template_inputs": pb.TemplateInputs(tools_json=json.dumps([{WORD: TEXT}]))},
    {"template_inputs": pb.TemplateInputs(documents_json=json.dumps([{WORD: TEXT}]))},
    {"template_inputs": pb.TemplateInputs(arguments_json=json.dumps({WORD: TEXT, "messages": TEXT}))},
    {"watchlist": WORD},
    {"watchlist": TEXT * 100},
    {"labels": {OWN * 100: TEXT, TEXT: OWN * 100}},
    {"request_id": OWN * 100},
    {"response": ""},
    {"response": TEXT + "\0"},
    {"prompt": TEXT * 1000},
    {"response_token_ids": [*IDS, 2**31]},
    {"response_token_ids": IDS * 5000},
]
"""What INVALID_ARGUMENT is said of."""


@dataclass
class Attacked:
    """What a server told whom."""

    outcomes: set[str] = field(default_factory=set)
    """The codes of the calls, and the verdicts."""
    own: list[bytes] = field(default_factory=list)
    """What the caller of the text was told."""
    places: dict[str, bytes] = field(default_factory=dict)
    """What others can read, by where."""
    verdicts: list[str] = field(default_factory=list)
    """The lines of the log that say what became of pairs."""
    loaded: list[str] = field(default_factory=list)
    """Modules that trace, of those that the process had loaded when it ended."""


class Attack:
    """Calls of one server, by several callers.

    Args:
        process: The server.
        fault: The file that says what fails.
    """

    def __init__(self, process: ServerProcess, fault: Path) -> None:
        self.process, self._fault = process, fault
        self.found = Attacked()
        self._number = 0
        agent = [("grpc.primary_user_agent", f"{WORD}/1 ({WORD})")]
        self._channel = grpc.insecure_channel(process.grpc_address, options=NO_RETRIES + agent)
        self._others: list[bytes] = []

    def close(self) -> None:
        self._channel.close()

    def fails(self, what: str) -> None:
        self._fault.write_text(what)

    def metadata(self, authorization: str) -> list[tuple[str, Any]]:
        odd = ("x-qvxkanarie", f"{WORD} {WORD}"), ("x-odd-bin", TEXT.encode())
        return [("authorization", authorization), *odd]

    def call(self, method: str, message: Any, caller: str = "own", *, token: str = "", timeout_s: float = 60.0) -> None:
        """Calls, and keeps what was said; another caller calls behind it."""
        body = message if isinstance(message, bytes) else message.SerializeToString()
        asked = self._channel.unary_unary(f"/{SERVICE_NAME}/{method}")
        try:
            reply = asked(body, metadata=self.metadata(token or f"Bearer {TOKENS[caller]}"), timeout=timeout_s)
        except grpc.RpcError as error:
            self._say(error.code().name)
            said = [error.details(), *(value for _, value in error.trailing_metadata() or ())]
            self.found.own += [one if isinstance(one, bytes) else str(one).encode() for one in said]
        else:
            self.found.own.append(reply)
            if method == "Score":
                self._say(pb.Verdict.Name(pb.ScoreResponse.FromString(reply).verdict))
        self._somebody_else()

    def score(self, caller: str = "own", *, timeout_s: float = 60.0, **changes: Any) -> None:
        self._number += 1
        self.call("Score", request(self._number, **changes), caller, timeout_s=timeout_s)

    def batch(self, **changes: Any) -> None:
        self._number += 3
        items = [request(self._number + n, **changes) for n in range(3)]
        self.call("BatchScore", pb.BatchScoreRequest(requests=items))

    def explain(self, kept: str = "", **changes: Any) -> None:
        self._number += 1
        pair = None if kept else request(self._number, **changes)
        self.call("Explain", pb.ExplainRequest(pair=pair, kept=kept, ablate=True, delete=True))

    def cancelled(self) -> None:
        self._number += 1
        stub = monitor_pb2_grpc.MonitorServiceStub(self._channel)
        call = stub.Score.future(request(self._number), metadata=self.metadata(f"Bearer {TOKENS['own']}"))
        time.sleep(0.1)
        call.cancel()
        self._say("CANCELLED")

    def _say(self, outcome: str) -> None:
        self.found.outcomes.add(outcome)

    def _somebody_else(self) -> None:
        """Another caller's pair, which may fail, a wrong one, and what the server says of itself."""
        with grpc.insecure_channel(self.process.grpc_address, options=NO_RETRIES) as channel:
            stub = monitor_pb2_grpc.MonitorServiceStub(channel)
            known = [("authorization", f"Bearer {TOKENS['other']}")]
            for ask, message in (
                (stub.Score, pb.ScoreRequest(response=f"it may be {self._number}")),
                (stub.Score, pb.ScoreRequest(watchlist="nobody")),
                (stub.GetInfo, pb.GetInfoRequest()),
            ):
                try:
                    self._others.append(ask(message, metadata=known, timeout=60).SerializeToString())
                except grpc.RpcError as error:
                    self._others.append(repr((error.details(), error.trailing_metadata())).encode())

    def scrape(self, query: str = "", authorization: str = f"Bearer {TOKENS['watcher']}") -> bytes:
        url = f"http://{self.process.metrics_address}/metrics{query}"
        asked = urllib.request.Request(url, headers={"Authorization": authorization, "User-Agent": WORD, "X-Odd": WORD})
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(asked, timeout=60) as page:
            return bytes(page.read())
        return b""

    def keep(self, redis: Redis) -> None:
        """Looks at all that Redis holds now."""
        kept = [part for key in redis.scan_iter() for part in (key, redis.get(key) or b"")]
        self.found.places["redis"] = b"\n".join([self.found.places.get("redis", b""), *kept])

    def read_places(self, audit: Path, redis: Redis) -> None:
        """Looks wherever others can, while the server runs."""
        places = self.found.places
        places["metrics"] = self.scrape()
        places["what other callers are told"] = b"\n".join(self._others)
        places["audit"] = b"\n".join(file.read_bytes() for file in sorted(audit.iterdir()))
        self.keep(redis)


def every_end(attack: Attack, redis: Redis, watchlist: Path) -> None:
    """Every way in which a call can end, and what the server does beside calls."""
    attack.score(watchlist="flags")
    attack.score(watchlist="passes")
    attack.score(response=TEXT * 40, watchlist="passes")
    attack.score(response=TEXT, response_token_ids=IDS, prompt_token_ids=IDS)
    attack.score(template_inputs=pb.TemplateInputs(date="2026-01-02"))
    attack.batch()
    for changes in WRONG:
        attack.score(**changes)
        attack.batch(**changes)
    for authorization in (f"Bearer {WORD}", f"Basic {WORD}", WORD, f"Bearer {TOKENS['own']}qvx"):
        attack.call("Score", request(0), token=authorization)
    attack.call("Score", request(0), "watcher")
    attack.call("ReloadWatchlists", pb.ReloadWatchlistsRequest())
    for _ in range(2):
        attack.score("poor")
    text = request(0).SerializeToString()
    for body in (
        text.replace("é".encode(), b"\xff\xfe"),
        text[:-7],
        gzip.compress(text)[:-3],
        gzip.compress(text)[:-8] + b"12345678",
        gzip.compress(TEXT.encode() * 10_000),
        TEXT.encode() * 10_000,
        TEXT.encode(),
    ):
        attack.call("Score", body)
        attack.call("BatchScore", body)
    attack.call(f"Score/{WORD}", request(0))
    for query in (f"?name[]={WORD}", f"/{WORD}"):
        attack.scrape(query)
    attack.scrape(authorization=f"Bearer {WORD}")

    for fault in ("", "engine", "reader", "pair", "tokenise", "judge", "shadow", "dump", "document"):
        attack.fails(fault)
        attack.score()
        attack.batch()
        attack.explain(watchlist="flags")
    attack.explain(kept=OWN)
    attack.explain(response="")
    attack.fails("slow")
    attack.score(timeout_s=0.2)
    attack.cancelled()
    attack.fails("")

    attack.score(request_id="before")
    attack.keep(redis)
    for key in list(redis.scan_iter()):
        redis.set(key, TEXT)
    attack._number -= 1
    attack.score()
    redis.flushall()
    redis.acl_setuser("default", enabled=True, categories=["+@all"], commands=["-mget", "-get", "-set"], reset=False)
    for _ in range(3):
        attack.score()
    redis.acl_setuser("default", enabled=True, categories=["+@all"], reset=False)
    redis.config_set("maxmemory", "1")
    attack.score()
    redis.config_set("maxmemory", "0")

    whole = watchlist.read_text()
    watchlist.write_text(whole.replace("threshold", "treshold"))
    attack.process.process.send_signal(signal.SIGHUP)
    attack.score()
    wait_until(lambda: "watchlists were not replaced" in "".join(attack.process.log), "it was not read again", 60)
    watchlist.write_text(whole)


CALLERS = [
    {
        "name": name,
        "tokens": [token_digest(TOKENS[name])],
        "roles": ["metrics"] if name == "watcher" else ["score", "explain"],
    }
    | ({"pairs_per_s": 0.001} if name == "poor" else {})
    for name in TOKENS
]


class Server(ServerProcess):
    """One whose log may be of either format."""

    def _said(self, setting: str) -> str:
        found: list[str] = []

        def says() -> bool:
            found[:] = re.findall(rf'{setting}(?:=|": ")([\d.]+:\d+)', "".join(self.log))
            return bool(found) or self.process.poll() is not None

        wait_until(says, "it does not serve", timeout_s=200)
        return found[0]

    @property
    def grpc_address(self) -> str:
        return self._said("grpc_address")

    @property
    def metrics_address(self) -> str:
        return self._said("metrics_address")


def is_verdict(line: str) -> bool:
    """Whether a line of the log, of either format, says what became of a pair."""
    if line.startswith("{"):
        return bool(json.loads(line)["logger"] == "scopewatch.verdicts")
    return bool(re.match("info +(flagged|passed|incomplete|failed) request_id=", line))


def write_watchlists(house: House) -> list[str]:
    """Three watchlists in the folder of the house: one flags everything, one nothing, and one is a shadow."""
    files = []
    for name, threshold in (("flags", -1e6), ("passes", 1e6), ("beside", 0.0)):
        document = watchlist_document(name=name)
        for indicator in document["indicators"]:  # type: ignore[attr-defined]
            indicator["threshold"] = threshold
        file = house.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        files.append(str(file))
    return files


@pytest.fixture(scope="module", params=["json", "text"])
def attacked(request: pytest.FixtureRequest, house: House, tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    """What came of all calls to a server that logs all it can, in this format."""
    need("redis-server")
    folder = tmp_path_factory.mktemp("leaks")
    (folder / "serve.py").write_text(FAULTS)
    (folder / "fault").write_text("")
    (folder / "roles.yaml").write_text(yaml.safe_dump({"version": 1, "callers": CALLERS}))
    flags, passes, beside = write_watchlists(house)
    store = RedisServer()
    settings = {
        "watchlist": (flags, passes),
        "shadow": (beside,),
        "shadow-share": ("1",),
        "roles": (str(folder / "roles.yaml"),),
        "redis-url": (store.url,),
        "audit-dir": (str(folder / "audit"),),
        "log-level": ("debug",),
        "log-format": (request.param,),
        "log-pass-share": ("1",),
        "max-tokens": ("512",),
        "max-windows": ("1",),
        "max-text-chars": ("20000",),
        "max-message-bytes": ("200000",),
    }
    arguments = [part for name, values in settings.items() for part in (f"--{name}", *values)]
    try:
        with (
            Server(
                *arguments,
                script=folder / "serve.py",
                FAULT=str(folder / "fault"),
                LOADED=str(folder / "loaded"),
                QUOTED=TEXT,
                GRPC_VERBOSITY="INFO",
            ) as process,
            Redis(port=store.port) as redis,
        ):
            attack = Attack(process, folder / "fault")
            every_end(attack, redis, Path(flags))
            attack.read_places(folder / "audit", redis)
            attack.close()
            process.stop()
            lines = "".join(process.log).splitlines()
    finally:
        store.kill()
    found = attack.found
    found.loaded = (folder / "loaded").read_text().split()
    found.verdicts = [line for line in lines if is_verdict(line)]
    found.places["log"] = "\n".join(line for line in lines if not is_verdict(line)).encode()
    found.places["verdicts in the log"] = "\n".join(found.verdicts).encode()
    return found


def test_calls_ended_in_every_way(attacked: Attacked) -> None:
    """What is looked for afterwards was there: each verdict, each refusal and each failure, and the caller got the text."""
    assert attacked.outcomes >= {
        *("VERDICT_PASS", "VERDICT_FLAG", "VERDICT_INCOMPLETE", "INVALID_ARGUMENT", "UNAUTHENTICATED"),
        *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNIMPLEMENTED"),
        "NOT_FOUND",
    }
    assert any(NAME.encode() in told for told in attacked.own)
    assert any(WORD.encode() in told for told in attacked.own), "no explanation was made"
    log = attacked.places["log"]
    events = (
        *(
            "the reader failed on a pair",
            "a batch failed",
            "unexpected failure in Score",
            "unexpected failure in Explain",
            "a shadow watchlist failed",
        ),
        *("a cached value is not what was written", "Redis is not asked for a while", "watchlists were not replaced"),
    )
    assert [event for event in events if event.encode() not in log] == []
    assert [place for place, held in attacked.places.items() if len(held) < 100] == []


@pytest.mark.parametrize(
    "place", ["log", "verdicts in the log", "metrics", "what other callers are told", "audit", "redis"]
)
def test_no_text_is_where_others_read(attacked: Attacked, place: str) -> None:
    """Neither the texts nor the token are there, in whatever form."""
    held = attacked.places[place].lower()

    assert {form: around(held, raw.lower()) for form, raw in FORMS.items() if raw.lower() in held} == {}


@pytest.mark.parametrize("place", ["log", "metrics", "what other callers are told", "redis"])
def test_request_ids_are_where_the_log_says_verdicts(attacked: Attacked, place: str) -> None:
    """They are in those lines of the log, and in the audit log of evidence; nowhere else."""
    held = attacked.places[place].lower()

    assert {form: around(held, raw.lower()) for form, raw in OWN_FORMS.items() if raw.lower() in held} == {}


def test_ids_in_the_log_break_no_line(attacked: Attacked) -> None:
    """Where they may stand they are escaped: each line is one of printable ASCII."""
    with_names = [line for line in attacked.verdicts if NAME in line]

    assert with_names
    assert [line for line in with_names if not re.fullmatch("[ -~]+", line)] == []


def test_where_nothing_is_traced_what_traces_is_not_loaded(attacked: Attacked) -> None:
    """Of OpenTelemetry a process holds at most what redis loads of it for a use of its own."""
    ours = ("scopewatch.tracing", "opentelemetry.exporter", "opentelemetry.sdk.trace")

    assert [name for name in attacked.loaded if name.startswith(ours)] == []


async def test_an_exception_that_nobody_waits_for_is_logged_without_its_message(
    house: House, caplog: pytest.LogCaptureFixture, logging_as_it_was: None
) -> None:
    """The event loop of a server says what it found, and of which kind; by default it would quote the message."""

    async def fail() -> None:
        raise ValueError(TEXT)

    async with serving(config(house.watchlist)):
        failing = asyncio.create_task(fail())
        await asyncio.wait([failing])
        del failing
        gc.collect()
        await asyncio.sleep(0)
    lines = [JsonLines().format(record) for record in caplog.records]

    assert [line for line in lines if "never retrieved" in line and "ValueError" in line]
    assert [line for line in lines if WORD in line] == []


def around(held: bytes, raw: bytes) -> bytes:
    """Where something was found."""
    at = held.index(raw)
    return held[max(0, at - 200) : at + 100]
