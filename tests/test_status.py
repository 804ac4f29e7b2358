"""Errors on the wire: one table, nothing unexpected shown, and what a busy server does to its callers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry

from conftest import House
from scopewatch import errors
from scopewatch.client import AsyncClient, pb
from scopewatch.contract.status import DOMAIN, PUSHBACK, code_of, from_status, to_status
from scopewatch.doors.auth import Roles
from scopewatch.doors.grpc.listener import GrpcDoor
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.doors.limits import Limits
from scopewatch.errors import FieldViolation, InvalidRequest, Overloaded, ScopewatchError
from scopewatch.events import PairFailed
from scopewatch.metrics import Metrics
from scopewatch.types import ScoreJob
from scopewatch.v1 import monitor_pb2_grpc
from scopewatch.verdicts import ScoredPair
from servers import Gate, LocalServer, config, direct, eventually, health, serving
from spine import WATCHLISTS, watchlist_set

SECRET = "the patient's name is Ada"


def tree(kind: type[ScopewatchError] = ScopewatchError) -> Iterator[type[ScopewatchError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def made(kind: type[ScopewatchError]) -> ScopewatchError:
    if issubclass(kind, InvalidRequest):
        return kind(FieldViolation("history[2].role", "is odd"), FieldViolation("prompt", "is long"))
    if issubclass(kind, Overloaded):
        return kind("full", retry_after_s=0.25)
    if issubclass(kind, errors.NoSuchFeature):
        return kind("no feature", feature=7)
    if issubclass(kind, errors.TooLittleData):
        return kind("too few pairs", n=7, needed=300)
    return kind("what went wrong")


EVERY = pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)


@EVERY
def test_every_error_has_a_status(kind: type[ScopewatchError]) -> None:
    """No error of the tree falls through to UNKNOWN or OK, and code and status agree."""
    error = made(kind)

    assert code_of(error) not in {grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK}
    assert code_of(error).value[0] == to_status(error).code


@EVERY
def test_every_status_says_why(kind: type[ScopewatchError]) -> None:
    """Every status carries the error's text and an ErrorInfo with a reason that programs can compare."""
    error = made(kind)
    status = to_status(error)
    info = error_details_pb2.ErrorInfo()

    assert status.message == str(error)
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == (DOMAIN, error.reason.upper())


@EVERY
def test_every_error_comes_back_as_its_kind(kind: type[ScopewatchError]) -> None:
    """The client raises an error with the same text and the same code as the server meant."""
    error = made(kind)
    back = from_status(to_status(error))

    assert str(error) == str(back)
    if code_of(error) is not grpc.StatusCode.FAILED_PRECONDITION:  # A server never answers with SetupError.
        assert code_of(error) == code_of(back)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.UnknownWatchlist, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineExpired, grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.NotReady, grpc.StatusCode.UNAVAILABLE),
        (errors.EngineDied, grpc.StatusCode.UNAVAILABLE),
        (errors.EngineError, grpc.StatusCode.INTERNAL),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_codes_are_those_of_the_contract(kind: type[ScopewatchError], code: grpc.StatusCode) -> None:
    """The errors that callers meet have the codes that the proto file promises."""
    assert code_of(made(kind)) is code


def test_violations_survive_the_wire() -> None:
    """Every wrong field of an InvalidRequest arrives with its description."""
    error = made(InvalidRequest)
    back = from_status(to_status(error))

    assert isinstance(back, InvalidRequest)
    assert error.violations == back.violations


def test_the_pause_survives_the_wire() -> None:
    """Overloaded carries RetryInfo, and the client reads the same pause from it."""
    status = to_status(Overloaded("full", retry_after_s=1.75))
    retry = error_details_pb2.RetryInfo()
    back = from_status(status)

    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() == 1750
    assert isinstance(back, Overloaded)
    assert back.retry_after_s == 1.75


def test_an_unexpected_exception_is_internal_and_its_text_stays_inside() -> None:
    """An exception that is not ours becomes INTERNAL without its text."""
    status = to_status(RuntimeError(SECRET))

    assert status.code == code_pb2.INTERNAL
    assert SECRET.encode() not in status.SerializeToString()


@pytest.mark.parametrize("code", [code_pb2.UNIMPLEMENTED, code_pb2.CANCELLED, code_pb2.UNKNOWN, 77])
def test_a_status_of_another_server_is_still_an_error_of_ours(code: int) -> None:
    """A code that scopewatch never sends, from a proxy for instance, becomes the base error with its text."""
    back = from_status(status_pb2.Status(code=code, message="said the proxy"))

    assert type(back) is ScopewatchError
    assert str(back) == "said the proxy"


class Spine:
    """Scores nothing: fails or waits, as the response says."""

    watchlists = watchlist_set(*WATCHLISTS.values())

    async def score(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        outcome = {
            "overloaded": Overloaded("full", retry_after_s=0.2),
            "engine": errors.EngineError("the reader failed on this pair"),
            "dead": errors.EngineDied("the engine died of X"),
            "late": errors.DeadlineExpired("too late"),
        }.get(jobs[0].pair.response)
        if outcome:
            return [outcome] * len(jobs)
        if jobs[0].pair.response == "wait":
            await asyncio.sleep(3600)
        raise RuntimeError(SECRET)

    def tell_failed(self, failed: Sequence[PairFailed]) -> None:
        """Nobody listens."""


@asynccontextmanager
async def service(registry: CollectorRegistry) -> AsyncIterator[monitor_pb2_grpc.MonitorServiceStub]:
    """A real gRPC server before a spine that only fails, and a stub without retries."""
    door = GrpcDoor(config(Path("unused.yaml")), Metrics(registry), Roles.load(None))
    address = (await door.listen())["grpc_address"]
    await door.open(Spine(), Limits(1 << 20, 1000, 8, 4, 40, 4, 512, 8, 1 << 20))
    async with direct(address) as stub:
        yield stub
    await door.close(0)


async def failure(call: grpc.aio.UnaryUnaryCall) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def started(registry: CollectorRegistry) -> float | None:
    labels = {"grpc_type": "unary", "grpc_service": SERVICE_NAME, "grpc_method": "Score"}
    return registry.get_sample_value("grpc_server_started_total", labels)


def handled(registry: CollectorRegistry, code: str, method: str = "Score") -> float | None:
    labels = {"grpc_type": "unary", "grpc_service": SERVICE_NAME, "grpc_method": method, "grpc_code": code}
    return registry.get_sample_value("grpc_server_handled_total", labels)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("", "InvalidArgument"),
        ("overloaded", "ResourceExhausted"),
        ("engine", "Internal"),
        ("dead", "Unavailable"),
        ("late", "DeadlineExceeded"),
        ("a bug", "Internal"),
    ],
)
async def test_failures_are_counted_under_the_code_that_was_sent(
    registry: CollectorRegistry, response: str, code: str
) -> None:
    """`grpc_server_handled_total` counts each failure once, under Go's name of the code the caller saw."""
    async with service(registry) as stub:
        error = await failure(stub.Score(pb.ScoreRequest(response=response)))
        # The answer is on its way before it is counted.
        await eventually(lambda: handled(registry, code), "the failure was not counted")

        assert code == error.code().name.title().replace("_", "")
        assert handled(registry, code) == 1


async def test_answers_are_counted_as_ok(registry: CollectorRegistry) -> None:
    """A call that is answered counts as OK, started and handled."""
    async with service(registry) as stub:
        await stub.GetInfo(pb.GetInfoRequest())

        assert handled(registry, "OK", "GetInfo") == 1
    labels = {"grpc_type": "unary", "grpc_service": SERVICE_NAME, "grpc_method": "GetInfo"}
    assert registry.get_sample_value("grpc_server_started_total", labels) == 1
    assert registry.get_sample_value("grpc_server_msg_sent_total", labels) == 1


async def test_a_cancelled_call_is_counted_as_canceled(registry: CollectorRegistry) -> None:
    """A call that its caller cancels counts as Canceled, as Go spells it."""
    async with service(registry) as stub:
        call = stub.Score(pb.ScoreRequest(response="wait"), timeout=600)
        asyncio.get_running_loop().call_later(0.2, call.cancel)
        with pytest.raises(asyncio.CancelledError):
            await call

        await eventually(lambda: handled(registry, "Canceled"), "the cancellation was not counted")


async def test_an_expired_call_is_counted_as_deadline_exceeded(registry: CollectorRegistry) -> None:
    """A call whose deadline passes while it is worked on counts as DeadlineExceeded, not as Canceled."""
    async with service(registry) as stub:
        calls = [failure(stub.Score(pb.ScoreRequest(response="wait"), timeout=1)) for _ in range(20)]
        codes = {error.code() for error in await asyncio.gather(*calls)}

        assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
        # On a busy machine a deadline can pass before its call arrives.
        assert started(registry)
        await eventually(
            lambda: handled(registry, "DeadlineExceeded") == started(registry), "not all counted as DeadlineExceeded"
        )


@pytest.mark.parametrize("method", ["Score", "BatchScore"])
async def test_a_bug_is_internal_and_shows_nothing(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """An unexpected exception reaches the caller as INTERNAL without its text, and the log with it."""
    item = pb.ScoreRequest(response="a bug")
    message = item if method == "Score" else pb.BatchScoreRequest(requests=[item])
    async with service(registry) as stub:
        with caplog.at_level(logging.ERROR):
            error = await failure(getattr(stub, method)(message))

    assert error.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in repr((error.details(), error.trailing_metadata()))
    assert SECRET in caplog.text


async def test_a_failed_item_of_a_batch_says_why(registry: CollectorRegistry) -> None:
    """An item the engine failed on carries the status that the call alone would get."""
    item = pb.ScoreRequest(response="overloaded")
    async with service(registry) as stub:
        reply = await stub.BatchScore(pb.BatchScoreRequest(requests=[item]))

    assert reply.results[0].status == to_status(Overloaded("full", retry_after_s=0.2))


# A whole server whose engine waits at a gate. Every pair is cut to 28 tokens: two may wait, and make no full batch.
SMALL = {"max_tokens": 28, "max_batch_tokens": 64, "max_queue_tokens": 64, "max_windows": 1, "cache_bytes": 0}


def text(number: int) -> str:
    """A response too long for the small server, other than any with another number from its first token."""
    return f"{number}" + "qx" * 20


@asynccontextmanager
async def held(house: House, gate: Gate, **settings: object) -> AsyncIterator[LocalServer]:
    """A small server whose engine is busy with a pair that is held at the gate."""
    async with serving(config(house.watchlist, **(SMALL | settings)), gate) as server:
        gate.close()
        async with direct(server.grpc_address) as stub:
            first = asyncio.ensure_future(stub.Score(pb.ScoreRequest(response=text(0)), timeout=120))
            seen = len(gate.batches)
            await eventually(lambda: len(gate.batches) > seen, "the first pair did not reach the engine")
            yield server
            gate.open()
            await first


async def fill(server: LocalServer, stub: monitor_pb2_grpc.MonitorServiceStub) -> list[asyncio.Future[object]]:
    """Calls of two pairs that wait and leave no room for a third."""
    calls = [asyncio.ensure_future(stub.Score(pb.ScoreRequest(response=text(n)), timeout=120)) for n in (1, 2)]
    await eventually(lambda: server.metric("scopewatch_queue_tokens") == 56, "the pairs are not in the queue")
    return calls


async def test_a_full_queue_pushes_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair without room gets RESOURCE_EXHAUSTED with push-back metadata, and those in the queue are served."""
    gate = Gate(monkeypatch)
    async with held(house, gate) as server, direct(server.grpc_address) as stub:
        calls = await fill(server, stub)
        error = await failure(stub.Score(pb.ScoreRequest(response=text(3)), timeout=120))
        gate.open()
        await asyncio.gather(*calls)

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.trailing_metadata())[PUSHBACK]) > 0


async def test_the_client_waits_and_tries_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose pair was refused comes back by itself and is served once there is room."""
    gate = Gate(monkeypatch)
    async with held(house, gate) as server, direct(server.grpc_address) as stub:
        calls = await fill(server, stub)
        async with AsyncClient(server.grpc_address, timeout_s=120) as client:
            patient = asyncio.ensure_future(client.score(response=text(3), request_id="patient"))
            await eventually(
                lambda: server.metric("grpc_server_handled_total", grpc_code="ResourceExhausted"),
                "the client's first attempt was not refused",
            )
            gate.open()
            reply = await patient
        await asyncio.gather(*calls)

    assert reply.request_id == "patient"


async def test_an_overloaded_server_is_healthy(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue turns neither readiness nor liveness: restarting a busy server would make things worse."""
    gate = Gate(monkeypatch)
    async with held(house, gate) as server, direct(server.grpc_address) as stub:
        calls = await fill(server, stub)
        await failure(stub.Score(pb.ScoreRequest(response=text(3)), timeout=120))
        states = [await health(server.grpc_address, service) for service in ("", SERVICE_NAME)]
        gate.open()
        await asyncio.gather(*calls)

    assert states == ["SERVING", "SERVING"]


async def test_pairs_nobody_waits_for_never_reach_the_engine(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair whose caller's deadline passed, or who hung up, is dropped from the queue before it costs device time."""
    gate = Gate(monkeypatch)
    roomy = {"max_batch_tokens": 512, "max_queue_tokens": 4096}
    async with held(house, gate, **roomy) as server, direct(server.grpc_address) as stub:
        seen = len(gate.batches)
        stays = asyncio.ensure_future(stub.Score(pb.ScoreRequest(response=text(1)), timeout=120))
        expires = asyncio.ensure_future(failure(stub.Score(pb.ScoreRequest(response=text(2)), timeout=3)))
        hangs_up = stub.Score(pb.ScoreRequest(response=text(3)), timeout=120)
        await eventually(lambda: server.metric("scopewatch_queue_tokens") == 84, "the pairs are not in the queue")
        hangs_up.cancel()
        assert (await expires).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(
            lambda: server.metric("grpc_server_handled_total", grpc_method="Score") == 2, "the server did not notice"
        )
        gate.open()
        await stays

        assert server.metric("scopewatch_queue_dropped_pairs_total") == 2
    assert [len(batch) for batch in gate.batches[seen:]] == [1]
