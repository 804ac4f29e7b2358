"""Whether the engine runs: shown once before the first caller comes, and asked again when it seems not to."""

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from scopewatch.engine.worker import Worker
from scopewatch.errors import EngineError
from scopewatch.pipeline.pace import Pace
from scopewatch.types import EncodedBatch

if TYPE_CHECKING:
    from scopewatch.engine.build import Engine

_SHORT_TOKENS = 64


async def warm_up(worker: Worker, engine: "Engine", pace: Pace) -> None:
    """Runs the largest batch there can be, so that memory and kernels are settled before the first caller comes.

    On a CPU nothing is there to be settled, so one short text only shows that the engine runs.
    """
    on_cpu = engine.identity.reader.device == "cpu"
    tokens = min(engine.max_tokens, _SHORT_TOKENS) if on_cpu else engine.max_tokens
    count = 1 if on_cpu else max(1, engine.max_batch_tokens // tokens)
    # No two begin alike, nor as those that measured memory: what they shared would be read once.
    batch = [np.full(tokens, 10 + number, np.int32) for number in range(count)]
    # On a GPU of two lengths, since kernels are compiled again, once, for lengths that vary.
    for texts in [batch] if on_cpu else [batch, [np.full(max(1, tokens // 2), 9, np.int32)]]:
        began_s = time.monotonic()
        # Not as a batch: kernels take their time to compile.
        _check(await worker.run(partial(engine.runner, texts)), "warm-up")
        pace.warmed_up(sum(map(len, texts)), time.monotonic() - began_s)
    if not on_cpu:
        most_tokens = max(engine.max_tokens, engine.max_batch_tokens)
        await worker.run(partial(engine.runner.weigh_reuse, max_tokens=engine.max_tokens, most_tokens=most_tokens))


async def probe(worker: Worker, engine: "Engine") -> None:
    """Has the engine read a text that any reader can read, unlike those of the warm-up."""
    _check(await worker.encode([np.full(min(engine.max_tokens, _SHORT_TOKENS), 8, np.int32)]), "the probe")


def _check(encoded: EncodedBatch, what: str) -> None:
    for outcome in encoded.activations:
        if isinstance(outcome, Exception):
            raise EngineError(f"{what} failed: {outcome}; if memory ran out, lower max_batch_tokens")
