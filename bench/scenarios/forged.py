"""A cache whose values somebody else wrote: each is noticed, and the verdict is that of the honest value."""

import asyncio
import hashlib
import hmac
import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis.asyncio as redis

from scenarios.callers import eventually, raw_stubs
from scenarios.checks import Case, exactly, none_of
from scenarios.stores import redis_server
from scopewatch.pipeline.cache import KEY_PREFIX
from scopewatch.v1 import monitor_pb2 as pb
from servers import ServerProcess

_TEXT = "It may be gout, or perhaps it might not be; nobody can really say for sure, I think."
_OTHER = "The train leaves at noon."


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a forged value: the answer, and how many values were counted as corrupt."""

    reply: pb.ScoreResponse
    counted: float


def forged(scale: float) -> list[Case]:
    """Overwrites one value in every way; there is nothing in it to be made smaller."""
    del scale
    with redis_server() as port:
        return asyncio.run(_overwrite(f"redis://127.0.0.1:{port}/0"))


async def _overwrite(url: str) -> list[Case]:
    """Learns the honest verdict, then overwrites the value and asks again."""
    flags = ("--redis-url", url, "--cache-bytes", "0", "--redis-timeout-s", "2")
    with ServerProcess(*flags, SCOPEWATCH_CACHE_SECRET="not to be guessed") as server:
        address = await asyncio.to_thread(lambda: server.grpc_address)
        async with redis.Redis.from_url(url) as store, raw_stubs(address) as (stub,):
            await _ask(stub, _OTHER)
            other_key, other = await _written(store)
            right = await _ask(stub)
            key, honest = await _written(store, but=other_key)
            found = {}
            for name, value in forgeries(honest, other).items():
                before = await _corrupt(server)
                await store.set(key, value)
                reply = await _ask(stub)
                found[name] = Found(reply, await _corrupt(server) - before)
            # Not every value is refused.
            await store.set(key, honest)
            again = await _ask(stub)
        server.stop()
    return [judged(found, right), _taken(again, right)]


def forgeries(honest: bytes, other: bytes) -> dict[str, bytes]:
    """What is written in an honest value's place; where its parts stand, `pipeline/cached_value.py` says.

    Args:
        honest: The value.
        other: That of another text.
    """
    fired = int.from_bytes(honest[56:60], "little")
    kept, key = honest[: len(honest) - 4 * fired], honest[4:36]
    nans, zeros = kept + np.full(fired, np.nan, "<f4").tobytes(), kept + bytes(4 * fired)
    return {
        "NaN activations": nans,
        "zeros": zeros,
        "nothing fired": honest[:56] + bytes(4) + honest[60 : len(honest) - 12 * fired],
        "another text's value": other,
        "another text's value, renamed": other[:4] + key + other[36:],
        "an old schema": b"scw3" + honest[4:],
        "random bytes": random.Random(3).randbytes(len(honest)),
        "an empty value": b"",
        "cut short": honest[: len(honest) // 2],
        "zeros, MAC under the key": _signed(zeros, key),
        "zeros, MAC under an empty secret": _signed(zeros, hmac.digest(b"", b"cached value", "sha256")),
        "zeros, SHA-256 for MAC": zeros[:36] + hashlib.sha256(zeros[52:]).digest()[:16] + zeros[52:],
        "a random MAC": honest[:36] + os.urandom(16) + honest[52:],
    }


def _signed(value: bytes, secret: bytes) -> bytes:
    """A value whose MAC is made as the service makes it, under another secret."""
    mac = hmac.digest(secret, value[:36] + value[52:], "sha256")[:16]
    return value[:36] + mac + value[52:]


def judged(found: dict[str, Found], right: pb.ScoreResponse) -> Case:
    """Holds what was answered to forged values to the bounds."""
    checks = [
        none_of("not counted as corrupt", sum(one.counted != 1 for one in found.values())),
        none_of("other verdicts or scores", sum(_said(one.reply) != _said(right) for one in found.values())),
        none_of("taken from the cache", sum(one.reply.cached for one in found.values())),
        exactly("honest verdict is FLAG", right.verdict == pb.VERDICT_FLAG, 1),
    ]
    return Case(f"{len(found)} kinds of forged values", checks, {"kinds": list(found)})


def _taken(again: pb.ScoreResponse, right: pb.ScoreResponse) -> Case:
    checks = [exactly("taken from the cache", again.cached, 1), none_of("other verdicts", _said(again) != _said(right))]
    return Case("the honest value, put back", checks)


def _said(reply: pb.ScoreResponse) -> tuple[object, ...]:
    scores = [(one.name, round(one.score, 4), one.flagged, len(one.evidence)) for one in reply.indicators]
    return reply.verdict, *scores


async def _corrupt(server: ServerProcess) -> float:
    return await asyncio.to_thread(server.metric, "scopewatch_cache_requests_total", result="corrupt")


async def _ask(stub: Any, text: str = _TEXT) -> pb.ScoreResponse:
    return await stub.Score(pb.ScoreRequest(response=text, include_evidence=True), timeout=60)


async def _written(store: Any, but: bytes = b"") -> tuple[bytes, bytes]:
    """The key and value that a server has just written, beside an earlier key."""
    found: list[bytes] = []

    async def there() -> bool:
        found[:] = [key async for key in store.scan_iter(f"{KEY_PREFIX}*") if key != but]
        return bool(found)

    await eventually(there, "nothing is written to Redis", 10)
    return found[0], await store.get(found[0])
