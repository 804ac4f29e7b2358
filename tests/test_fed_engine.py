"""The engine is kept busy by callers in a closed loop, although the event loop takes its time for each of their pairs."""

import asyncio

import numpy as np

from conftest import activations
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Batcher, Wanted
from scopewatch.types import EncodedBatch
from virtual_time import VirtualTime

_CALLERS, _SECONDS = 64, 5.0
_BATCH_S, _TOKEN_S = 0.002, 1e-5
_TOKENS = 150
_BEFORE_S, _BEHIND_S = 0.0004, 0.0006
"""What the event loop works at a pair before it is submitted, and to judge and answer it."""


class Device:
    """An engine that computes beside the event loop, batch after batch."""

    def __init__(self, loop: VirtualTime) -> None:
        self._loop = loop
        self._free_s = 0.0
        self.busy_s = 0.0

    async def __call__(self, batch: list[np.ndarray], _wanted: Wanted) -> EncodedBatch:
        took_s = _BATCH_S + _TOKEN_S * sum(map(len, batch))
        self._free_s = max(self._loop.time(), self._free_s) + took_s
        self.busy_s += took_s
        await self._until(self._free_s)
        return EncodedBatch([activations(len(ids)) for ids in batch], took_s, 0.0)

    async def _until(self, when_s: float) -> None:
        ended = self._loop.create_future()
        self._loop.call_at(when_s, ended.set_result, None)
        await ended


def test_the_engine_does_not_wait_while_those_of_its_last_batch_are_answered() -> None:
    """64 callers keep an engine busy that is slower than the event loop, though each batch takes a while to answer."""
    loop = VirtualTime()
    device = Device(loop)

    async def caller(batcher: Batcher) -> None:
        while loop.time() < _SECONDS:
            loop.work(_BEFORE_S)
            await batcher.submit(np.zeros(_TOKENS, np.int32))
            loop.work(_BEHIND_S)
            await asyncio.sleep(0)

    async def main() -> None:
        batcher = Batcher(device, max_batch_tokens=16_384, max_queue_tokens=1 << 20, metrics=Metrics(), clock=loop.time)
        await asyncio.gather(*(caller(batcher) for _ in range(_CALLERS)))
        await batcher.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    assert device.busy_s > 0.95 * loop.time()
