"""Measures this machine with the user's watchlist: first the engine alone, then a server process around it."""

import gc
import hashlib
import math
import os
import platform
import statistics
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
from scopewatch.capacity.time_budget import TimeBudget
from scopewatch.config import Config
from scopewatch.engine.build import Engine
from scopewatch.errors import ConfigError
from scopewatch.identity import EngineIdentity

LENGTHS = (16, 64, 128, 256, 512, 1024, 2048)
"""Lengths of the measured pairs, in tokens: those of these that are read whole, and the longest length that is read."""
_SERVED_TOKENS = 256
"""The length of the pairs that the server computes in batches, where they are read whole."""
WITHIN_S = 100.0
"""How long all of it may take, imports left out; where one batch takes long, a round of all lengths takes longer."""
_ENGINE_SHARE = 0.55
"""The engine's share of the time that is left when it is loaded and as long is laid aside for the server's start."""
_ROUND_S = 0.5
"""How long full batches of one length are read in a round, at least, unless that takes more than `_MOST_BATCHES`, or
there is less time."""
_MOST_BATCHES = 32
_LONE_PAIRS = 3
"""The number of pairs of each length that are read one by one in a round."""


Say = Callable[[str, str], None]
"""Is told which part is measured now, and what of it, which may be empty."""


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
    load_s: float
    """What it took to load it."""

    def tokens_per_s(self, size: int) -> float:
        """The engine's rate in full batches of pairs of `size` tokens."""
        return _median(self.rates[size].tokens_per_s)


def benchmark(
    config: Config, rounds: int, say: Say = lambda _part, _of_it: None, budget: TimeBudget | None = None
) -> Curve:
    """Measures this machine.

    Args:
        config: Settings; those of addresses, logs and Redis do not count.
        rounds: How often each figure is taken at most; medians are kept.
        say: Is told what is measured, since it takes a while.
        budget: The time for all of it; `WITHIN_S` if it is not given. Rounds that do not fit are left out, but for the
            first.

    Raises:
        SetupError: The watchlist, reader, SAEs or a setting is wrong.
        EngineError: The engine failed on a pair.
    """
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: expected at least 1")
    budget = budget or TimeBudget(WITHIN_S)
    load_before = os.getloadavg()[0]
    engine = _measure_engine(config, rounds, say, budget)
    # Or the server's process would have to fit beside the engine.
    gc.collect()
    device = torch.device(config.device if config.device != "auto" else engine.identity.reader.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    say("service: a server process, which starts", "")
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
        say=say,
        budget=budget.share(1.0, without_s=engine.load_s),
    )
    made_rounds = min(len(engine.rates[served_tokens].tokens_per_s), len(server.calls.tokens_per_s))
    if made_rounds < rounds:
        say(f"{made_rounds} of {rounds} rounds fitted into {budget.within_s:g} s", "")
    return Curve(
        made=datetime.now(UTC).date(),
        rounds=made_rounds,
        machine=_machine(device, load_before),
        reads=_watched_reader(engine.identity, engine.watchlists),
        ran=engine.ran,
        points=_points(engine, server.calls),
        service=_service_cost(engine, server.calls, served_tokens, server.start_s),
        memory=server.memory,
    )


def _measure_engine(config: Config, rounds: int, say: Say, budget: TimeBudget) -> _EngineFigures:
    """Loads the engine, measures it, and lets it go."""
    say("engine, which is loaded", "")
    loading = budget.share(1.0)
    loaded = load(config)
    load_s = loading.spent_s
    engine, reader = loaded.engine, loaded.engine.identity.reader
    random_pairs = RandomPairs(engine.tokeniser)
    sizes = sorted({size for size in LENGTHS if size < engine.max_tokens} | {engine.max_tokens})
    ran = _settings_in_force(config, engine)
    say(f"engine: {reader.name} on {reader.device}, pairs of {sizes[0]} to {sizes[-1]} tokens", "")
    return _EngineFigures(
        identity=engine.identity,
        watchlists=[watchlist.name for watchlist in loaded.watchlists],
        ran=ran,
        random_pairs=random_pairs,
        rates=engine_rates(
            engine, random_pairs, sizes, rounds, say=say, budget=budget.share(_ENGINE_SHARE, without_s=load_s)
        ),
        load_s=load_s,
    )


def engine_rates(
    engine: Engine, random_pairs: RandomPairs, sizes: Sequence[int], rounds: int, *, say: Say, budget: TimeBudget
) -> dict[int, _Rates]:
    """All lengths in turn, round by round, so that what else the machine does hits all alike; one round to warm up.

    Args:
        engine: The engine.
        random_pairs: Makes the pairs.
        sizes: Their lengths, in tokens.
        rounds: The most rounds.
        say: Is told of each round and length.
        budget: The time for all rounds.
    """

    def seconds(batch: Sequence[NDArray[np.int32]]) -> float:
        started_s = budget.clock()
        for outcome in engine.runner(batch).activations:
            if isinstance(outcome, Exception):
                raise outcome
        return budget.clock() - started_s

    def full_batches(size: int, count: int) -> list[Sequence[NDArray[np.int32]]]:
        return [random_pairs.token_ids(max(1, engine.max_batch_tokens // size), size) for _ in range(count)]

    # On a GPU twice, since what is compiled for a first batch takes its time.
    times = 1 if engine.identity.reader.device == "cpu" else 2
    batch_s = {}
    for size in sizes:
        say("engine, to warm up", f"{size} tokens")
        batch_s[size] = min(map(seconds, full_batches(size, times)))
        seconds(random_pairs.token_ids(1, size))
    # Half of a round's time is for making the pairs, and for those that are read one by one.
    each_s = min(_ROUND_S, budget.left_s / (2 * rounds * len(sizes)))
    rates = {size: _Rates() for size in sizes}
    for number in budget.rounds(rounds):
        for size, found in rates.items():
            say(f"engine, round {number} of {rounds}", f"{size} tokens")
            full = full_batches(size, max(1, min(_MOST_BATCHES, math.ceil(each_s / batch_s[size]))))
            full_s = sum(map(seconds, full))
            found.tokens_per_s.append(sum(len(ids) for batch in full for ids in batch) / full_s)
            found.lone_ms += [1000 * seconds([ids]) for ids in random_pairs.token_ids(_LONE_PAIRS, size)]
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
