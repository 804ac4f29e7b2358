"""Batches made of tokens: takes what is there when the device is free, no timer, every caller answered."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf

from scopewatch.errors import DeadlineExpired, EngineDied, EngineError, NotReady, Overloaded, ScopewatchError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.lanes import Lanes, Waiting
from scopewatch.pipeline.lateness import Lateness, bounded
from scopewatch.pipeline.pace import Pace
from scopewatch.pipeline.timetable import Run, Timetable
from scopewatch.types import ANYONE, Caller, CoveredActivations, EncodedBatch, TokenIds

log = logging.getLogger(__name__)

Wanted = Callable[[int], bool]
"""Whether somebody still waits for the text at this place of a batch."""
Encode = Callable[[Sequence[TokenIds], Wanted], Awaitable[EncodedBatch]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The activations of one pair, and what they cost in seconds."""

    covered: CoveredActivations
    queue_s: float
    forward_s: float
    encode_s: float


@dataclass(slots=True, eq=False)
class _Entry(Waiting):
    """A pair that waits for the engine."""

    ids: TokenIds
    deadline_s: float
    future: asyncio.Future[Encoded]
    arrived_s: float


class Batcher:
    """Owns the queue between requests and the engine.

    A batch starts as soon as the engine is idle. While one runs, a second is handed over only if it is full: a
    part-filled one gains more by waiting for company than by being early. It is begun before those of the last batch
    are answered, and where all who wait stand before an idle engine, they are read in two halves, so that the engine
    reads while others are answered. Callers take turns by weight, see `Lanes`,
    and the pairs of a caller by call, see `Waiting.turn`. What cannot be read before its deadline is not begun.

    Args:
        encode: The engine: takes the token ids of a batch, gives its activations in the same order. Just before it
            reads a text it asks whether that is still wanted, and answers DeadlineExpired for one that is not.
        max_batch_tokens: The most tokens in one batch; a longer single pair still gets a batch of its own.
        max_queue_tokens: The most tokens that may wait; beyond it `submit` raises Overloaded.
        metrics: Counts the tokens that wait, the sizes of batches, and the pairs that are dropped.
        pace: Learns how long batches take, and predicts it.
        batch_ended: Is told of each batch that was read whether all its pairs failed.
        clock: Tells the time in seconds, monotonic; deadlines are on this clock.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        metrics: Metrics,
        pace: Pace | None = None,
        batch_ended: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encode = encode
        self._max_batch_tokens = max_batch_tokens
        self._metrics = metrics
        self._timetable = Timetable(pace or Pace(), max_batch_tokens, clock)
        self._batch_ended = batch_ended
        self._clock = clock
        self._lanes: Lanes[_Entry] = Lanes(max_queue_tokens)
        self._arrivals = count()
        self._changed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._lateness = Lateness(self._lanes, self._timetable, clock)
        self.refuse_late = self._lateness.refuse
        """Refuses a pair that would not be read before its deadline if it came now, see `Lateness.refuse`."""
        self._refusal: ScopewatchError | None = None
        self._scored, self._quiet_since_s = 0, -inf
        self._loop_task = asyncio.create_task(self._run(), name="batcher")

    @property
    def quiet_s(self) -> float:
        """For how many seconds no pair waited or was read, but for those that stand behind; 0 while one does."""
        return 0.0 if self._scored else self._clock() - self._quiet_since_s

    async def submit(
        self, ids: TokenIds, deadline_s: float | None = None, ahead_tokens: int = 0, caller: Caller = ANYONE
    ) -> Encoded:
        """Waits for a pair's activations.

        Args:
            ids: The token ids of the pair, shape (n_tokens,).
            deadline_s: When the caller stops waiting, on the batcher's clock; None for never.
            ahead_tokens: The number of tokens of the pairs before this one in the same call.
            caller: Whose pair it is.

        Raises:
            Overloaded: The queue is full, or too long for the deadline.
            DeadlineExpired: The deadline passed, or came too near, before the pair reached the device.
            EngineError: The engine failed on it, or died.
            NotReady: The batcher is closed.
        """
        if self._refusal:
            raise self._refusal
        turn = (self._lanes.taken_tokens(caller) + ahead_tokens, next(self._arrivals))
        future: asyncio.Future[Encoded] = asyncio.get_running_loop().create_future()
        latest_s = inf if deadline_s is None else deadline_s
        entry = _Entry(turn, len(ids), caller, ids, latest_s, future, self._clock())
        if latest_s <= self._clock():
            self._metrics.queue_dropped("deadline")
            raise _too_late()
        self._lateness.refuse_coming(entry, latest_s)
        put_out = self._lanes.make_room(caller, entry.tokens)
        if put_out is None:
            raise self._full()
        for other in put_out:
            self._answer([other], self._full())
            self._metrics.queue_dropped("displaced")
        self._lanes.add(entry)
        self._metrics.queue_tokens.set(self._lanes.tokens)
        self._changed.set()
        self._scored += not caller.behind
        try:
            return await future
        except asyncio.CancelledError:
            # A caller's place is given to others at once, and not only when the engine is free.
            if self._lanes.remove(entry):
                self._metrics.queue_tokens.set(self._lanes.tokens)
                self._metrics.queue_dropped("cancelled")
            raise
        finally:
            if not caller.behind:
                self._scored, self._quiet_since_s = self._scored - 1, self._clock()

    async def close(self, timeout_s: float = 3.0) -> None:
        """Answers everybody who waits, then stops.

        Args:
            timeout_s: How many seconds batches that run have to end; then their callers are told, too.
        """
        self._refuse(NotReady("the service is shutting down"))
        self._loop_task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        for task in self._running:
            task.cancel()
        await asyncio.gather(self._loop_task, *self._running, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            # Nobody is being answered, so that all who would keep the engine busy may be waiting here.
            parts = not self._timetable.running and self._timetable.worth_parting(self._lanes.tokens)
            self._start(most_tokens=self._lanes.tokens // 2 if parts else self._max_batch_tokens)

    def _start(self, most_tokens: int) -> None:
        """Hands the engine what it may have now, in batches of at most so many tokens."""
        while self._may_start() and (batch := self._next_batch(most_tokens)):
            run = self._timetable.begin(sum(entry.tokens for entry in batch))
            task = asyncio.create_task(self._run_batch(batch, run), name="batch")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _may_start(self) -> bool:
        running = self._timetable.running
        return not running or (running == 1 and self._lanes.tokens >= self._max_batch_tokens)

    def _next_batch(self, most_tokens: int) -> list[_Entry]:
        """The next entries that fit a number of tokens, and that one batch reads before the deadlines of all of them.

        Those nobody waits for, and those that cannot be read in time, are dropped on the way.
        """
        batch: list[_Entry] = []
        tokens, earliest_s, waiting_tokens = 0, inf, self._lanes.tokens
        while entry := self._lanes.first():
            full = bool(batch) and tokens + entry.tokens > most_tokens
            # Where it does not fit, it has to wait for those that do.
            more = tokens if full else tokens + entry.tokens
            if entry.future.done() or self._lateness.hopeless(entry.deadline_s, more, waiting_tokens, alone=not batch):
                self._lanes.remove(entry)
                if entry.future.done():
                    self._metrics.queue_dropped("cancelled")
                else:
                    self._metrics.queue_dropped("deadline")
                    self._answer([entry], _too_late())
                    self._lateness.dropped()
            elif full or (batch and not self._timetable.in_time(more, earliest_s)):
                break
            else:
                self._lanes.take(entry)
                self._lateness.taken()
                batch.append(entry)
                tokens, earliest_s = more, min(earliest_s, entry.deadline_s)
        self._metrics.queue_tokens.set(self._lanes.tokens)
        return batch

    async def _run_batch(self, batch: list[_Entry], run: Run) -> None:
        departed: dict[int, str] = {}

        def wanted(place: int) -> bool:
            """Asked on the engine's thread."""
            if reason := self._departed(batch[place]):
                departed[place] = reason
            return not reason

        try:
            encoded = await self._encode([entry.ids for entry in batch], wanted)
            if len(encoded.activations) != len(batch):
                raise EngineError(f"the engine answered {len(encoded.activations)} of {len(batch)} pairs")
        except BaseException as error:
            self._failed(batch, run, error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        read = [entry for place, entry in enumerate(batch) if place not in departed]
        read_tokens = sum(entry.tokens for entry in read)
        self._timetable.end(run, read_tokens, encoded.reused_tokens)
        # Before those of this batch are answered, which takes a while: the engine waits for nobody to be judged.
        self._start(self._max_batch_tokens)
        for reason in departed.values():
            self._metrics.queue_dropped(reason)
        if read:
            self._metrics.batch_encoded(len(read), read_tokens, encoded.reused_tokens, encoded.graph_tokens)
            self._metrics.unwanted_pairs(sum(bool(self._departed(entry)) for entry in read))
            self._batch_ended(all(isinstance(outcome, Exception) for outcome in encoded.activations))
        self._answer_each(batch, encoded, run.handed_s)

    def _failed(self, batch: list[_Entry], run: Run, error: BaseException) -> None:
        """Answers a batch of which the engine gave nothing."""
        self._timetable.end(run)
        if isinstance(error, asyncio.CancelledError):
            self._answer(batch, NotReady("the service is shutting down"))
        elif isinstance(error, EngineDied):
            self._answer(batch, error)
            self._refuse(error)
        else:
            log.error("a batch failed", exc_info=error)
            self._answer(batch, error if isinstance(error, ScopewatchError) else EngineError("the reader failed"))
            self._batch_ended(True)
        self._start(self._max_batch_tokens)

    def _answer_each(self, batch: list[_Entry], encoded: EncodedBatch, handed_s: float) -> None:
        for entry, outcome in zip(batch, encoded.activations, strict=True):
            if isinstance(outcome, Exception):
                self._answer([entry], outcome)
            elif not entry.future.done():
                covered = CoveredActivations(outcome, encoded.table)
                queue_s = handed_s - entry.arrived_s
                entry.future.set_result(Encoded(covered, queue_s, encoded.forward_s, encoded.encode_s))

    def _departed(self, entry: _Entry) -> str:
        """Why nobody waits for an entry; empty where somebody does."""
        if entry.future.done():
            return "cancelled"
        return "deadline" if self._clock() >= entry.deadline_s else ""

    def _answer(self, entries: Sequence[_Entry], error: Exception) -> None:
        for entry in entries:
            if not entry.future.done():
                entry.future.set_exception(error)

    def _refuse(self, error: ScopewatchError) -> None:
        """Fails everything queued, and everything submitted from now on."""
        self._refusal = error
        self._answer(self._lanes.clear(), error)
        self._metrics.queue_tokens.set(0)

    def _full(self) -> Overloaded:
        """Names the time until about half the queue is gone; a guess of a quarter second before any batch ran."""
        wait_s = 0.5 * self._timetable.wait_s(self._lanes.tokens) or 0.25
        return Overloaded("the queue is full; try again later", retry_after_s=bounded(wait_s))


def _too_late() -> DeadlineExpired:
    return DeadlineExpired("the deadline passed, or came too near, while the pair waited for the device")
