"""The engine's thread: jobs in, answers out, and nobody left waiting when it dies or hangs."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from scopewatch.errors import DeadlineExpired, EngineDied
from scopewatch.types import Activations, EncodedBatch, TokenIds

log = logging.getLogger(__name__)

T = TypeVar("T")
Batch = Sequence[TokenIds]
Run = Callable[[Batch], EncodedBatch]
Wanted = Callable[[int], bool]
"""Whether somebody still waits for the text at this place of a batch."""

_LOOK_S = 0.25
"""How often the running batch is looked at."""


class _Job(NamedTuple):
    work: Callable[[], Any]
    answer: Future[Any]
    tokens: int
    """The number of tokens that are read, which may take only so long; 0 of jobs that may take any time."""


class Worker:
    """Runs jobs one after another, in the order they came, on a daemon thread: the only one that runs the reader.

    A batch that takes too long is the engine's death, since nothing ends a thread that hangs: whoever waits is told so.

    Args:
        run: The synchronous engine, for `encode`.
        on_death: Called once, on a thread of the worker's, when the engine dies of anything but `stop`.
        longest_s: The most seconds that a batch of so many tokens may take; without it there is no bound.
    """

    def __init__(
        self, run: Run, on_death: Callable[[EngineDied], None], longest_s: Callable[[int], float] | None = None
    ) -> None:
        self._run = run
        self._on_death = on_death
        self._longest_s = longest_s
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._death: EngineDied | None = None
        self._closed = threading.Event()
        self._running: tuple[_Job, float] | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()
        if longest_s:
            threading.Thread(target=self._watch, args=(longest_s,), name="watchdog", daemon=True).start()

    async def encode(self, batch: Batch, wanted: Wanted = lambda _: True) -> EncodedBatch:
        """Waits for a batch's activations.

        Args:
            batch: The token ids of each text.
            wanted: Asked, on the engine's thread, for each text just before the batch is read. A text that is not
                wanted any more is not read, and has DeadlineExpired for its activations.

        Raises:
            EngineDied: The engine is dead, or dies while this waits.
        """
        return await self._ask(partial(_encode, self._run, batch, wanted), sum(map(len, batch)))

    async def run(self, job: Callable[[], T], tokens: int = 0) -> T:
        """Waits for what a job returns, which runs between batches and may use the reader.

        What it raises, it raises here and nobody else hears of it, unless it is EngineDied or no `Exception` at all: of
        those the engine dies.

        Args:
            job: The job.
            tokens: It may take as long as a batch of so many tokens; 0 for any time.

        Raises:
            EngineDied: The engine is dead, or dies while this waits.
        """
        return await self._ask(job, tokens)

    async def _ask(self, work: Callable[[], T], tokens: int) -> T:
        answer: Future[T] = Future()
        with self._door:
            if self._death:
                raise self._death
            self._inbox.put(_Job(work, answer, tokens))
        return await asyncio.wrap_future(answer)

    def stop(self, timeout_s: float = 3.0) -> None:
        """Lets the running job finish, then ends the thread.

        Args:
            timeout_s: How many seconds the job has; one that takes longer is left behind, and who waits for it is told.
        """
        self._inbox.put(None)
        self._thread.join(timeout_s)
        self._close(EngineDied("the engine has stopped"))

    def _loop(self) -> None:
        try:
            while (job := self._inbox.get()) is not None:
                if job.answer.set_running_or_notify_cancel():
                    self._running = job, time.monotonic()
                    self._answer(job)
                    self._running = None
                # Else a job's result would stay alive until the next one comes.
                del job
            self._close(EngineDied("the engine has stopped"))
        except BaseException as cause:
            log.critical("the engine died", exc_info=cause)
            self._die(cause if isinstance(cause, EngineDied) else _death_of(cause))

    def _answer(self, job: _Job) -> None:
        try:
            result = job.work()
        except EngineDied as error:
            self._settle(job, error=error)
            raise
        except Exception as error:
            self._settle(job, error=error)
        except BaseException as error:
            self._settle(job, error=_death_of(error))
            raise
        else:
            self._settle(job, result)

    def _settle(self, job: _Job, result: object = None, error: BaseException | None = None) -> None:
        """Answers a job, unless that was done when it took too long."""
        with self._door:
            if not job.answer.done():
                job.answer.set_exception(error) if error else job.answer.set_result(result)

    def _watch(self, longest_s: Callable[[int], float]) -> None:
        while not self._closed.wait(_LOOK_S):
            self._look(longest_s)

    def _look(self, longest_s: Callable[[int], float]) -> None:
        """Ends the engine when the running batch takes longer than it may."""
        running = self._running
        if not running or not running[0].tokens:
            return
        tokens, seconds = running[0].tokens, time.monotonic() - running[1]
        # Meanwhile it may have ended.
        if seconds > (most_s := longest_s(tokens)) and running is self._running:
            log.critical("the engine hangs", extra={"tokens": tokens, "seconds": round(seconds, 1)})
            self._die(EngineDied(f"the engine hangs: a batch of {tokens} tokens took more than {most_s:.1f} s"))

    def _die(self, death: EngineDied) -> None:
        if self._close(death):
            self._on_death(death)

    def _close(self, death: EngineDied) -> bool:
        """Answers all who wait and shuts the door; whether it was open. The lock leaves no gap between the two."""
        with self._door:
            if self._death:
                return False
            self._death = death
            waiting = [self._running[0]] if self._running else []
            while not self._inbox.empty():
                if (job := self._inbox.get()) and job.answer.set_running_or_notify_cancel():
                    waiting.append(job)
            for job in waiting:
                if not job.answer.done():
                    job.answer.set_exception(death)
        # The thread ends, should it ever come back.
        self._inbox.put(None)
        self._closed.set()
        return True


def _death_of(cause: BaseException) -> EngineDied:
    return EngineDied(f"the engine died of {type(cause).__name__}")


def _encode(run: Run, batch: Batch, wanted: Wanted) -> EncodedBatch:
    """Reads those texts of a batch that are wanted."""
    places = [place for place in range(len(batch)) if wanted(place)]
    if len(places) == len(batch):
        return run(batch)
    outcomes: list[Activations | Exception] = [DeadlineExpired("nobody waits for this pair any more") for _ in batch]
    if not places:
        return EncodedBatch(outcomes, 0.0, 0.0)
    encoded = run([batch[place] for place in places])
    for place, outcome in zip(places, encoded.activations, strict=True):
        outcomes[place] = outcome
    return replace(encoded, activations=outcomes)
