"""Three servers behind one client and one Redis: one killed, one drained, one given another watchlist, under load.

Two versions of a watchlist run side by side all the while, and what one writes to Redis the other finds there. Callers
of the shipped client name all three servers and ask for texts whose right answers under either version were learnt
from quiet servers without that Redis. No call may fail after the client's own retries, and every reply must be, number
by number, what the version gives that it names.
"""

import asyncio
import hashlib
import itertools
import random
import signal
import socket
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from reloads import File, document
from scenarios.callers import eventually, raw_stubs
from scenarios.checks import Case, at_least, none_of
from scenarios.known import Known, candidates
from scenarios.stores import redis_server
from scopewatch.client import AsyncClient
from scopewatch.client.requests import request as request_of
from scopewatch.errors import ScopewatchError
from scopewatch.v1 import monitor_pb2 as pb
from servers import ServerProcess

CALLERS = 24
VERSIONS = (
    document(0, feature="res/79", weight="1.0"),
    document(1, feature="res/670", weight="3.0"),
)
"""Each reads a feature that the other does not, and both features fire on hedged texts: scores differ."""
_LOOK_S = 0.1
_SECRET = "of the three of them"


def rolling(scale: float) -> list[Case]:
    """Kills, drains and reloads; at full size each server in each of these ways."""
    with tempfile.TemporaryDirectory() as folder, redis_server() as port:
        return [asyncio.run(rolled(Path(folder), port, max(1, round(3 * scale))))]


class Fleet:
    """Three servers on ports that stay, each with a watchlist file of its own.

    Args:
        folder: An empty folder.
        redis_port: Where their Redis listens.
        stack: Ends what is started.
    """

    def __init__(self, folder: Path, redis_port: int, stack: ExitStack) -> None:
        self._redis = ("--redis-url", f"redis://127.0.0.1:{redis_port}/0", "--redis-timeout-s", "0.5")
        self._stack = stack
        self.ports = [_free_port() for _ in range(3)]
        self.files = [File(_made(folder / str(number))) for number in range(3)]
        self.versions = [0, 1, 0]
        for number, version in enumerate(self.versions):
            self._write(number, version)
        self.servers = [self._start(number) for number in range(3)]
        self.codes: list[int] = []

    def _start(self, number: int) -> ServerProcess:
        flags = ("--grpc-address", f"127.0.0.1:{self.ports[number]}", "--watchlist", str(self.files[number].path))
        more = ("--watch-files-s", str(_LOOK_S), "--max-tokens", "256", "--cache-secret", _SECRET)
        return self._stack.enter_context(ServerProcess(*flags, *more, *self._redis))

    def _write(self, number: int, version: int) -> None:
        self.versions[number] = version
        self.files[number].swap(VERSIONS[version])

    async def kill(self, number: int) -> None:
        """Kills a server, and starts it again with what its file says."""
        self.servers[number].process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self.servers[number].wait)
        self.servers[number] = self._start(number)
        await self.ready(number)

    async def drain(self, number: int) -> None:
        """Has a server leave as on a rollout, and starts it with the other version."""
        self._write(number, 1 - self.versions[number])
        self.servers[number].process.terminate()
        self.codes.append(await asyncio.to_thread(self.servers[number].wait))
        self.servers[number] = self._start(number)
        await self.ready(number)

    async def reload(self, number: int) -> None:
        """Gives a running server the other version, by its file alone, and waits until it judges by that."""
        self._write(number, 1 - self.versions[number])
        await self.ready(number)

    async def ready(self, number: int) -> None:
        """Waits until a server serves the version that its file holds."""
        await asyncio.to_thread(self.servers[number].wait_for, "serving")
        wanted = digest_of(self.versions[number])
        async with raw_stubs(f"127.0.0.1:{self.ports[number]}") as (stub,):

            async def judges() -> bool:
                info = await stub.GetInfo(pb.GetInfoRequest(), timeout=30)
                return [one.digest for one in info.watchlists] == [wanted]

            await eventually(judges, f"server {number} does not run version {self.versions[number]}")


class Asked:
    """What callers asked for, and were told."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._ids = itertools.count()
        self.calls = self.cached = self.wrong = self.mixed = 0
        self.failures = Counter[str]()
        self.by_digest = Counter[str]()
        self.over = asyncio.Event()

    async def ask(self, client: AsyncClient, seed: int) -> None:
        """Asks again and again, one text or several at once."""
        dice = random.Random(seed)
        while not self.over.is_set():
            several = 8 if dice.random() < 0.2 else 1
            requests = [
                request_of(request_id=f"{next(self._ids)}", response=text, include_evidence=True)
                for text in dice.choices(self._known.texts, k=several)
            ]
            try:
                replies = await self._replies(client, requests)
            except ScopewatchError as error:
                self.failures[f"{type(error).__name__}: {error}"] += 1
                continue
            finally:
                self.calls += 1
            self._judge(requests, replies)

    async def _replies(self, client: AsyncClient, requests: list[pb.ScoreRequest]) -> list[pb.ScoreResponse]:
        if len(requests) == 1:
            (one,) = requests
            return [
                await client.score(
                    request_id=one.request_id, response=one.response, include_evidence=one.include_evidence
                )
            ]
        replies = []
        for outcome in await client.score_batch(requests):
            if isinstance(outcome, ScopewatchError):
                raise outcome
            replies.append(outcome)
        return replies

    def _judge(self, requests: list[pb.ScoreRequest], replies: list[pb.ScoreResponse]) -> None:
        self.mixed += len({(one.provenance.watchlist_digest, one.provenance.watchlists_version) for one in replies}) > 1
        for request, reply in zip(requests, replies, strict=True):
            digest = reply.provenance.watchlist_digest
            self.by_digest[digest] += 1
            self.cached += reply.cached
            self.wrong += self._known.is_wrong(request, reply)
            self.mixed += [digest_of(round(reply.indicators[0].threshold))] != [digest]


async def rolled(folder: Path, redis_port: int, rounds: int) -> Case:
    """So many times, kills one of three servers and drains the next, while the third is reloaded again and again."""
    known = await learnt(_made(folder / "quiet"))
    with ExitStack() as stack:
        fleet = Fleet(folder, redis_port, stack)
        for number in range(3):
            await fleet.ready(number)
        addresses = ",".join(f"127.0.0.1:{port}" for port in fleet.ports)
        async with AsyncExitStack() as opened:
            client = await opened.enter_async_context(AsyncClient(f"ipv4:{addresses}", timeout_s=60))
            asked = Asked(known)
            asking = [asyncio.create_task(asked.ask(client, seed)) for seed in range(CALLERS)]
            reloads = 0
            for turn in range(rounds):
                one, other, third = (turn % 3, (turn + 1) % 3, (turn + 2) % 3)
                restarting = asyncio.gather(fleet.kill(one), fleet.drain(other))
                while not restarting.done():
                    await fleet.reload(third)
                    reloads += 1
                await restarting
            asked.over.set()
            await asyncio.gather(*asking)
        codes = fleet.codes + [await asyncio.to_thread(server.stop) for server in fleet.servers]
    return judged(asked, known, codes, {"rounds": rounds, "reloads": reloads})


def judged(asked: Asked, known: Known, codes: list[int], done: dict[str, int]) -> Case:
    """Holds what callers were told to the bounds."""
    replies = sum(asked.by_digest.values())
    checks = [
        none_of("failed calls", asked.failures.total()),
        none_of("replies that are not their version's", asked.wrong),
        none_of("mixed versions", asked.mixed),
        at_least("share of replies by the rarer version", min(_shares(asked, replies)), 0.05),
        at_least("share of replies from the cache", round(asked.cached / max(1, replies), 3), 0.05),
        at_least("texts that the versions score differently", apart(known), 50),
        none_of("exit codes but 0 of those that were drained", sum(map(bool, codes))),
    ]
    numbers: dict[str, Any] = {
        **done,
        "calls": asked.calls,
        "replies": replies,
        "cached": asked.cached,
        "by_version": [asked.by_digest[digest_of(version)] for version in range(len(VERSIONS))],
        "failures": dict(asked.failures.most_common(5)),
    }
    name = f"three servers, one Redis, {CALLERS} callers: killed, drained and rolled {done['rounds']} times"
    return Case(name, checks, numbers)


def _shares(asked: Asked, replies: int) -> list[float]:
    return [round(asked.by_digest[digest_of(one)] / max(1, replies), 3) for one in range(len(VERSIONS))]


def apart(known: Known) -> int:
    """The number of texts that the two versions do not score alike."""
    first, second = (known.answers_by(digest_of(version)) for version in range(len(VERSIONS)))
    return sum(first[text] != second[text] for text in known.texts)


async def learnt(folder: Path) -> Known:
    """The right answers of both versions, from servers that nobody else asks and that share nothing."""
    known = Known()
    for number, version in enumerate(VERSIONS):
        file = File(_made(folder / str(number)))
        file.swap(version)
        flags = ("--watchlist", str(file.path), "--max-tokens", "256", "--cache-bytes", "0")
        with ServerProcess(*flags) as server:
            address = await asyncio.to_thread(lambda server=server: server.grpc_address)
            async with raw_stubs(address) as (stub,):

                async def ask(requests: Any, stub: Any = stub) -> pb.BatchScoreResponse:
                    return await stub.BatchScore(pb.BatchScoreRequest(requests=requests), timeout=60)

                await known.learn(ask, candidates())
            await asyncio.to_thread(server.stop)
    return known


def digest_of(version: int) -> str:
    """SHA-256 of a version's file; empty of a version that there is not."""
    return hashlib.sha256(VERSIONS[version].encode()).hexdigest() if version < len(VERSIONS) else ""


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
