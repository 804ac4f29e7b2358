"""A recorder of passes without a GPU: all that Python decides is frozen, as a CUDA graph freezes it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from scopewatch.engine.cuda_graph import DeviceMemory, Recorded

T = TypeVar("T")

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique", "item")
"""Operators that a graph cannot record, since the host waits for what they find."""
FROM_HOST = ("lift_fresh",)
"""Operators that take numbers of the host's, which a graph would take from memory that is long gone."""


@dataclass(frozen=True)
class _Step:
    """One operator on its tensors."""

    run: Callable[[], Any]
    outputs: dict[int, torch.Tensor]
    """By their place, those that hold memory of their own; others are parts of inputs, or inputs changed in place."""


class Launches(TorchDispatchMode):
    """Counts operators that compute or move something, each of which a GPU launches."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: object, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _writes(func, args, kwargs, out):
            self.names.append(str(func))
        return out


class _Writing(TorchDispatchMode):
    def __init__(self, steps: list[_Step]) -> None:
        super().__init__()
        self._steps = steps

    def __torch_dispatch__(self, func: Any, _types: object, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        if name in WAITS + FROM_HOST:
            raise RuntimeError(f"operation not permitted while a pass is recorded: {name}")
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if _writes(func, args, kwargs, out):
            self._steps.append(_Step(lambda: func(*args, **kwargs), _own(args, kwargs, out)))
        return out


@dataclass
class FrozenRecorder:
    """Records operators with the tensors that they ran on, and runs them again on the same memory.

    Nothing of a result is there before the first replay, as with a graph.
    """

    fails_at: set[int] = field(default_factory=set)
    """Which of its recordings fail, counted from 0."""
    takes_bytes: int = 0
    """Memory that each recording takes."""
    idles_bytes: int = 0
    """Memory that each recording holds and no tensor uses."""
    free_bytes: int = 1 << 30
    idle_bytes: int = 0
    recordings: int = 0
    replays: int = 0
    restarts: int = 0

    def record(self, work: Callable[[], T]) -> Recorded[T]:
        number, self.recordings = self.recordings, self.recordings + 1
        if number in self.fails_at:
            raise RuntimeError("out of memory\nand more")
        steps: list[_Step] = []
        nothing = mock.Mock(side_effect=RuntimeError("an array of the host while a pass is recorded"))
        with mock.patch("torch.from_numpy", nothing), _Writing(steps):
            result = work()
        for step in steps:
            for output in step.outputs.values():
                output.fill_(torch.nan if output.is_floating_point() else 0)
        self.free_bytes -= self.takes_bytes
        self.idle_bytes += self.idles_bytes
        return Recorded(result, lambda: self._replay(steps))

    def _replay(self, steps: list[_Step]) -> None:
        self.replays += 1
        with _disable_current_modes():
            for step in steps:
                again = tree_leaves(step.run())
                for place, output in step.outputs.items():
                    output.copy_(again[place])

    def restart(self) -> None:
        self.restarts += 1

    def memory(self) -> DeviceMemory:
        return DeviceMemory(self.free_bytes, self.idle_bytes)


def _writes(func: Any, args: Any, kwargs: Any, out: Any) -> bool:
    """Whether an operator computes anything, rather than giving a part of what there is."""
    return func._schema.is_mutable or bool(_own(args, kwargs, out))


def _own(args: Any, kwargs: Any, out: Any) -> dict[int, torch.Tensor]:
    """By their place, the outputs that share no memory with an input."""
    given = {_memory(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
    return {
        place: tensor
        for place, tensor in enumerate(tree_leaves(out))
        if isinstance(tensor, torch.Tensor) and _memory(tensor) not in given
    }


def _memory(tensor: torch.Tensor) -> int:
    return id(tensor) if tensor.layout == torch._mkldnn else tensor.untyped_storage().data_ptr() or id(tensor)
