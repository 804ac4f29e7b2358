"""An event loop whose clock moves only when nothing else is left to do, so that hours of waiting take no time."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTime(asyncio.SelectorEventLoop):
    """Sleeps are exact and cost nothing; nothing may come from outside."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        really = selector.select

        def select(timeout_s: float | None = None) -> list[Any]:
            assert timeout_s is not None, "everybody waits for somebody else"
            self._now_s += timeout_s
            return really(0)

        selector.select = select

    def time(self) -> float:
        return self._now_s

    def work(self, seconds: float) -> None:
        """Lets time pass as it does while a callback computes: nothing else runs on the loop."""
        self._now_s += seconds


def in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end by a clock of its own."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(main)
