"""Calls a real server process through gRPC, and times the calls from this process."""

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from scopewatch.client import AsyncClient, pb, request
from scopewatch.config import Config
from scopewatch.errors import ScopewatchError
from scopewatch.server_process import RunningServer, running_server
from scopewatch.types import Pair

CALLERS = 64
BATCH = 32
_COMMON_TOKENS = 120
_TIMEOUT_S = 900


def server(config: Config) -> AbstractContextManager[RunningServer]:
    """`scopewatch serve` with these settings."""
    names = ("torch_threads", "max_tokens", "max_batch_tokens", "max_queue_tokens", "device", "pack_dir", "watchlist")
    return running_server({name: getattr(config, name) for name in names})


@dataclass(slots=True)
class Calls:
    """What one way of calling took."""

    pairs_per_s: list[float] = field(default_factory=list)
    """The rate in each round."""
    latencies_s: list[float] = field(default_factory=list)
    """The time of each call, of all rounds."""

    def p_ms(self, percent: int) -> float:
        """The latency that a share of the calls does not exceed."""
        if len(self.latencies_s) < 2:
            return 1000 * self.latencies_s[0]
        return 1000 * statistics.quantiles(self.latencies_s, n=100, method="inclusive")[percent - 1]


@asynccontextmanager
async def _client(served: RunningServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(served.address, timeout_s=_TIMEOUT_S) as client:
        yield client


async def _timed(calls: Calls, work: Sequence[Any], call: Callable[[Any], Awaitable[Any]], at_once: int) -> list[Any]:
    gate = asyncio.Semaphore(at_once)

    async def one(item: Any) -> Any:
        async with gate:
            started = time.perf_counter()
            reply = await call(item)
            calls.latencies_s.append(time.perf_counter() - started)
            return reply

    return await asyncio.gather(*map(one, work))


def _requests(pairs: Sequence[Pair]) -> list[pb.ScoreRequest]:
    return [request(prompt=pair.prompt, response=pair.response) for pair in pairs]


def batches(served: RunningServer, pairs: Sequence[Pair], calls: Calls, *, cached: bool) -> list[pb.ScoreResponse]:
    """Sends pairs by `BatchScore` calls of 32; so many are in flight that two batches of the engine always wait."""
    at_once = 2 + math.ceil(2 * served.ready["max_batch_tokens"] / (BATCH * _COMMON_TOKENS))
    requests = _requests(pairs)
    work = [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]

    async def run() -> list[pb.ScoreResponse]:
        async with _client(served) as client:
            started = time.perf_counter()
            replies = await _timed(calls, work, client.score_batch, at_once)
            calls.pairs_per_s.append(len(pairs) / (time.perf_counter() - started))
            return _checked([reply for batch in replies for reply in batch], cached=cached)

    return asyncio.run(run())


def unary(
    served: RunningServer, pairs: Sequence[Pair], calls: Calls, *, cached: bool, callers: int = CALLERS
) -> list[pb.ScoreResponse]:
    """Sends pairs by `Score` calls, from `callers` callers at once that have one call in flight each."""

    async def run() -> list[pb.ScoreResponse]:
        async with _client(served) as client:
            started = time.perf_counter()
            replies = await _timed(
                calls, pairs, lambda pair: client.score(prompt=pair.prompt, response=pair.response), callers
            )
            calls.pairs_per_s.append(len(pairs) / (time.perf_counter() - started))
            return _checked(replies, cached=cached)

    return asyncio.run(run())


def _checked(replies: Sequence[pb.ScoreResponse | ScopewatchError], *, cached: bool) -> list[pb.ScoreResponse]:
    """The replies, none of which may be an error, or from elsewhere than `cached` says."""
    for reply in replies:
        if isinstance(reply, ScopewatchError):
            raise reply
        if reply.cached is not cached:
            raise SystemExit(f"a reply has cached={reply.cached}, and {cached} was to be measured")
    return list(replies)
