"""What the service around the engine costs: `scopewatch serve` in a process of its own, called over gRPC."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scopewatch.capacity.curve import Memory
from scopewatch.capacity.random_pairs import Texts
from scopewatch.client import AsyncClient, pb, request
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import EngineError, ScopewatchError
from scopewatch.server_process import running_server
from scopewatch.types import Pair

_BATCH = 32
_CACHED_AT_ONCE = 4
_CACHED_PAIRS = 1024
_ROUND_S = 2
_LONE_PAIRS = 3
_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Calls:
    """What calls took, by round."""

    tokens_per_s: list[float] = field(default_factory=list)
    """Computed, through `BatchScore`."""
    engine_busy: list[float] = field(default_factory=list)
    """Share of that time in which the engine computed."""
    cached_pairs_per_s: list[float] = field(default_factory=list)
    lone_ms: dict[int, list[float]] = field(default_factory=dict)
    """`Score` calls one after another, by length."""


@dataclass(frozen=True, slots=True)
class Served:
    """Figures of one server process."""

    start_s: float
    memory: Memory
    calls: Calls


def measure_service(
    config: Config,
    texts: Texts,
    *,
    sizes: Sequence[int],
    tokens: int,
    pairs_per_s: float,
    rounds: int,
    device: torch.device,
) -> Served:
    """Starts a server and calls it.

    Args:
        config: Of which the engine's settings and the watchlists count; all else is at its default, so that limits,
            Redis and the like do not.
        texts: Makes the pairs.
        sizes: Lengths of lone pairs.
        tokens: Length of the pairs sent in batches.
        pairs_per_s: About what the engine reads of these.
        rounds: How often.
        device: Where the server's engine will be.

    Raises:
        SetupError: The server does not start.
    """
    batch_pairs = max(1, config.max_batch_tokens // tokens)
    # Enough for about two seconds, and for a few full batches.
    count = _BATCH * math.ceil(max(_ROUND_S * pairs_per_s, 4 * batch_pairs) / _BATCH)
    # While one full batch runs, another waits.
    at_once = 2 + math.ceil(2 * batch_pairs / _BATCH)
    many = [texts.pairs(count, tokens) for _ in range(rounds)]
    lone = {size: texts.pairs(rounds * _LONE_PAIRS, size) for size in sizes}
    before_mib = _device_used_mib(device)
    with running_server(_settings(config)) as server:
        pid = server.process.pid
        rest_mib, device_rest_mib = _resident_mib(pid, "VmRSS"), _device_used_mib(device)
        calls = asyncio.run(_call(server.address, many, lone, at_once))
        memory = Memory(
            rest_mib=rest_mib,
            peak_mib=_resident_mib(pid, "VmHWM"),
            device_rest_mib=_more(before_mib, device_rest_mib),
            device_peak_mib=_more(before_mib, _device_used_mib(device)),
        )
    return Served(server.ready["start_s"], memory, calls)


async def _call(address: str, many: Sequence[list[Pair]], lone: Mapping[int, list[Pair]], at_once: int) -> Calls:
    """A round for each list of pairs: these computed, the same from the cache, then lone pairs of every length."""
    calls = Calls(lone_ms={size: [] for size in lone})
    async with AsyncClient(address, timeout_s=_TIMEOUT_S) as client:
        # Connects.
        await client.info()
        for number, pairs in enumerate(many):
            seconds, replies = await _batches(client, pairs, at_once, cached=False)
            calls.tokens_per_s.append(sum(reply.coverage.tokens for reply in replies) / seconds)
            calls.engine_busy.append(min(1.0, _engine_s(replies) / seconds))
            known = (pairs * math.ceil(_CACHED_PAIRS / len(pairs)))[-_CACHED_PAIRS:]
            seconds, replies = await _batches(client, known, _CACHED_AT_ONCE, cached=True)
            calls.cached_pairs_per_s.append(len(replies) / seconds)
            for size, found in lone.items():
                for pair in found[number :: len(many)]:
                    started_s = time.perf_counter()
                    await client.score(prompt=pair.prompt, response=pair.response)
                    calls.lone_ms[size].append(1000 * (time.perf_counter() - started_s))
    return calls


async def _batches(
    client: AsyncClient, pairs: Sequence[Pair], at_once: int, *, cached: bool
) -> tuple[float, list[pb.ScoreResponse]]:
    """`BatchScore` of 32, so many calls in flight: seconds and replies, none of which may be from elsewhere."""
    requests = _requests(pairs)
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
    """Seconds that the engine computed: the pairs of one batch all tell the same times."""
    batches = {(reply.timings.forward_s, reply.timings.encode_s) for reply in replies}
    return sum(forward_s + encode_s for forward_s, encode_s in batches)


def _checked(reply: pb.ScoreResponse | ScopewatchError, *, cached: bool) -> pb.ScoreResponse:
    if isinstance(reply, ScopewatchError):
        raise reply
    if reply.cached is not cached:
        raise EngineError(f"a reply has cached={reply.cached}, and {cached} was to be measured")
    return reply


def _requests(pairs: Sequence[Pair]) -> list[pb.ScoreRequest]:
    return [request(prompt=pair.prompt, response=pair.response) for pair in pairs]


def _settings(config: Config) -> dict[str, object]:
    fields = Config.model_fields
    return {name: getattr(config, name) for name in (*ENGINE_SETTINGS, "watchlist")} | {
        "max_text_chars": max(fields["max_text_chars"].default, 16 * config.max_tokens),
        "max_queue_tokens": max(fields["max_queue_tokens"].default, 8 * config.max_batch_tokens),
    }


def _resident_mib(pid: int, field_name: str) -> int | None:
    """VmRSS (now) or VmHWM (most so far) of a process; None where there is no /proc."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(field_name))
    return int(line.split()[1]) >> 10


def _device_used_mib(device: torch.device) -> int | None:
    """What everybody uses of the device; None for a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free) >> 20


def _more(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else max(0, now - before)
