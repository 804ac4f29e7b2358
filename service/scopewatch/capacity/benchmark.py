"""Measures this machine with the user's watchlist: first the engine alone, then a server process around it."""

import gc
import hashlib
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import scopewatch
from scopewatch.app.load import load
from scopewatch.capacity.curve import Curve, Machine, Point, ServiceCost, SettingsInForce, WatchedReader
from scopewatch.capacity.random_pairs import RandomPairs
from scopewatch.capacity.service_cost import CallTimes, measure_service
from scopewatch.config import Config
from scopewatch.engine.build import Engine
from scopewatch.errors import ConfigError
from scopewatch.identity import EngineIdentity

LENGTHS = (16, 64, 128, 256, 512, 1024, 2048)
"""Lengths of the measured pairs, in tokens: those of these that are read whole, and the longest length that is read."""
_SERVED_TOKENS = 256
"""The length of the pairs that the server computes in batches, where they are read whole."""
_ROUND_S = 0.5
"""How long full batches of one length are read in a round, at least, unless that takes more than `_MOST_BATCHES`."""
_MOST_BATCHES = 32
_LONE_PAIRS = 3
"""The number of pairs of each length that are read one by one in a round."""


@dataclass(slots=True)
class _Rates:
    """How fast the engine reads pairs of one length."""

    tokens_per_s: list[float] = field(default_factory=list)
    """The rate in full batches, of each round."""
    lone_ms: list[float] = field(default_factory=list)
    """The time for one pair alone, of all rounds."""


@dataclass(frozen=True, slots=True)
class _EngineFigures:
    """What was measured of the engine alone, which is gone again."""

    identity: EngineIdentity
    watchlists: list[str]
    """The names of the watchlists."""
    ran: SettingsInForce
    random_pairs: RandomPairs
    """Makes pairs with the engine's tokeniser."""
    rates: dict[int, _Rates]
    """How fast pairs of each length are read, by the length in tokens, ascending."""

    def tokens_per_s(self, size: int) -> float:
        """The engine's rate in full batches of pairs of `size` tokens."""
        return _median(self.rates[size].tokens_per_s)


def benchmark(config: Config, rounds: int, say: Callable[[str], None] = lambda _: None) -> Curve:
    """Measures this machine.

    Args:
        config: Settings; those of addresses, logs and Redis do not count.
        rounds: How often each figure is taken; medians are kept.
        say: Called with a line of text before each part of the measurement, since it takes a while.

    Raises:
        SetupError: The watchlist, reader, SAEs or a setting is wrong.
        EngineError: The engine failed on a pair.
    """
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: expected at least 1")
    load_before = os.getloadavg()[0]
    engine = _measure_engine(config, rounds, say)
    # Or the server's process would have to fit beside the engine.
    gc.collect()
    device = torch.device(config.device if config.device != "auto" else engine.identity.reader.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    say(f"service: a server process over gRPC, {rounds} rounds")
    sizes = list(engine.rates)
    served_tokens = min(_SERVED_TOKENS, sizes[-1])
    server = measure_service(
        # The server is to use the same batches.
        config.model_copy(update={"max_batch_tokens": engine.ran.max_batch_tokens}),
        engine.random_pairs,
        sizes=sizes,
        tokens=served_tokens,
        pairs_per_s=engine.tokens_per_s(served_tokens) / served_tokens,
        rounds=rounds,
        device=device,
    )
    return Curve(
        made=datetime.now(UTC).date(),
        rounds=rounds,
        machine=_machine(device, load_before),
        reads=_watched_reader(engine.identity, engine.watchlists),
        ran=engine.ran,
        points=_points(engine, server.calls),
        service=_service_cost(engine, server.calls, served_tokens, server.start_s),
        memory=server.memory,
    )


def _measure_engine(config: Config, rounds: int, say: Callable[[str], None]) -> _EngineFigures:
    """Loads the engine, measures it, and lets it go."""
    loaded = load(config)
    engine, reader = loaded.engine, loaded.engine.identity.reader
    random_pairs = RandomPairs(engine.tokeniser)
    sizes = sorted({size for size in LENGTHS if size < engine.max_tokens} | {engine.max_tokens})
    ran = _settings_in_force(config, engine)
    say(f"engine: {reader.name} on {reader.device}, pairs of {sizes[0]} to {sizes[-1]} tokens, {rounds} rounds")
    return _EngineFigures(
        identity=engine.identity,
        watchlists=[watchlist.name for watchlist in loaded.watchlists],
        ran=ran,
        random_pairs=random_pairs,
        rates=_engine_rates(engine, random_pairs, sizes, rounds),
    )


def _engine_rates(engine: Engine, random_pairs: RandomPairs, sizes: Sequence[int], rounds: int) -> dict[int, _Rates]:
    """All lengths in turn, round by round, so that what else the machine does hits all alike; one round to warm up."""

    def seconds(batch: Sequence[NDArray[np.int32]]) -> float:
        started_s = time.perf_counter()
        for outcome in engine.runner(batch).activations:
            if isinstance(outcome, Exception):
                raise outcome
        return time.perf_counter() - started_s

    rates = {size: _Rates() for size in sizes}
    batches = dict.fromkeys(sizes, 1)
    for number in range(rounds + 1):
        for size, found in rates.items():
            count = max(1, engine.max_batch_tokens // size)
            full = [random_pairs.token_ids(count, size) for _ in range(batches[size])]
            full_s = sum(map(seconds, full))
            lone_ms = [1000 * seconds([ids]) for ids in random_pairs.token_ids(_LONE_PAIRS, size)]
            if number:
                found.tokens_per_s.append(sum(len(ids) for batch in full for ids in batch) / full_s)
                found.lone_ms += lone_ms
            else:
                batches[size] = min(_MOST_BATCHES, math.ceil(_ROUND_S / full_s))
    return rates


def _points(engine: _EngineFigures, calls: CallTimes) -> list[Point]:
    return [
        Point(
            tokens=size,
            tokens_per_s=engine.tokens_per_s(size),
            lone_ms=_median(found.lone_ms),
            call_ms=_median(calls.lone_ms[size]),
        )
        for size, found in engine.rates.items()
    ]


def _service_cost(engine: _EngineFigures, calls: CallTimes, tokens: int, start_s: float) -> ServiceCost:
    """What is left of the engine's rate on pairs of `tokens` tokens, and the other figures of the server."""
    return ServiceCost(
        tokens=tokens,
        computed_ratio=round(_median(calls.tokens_per_s) / engine.tokens_per_s(tokens), 4),
        engine_busy=_median(calls.engine_busy),
        cached_pairs_per_s=_median(calls.cached_pairs_per_s),
        start_s=round(start_s, 2),
    )


def _median(taken: Sequence[float]) -> float:
    return round(statistics.median(taken), 4)


def _settings_in_force(config: Config, engine: Engine) -> SettingsInForce:
    return SettingsInForce(
        torch_threads=torch.get_num_threads(),
        max_tokens=engine.max_tokens,
        max_batch_tokens=engine.max_batch_tokens,
        prefix_cache_bytes=config.prefix_cache_bytes,
        # The server's: it is at its default there.
        cache_bytes=Config.model_fields["cache_bytes"].default,
    )


def _machine(device: torch.device, load_before: float) -> Machine:
    """This machine, as `device` is measured on it; `load_before` is the load average when the measurement began."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    libraries = ("torch", "transformers", "grpcio", "numpy")
    return Machine(
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        kind="cuda" if device.type == "cuda" else "cpu",
        cores=os.cpu_count() or 1,
        architecture=platform.machine(),
        versions={"scopewatch": scopewatch.__version__, "python": platform.python_version()}
        | {name: version(name) for name in libraries},
        load_before=round(load_before, 2),
    )


def _watched_reader(identity: EngineIdentity, watchlists: list[str]) -> WatchedReader:
    reader = identity.reader
    watched = hashlib.sha256()
    for sae in identity.saes:
        watched.update(f"{sae.digest} {sae.hookpoint} {sae.watched}\n".encode())
    return WatchedReader(
        watchlists=watchlists,
        reader=reader.name,
        revision=reader.revision,
        reader_digest=reader.digest,
        layers_run=reader.layers_run,
        layers_total=reader.layers_total,
        dtype=reader.dtype,
        attention=reader.attention,
        watched=len(identity.features),
        saes=len(identity.saes),
        watched_digest=watched.hexdigest(),
    )
