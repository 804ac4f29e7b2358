"""Works out replicas, memory and settings from a load and a measured curve; arithmetic only."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scopewatch.capacity.curve import Curve, Point
from scopewatch.errors import ConfigError

MEMORY_HEADROOM = 0.25
"""The share added to the memory that was measured: allocators and longer runs keep some more."""
_MEMORY_STEP_MIB = 64
"""Planned memory is rounded up to a multiple of this."""
_NOISE = 0.1
"""By how much two measures of what gRPC costs may differ before the measurement is doubted."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Load:
    """The load that a plan is made for.

    Raises:
        ConfigError: A value cannot be; the message names its flag.
    """

    pairs_per_s: float
    """The pairs per second that come to all replicas together."""
    tokens: int
    """The length of each pair."""
    hit_rate: float = 0.0
    """The share of the pairs that are answered from the cache."""
    utilisation: float = 0.7
    """The share of its time that a replica may be busy."""
    p95_ms: float | None = None
    """The latency that 95 of 100 pairs must not exceed; None if any will do."""
    queue_wait_s: float = 5.0
    """How long a pair may wait before others are refused."""

    def __post_init__(self) -> None:
        # NaN is refused by each: no comparison holds of it.
        self._require("pairs_per_s", 0 < self.pairs_per_s < 1e9, "expected pairs per second, above 0 and below 1e9")
        self._require("tokens", self.tokens >= 1, "expected tokens of one pair, at least 1")
        self._require("hit_rate", 0 <= self.hit_rate <= 1, "expected a share from 0 to 1")
        self._require("utilisation", 0.01 <= self.utilisation < 1, "expected a share from 0.01 to below 1, such as 0.7")
        self._require("p95_ms", self.p95_ms is None or 0 < self.p95_ms < math.inf, "expected milliseconds above 0")
        self._require("queue_wait_s", 0 < self.queue_wait_s <= 3600, "expected seconds above 0, at most 3600")

    def _require(self, name: str, holds: bool, mend: str) -> None:
        if not holds:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: {mend}")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of a plan."""

    value: float | None
    """The number; None where the curve does not say."""
    unit: str
    source: str
    """Where the number comes from."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load needs on one kind of machine: how many replicas, and for each of them what the other figures say."""

    replicas: Figure
    utilisation: Figure
    engine_pairs_per_s: Figure
    computed_pairs_per_s: Figure
    cached_pairs_per_s: Figure
    lone_pair_ms: Figure
    p95_ms: Figure
    memory_mib: Figure
    device_memory_mib: Figure
    cpu_cores: Figure
    torch_threads: Figure
    max_tokens: Figure
    max_batch_tokens: Figure
    max_queue_tokens: Figure
    start_s: Figure
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Replica:
    """What one replica does on pairs of one length."""

    tokens_per_s: float
    """The rate of the engine alone."""
    kept: float
    """The share of this rate that is left through gRPC."""
    computed: float
    """The rate of computed pairs through gRPC, in pairs per second."""
    cached: float
    """The rate of pairs from the cache through gRPC, in pairs per second."""
    lone_ms: float
    """The time of a call while nobody else calls."""

    def busy(self, load: Load) -> float:
        """How many replicas the load would keep busy: their services with all pairs, or their engines with misses."""
        return max(self._engines(load), load.pairs_per_s / self.cached)

    def p95_ms(self, load: Load, replicas: int) -> float:
        """The latency that 95 of 100 cache misses do not exceed, with so many replicas."""
        return self.lone_ms + 1000 * queueing_p95_s(self._engines(load) / replicas, 1 / self.computed)

    def bound(self, load: Load) -> str:
        """What the number of replicas is determined by, in words."""
        return "cache misses" if self.busy(load) == self._engines(load) else "all pairs at the cached rate"

    def _engines(self, load: Load) -> float:
        """How many engines the cache misses would keep busy all the time."""
        return load.pairs_per_s * (1 - load.hit_rate) / self.computed


def plan(load: Load, curve: Curve) -> Plan:
    """Works out what a load needs.

    Raises:
        ConfigError: Pairs are shorter than any that were measured, or one pair alone takes longer than `p95_ms`.
    """
    tokens = _read_tokens(load, curve)
    replica = _replica(curve, tokens)
    least = max(1, math.ceil(round(replica.busy(load) / load.utilisation, 9)))
    replicas = _enough(load, least, replica)
    needed = f"{replica.bound(load)} at {load.utilisation:g} utilisation need {least}"
    if replicas > least:
        needed += f", p95 within {load.p95_ms:g} ms needs {replicas}"
    return Plan(
        replicas=Figure(replicas, "", needed),
        utilisation=Figure(round(replica.busy(load) / replicas, 3), "", "with the load spread evenly"),
        p95_ms=Figure(
            round(replica.p95_ms(load, replicas), 1), "ms", "of misses, estimated for pairs that come at random times"
        ),
        max_queue_tokens=Figure(
            max(curve.ran.max_batch_tokens, round(replica.tokens_per_s * replica.kept * load.queue_wait_s)),
            "tokens",
            f"read in {load.queue_wait_s:g} s; beyond it callers are asked to come back",
        ),
        start_s=Figure(round(curve.service.start_s, 1), "s", "from the start of the process to ready"),
        assumptions=_assumptions(load, curve, tokens),
        **_rates(curve, tokens, replica),
        **_resources(curve),
    )


def _rates(curve: Curve, tokens: int, replica: _Replica) -> dict[str, Figure]:
    """The figures of one replica on pairs of `tokens` tokens, whatever the load."""
    between = _around(curve, tokens)
    return {
        "engine_pairs_per_s": Figure(
            round(replica.tokens_per_s / tokens, 2),
            "pairs/s",
            f"{replica.tokens_per_s:.0f} tokens/s in full batches {between}",
        ),
        "computed_pairs_per_s": Figure(
            round(replica.computed, 2),
            "pairs/s",
            f"{replica.kept:.1%} of it through gRPC, at {curve.service.tokens} tokens",
        ),
        "cached_pairs_per_s": Figure(round(replica.cached), "pairs/s", "through BatchScore, from one client process"),
        "lone_pair_ms": Figure(round(replica.lone_ms, 1), "ms", f"a Score call while nobody else calls {between}"),
    }


def _resources(curve: Curve) -> dict[str, Figure]:
    """The figures of one replica that do not depend on the load: memory, cores and settings."""
    ran, memory, on_gpu = curve.ran, curve.memory, curve.machine.kind == "cuda"
    cache_mib, prefix_mib = (math.ceil(size / _MIB) for size in (ran.cache_bytes, ran.prefix_cache_bytes))
    host_mib, host = (cache_mib, "cache") if on_gpu else (cache_mib + prefix_mib, "cache and prefix_cache")
    engine = "the engine's thread" if on_gpu else f"torch_threads {ran.torch_threads}"
    settings = ("torch_threads", "max_tokens", "max_batch_tokens")
    return {
        "memory_mib": _memory(memory.peak_mib, host_mib, host),
        "device_memory_mib": _memory(memory.device_peak_mib, prefix_mib, "prefix_cache"),
        "cpu_cores": Figure(2 if on_gpu else ran.torch_threads + 1, "", f"{engine}, and one for the event loop"),
        **{name: Figure(getattr(ran, name), "", "as measured") for name in settings},
    }


def _replica(curve: Curve, tokens: int) -> _Replica:
    tokens_per_s = _between(curve, tokens, lambda point: point.tokens_per_s, logarithmic=True)
    # Above 1 it is noise.
    kept = min(1.0, curve.service.computed_ratio)
    return _Replica(
        tokens_per_s=tokens_per_s,
        kept=kept,
        computed=kept * tokens_per_s / tokens,
        cached=curve.service.cached_pairs_per_s,
        lone_ms=_between(curve, tokens, lambda point: point.call_ms),
    )


def queueing_p95_s(utilisation: float, service_s: float) -> float:
    """How much longer than a lone pair 95 of 100 pairs take at most, when pairs arrive at random (Poisson).

    The work V that a pair finds waiting is that of an M/D/1 queue, as long as batches do not change the rate. Its tail
    is taken as P(V > t) = rho exp(-2 (1 - rho) t / s), the heavy-traffic limit, and the batch that the pair is read in
    is lengthened by what arrives during V, a share rho of it. In simulations the p95 is 0.5 to 1.15 times this and
    the service time together, the less the fewer pairs a batch holds.

    Args:
        utilisation: rho, the share of its time that the engine is busy.
        service_s: s, the time that the engine takes for one pair in full batches.
    """
    if utilisation <= 0.05:
        return 0.0
    waiting_s = service_s * math.log(utilisation / 0.05) / (2 * (1 - utilisation))
    return (1 + utilisation) * waiting_s


def _read_tokens(load: Load, curve: Curve) -> int:
    """The number of tokens that are read of a pair."""
    first, last = curve.points[0].tokens, curve.points[-1].tokens
    if load.tokens < first:
        raise ConfigError(
            f"--tokens {load.tokens}: pairs were measured from {first} to {last} tokens; give at least {first}"
        )
    return min(load.tokens, last)


def _enough(load: Load, least: int, replica: _Replica) -> int:
    """The fewest replicas, `least` or more, that keep the p95."""
    allowed_ms = math.inf if load.p95_ms is None else load.p95_ms
    if allowed_ms < replica.lone_ms:
        raise ConfigError(
            f"--p95-ms {allowed_ms:g}: a lone pair of {load.tokens} tokens takes {replica.lone_ms:.1f} ms on this "
            "machine, however many there are; allow more, read fewer tokens, or take a faster machine"
        )
    # With 20 times as many replicas, 95 of 100 pairs do not wait.
    return bisect_left(range(20 * least + 1), True, lo=least, key=lambda n: replica.p95_ms(load, n) <= allowed_ms)


def _between(curve: Curve, tokens: int, value: Callable[[Point], float], *, logarithmic: bool = False) -> float:
    """A figure of the curve at a length: linear between the measured lengths, or between their logarithms."""
    scale = np.log if logarithmic else np.asarray
    lengths = [point.tokens for point in curve.points]
    return float(np.interp(scale(tokens), scale(lengths), [value(point) for point in curve.points]))


def _around(curve: Curve, tokens: int) -> str:
    """The measured lengths that a figure comes from, in words."""
    lengths = [point.tokens for point in curve.points]
    if tokens in lengths:
        return f"at {tokens} tokens"
    above = bisect_left(lengths, tokens)
    return f"between {lengths[above - 1]} and {lengths[above]} tokens"


def _memory(peak_mib: int | None, more_mib: int, what: str) -> Figure:
    """The memory needed: the measured peak, and what the caches may come to hold, which new texts leave empty."""
    if peak_mib is None:
        return Figure(None, "MiB", "not in the curve")
    needed_mib = (1 + MEMORY_HEADROOM) * (peak_mib + more_mib)
    return Figure(
        _MEMORY_STEP_MIB * math.ceil(needed_mib / _MEMORY_STEP_MIB),
        "MiB",
        f"peak of {peak_mib} MiB, {what}_bytes of {more_mib} MiB, and {MEMORY_HEADROOM:.0%}",
    )


def _assumptions(load: Load, curve: Curve, tokens: int) -> tuple[str, ...]:
    said = [
        f"all pairs have {load.tokens} tokens, template included, and share no beginnings",
        "each replica is a machine like the measured one, with nothing else on it",
        f"{load.hit_rate:.0%} of the pairs are answered from the cache",
        "no spare replica is counted for failures and rollouts",
    ]
    if tokens < load.tokens:
        said.insert(
            1, f"one pass of max_tokens is counted: {tokens} of {load.tokens} tokens; long responses take several"
        )
    ratio, busy = curve.service.computed_ratio, curve.service.engine_busy
    if abs(ratio - busy) > _NOISE:
        said.append(
            f"the measurement is right, which is doubtful: {ratio:.1%} of the engine's rate came through gRPC, "
            f"though it computed {busy:.1%} of that time; measure again with nothing else on the machine"
        )
    return tuple(said)
