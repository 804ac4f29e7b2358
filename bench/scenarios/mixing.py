"""Mixed traffic of which every right answer is known beforehand: does a caller ever get another's?

Three callers of two tenants ask for known texts in calls, batches, calls that they give up and calls whose time is too
short, while Redis is slow, silent, cut off, refusing and forgetful behind a proxy, and the watchlist is replaced. Every
answer must be the one known for its text under the watchlist that it names, with the id that was sent.
"""

import asyncio
import hashlib
import itertools
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import scopewatch
from proxy import Proxy
from reloads import File, document
from scenarios.callers import eventually, raw_stubs
from scenarios.checks import Case, at_least, none_of
from scenarios.known import Known, candidates
from scenarios.stores import redis_server
from scenarios.traffic import Traffic
from scopewatch.doors.role_file import token_digest
from scopewatch.v1 import monitor_pb2 as pb
from servers import ServerProcess

TOWARDS = 1_000_000
"""The number of items that runs of one code are to add up to."""
_TENANTS = {"ward": "clinic", "desk": "clinic", "guest": "others"}
"""The callers, and whose cache each shares."""
_TOKENS = {name: f"swt_{name * 20}" for name in _TENANTS}
_QUOTA_PAIRS_PER_S = 600
"""What one of the callers may ask for."""
_TTL_S = 20
"""How long Redis keeps a value: it is short so that texts are read again now and then."""
_FAULTS: Sequence[dict[str, object]] = (
    {},
    {"delay_s": 0.02},
    {"cut_after": 3000},
    {},
    {"black_hole": True},
    {"lies": {b"MGET": b"-LOADING Redis is loading the dataset in memory\r\n"}},
)
"""What the proxy does to Redis' answers, in turn."""
_FAULT_S, _HEALTHY_S = 1.0, 8.0
_HEALTHY: dict[str, object] = {"delay_s": 0.0, "cut_after": None, "black_hole": False, "lies": {}}


def mixing(scale: float, seconds: float = 180.0) -> list[Case]:
    """Asks for so many seconds times the scale."""
    with tempfile.TemporaryDirectory() as folder, redis_server() as port:
        return [asyncio.run(mixed(Path(folder), port, max(2.0, seconds * scale)))]


def with_total(found: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Adds a run to the runs of the same code before it.

    Args:
        found: What the file is to say of the run.
        earlier: What it said before.
    """
    total = {"code_digest": code_digest(), "runs": 0, "items": 0, "answered": 0, "wrong": 0, "towards": TOWARDS}
    if earlier.get("total", {}).get("code_digest") == total["code_digest"]:
        total = dict(earlier["total"])
    for case in found["cases"].values():
        total["runs"] += 1
        for name in ("items", "answered", "wrong"):
            total[name] += case["numbers"][name]
    return found | {"total": total}


def code_digest() -> str:
    """SHA-256 over the path and content of every Python file of the package, in the order of their paths."""
    digest, root = hashlib.sha256(), Path(scopewatch.__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


async def mixed(folder: Path, redis_port: int, seconds: float) -> Case:
    """Learns the right answers from a quiet server, and then asks it for so many seconds."""
    watchlists = folder / "watchlists"
    watchlists.mkdir()
    file, roles = File(watchlists), folder / "roles.yaml"
    roles.write_text(_role_file())
    async with Proxy(redis_port) as proxy, AsyncExitStack() as stack:
        flags = (
            "--watchlist",
            str(file.path),
            "--roles",
            str(roles),
            "--cache-ttl-s",
            str(_TTL_S),
            "--max-tokens",
            "256",
        )
        redis = ("--redis-url", f"redis://127.0.0.1:{proxy.port}/0", "--redis-timeout-s", "0.5")
        server = stack.enter_context(ServerProcess(*flags, *redis, "--watch-files-s", "0"))
        address = await asyncio.to_thread(lambda: server.grpc_address)
        stubs = {name: (await stack.enter_async_context(raw_stubs(address)))[0] for name in _TENANTS}
        reloading, known = Reloading(server, file, stubs["ward"]), Known()
        for _ in range(2):
            await known.learn(lambda requests: _batch(stubs["ward"], requests), candidates())
            await reloading.next()
        traffic = Traffic(known, stubs, _TOKENS)
        ways = (traffic.batch, traffic.batch, traffic.single, traffic.hurried, traffic.given_up)
        asking = [
            asyncio.create_task(traffic.ask(name, seed, way))
            for seed, (way, name) in enumerate(itertools.product(ways, _TENANTS))
        ]
        faults = await _break(proxy, reloading, seconds)
        traffic.over.set()
        await asyncio.gather(*asking)
        code = await asyncio.to_thread(server.stop)
    return judged(traffic, known, seconds, {"reloads": reloading.count, "faults": faults, "exit_code": code})


def judged(traffic: Traffic, known: Known, seconds: float, numbers: dict[str, Any]) -> Case:
    """Holds what callers were told to the bounds."""
    numbers |= {
        "items": traffic.items,
        "answered": traffic.answered,
        "answered_with_evidence": traffic.with_evidence,
        "wrong": traffic.wrong,
        "texts": len(known.texts),
        "outcomes": dict(traffic.outcomes.most_common()),
    }
    checks = [
        none_of("answers to the wrong caller", traffic.wrong),
        at_least("items answered", traffic.answered, 1),
        at_least("texts told apart", len(known.texts), 50),
        none_of("exit code", numbers["exit_code"]),
    ]
    return Case(f"mixed traffic for {seconds:g} s", checks, numbers)


class Reloading:
    """Replaces a server's watchlist by the other one of two."""

    def __init__(self, server: ServerProcess, file: File, stub: Any) -> None:
        self._server = server
        self._file = file
        self._stub = stub
        self.count = 0

    async def next(self) -> None:
        """Replaces it, and waits until calls are judged by it."""
        self.count += 1
        self._file.swap(document(self.count % 2))
        self._server.process.send_signal(signal.SIGHUP)
        await eventually(self._is_loaded, "the watchlist is not loaded")

    async def _is_loaded(self) -> bool:
        info = await self._stub.GetInfo(pb.GetInfoRequest(), timeout=30, metadata=_credentials("ward"))
        return bool(info.watchlists_version == self.count + 1)


async def _break(proxy: Proxy, reloading: Reloading, seconds: float) -> int:
    """Sets one fault after another, and replaces the watchlist after each round of them; the number of faults."""
    loop = asyncio.get_running_loop()
    until_s, count = loop.time() + seconds, 0
    for number in itertools.count():
        fault = _FAULTS[number % len(_FAULTS)]
        if number and number % len(_FAULTS) == 0:
            await reloading.next()
        if loop.time() >= until_s:
            break
        for name, value in (_HEALTHY | fault).items():
            setattr(proxy, name, value)
        count += bool(fault)
        await asyncio.sleep(min(_FAULT_S if fault else _HEALTHY_S, until_s - loop.time()))
    return count


async def _batch(stub: Any, requests: Sequence[pb.ScoreRequest]) -> pb.BatchScoreResponse:
    message = pb.BatchScoreRequest(requests=requests)
    return await stub.BatchScore(message, timeout=60, metadata=_credentials("ward"))


def _credentials(name: str) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer {_TOKENS[name]}"),)


def _role_file() -> str:
    callers = "".join(
        f'- {{name: {name}, tokens: ["{token_digest(_TOKENS[name])}"], roles: [score], tenant: {tenant}'
        f"{f', pairs_per_s: {_QUOTA_PAIRS_PER_S}' if name == 'guest' else ''}}}\n"
        for name, tenant in _TENANTS.items()
    )
    return f"version: 1\ncallers:\n{callers}"
