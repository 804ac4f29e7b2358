"""Measures what the service around the engine costs: `scopewatch serve` in a process of its own, called over gRPC."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from scopewatch.capacity.curve import ServerMemory
from scopewatch.capacity.random_pairs import RandomPairs
from scopewatch.capacity.time_budget import TimeBudget
from scopewatch.client import AsyncClient, pb, request
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import EngineError, ScopewatchError
from scopewatch.server_process import running_server
from scopewatch.types import Pair

_BATCH = 32
"""The number of pairs in a `BatchScore` call."""
_CACHED_AT_ONCE = 4
"""The number of such calls in flight when the cache answers."""
_CACHED_PAIRS = 1024
"""The number of pairs in a round that the cache answers."""
_ROUND_S = 2.0
"""About how long the server computes in a round, unless its share of the time is less."""
_LONE_PAIRS = 3
"""The number of pairs of each length in a round that are sent one by one."""
_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class CallTimes:
    """What calls took, round by round."""

    tokens_per_s: list[float] = field(default_factory=list)
    """The rate of computed pairs through `BatchScore`."""
    engine_busy: list[float] = field(default_factory=list)
    """The share of that time in which the engine computed."""
    cached_pairs_per_s: list[float] = field(default_factory=list)
    """The rate of pairs from the cache through `BatchScore`."""
    lone_ms: dict[int, list[float]] = field(default_factory=dict)
    """The times of `Score` calls one after another, by the length of their pairs in tokens."""


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """What was measured of one server process."""

    start_s: float
    """The time from its start until it was ready."""
    memory: ServerMemory
    calls: CallTimes


def measure_service(
    config: Config,
    random_pairs: RandomPairs,
    *,
    sizes: Sequence[int],
    tokens: int,
    pairs_per_s: float,
    rounds: int,
    device: torch.device,
    say: Callable[[str, str], None],
    budget: TimeBudget,
) -> ServerFigures:
    """Starts a server, calls it, and stops it.

    Args:
        config: Settings, of which the engine's and the watchlists count; all others are at their defaults, so that
            limits, Redis and the like play no part.
        random_pairs: Makes the pairs.
        sizes: The lengths of lone pairs, in tokens.
        tokens: The length of the pairs that are sent in batches.
        pairs_per_s: About the rate at which the engine reads these.
        rounds: How often each figure is taken at most.
        device: The device on which the server's engine will be.
        say: Is told of each round.
        budget: The time for all rounds, without the server's start.

    Raises:
        SetupError: The server does not start.
        EngineError: The engine failed on a pair, or a reply was not from where it was meant to be.
    """
    batch_pairs = max(1, config.max_batch_tokens // tokens)
    # Enough for about two seconds, and for a few full batches; half of a round is for what else is measured in it.
    round_s = min(_ROUND_S, budget.left_s / (2 * rounds))
    count = _BATCH * math.ceil(max(round_s * pairs_per_s, 4 * batch_pairs) / _BATCH)
    # While one full batch runs, another waits.
    at_once = 2 + math.ceil(2 * batch_pairs / _BATCH)
    many = [random_pairs.pairs(count, tokens) for _ in range(rounds)]
    lone = {size: random_pairs.pairs(rounds * _LONE_PAIRS, size) for size in sizes}
    before_mib = _device_used_mib(device)
    with running_server(_server_settings(config)) as server:
        rest_mib, device_rest_mib = server.resident_mib, _device_used_mib(device)
        calling = TimeBudget(budget.within_s, budget.clock)
        calls = asyncio.run(_call(server.address, many, lone, at_once, say=say, budget=calling))
        memory = ServerMemory(
            rest_mib=rest_mib,
            peak_mib=server.peak_resident_mib,
            device_rest_mib=_more(before_mib, device_rest_mib),
            device_peak_mib=_more(before_mib, _device_used_mib(device)),
        )
    return ServerFigures(server.ready["start_s"], memory, calls)


async def _call(
    address: str,
    many: Sequence[list[Pair]],
    lone: Mapping[int, list[Pair]],
    at_once: int,
    *,
    say: Callable[[str, str], None],
    budget: TimeBudget,
) -> CallTimes:
    """Makes a round of calls for each list of pairs: these computed, then from the cache, then lone pairs."""
    calls = CallTimes(lone_ms={size: [] for size in lone})
    async with AsyncClient(address, timeout_s=_TIMEOUT_S) as client:
        # Connects.
        await client.info()
        for number in budget.rounds(len(many)):
            part, pairs = f"service, round {number} of {len(many)}", many[number - 1]
            say(part, f"{len(pairs)} pairs")
            seconds, replies = await _batches(client, pairs, at_once, cached=False)
            calls.tokens_per_s.append(sum(reply.coverage.tokens for reply in replies) / seconds)
            calls.engine_busy.append(min(1.0, _engine_s(replies) / seconds))
            known = (pairs * math.ceil(_CACHED_PAIRS / len(pairs)))[-_CACHED_PAIRS:]
            say(part, "from the cache")
            seconds, replies = await _batches(client, known, _CACHED_AT_ONCE, cached=True)
            calls.cached_pairs_per_s.append(len(replies) / seconds)
            for size, found in lone.items():
                say(part, f"a pair of {size} tokens")
                calls.lone_ms[size] += [await _lone_ms(client, pair) for pair in found[number - 1 :: len(many)]]
    return calls


async def _lone_ms(client: AsyncClient, pair: Pair) -> float:
    """The time of one `Score` call."""
    started_s = time.perf_counter()
    await client.score(prompt=pair.prompt, response=pair.response)
    return 1000 * (time.perf_counter() - started_s)


async def _batches(
    client: AsyncClient, pairs: Sequence[Pair], at_once: int, *, cached: bool
) -> tuple[float, list[pb.ScoreResponse]]:
    """Sends pairs by `BatchScore` calls, `at_once` of them in flight; the seconds that all took, and the replies."""
    requests = [request(prompt=pair.prompt, response=pair.response) for pair in pairs]
    work = iter([requests[start : start + _BATCH] for start in range(0, len(requests), _BATCH)])
    replies: list[pb.ScoreResponse | ScopewatchError] = []

    async def caller() -> None:
        for batch in work:
            replies.extend(await client.score_batch(batch))

    started_s = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    seconds = time.perf_counter() - started_s
    return seconds, [_checked(reply, cached=cached) for reply in replies]


def _engine_s(replies: Sequence[pb.ScoreResponse]) -> float:
    """For how many seconds the engine computed: the pairs of one batch all tell the same times."""
    batches = {(reply.timings.forward_s, reply.timings.encode_s) for reply in replies}
    return sum(forward_s + encode_s for forward_s, encode_s in batches)


def _checked(reply: pb.ScoreResponse | ScopewatchError, *, cached: bool) -> pb.ScoreResponse:
    """The reply, which may not be an error, or from elsewhere than `cached` says."""
    if isinstance(reply, ScopewatchError):
        raise reply
    if reply.cached is not cached:
        raise EngineError(f"a reply has cached={reply.cached}, and {cached} was to be measured")
    return reply


def _server_settings(config: Config) -> dict[str, object]:
    """The settings that the server gets: with limits that let every pair in, and a queue that takes what is sent."""
    fields = Config.model_fields
    return {name: getattr(config, name) for name in (*ENGINE_SETTINGS, "watchlist")} | {
        "max_text_chars": max(fields["max_text_chars"].default, 16 * config.max_tokens),
        "max_queue_tokens": max(fields["max_queue_tokens"].default, 8 * config.max_batch_tokens),
    }


def _device_used_mib(device: torch.device) -> int | None:
    """The memory that all processes together use of a GPU; None for a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free) >> 20


def _more(before: int | None, now: int | None) -> int | None:
    """How much more is used now than before; None where it was not measured."""
    return None if before is None or now is None else max(0, now - before)
