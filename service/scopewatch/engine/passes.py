"""Forward passes: texts packed into a row, read by the reader, and what its hookpoints gave meanwhile."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray

from scopewatch.engine.layout import Arrays, on_device
from scopewatch.errors import EngineDied
from scopewatch.reader.hookpoints import EMBEDDING, Change, Hookpoint, edit, tap
from scopewatch.reader.loading import Reader
from scopewatch.reader.packing import Packing, Room
from scopewatch.reader.pages import PagePool
from scopewatch.reader.prefixes import Reading

T = TypeVar("T")
R = TypeVar("R")

Tap = Callable[[torch.Tensor], torch.Tensor]
"""What becomes of a hookpoint's activations, shape (1, tokens, width), while the pass still runs."""

_IDS = "ids of the row"
_POSITIONS = "positions of the row"

ROW_TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Most tokens of one forward pass: on a CPU, as many as its caches hold the activations of."""


@dataclass(frozen=True, slots=True)
class Row:
    """One forward pass."""

    packing: Packing
    ids: torch.Tensor
    """Token ids on the reader's device; shape (tokens,), like all of the row with what fills it up."""
    states: torch.Tensor
    """The stream after the reader's last norm, shape (tokens, d), behind the deepest layer that ran."""
    tapped: Mapping[Hookpoint, torch.Tensor]
    """What each tap made of its hookpoint's activations, without the leading 1."""


class Passes:
    """Runs a reader's forward passes; several of these may stand on one reader.

    Taps are attached to the reader for their own pass only. So nothing outlives a pass but what it returns, and no pass
    pays for what another one wants to know.

    Args:
        reader: The reader, loaded down to the deepest hookpoint that will be tapped.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(
        self,
        readings: Sequence[Reading],
        taps: Mapping[Hookpoint, Tap],
        *,
        pool: PagePool | None = None,
        edits: Mapping[Hookpoint, Change] | None = None,
        whole: bool = False,
        filled: int | None = None,
    ) -> Row:
        """Reads texts in one pass, down to the deepest tap.

        Args:
            readings: The texts, each behind the beginnings that it goes on from; at least one.
            taps: By hookpoint, what is done with its activations.
            pool: Where known blocks of the texts lie, and where their wanted ones are kept.
            edits: By hookpoint, what flows on there in place of its activations; taps see what was changed.
            whole: Whether every layer that is loaded runs, however deep the taps are.
            filled: The row's length, if it has that many tokens at most; without it, as the attention likes it.

        Raises:
            SaeError: The reader has no such hookpoint, or nothing can be replaced there.
        """
        packing = self.pack(readings, pool=pool, filled=filled)
        packing.inputs = on_device(self.arrays(packing) or {}, self._reader.device)
        return self.run(packing, taps, edits=edits, whole=whole)

    def pack(self, readings: Sequence[Reading], *, pool: PagePool | None = None, filled: int | None = None) -> Packing:
        """Lays texts out in a row.

        Args:
            readings: The texts, each behind the beginnings that it goes on from; at least one.
            pool: Where known blocks of the texts lie, and where their wanted ones are kept.
            filled: The row's length, if it has that many tokens at most; without it, as the attention likes it.
        """
        return Packing(readings, multiple=filled or self._reader.attention.multiple, pool=pool)

    def arrays(self, packing: Packing, room: Room | None = None) -> Arrays | None:
        """All that a pass over a row needs on the device, by the names that `run` knows.

        Args:
            packing: The row.
            room: Where it is given, the arrays' shapes depend on it and on the row's length alone.

        Returns:
            The arrays; None where the row does not fit into the room.
        """
        plan = self._reader.attention.plan(packing, room)
        return None if plan is None else {_IDS: packing.ids, _POSITIONS: packing.positions} | plan

    def run(
        self,
        packing: Packing,
        taps: Mapping[Hookpoint, Tap],
        *,
        edits: Mapping[Hookpoint, Change] | None = None,
        whole: bool = False,
    ) -> Row:
        """The device's part of `read`: what it does depends on the length of the row, and else on the inputs alone.

        Args:
            packing: The row, with all of `arrays` among its inputs.
            taps: As of `read`, like all that follows.
            edits: By hookpoint, what flows on there.
            whole: Whether every layer runs.

        Raises:
            SaeError: The reader has no such hookpoint, or nothing can be replaced there.
        """
        depth = len(self._reader.layers) if whole else self.depth(taps)
        ids, positions = packing.inputs[_IDS], packing.inputs[_POSITIONS]
        tapped: dict[Hookpoint, torch.Tensor] = {}
        with self._reader.turn, ExitStack() as attached:
            for hookpoint, change in (edits or {}).items():
                attached.callback(edit(self._reader, hookpoint, change).remove)
            for hookpoint, make in taps.items():
                handle = tap(self._reader, hookpoint, _keep(tapped, hookpoint, make))
                attached.callback(handle.remove)
            attached.enter_context(self._reader.cut_to(depth))
            read: Any = self._reader.model(
                input_ids=ids[None], position_ids=positions[None], packing=packing, use_cache=False
            )
        return Row(packing, ids, read.last_hidden_state[0], tapped)

    def depth(self, hookpoints: Iterable[Hookpoint]) -> int:
        """The number of layers that run for these hookpoints."""
        return min(len(self._reader.layers), 1 + max((hookpoint.layer for hookpoint in hookpoints), default=EMBEDDING))

    def on_device(self, array: NDArray[Any]) -> torch.Tensor:
        """A copy of an array on the reader's device, which a GPU makes without waiting."""
        return on_device({"": array}, self._reader.device)[""]


def untouched(activations: torch.Tensor) -> torch.Tensor:
    """The tap that gives a hookpoint's activations as they are."""
    return activations


def _keep(tapped: dict[Hookpoint, torch.Tensor], hookpoint: Hookpoint, make: Tap) -> Callable[[torch.Tensor], None]:
    def receive(activations: torch.Tensor) -> None:
        tapped[hookpoint] = make(activations)[0]

    return receive


def in_rows(texts: Sequence[T], length: Callable[[T], int], most_tokens: int) -> Iterator[Sequence[T]]:
    """Neighbouring texts that have at most `most_tokens` tokens together, or one text that alone has more."""
    first = tokens = 0
    for place, text in enumerate(texts):
        if first < place and tokens + length(text) > most_tokens:
            yield texts[first:place]
            first, tokens = place, 0
        tokens += length(text)
    if first < len(texts):
        yield texts[first:]


def halved(
    run: Callable[[Sequence[T]], list[R]], batch: Sequence[T], failed: Callable[[T, Exception], R], device: torch.device
) -> list[R]:
    """Runs a batch; on failure its halves are tried alone, so that one text cannot fail another.

    Args:
        run: Gives one result for each text, or raises.
        batch: The texts; at least one.
        failed: Gives the result of a text that fails alone, or raises.
        device: Where the texts are read; on a GPU, what the failed pass held is given back first.

    Raises:
        EngineDied: The device is lost; nothing can run in this process any more.
    """
    try:
        return run(batch)
    except torch.AcceleratorError as error:
        raise EngineDied(f"the device failed: {str(error).splitlines()[0]}") from error
    except Exception as error:
        failure = error
    # Out of the except block: the traceback kept the failed pass's tensors alive.
    if len(batch) == 1:
        try:
            return [failed(batch[0], failure)]
        finally:
            del failure
    del failure
    if device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(batch) // 2
    return halved(run, batch[:half], failed, device) + halved(run, batch[half:], failed, device)
