"""A thread that writes what others hand it, so that nobody waits for a disk who does not want to."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
_TEND_S = 60.0
"""How often files are tended to when nothing is written."""


class Writer(Generic[Item]):
    """Takes items on any thread and writes them on its own, in the order in which they came, several at a time.

    Args:
        name: The thread's name.
        write: Writes items; what it raises is logged, and the items are lost.
        tend: Is called after every write, and every minute.
        most: The largest total size of the items that wait.
    """

    def __init__(self, name: str, write: Callable[[Sequence[Item]], None], tend: Callable[[], None], most: int) -> None:
        self._write = write
        self._tend = tend
        self._most = most
        self._changed = threading.Condition()
        self._waiting: list[Item] = []
        self._size = 0
        self._closed = False
        # A disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item, size: int = 1) -> bool:
        """Hands over an item.

        Returns:
            Whether there is room for it; never after `close`.
        """
        with self._changed:
            if self._closed or self._size + size > self._most:
                return False
            self._waiting.append(item)
            self._size += size
            self._changed.notify_all()
            return True

    def wait(self, timeout_s: float) -> None:
        """Waits until all that was handed over is written, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Takes nothing more, and waits until all is written.

        Returns:
            Whether it is; False where the disk takes longer.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed, _TEND_S)
                items, size = self._waiting, self._size
                self._waiting = []
                last = self._closed
            try:
                if items:
                    self._write(items)
                self._tend()
            except Exception:
                log.exception("unexpected failure of a writer")
            with self._changed:
                # What is being written still takes up memory.
                self._size -= size
                self._changed.notify_all()
                if last:
                    return
