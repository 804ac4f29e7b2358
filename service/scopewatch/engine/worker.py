"""The engine on its own thread: batches in, answers out, and nobody left waiting when it dies."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import EngineDied
from scopewatch.types import EncodedBatch

log = logging.getLogger(__name__)

Batch = Sequence[NDArray[np.int32]]
Run = Callable[[Batch], EncodedBatch]


class EngineThread:
    """Runs batches one after another on a daemon thread.

    Args:
        run: The synchronous engine.
        on_death: Called once, on the engine's thread, when it dies of anything but `stop`.
    """

    def __init__(self, run: Run, on_death: Callable[[EngineDied], None]) -> None:
        self._run = run
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[tuple[Batch, Future[EncodedBatch]] | None] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._death: EngineDied | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    async def encode(self, batch: Batch) -> EncodedBatch:
        """Waits for a batch's activations.

        Raises:
            EngineDied: The engine is dead, or dies while this waits.
        """
        answer: Future[EncodedBatch] = Future()
        with self._door:
            if self._death:
                raise self._death
            self._inbox.put((batch, answer))
        return await asyncio.wrap_future(answer)

    def stop(self) -> None:
        """Lets the running batch finish, then ends the thread."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    def _loop(self) -> None:
        try:
            while (job := self._inbox.get()) is not None:
                batch, answer = job
                if answer.set_running_or_notify_cancel():
                    self._answer(batch, answer)
            self._close(EngineDied("the engine has stopped"))
        except BaseException as cause:
            log.critical("the engine died", exc_info=cause)
            death = cause if isinstance(cause, EngineDied) else EngineDied(f"the engine died of {type(cause).__name__}")
            self._close(death)
            self._on_death(death)

    def _answer(self, batch: Batch, answer: Future[EncodedBatch]) -> None:
        try:
            encoded = self._run(batch)
        except EngineDied as error:
            answer.set_exception(error)
            raise
        except Exception as error:
            answer.set_exception(error)
        except BaseException as error:
            answer.set_exception(EngineDied(f"the engine died of {type(error).__name__}"))
            raise
        else:
            answer.set_result(encoded)

    def _close(self, death: EngineDied) -> None:
        """Answers whatever is in the inbox and shuts the door; the lock leaves no gap between the two."""
        with self._door:
            self._death = death
            while not self._inbox.empty():
                if (job := self._inbox.get()) and job[1].set_running_or_notify_cancel():
                    job[1].set_exception(death)
