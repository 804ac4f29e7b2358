"""The engine's thread: jobs in, answers out, and nobody left waiting when it dies."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from scopewatch.errors import EngineDied
from scopewatch.types import EncodedBatch, TokenIds

log = logging.getLogger(__name__)

T = TypeVar("T")
Batch = Sequence[TokenIds]
Run = Callable[[Batch], EncodedBatch]


class Worker:
    """Runs jobs one after another, in the order they came, on a daemon thread: the only one that runs the reader.

    Args:
        run: The synchronous engine, for `encode`.
        on_death: Called once, on the engine's thread, when it dies of anything but `stop`.
    """

    def __init__(self, run: Run, on_death: Callable[[EngineDied], None]) -> None:
        self._run = run
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._death: EngineDied | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    async def encode(self, batch: Batch) -> EncodedBatch:
        """Waits for a batch's activations.

        Raises:
            EngineDied: The engine is dead, or dies while this waits.
        """
        return await self.run(partial(self._run, batch))

    async def run(self, job: Callable[[], T]) -> T:
        """Waits for what a job returns, which runs between batches and may use the reader.

        What it raises, it raises here and nobody else hears of it, unless it is EngineDied or no `Exception` at all: of
        those the engine dies.

        Raises:
            EngineDied: The engine is dead, or dies while this waits.
        """
        answer: Future[T] = Future()
        with self._door:
            if self._death:
                raise self._death
            self._inbox.put((job, answer))
        return await asyncio.wrap_future(answer)

    def stop(self) -> None:
        """Lets the running job finish, then ends the thread."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    def _loop(self) -> None:
        try:
            while (entry := self._inbox.get()) is not None:
                job, answer = entry
                if answer.set_running_or_notify_cancel():
                    _answer(job, answer)
                # Else a job's result would stay alive until the next one comes.
                del entry, job, answer
            self._close(EngineDied("the engine has stopped"))
        except BaseException as cause:
            log.critical("the engine died", exc_info=cause)
            death = cause if isinstance(cause, EngineDied) else EngineDied(f"the engine died of {type(cause).__name__}")
            self._close(death)
            self._on_death(death)

    def _close(self, death: EngineDied) -> None:
        """Answers whatever is in the inbox and shuts the door; the lock leaves no gap between the two."""
        with self._door:
            self._death = death
            while not self._inbox.empty():
                if (entry := self._inbox.get()) and entry[1].set_running_or_notify_cancel():
                    entry[1].set_exception(death)


def _answer(job: Callable[[], T], answer: Future[T]) -> None:
    try:
        result = job()
    except EngineDied as error:
        answer.set_exception(error)
        raise
    except Exception as error:
        answer.set_exception(error)
    except BaseException as error:
        answer.set_exception(EngineDied(f"the engine died of {type(error).__name__}"))
        raise
    else:
        answer.set_result(result)
