"""Who may ask for what: the role file, credentials, roles and quotas."""

import asyncio
import hmac
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from scopewatch.app.records import Records
from scopewatch.cli import main
from scopewatch.doors import auth
from scopewatch.doors.auth import NEEDED, Roles, needed
from scopewatch.doors.quota import Quota, QuotaLimits
from scopewatch.doors.role_file import Role, RoleFile, load_role_file, token_digest
from scopewatch.errors import ConfigError, NotAllowed, Overloaded, Unauthenticated
from scopewatch.types import ANYONE, Caller
from servers import eventually

TOKENS = {name: f"swt_{name * 20}" for name in ("old", "new", "ops")}
FILE = f"""\
version: 1
callers:
- name: triage
  tokens: ["{token_digest(TOKENS["old"])}", "{token_digest(TOKENS["new"])}"]
  certificates: ["spiffe://prod/triage", "DNS:triage.prod.svc", "CN=triage"]
  roles: [score, explain]
  weight: 2
  tenant: clinic
  max_calls: 2
  pairs_per_s: 50
  tokens_per_minute: 600
  shows_cached: false
  round_scores: 0.5
- name: ops
  tokens: ["{token_digest(TOKENS["ops"])}"]
  certificates: [CN=ops]
  roles: [admin]
"""
Write = Callable[[str], Path]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str) -> Path:
        file = tmp_path / "roles.yaml"
        file.write_text(content)
        return file

    return write


@pytest.fixture
def roles(write: Write) -> Roles:
    return Roles.load(write(FILE), round_scores=0.25)


def bearer(name: str) -> str:
    return f"Bearer {TOKENS[name]}"


def test_the_documented_example_is_a_role_file(write: Write) -> None:
    """What the module shows as an example loads, once real digests stand in it."""
    example = (load_role_file.__globals__["__doc__"] or "").partition("\n\n")[2].partition("\n\nThe file holds")[0]
    (account,) = load_role_file(
        write(dedent(example).replace("sha256:...", token_digest("a"))), round_scores=0
    ).accounts
    assert (account.caller, account.roles) == (Caller("triage-backend", "clinic", 2.0), {Role.SCORE})


def test_an_account_is_as_the_file_says(roles: Roles) -> None:
    """Every key of the file arrives, and what is left out is what the documentation says."""
    triage, ops = roles.of(bearer("old")), roles.of(bearer("ops"))

    assert triage.caller == Caller("triage", "clinic", 2.0)
    assert triage.roles == {Role.SCORE, Role.EXPLAIN}
    assert triage.limits == QuotaLimits(2, 50, 600)
    assert (triage.shows_cached, triage.round_scores) == (False, 0.5)
    assert ops.caller == Caller("ops", "ops", 1.0)
    assert (ops.limits, ops.shows_cached, ops.round_scores) == (QuotaLimits(), True, 0.25)


def test_without_a_file_everybody_may_ask_for_everything() -> None:
    """No role file is no check: any credentials or none, every role, no quota."""
    roles = Roles.load(None, round_scores=0.5)
    for authorization in (None, "Bearer x", "nonsense"):
        account = roles.of(authorization, ["CN=anybody"])
        assert (account.caller, account.roles, account.round_scores) == (ANYONE, set(Role), 0.5)
    quota = roles.quota(account)
    quota.charge(10**9)
    with called(quota, 10**6), called(quota, 10**6):
        pass
    assert (roles.digest, roles.refresh()) == ("", "same")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("name", ["old", "new"])
def test_each_token_of_a_caller_is_known(roles: Roles, scheme: str, name: str) -> None:
    """While tokens are rotated both the old and the new one are good."""
    assert roles.of(f"{scheme} {TOKENS[name]}").caller.name == "triage"


@pytest.mark.parametrize("identity", ["spiffe://prod/triage", "DNS:triage.prod.svc", "CN=triage"])
def test_each_identity_of_a_certificate_is_known(roles: Roles, identity: str) -> None:
    """One identity that the file names is enough, others beside it do no harm."""
    assert roles.of(None, ["DNS:elsewhere", identity]).caller.name == "triage"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        TOKENS["old"],
        f"Basic {TOKENS['old']}",
        f"Bearer  {TOKENS['old']}",
        f" Bearer {TOKENS['old']}",
        f"Bearer {TOKENS['old']} ",
        f"Bearer {TOKENS['old']}\n",
        f"Bearer {TOKENS['old'][:-1]}",
        f"Bearer {TOKENS['old']}x",
        f"Bearer {TOKENS['old']}, Bearer {TOKENS['old']}",
        "Bearer " + "a" * 100_000,
        "Bearer é",
        f"Bearer {token_digest(TOKENS['old'])}",
    ],
)
def test_whoever_is_not_known_is_refused(roles: Roles, authorization: str | None) -> None:
    """Nothing but a token of the file, written as the standard says, opens the door; no refusal repeats what was sent."""
    with pytest.raises(Unauthenticated) as caught:
        roles.of(authorization)
    assert "swt_" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("identities", [["CN=nobody"], ["CN=TRIAGE"], ["spiffe://prod/triage/more"], ["triage"], [""]])
def test_a_certificate_that_the_file_does_not_name_is_refused(roles: Roles, identities: list[str]) -> None:
    """Identities are compared as they are."""
    with pytest.raises(Unauthenticated, match="the certificate is of no caller"):
        roles.of(None, identities)


def test_a_wrong_token_is_refused_though_the_certificate_is_right(roles: Roles) -> None:
    """Whoever shows a token is judged by it."""
    with pytest.raises(Unauthenticated, match="the token is not known"):
        roles.of("Bearer swt_wrong", ["CN=triage"])
    assert roles.of(bearer("ops"), ["CN=triage"]).caller.name == "ops"


def test_a_certificate_of_two_callers_is_refused(roles: Roles) -> None:
    """Nobody chooses between two accounts by the order of a certificate's names."""
    with pytest.raises(Unauthenticated, match="several callers"):
        roles.of(None, ["CN=triage", "CN=ops"])


@pytest.mark.parametrize("name", [*TOKENS, "unknown"])
def test_every_token_is_compared_whichever_it_is(roles: Roles, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A look-up costs as many comparisons of constant time for a token that comes first, last or not at all."""
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    try:
        roles.of(f"Bearer {TOKENS.get(name, 'swt_wrong')}")
    except Unauthenticated:
        assert name == "unknown"
    assert len(set(compared)) == len(compared) == len(TOKENS)


def test_a_role_that_is_missing_is_named(roles: Roles) -> None:
    """A refusal says which role would do, and nothing of who asks."""
    account = roles.of(bearer("old"))
    account.require(Role.SCORE)
    account.require(Role.ADMIN, Role.EXPLAIN)
    account.require()
    with pytest.raises(NotAllowed, match=r"this needs the role admin, ") as caught:
        account.require(Role.ADMIN)
    assert "triage" not in str(caught.value)
    with pytest.raises(NotAllowed, match=r"one of the roles submit, metrics, "):
        account.require(Role.SUBMIT, Role.METRICS)


def test_what_nobody_thought_of_needs_admin() -> None:
    """Methods are closed by default; health alone is open."""
    assert {path for path, needs in NEEDED.items() if not needs} == {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
    for path in ("/scopewatch.v1.MonitorService/New", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ""):
        assert needed(path) == (Role.ADMIN,)
    assert needed("/scopewatch.v1.MonitorService/Score") == (Role.SCORE,)
    assert Role.METRICS not in needed("/scopewatch.v1.MonitorService/GetInfo")


MISTAKES = f"""\
version: 2
callers:
- name: triage
  tokens: [swt_plaintext, "{token_digest("a")}"]
  roles: [score, root]
  weight: 0
  colour: red
- name: triage
  tokens: ["{token_digest("a")}"]
  certificates: [CN=a, CN=a, triage.prod.svc]
  roles: []
- name: "no one"
  roles: [score]
  max_calls: 0
  shows_cached: maybe
- roles: [score]
  certificates: CN=b
- name: alone
  roles: [score]
more: 1
"""


def test_every_mistake_is_named_at_its_line_in_one_go(write: Write) -> None:
    """One line for each mistake, with what to do about it, and never a token that was written by mistake."""
    file = write(MISTAKES)
    with pytest.raises(ConfigError) as caught:
        Roles.load(file)
    found = [line.removeprefix(f"{file}:").split(": ", 2)[:2] for line in str(caught.value).splitlines()]
    assert found == [
        ["1", "version"],
        ["4", "callers[0].tokens[0]"],
        ["5", "callers[0].roles[1]"],
        ["6", "callers[0].weight"],
        ["7", "callers[0].colour"],
        ["8", "callers[1].name"],
        ["9", "callers[1].tokens[0]"],
        ["10", "callers[1].certificates[1]"],
        ["10", "callers[1].certificates[2]"],
        ["11", "callers[1].roles"],
        ["12", "callers[2].name"],
        ["14", "callers[2].max_calls"],
        ["15", "callers[2].shows_cached"],
        ["16", "callers[3].name"],
        ["17", "callers[3].certificates"],
        ["18", "callers[4]"],
        ["20", "more"],
    ]
    assert "swt_plaintext" not in str(caught.value)
    assert "`scopewatch token hash`" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "1: the file is empty"),
        ("- a", "1: a role file is a mapping"),
        ("version: 1\ncallers: [", "not valid YAML"),
        ("version: true\ncallers: []", "version: Input should be 1"),
        ("version: 1\ncallers: []", "needs at least one entry"),
        ("version: 1\nversion: 1", "this key stands twice"),
        ("version: 1\ncallers:\n- {name: a, roles: yes}", "read differently"),
    ],
)
def test_what_is_no_role_file_is_refused(write: Write, content: str, problem: str) -> None:
    """Nothing that is not a whole role file lets anybody in."""
    with pytest.raises(ConfigError, match=problem):
        Roles.load(write(content))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a folder, bytes that are no text and a file without end are a mistake of the setting."""
    (tmp_path / "latin").write_bytes(b"\xff")
    (tmp_path / "large").write_text("#" * 100)
    monkeypatch.setattr("scopewatch.doors.role_file.MAX_FILE_BYTES", 99)
    for name, problem in (
        ("none", "No such file"),
        ("", "Is a directory"),
        ("latin", "not UTF-8"),
        ("large", "larger"),
    ):
        with pytest.raises(ConfigError, match=problem):
            Roles.load(tmp_path / name)


def test_a_token_that_is_taken_out_opens_nothing(write: Write, roles: Roles) -> None:
    """A file that has changed counts for the next call."""
    before = roles.digest
    write(FILE.replace(f'"{token_digest(TOKENS["old"])}", ', "").replace("roles: [score, explain]", "roles: [metrics]"))
    assert roles.of(bearer("old"))
    assert roles.refresh() == "loaded"
    with pytest.raises(Unauthenticated):
        roles.of(bearer("old"))
    assert roles.of(bearer("new")).roles == {Role.METRICS}
    assert roles.digest != before
    assert roles.refresh() == "same"


def test_a_broken_file_changes_nothing_and_is_said_once(
    write: Write, roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    """Roles stay as they were while the file is wrong or gone, and it is not said anew at every look."""
    file = write("version: 1\ncallers: [")
    assert [roles.refresh(), roles.refresh()] == ["refused", "same"]
    file.unlink()
    assert [roles.refresh(), roles.refresh()] == ["refused", "same"]
    assert roles.of(bearer("old")).caller.name == "triage"
    assert len(caplog.records) == 2
    write(FILE)
    assert roles.refresh() == "same"
    file.unlink()
    assert roles.refresh() == "refused"


@pytest.mark.parametrize("content", [FILE, "version: 1\ncallers: ["])
def test_a_file_is_parsed_once(write: Write, roles: Roles, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """Looking at a file again, a good or a broken one, costs no more than reading it."""
    write(content)
    roles.refresh()
    monkeypatch.setattr(auth, "parse_role_file", None)
    assert roles.refresh() == "same"


async def test_the_role_file_is_read_again_beside_the_event_loop(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls and health checks are answered while a large file is checked; then its roles count."""
    roles, threads, parse = Roles.load(write(FILE)), set(), auth.parse_role_file

    def parsed(*given: Any, **named: Any) -> RoleFile:
        threads.add(threading.current_thread())
        return parse(*given, **named)

    monkeypatch.setattr(auth, "parse_role_file", parsed)
    following = asyncio.create_task(Records((), None).follow_roles(roles, 0.001))
    before = roles.digest
    write(FILE.replace("weight: 2", "weight: 3"))
    await eventually(lambda: roles.digest != before, "it was not read again")
    following.cancel()

    assert threads
    assert threading.main_thread() not in threads


def test_what_a_caller_owes_survives_a_reload(write: Write) -> None:
    """Other roles do not forget how much a caller took, nor the calls that run; other limits count at once."""
    clock = Clock()
    roles = Roles.load(write(FILE), clock=clock)
    quota = roles.quota(roles.of(bearer("old")))
    with called(quota, 50), called(quota, 0):
        write(FILE.replace("pairs_per_s: 50", "pairs_per_s: 10"))
        assert roles.refresh() == "loaded"
        again = roles.quota(roles.of(bearer("new")))
        with pytest.raises(Overloaded, match="calls of this caller at once"), called(again, 0):
            pass
    with pytest.raises(Overloaded) as caught, called(again, 1):
        pass
    # 50 were taken, 10 may be owed, 10 a second are paid.
    assert caught.value.retry_after_s == pytest.approx(4.1)


@contextmanager
def called(quota: Quota, pairs: int) -> Iterator[None]:
    """A call about so many pairs."""
    with quota.call():
        quota.take(pairs)
        yield


def refused(quota: Quota, pairs: int = 1) -> float:
    """In how many seconds a call may be asked for again."""
    with pytest.raises(Overloaded) as caught, called(quota, pairs):
        pass
    return caught.value.retry_after_s


def test_calls_at_once_are_counted_until_they_are_answered() -> None:
    """A call counts until it is left, by an error too."""
    quota = Quota(QuotaLimits(max_calls=1), Clock())

    def fail() -> None:
        with called(quota, 1):
            assert refused(quota) > 0
            raise KeyError

    for _ in range(3):
        with pytest.raises(KeyError):
            fail()


@pytest.mark.parametrize("rate", [0.1, 3.0, 50.0])
def test_pairs_come_at_their_rate(rate: float) -> None:
    """A second's worth, at least one pair, is taken at once; later, one comes in every `1 / rate` seconds."""
    clock = Clock()
    quota = Quota(QuotaLimits(pairs_per_s=rate), clock)
    clock.now_s += 1000
    for _ in range(max(1, int(rate))):
        with called(quota, 1):
            pass
    for _ in range(20):
        wait_s = refused(quota)
        assert wait_s == pytest.approx(1 / rate)
        clock.now_s += wait_s * 0.99
        refused(quota)
        clock.now_s += wait_s * 0.01
        with called(quota, 1):
            pass


def test_a_batch_beyond_the_rate_is_taken_and_owed() -> None:
    """A batch of more pairs than a second allows is not refused for ever: it is taken, and waited for after."""
    clock = Clock()
    quota = Quota(QuotaLimits(pairs_per_s=10), clock)
    with called(quota, 256):
        pass
    assert refused(quota) == pytest.approx(24.7)
    assert refused(quota, 256) == pytest.approx(25.6)
    with quota.call():
        pass
    clock.now_s += 25.6
    with called(quota, 256):
        pass


def test_tokens_are_charged_after_they_were_read() -> None:
    """A caller may go into debt by one call, and is refused until it is paid back."""
    clock = Clock()
    quota = Quota(QuotaLimits(tokens_per_minute=600), clock)
    with called(quota, 1):
        quota.charge(600)
    with called(quota, 1):
        quota.charge(1000)
    assert refused(quota) == pytest.approx(100)
    clock.now_s += 100
    with called(quota, 1):
        quota.charge(1)
    assert refused(quota) == pytest.approx(0.1)


def test_who_is_refused_owes_nothing_more() -> None:
    """Refused calls are not counted, so that asking too often does not shut a caller out."""
    clock = Clock()
    quota = Quota(QuotaLimits(max_calls=1, pairs_per_s=1, tokens_per_minute=60), clock)
    with called(quota, 1):
        for _ in range(10):
            refused(quota)
    quota.charge(61)
    for _ in range(10):
        assert refused(quota) == pytest.approx(1)
    clock.now_s += 1
    with called(quota, 1):
        pass


def test_a_new_token_is_known_by_the_line_for_the_role_file(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """`token new` prints a token of 256 random bits, another every time, and the line that makes it known."""
    made: set[str] = set()
    for _ in range(3):
        with pytest.raises(SystemExit, match="0"):
            main(["token", "new"])
        out, err = capsys.readouterr()
        made.add(token := out.strip())
        assert len(token.removeprefix("swt_")) == 43
        roles = Roles.load(write(f"version: 1\ncallers:\n- name: a\n  {err.strip()}\n  roles: [score]\n"))
        assert roles.of(f"Bearer {token}").caller.name == "a"
    assert len(made) == 3


def test_the_digest_of_a_token_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`token hash` reads standard input, so that no token stands in a command line; short ones are refused unsaid."""
    monkeypatch.setattr("sys.stdin", io.StringIO(TOKENS["old"] + "\n"))
    with pytest.raises(SystemExit, match="0"):
        main(["token", "hash"])
    assert capsys.readouterr().out.strip() == token_digest(TOKENS["old"])
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))
    with pytest.raises(SystemExit, match="2"):
        main(["token", "hash"])
    said = capsys.readouterr().err
    assert "token new" in said
    assert "hunter2" not in said


def test_a_role_file_is_checked_from_the_command_line(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """`token check` lists who may what, or every mistake with 2."""
    file = write(FILE)
    with pytest.raises(SystemExit, match="0"):
        main(["token", "check", str(file)])
    assert capsys.readouterr().out == "triage: explain, score\nops: admin\n"
    write(MISTAKES)
    with pytest.raises(SystemExit, match="2"):
        main(["token", "check", str(file)])
    assert f"{file}:7: callers[0].colour: no such key here" in capsys.readouterr().err
