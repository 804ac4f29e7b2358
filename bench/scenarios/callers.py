"""Callers: raw calls whose outcomes are counted, and texts that no server has read before."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from scopewatch.contract.status import PUSHBACK
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc

_OPTIONS = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


def outcome(error: grpc.aio.AioRpcError) -> str:
    """The code of a failed call, and whether it came with push-back."""
    told = " with push-back" if PUSHBACK in dict(error.trailing_metadata() or ()) else ""
    return error.code().name + told


def count_but(outcomes: Counter[str], *expected: str) -> int:
    """How many calls had another outcome than one of these."""
    return sum(count for name, count in outcomes.items() if name not in expected)


@asynccontextmanager
async def raw_stubs(address: str, connections: int = 1) -> AsyncIterator[list[Any]]:
    """Stubs on connections of their own that never retry, connected."""
    channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(connections)]
    await asyncio.wait_for(asyncio.gather(*(channel.channel_ready() for channel in channels)), 30)
    stubs: Any = monitor_pb2_grpc
    yield [stubs.MonitorServiceStub(channel) for channel in channels]
    await asyncio.gather(*(channel.close() for channel in channels))


async def scored(stub: Any, text: str, timeout_s: float = 60.0) -> str:
    """The outcome of one call."""
    try:
        await stub.Score(pb.ScoreRequest(response=text), timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return outcome(error)
    return "OK"


def new_texts(words: int) -> Iterator[str]:
    """Texts of so many words, none like another from its beginning on."""
    for number in itertools.count():
        yield f"{number}: " + "it may rain, or so they say, on the 5 hills and " * (words // 12 + 1)


async def eventually(holds: Callable[[], Awaitable[bool]], message: str, timeout_s: float = 60.0) -> float:
    """Waits until something holds; how many seconds that took."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while not await holds():
        if loop.time() > began_s + timeout_s:
            raise TimeoutError(message)
        await asyncio.sleep(0.05)
    return loop.time() - began_s
