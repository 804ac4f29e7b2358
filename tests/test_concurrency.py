"""Many callers at once: everybody gets their own answer, whatever the others send and whatever happens to Redis."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from conftest import House, RedisServer
from scopewatch.v1 import monitor_pb2 as pb
from servers import ServerProcess, config, direct, eventually, serving, violations

CALLERS = 64
REQUESTS = 1000
WORDS = [
    "may",
    "rain",
    "gout",
    "sugar",
    "dog",
    "not",
    "sure",
    "hello",
    "x",
    "1,5",
    "naïve",
    "也许",
    "🤷🏽‍♀️",
    "é",
    "\n",
    "«»",
]
INVALID = [
    ("response", pb.ScoreRequest(response=" ")),
    ("prompt", pb.ScoreRequest(prompt="a\0", response="a")),
    ("history[0].role", pb.ScoreRequest(history=[pb.Turn(content="a")], response="a")),
    ("history[0].role", pb.ScoreRequest(history=[pb.Turn(role="<system>", content="a")], response="a")),
    ("watchlist", pb.ScoreRequest(watchlist="nope", response="a")),
    ("labels", pb.ScoreRequest(labels={str(n): "" for n in range(9)}, response="a")),
    ("request_id", pb.ScoreRequest(request_id="i" * 99, response="a")),
]


@dataclass(frozen=True)
class Sent:
    """One request of the crowd and what is expected of it."""

    message: pb.ScoreRequest
    wrong_field: str = ""
    hang_up_after_s: float | None = None


def some_text(rng: random.Random, longest: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest)))


def some_pair(rng: random.Random, number: int) -> pb.ScoreRequest:
    """A valid request of any length; one in ten is longer than the reader can hold."""
    longest = rng.choice([3, 20, 60, 60, 60, 60, 60, 60, 60, 700])
    turns = [
        pb.Turn(role=("user", "assistant")[turn % 2], content=some_text(rng, 20))
        for turn in range(rng.choice([0, 0, 0, 2, 4]))
    ]
    return pb.ScoreRequest(
        request_id=f"caller-{number}",
        prompt=rng.choice(["", some_text(rng, 20)]),
        response=f"{some_text(rng, longest)} {number}",
        history=turns,
        watchlist=rng.choice(["", "test", "second"]),
        include_evidence=rng.random() < 0.5,
    )


def crowd(seed: int) -> list[Sent]:
    """Valid requests, about a fifth of them sent before, some invalid ones, and some whose caller hangs up."""
    rng = random.Random(seed)
    pairs = [some_pair(rng, number) for number in range(300)]
    sent: list[Sent] = []
    for _ in range(REQUESTS):
        dice = rng.random()
        if dice < 0.15:
            field, message = rng.choice(INVALID)
            sent.append(Sent(message, wrong_field=field))
        elif dice < 0.25:
            sent.append(Sent(some_pair(rng, len(sent)), hang_up_after_s=rng.uniform(0, 0.05)))
        else:
            sent.append(Sent(rng.choice(pairs)))
    return sent


Outcome = pb.ScoreResponse | grpc.aio.AioRpcError | asyncio.CancelledError


async def ask_all(address: str, sent: list[Sent]) -> list[Outcome]:
    """Outcomes of all requests, in order, sent by many callers who each wait for one answer at a time."""
    outcomes: dict[int, Outcome] = {}
    waiting = iter(enumerate(sent))

    async def caller() -> None:
        async with direct(address) as stub:
            for index, item in waiting:
                call = stub.Score(item.message, timeout=250)
                if item.hang_up_after_s is not None:
                    asyncio.get_running_loop().call_later(item.hang_up_after_s, call.cancel)
                try:
                    outcomes[index] = await call
                except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                    outcomes[index] = error

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [outcomes[index] for index in range(len(sent))]


def same(expected: pb.ScoreResponse, actual: pb.ScoreResponse) -> None:
    """Asserts that two answers to one pair say the same."""
    assert (expected.request_id, expected.verdict) == (actual.request_id, actual.verdict)
    assert (expected.coverage, expected.provenance) == (actual.coverage, actual.provenance)
    for left, right in zip(expected.indicators, actual.indicators, strict=True):
        assert (left.name, left.flagged, left.skipped_reason) == (right.name, right.flagged, right.skipped_reason)
        assert left.score == pytest.approx(right.score, rel=1e-5, abs=1e-6)
        spans = [[(e.start, e.end, e.feature, e.segment, e.turn) for e in side.evidence] for side in (left, right)]
        assert sorted(spans[0]) == sorted(spans[1])


async def test_everybody_in_a_crowd_gets_their_own_answer(house: House, server: ServerProcess) -> None:
    """A thousand mixed requests from 64 callers are answered as each is alone, on a fresh server without a cache.

    Invalid ones fail by their own field, and nobody gets an error that is not their own.
    """
    sent = crowd(seed=11)
    ours = ["Internal", "Unknown", "Unavailable", "ResourceExhausted", "DeadlineExceeded"]
    before = [server.metric("grpc_server_handled_total", grpc_code=code) for code in ours]
    outcomes = await ask_all(server.grpc_address, sent)
    after = [server.metric("grpc_server_handled_total", grpc_code=code) for code in ours]

    assert before == after
    answered: list[tuple[pb.ScoreRequest, pb.ScoreResponse]] = []
    hung_up = 0
    for item, outcome in zip(sent, outcomes, strict=True):
        if item.wrong_field:
            assert isinstance(outcome, grpc.aio.AioRpcError)
            assert list(violations(outcome)) == [item.wrong_field]
        elif item.hang_up_after_s is not None and isinstance(outcome, asyncio.CancelledError):
            hung_up += 1
        else:
            assert isinstance(outcome, pb.ScoreResponse), outcome
            answered.append((item.message, outcome))
    assert hung_up
    assert {reply.cached for _, reply in answered} == {True, False}
    assert any(reply.coverage.truncated for _, reply in answered)

    alone: dict[bytes, pb.ScoreResponse] = {}
    fresh = config(house.watchlist, house.folder / "second.yaml", cache_bytes=0)
    async with serving(fresh) as reference, direct(reference.grpc_address) as stub:
        for message, _ in answered:
            key = message.SerializeToString(deterministic=True)
            if key not in alone:
                alone[key] = await stub.Score(message, timeout=250)
    for message, reply in answered:
        same(alone[message.SerializeToString(deterministic=True)], reply)


@pytest.fixture
def cached_server(house: House, redis_server: RedisServer) -> Iterator[ServerProcess]:
    """A server that caches in a Redis of its own and waits for it long enough for a busy machine."""
    flags = ("--redis-url", redis_server.url, "--redis-timeout-s", "1", "--cache-secret", "s")
    with ServerProcess("--watchlist", str(house.watchlist), *flags) as server:
        server.wait_for("serving")
        yield server
        assert server.stop() == 0


@pytest.mark.system
async def test_a_redis_that_dies_under_load_fails_nobody(
    cached_server: ServerProcess, redis_server: RedisServer
) -> None:
    """While Redis is killed and comes back, every request is answered with the same scores; then hits return.

    Callers do not retry, so that no failure is hidden.
    """
    rng = random.Random(3)
    pairs = [some_pair(rng, number) for number in range(40)]
    for pair in pairs:
        pair.watchlist = ""
    stop = asyncio.Event()
    replies: list[pb.ScoreResponse] = []

    async def caller(seed: int) -> None:
        choices = random.Random(seed)
        async with direct(cached_server.grpc_address) as stub:
            while not stop.is_set():
                replies.append(await stub.Score(choices.choice(pairs), timeout=250))

    def reads(*results: str) -> float:
        return sum(cached_server.metric("scopewatch_cache_requests_total", result=result) for result in results)

    callers = [asyncio.ensure_future(caller(seed)) for seed in range(16)]
    await eventually(lambda: reads("hit") > 50, "Redis gave no hits before it was killed")
    redis_server.kill()
    await eventually(lambda: reads("skipped") > 50 and reads("error") > 0, "nobody noticed that Redis is gone")
    redis_server.start()
    hits = reads("hit")
    await eventually(lambda: reads("hit") > hits + 50, "hits did not return", timeout_s=60)
    stop.set()
    await asyncio.gather(*callers)

    assert len(replies) > 150
    assert cached_server.metric("grpc_server_handled_total", grpc_method="Score", grpc_code="OK") == len(replies)
    assert cached_server.metric("grpc_server_handled_total", grpc_method="Score") == len(replies)
    first = {reply.request_id: reply for reply in reversed(replies)}
    for reply in replies:
        same(first[reply.request_id], reply)
