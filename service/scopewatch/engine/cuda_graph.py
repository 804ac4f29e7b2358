"""CUDA graphs: work that the device does again and again by one launch.

What the work is made of was decided when it was recorded: a replay runs the same kernels on the same memory, whatever
Python would do now. So the work reads tensors that are filled anew before each replay, and leaves its results in
tensors that the next replay overwrites.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Recorded(Generic[T]):
    """Work that was recorded, and not yet done."""

    result: T
    """What the work returned; its tensors hold the results of the last replay."""
    replay: Callable[[], None]
    """Does the work on what its inputs hold now."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device's memory at one time."""

    free_bytes: int
    """What nobody holds."""
    idle_bytes: int
    """What this process holds and no tensor uses."""


class Recorder(Protocol):
    """Records work on a device."""

    def record(self, work: Callable[[], T]) -> Recorded[T]:
        """Records what the work would do.

        Raises:
            Exception: The work cannot be recorded: it waits for the device, or memory ran out.
        """
        ...

    def restart(self) -> None:
        """What is recorded from now on shares no memory with what was recorded before, which may be gone."""
        ...

    def memory(self) -> DeviceMemory:
        """The memory of the device, once all is given back that no graph needs."""
        ...


class CudaRecorder:
    """Records work as CUDA graphs, which take their memory from one pool: only one of them runs at a time.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()
        # One for all, without which they would not share the pool's memory.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], T]) -> Recorded[T]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            before = torch.cuda.current_stream()
            try:
                # Other threads may use the device meanwhile: to load what will be watched, say.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    result = work()
            finally:
                # Where the recording fails torch stays on its stream.
                torch.cuda.set_stream(before)
        return Recorded(result, graph.replay)

    def restart(self) -> None:
        """See `Recorder`."""
        # torch takes a pool whose graphs are gone for a mistake.
        self._pool = torch.cuda.graph_pool_handle()

    def memory(self) -> DeviceMemory:
        """See `Recorder`."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self._device)
        return DeviceMemory(free, torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device))
