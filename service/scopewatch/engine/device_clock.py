"""Device time, which passes while the host has long gone on."""

import time
from typing import Any

import torch


class DeviceClock:
    """Adds up the device time spent inside `with` blocks."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        self._laps: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._start = self._mark()

    def __exit__(self, *_: object) -> None:
        self._laps.append((self._start, self._mark()))

    def total_s(self) -> float:
        if not self._on_gpu:
            return float(sum(end - start for start, end in self._laps))
        torch.cuda.synchronize(self._device)
        return float(sum(start.elapsed_time(end) for start, end in self._laps)) / 1000

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
