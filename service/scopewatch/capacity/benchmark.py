"""Measures this machine with the user's watchlist: the engine alone, then a server process around it."""

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
from scopewatch.capacity.curve import Curve, Machine, Point, Ran, Reads, Service
from scopewatch.capacity.random_pairs import Texts
from scopewatch.capacity.service_cost import measure_service
from scopewatch.config import Config
from scopewatch.engine.build import Engine
from scopewatch.errors import ConfigError
from scopewatch.types import EngineIdentity

LENGTHS = (16, 64, 128, 256, 512, 1024, 2048)
"""Tokens of the pairs measured, as far as they are read, and the longest that are."""
_SERVED_TOKENS = 256
_ROUND_S = 0.5
"""Full batches of one length take at least as long in a round, unless they are more than `_MOST_BATCHES`."""
_MOST_BATCHES = 32
_LONE_PAIRS = 3
"""Read one by one in a round."""


@dataclass(slots=True)
class _Rates:
    """Of one length, by round."""

    tokens_per_s: list[float] = field(default_factory=list)
    lone_ms: list[float] = field(default_factory=list)


def bench(config: Config, rounds: int, say: Callable[[str], None] = lambda _: None) -> Curve:
    """Measures.

    Args:
        config: Settings; those of addresses, logs and Redis do not count.
        rounds: How often each figure is taken; medians are kept.
        say: Told what happens, since it takes a while.

    Raises:
        SetupError: The watchlist, reader, SAEs or a setting is wrong.
        EngineError: The engine failed on a pair.
    """
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: expected at least 1")
    load_before = os.getloadavg()[0]
    loaded = load(config)
    engine, watchlists = loaded.engine, [watchlist.name for watchlist in loaded.watchlists]
    # The server is to use the same.
    config = config.model_copy(update={"max_batch_tokens": engine.max_batch_tokens})
    identity, texts = engine.identity, Texts(engine.tokeniser)
    sizes = sorted({size for size in LENGTHS if size < engine.max_tokens} | {engine.max_tokens})
    ran = _ran(config, engine)
    reader = identity.reader
    say(f"engine: {reader.name} on {reader.device}, pairs of {sizes[0]} to {sizes[-1]} tokens, {rounds} rounds")
    rates = _engine_rates(engine, texts, sizes, config.max_batch_tokens, rounds)
    # Or the server's process would have to fit beside it.
    del loaded, engine
    gc.collect()
    device = torch.device(config.device if config.device != "auto" else reader.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    say(f"service: a server process over gRPC, {rounds} rounds")
    served_tokens = min(_SERVED_TOKENS, sizes[-1])
    alone = {size: _median(found.tokens_per_s) for size, found in rates.items()}
    served = measure_service(
        config,
        texts,
        sizes=sizes,
        tokens=served_tokens,
        pairs_per_s=alone[served_tokens] / served_tokens,
        rounds=rounds,
        device=device,
    )
    calls = served.calls
    return Curve(
        made=datetime.now(UTC).date(),
        rounds=rounds,
        machine=_machine(device, load_before),
        reads=_reads(identity, watchlists),
        ran=ran,
        points=[
            Point(
                tokens=size,
                tokens_per_s=alone[size],
                lone_ms=_median(found.lone_ms),
                call_ms=_median(calls.lone_ms[size]),
            )
            for size, found in rates.items()
        ],
        service=Service(
            tokens=served_tokens,
            computed_ratio=round(_median(calls.tokens_per_s) / alone[served_tokens], 4),
            engine_busy=_median(calls.engine_busy),
            cached_pairs_per_s=_median(calls.cached_pairs_per_s),
            start_s=round(served.start_s, 2),
        ),
        memory=served.memory,
    )


def _engine_rates(
    engine: Engine, texts: Texts, sizes: Sequence[int], max_batch_tokens: int, rounds: int
) -> dict[int, _Rates]:
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
            full = [texts.ids(max(1, max_batch_tokens // size), size) for _ in range(batches[size])]
            full_s = sum(map(seconds, full))
            lone_ms = [1000 * seconds([ids]) for ids in texts.ids(_LONE_PAIRS, size)]
            if number:
                found.tokens_per_s.append(sum(len(ids) for batch in full for ids in batch) / full_s)
                found.lone_ms += lone_ms
            else:
                batches[size] = min(_MOST_BATCHES, math.ceil(_ROUND_S / full_s))
    return rates


def _median(taken: Sequence[float]) -> float:
    return round(statistics.median(taken), 4)


def _ran(config: Config, engine: Engine) -> Ran:
    return Ran(
        torch_threads=torch.get_num_threads(),
        max_tokens=engine.max_tokens,
        max_batch_tokens=config.max_batch_tokens,
        prefix_cache_bytes=config.prefix_cache_bytes,
        # The server's: it is at its default there.
        cache_bytes=Config.model_fields["cache_bytes"].default,
    )


def _machine(device: torch.device, load_before: float) -> Machine:
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


def _reads(identity: EngineIdentity, watchlists: list[str]) -> Reads:
    reader = identity.reader
    watched = hashlib.sha256()
    for sae in identity.saes:
        watched.update(f"{sae.digest} {sae.hookpoint} {sae.watched}\n".encode())
    return Reads(
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
