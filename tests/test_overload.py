"""The batcher under more load than its engine can bear: a simulated engine and clock, arrivals decided by dice."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from conftest import activations
from scopewatch.errors import DeadlineExpired, ScopewatchError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher, Wanted
from scopewatch.types import ANYONE, Activations, Caller, EncodedBatch
from virtual_time import in_virtual_time

MAX_BATCH_TOKENS = 4096
SECONDS = 30.0
BEFORE_S = 5.0
"""Callers who come before that teach the batcher how fast its engine is, and are not counted."""


@dataclass
class Engine:
    """Reads one batch after another, as a worker does, and asks just before each text whether it is wanted."""

    fixed_s: float
    token_s: float
    noise: float = 0.0
    """How much faster or slower than it should a batch may be."""
    dice: random.Random = field(default_factory=lambda: random.Random(5))
    free: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def peak_tokens_per_s(self) -> float:
        return MAX_BATCH_TOKENS / (self.fixed_s + self.token_s * MAX_BATCH_TOKENS)

    async def __call__(self, batch: Sequence[np.ndarray], wanted: Wanted) -> EncodedBatch:
        async with self.free:
            found: list[Activations | Exception] = [
                activations(len(ids)) if wanted(place) else DeadlineExpired() for place, ids in enumerate(batch)
            ]
            if tokens := sum(one.n_tokens for one in found if isinstance(one, Activations)):
                seconds = self.fixed_s + self.token_s * tokens
                await asyncio.sleep(seconds * self.dice.uniform(1 - self.noise, 1 + self.noise))
        return EncodedBatch(found, 0, 0)


# A CPU takes four seconds for a full batch; a GPU takes almost as long for one text as for twenty.
ENGINES = {"cpu": {"fixed_s": 0.02, "token_s": 0.001}, "gpu": {"fixed_s": 0.2, "token_s": 0.0001}}


@dataclass
class Seen:
    """What those callers saw who came after the first seconds."""

    answered: Counter[str] = field(default_factory=Counter)
    """By the caller's name, the number of tokens of pairs that were answered in time."""
    refused_at_once: int = 0
    refused_later: int = 0
    left: int = 0
    """The number of callers whose deadline passed before anybody told them anything."""
    unwanted: float = 0.0
    """The number of pairs that were read though their callers had left."""


def serve(engine: Engine, loads: Mapping[Caller, float], *, deadline_s: float, tokens: tuple[int, int]) -> Seen:
    """Lets callers come whether or not those before them were answered; they leave at their deadline.

    Args:
        engine: Reads.
        loads: How many tokens each caller asks for, as a share of what the engine can read.
        deadline_s: How many seconds callers wait.
        tokens: The least and the most tokens of a pair.
    """
    return in_virtual_time(_serve(engine, loads, deadline_s, tokens))


async def _serve(engine: Engine, loads: Mapping[Caller, float], deadline_s: float, tokens: tuple[int, int]) -> Seen:
    loop, registry, seen = asyncio.get_running_loop(), CollectorRegistry(), Seen()
    metrics = Metrics(registry)
    batcher = Batcher(
        engine, max_batch_tokens=MAX_BATCH_TOKENS, max_queue_tokens=262_144, metrics=metrics, clock=loop.time
    )

    async def call(caller: Caller, size: int) -> None:
        came_s = loop.time()
        answered = at_once = late = left = 0
        try:
            async with asyncio.timeout(deadline_s):
                await batcher.submit(np.zeros(size, np.int32), came_s + deadline_s, 0, caller)
                answered = size
        except ScopewatchError:
            at_once, late = loop.time() == came_s, loop.time() > came_s
        except TimeoutError:
            left = 1
        if came_s > BEFORE_S:
            seen.answered[caller.name] += answered
            seen.refused_at_once += at_once
            seen.refused_later += late
            seen.left += left

    async def arrivals(caller: Caller, load: float, calls: asyncio.TaskGroup) -> None:
        dice = random.Random(caller.name)
        pause_s = sum(tokens) / 2 / (load * engine.peak_tokens_per_s)
        while loop.time() < SECONDS:
            calls.create_task(call(caller, dice.randint(*tokens)))
            await asyncio.sleep(dice.uniform(0, 2 * pause_s))

    def unwanted() -> float:
        return registry.get_sample_value("scopewatch_unwanted_pairs_total") or 0.0

    async with asyncio.TaskGroup() as calls:
        for caller, load in loads.items():
            calls.create_task(arrivals(caller, load, calls))
        await asyncio.sleep(BEFORE_S)
        before = unwanted()
    await batcher.close()
    seen.unwanted = unwanted() - before
    return seen


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("deadline_s", [2.0, 5.0])
@pytest.mark.parametrize("name", ENGINES)
class TestDeadlines:
    @pytest.mark.parametrize("tokens", [(20, 200), (200, 600)])
    def test_overload_costs_next_to_no_goodput(
        self, name: str, deadline_s: float, noise: float, tokens: tuple[int, int]
    ) -> None:
        """At five times the load nine tenths of what the engine can do is answered in time, and nothing else is read.

        Whoever is not answered learns so at once, but for a few whom slow batches before them made late.
        """
        engine = Engine(**ENGINES[name], noise=noise)

        seen = serve(engine, {ANYONE: 5.0}, deadline_s=deadline_s, tokens=tokens)

        goodput = sum(seen.answered.values()) / (SECONDS - BEFORE_S) / engine.peak_tokens_per_s
        assert goodput > 0.9
        assert (seen.left, seen.unwanted) == (0, 0)
        assert seen.refused_later < (0.05 if noise else 0.01) * seen.refused_at_once

    def test_nobody_is_refused_for_whom_there_is_time(self, name: str, deadline_s: float, noise: float) -> None:
        """At four fifths of the load everybody is answered in time."""
        engine = Engine(**ENGINES[name], noise=noise)

        seen = serve(engine, {ANYONE: 0.8}, deadline_s=deadline_s, tokens=(20, 200))

        assert (seen.refused_at_once, seen.refused_later, seen.left) == (0, 0, 0)
        assert sum(seen.answered.values()) > 0


@pytest.mark.parametrize("name", ENGINES)
class TestShares:
    def test_callers_share_by_weight(self, name: str) -> None:
        """Of two who ask for more than there is, one of three times the weight gets three times the tokens."""
        engine = Engine(**ENGINES[name])
        heavy, light = Caller("heavy", weight=3.0), Caller("light", weight=1.0)

        seen = serve(engine, {heavy: 3.0, light: 3.0}, deadline_s=5.0, tokens=(20, 200))

        assert seen.answered["heavy"] / seen.answered["light"] == pytest.approx(3, rel=0.15)

    def test_who_asks_for_little_is_not_hurt_by_who_asks_for_much(self, name: str) -> None:
        """A caller within its share is answered as if it were alone."""
        engine = Engine(**ENGINES[name])
        modest = Caller("modest")
        alone = serve(engine, {modest: 0.2}, deadline_s=5.0, tokens=(20, 200))

        seen = serve(Engine(**ENGINES[name]), {modest: 0.2, Caller("greedy"): 5.0}, deadline_s=5.0, tokens=(20, 200))

        assert seen.answered["modest"] == alone.answered["modest"]
