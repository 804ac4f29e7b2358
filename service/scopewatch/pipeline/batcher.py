"""Batches made of tokens: takes what is there when the device is free, no timer, every caller answered."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count

from scopewatch.errors import DeadlineExpired, EngineDied, EngineError, NotReady, Overloaded, ScopewatchError
from scopewatch.metrics import Metrics
from scopewatch.types import CoveredActivations, EncodedBatch, TokenIds

log = logging.getLogger(__name__)

Encode = Callable[[Sequence[TokenIds]], Awaitable[EncodedBatch]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The activations of one pair, and what they cost in seconds."""

    covered: CoveredActivations
    queue_s: float
    forward_s: float
    encode_s: float


@dataclass(slots=True, order=True)
class _Entry:
    """A pair that waits for the engine."""

    turn: tuple[int, int]
    """The number of tokens that the engine had taken when the pair came, plus those ahead of it in its own call; then
    the order of arrival. So a large call lets others in between its pairs, and no stream of other calls holds up a pair
    for longer than its own call would take alone."""
    ids: TokenIds = field(compare=False)
    deadline_s: float | None = field(compare=False)
    future: asyncio.Future[Encoded] = field(compare=False)
    arrived_s: float = field(compare=False)


class Batcher:
    """Owns the queue between requests and the engine.

    A batch starts as soon as the engine is idle. While one runs, a second is handed over only if it is full: a
    part-filled one gains more by waiting for company than by being early. Pairs take turns by call, see `_Entry.turn`.

    Args:
        encode: The engine: takes the token ids of a batch, gives its activations in the same order.
        max_batch_tokens: The most tokens in one batch; a longer single pair still gets a batch of its own.
        max_queue_tokens: The most tokens that may wait; beyond it `submit` raises Overloaded.
        metrics: Counts the tokens that wait, the sizes of batches, and the pairs that are dropped.
        clock: Tells the time in seconds, monotonic; deadlines are on this clock.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encode = encode
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_tokens = max_queue_tokens
        self._metrics = metrics
        self._clock = clock
        self._queue: list[_Entry] = []
        self._arrivals = count()
        self._taken_tokens = 0
        self._queued_tokens = 0
        self._changed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._tokens_per_s = 0.0
        self._refusal: ScopewatchError | None = None
        self._loop_task = asyncio.create_task(self._run(), name="batcher")

    async def submit(self, ids: TokenIds, deadline_s: float | None = None, ahead_tokens: int = 0) -> Encoded:
        """Waits for a pair's activations.

        Args:
            ids: The token ids of the pair, shape (n_tokens,).
            deadline_s: When the caller stops waiting, on the batcher's clock; None for never.
            ahead_tokens: The number of tokens of the pairs before this one in the same call.

        Raises:
            Overloaded: The queue is full.
            DeadlineExpired: The deadline passed before the pair reached the device.
            EngineError: The engine failed on it, or died.
            NotReady: The batcher is closed.
        """
        if self._refusal:
            raise self._refusal
        if self._queued_tokens + len(ids) > self._max_queue_tokens and self._queue:
            raise Overloaded("the queue is full; try again later", retry_after_s=self._wait_estimate_s())
        turn = (self._taken_tokens + ahead_tokens, next(self._arrivals))
        entry = _Entry(turn, ids, deadline_s, asyncio.get_running_loop().create_future(), self._clock())
        heappush(self._queue, entry)
        self._count_queued(len(ids))
        self._changed.set()
        try:
            return await entry.future
        except asyncio.CancelledError:
            self._leave(entry)
            raise

    async def close(self) -> None:
        """Answers everybody who waits, then stops. Running batches are awaited."""
        self._refuse(NotReady("the service is shutting down"))
        self._loop_task.cancel()
        await asyncio.gather(self._loop_task, *self._running, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._may_start() and (batch := self._next_batch()):
                task = asyncio.create_task(self._run_batch(batch), name="batch")
                self._running.add(task)
                task.add_done_callback(self._batch_done)

    def _may_start(self) -> bool:
        return not self._running or (len(self._running) == 1 and self._queued_tokens >= self._max_batch_tokens)

    def _batch_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._changed.set()

    def _next_batch(self) -> list[_Entry]:
        """The next entries that fit the token budget; those nobody waits for are dropped on the way."""
        batch: list[_Entry] = []
        tokens = 0
        while self._queue:
            entry = self._queue[0]
            if reason := self._departed(entry):
                self._metrics.queue_dropped(reason)
            elif batch and tokens + len(entry.ids) > self._max_batch_tokens:
                break
            else:
                batch.append(entry)
                tokens += len(entry.ids)
            heappop(self._queue)
            self._count_queued(-len(entry.ids))
        self._taken_tokens += tokens
        return batch

    def _leave(self, entry: _Entry) -> None:
        """Gives a caller's place to others at once, and not only when the engine is free."""
        try:
            self._queue.remove(entry)
        except ValueError:
            return
        heapify(self._queue)
        self._count_queued(-len(entry.ids))
        self._metrics.queue_dropped("cancelled")

    def _departed(self, entry: _Entry) -> str:
        if entry.future.done():
            return "cancelled"
        if entry.deadline_s is not None and self._clock() >= entry.deadline_s:
            entry.future.set_exception(DeadlineExpired("the deadline passed while the pair waited for the device"))
            return "deadline"
        return ""

    async def _run_batch(self, batch: list[_Entry]) -> None:
        started_s = self._clock()
        try:
            encoded = await self._encode([entry.ids for entry in batch])
            if len(encoded.activations) != len(batch):
                raise EngineError(f"the engine answered {len(encoded.activations)} of {len(batch)} pairs")
        except EngineDied as error:
            self._answer(batch, error)
            self._refuse(error)
        except Exception as error:
            log.exception("a batch failed")
            self._answer(batch, error if isinstance(error, ScopewatchError) else EngineError("the reader failed"))
        else:
            for entry, outcome in zip(batch, encoded.activations, strict=True):
                if isinstance(outcome, Exception):
                    self._answer([entry], outcome)
                elif not entry.future.done():
                    queue_s = started_s - entry.arrived_s
                    covered = CoveredActivations(outcome, encoded.table)
                    entry.future.set_result(Encoded(covered, queue_s, encoded.forward_s, encoded.encode_s))
            tokens = sum(len(entry.ids) for entry in batch)
            self._learn_speed(tokens, self._clock() - started_s)
            self._metrics.batch_encoded(len(batch), tokens, encoded.reused_tokens)

    def _answer(self, entries: Sequence[_Entry], error: Exception) -> None:
        for entry in entries:
            if not entry.future.done():
                entry.future.set_exception(error)

    def _refuse(self, error: ScopewatchError) -> None:
        """Fails everything queued, and everything submitted from now on."""
        self._refusal = error
        self._answer(list(self._queue), error)
        self._queue.clear()
        self._count_queued(-self._queued_tokens)

    def _count_queued(self, tokens: int) -> None:
        self._queued_tokens += tokens
        self._metrics.queue_tokens.set(self._queued_tokens)

    def _learn_speed(self, tokens: int, seconds: float) -> None:
        speed = tokens / max(seconds, 1e-6)
        self._tokens_per_s = 0.8 * self._tokens_per_s + 0.2 * speed if self._tokens_per_s else speed

    def _wait_estimate_s(self) -> float:
        """Time until about half the queue is gone; a guess of a quarter second before any batch ran."""
        if not self._tokens_per_s:
            return 0.25
        return min(max(0.5 * self._queued_tokens / self._tokens_per_s, 0.05), 10.0)
