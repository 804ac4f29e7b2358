"""How long the device works on a part of a pass, told without waiting for it in between."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class DeviceClock:
    """Adds up device time.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        """Forgets what was added up."""
        self._laps: list[tuple[Any, Any, float]] = []

    @contextmanager
    def lap(self, share: float = 1.0) -> Iterator[None]:
        """Adds the device time of what runs in the `with` block.

        Args:
            share: The share of that time that counts.
        """
        start = self._mark()
        yield
        self._laps.append((start, self._mark(), share))

    def timing(self, work: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        """The same work, whose device time is added each time."""

        def timed(x: torch.Tensor) -> torch.Tensor:
            with self.lap():
                return work(x)

        return timed

    def total_s(self) -> float:
        """The sum in seconds, when the device has done all of it."""
        if not self._on_gpu:
            return float(sum(share * (end - start) for start, end, share in self._laps))
        torch.cuda.synchronize(self._device)
        return float(sum(share * start.elapsed_time(end) for start, end, share in self._laps)) / 1000

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
