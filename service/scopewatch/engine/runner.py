"""Runs batches: texts packed into rows through the reader, watched columns encoded at each hookpoint."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.engine.flex import MULTIPLE
from scopewatch.engine.head import Head
from scopewatch.engine.hookpoints import Hookpoint, tap
from scopewatch.engine.packing import PackedText, Packing
from scopewatch.engine.prefixes import Block, Prefixes, Reading, joined
from scopewatch.engine.reader import Reader
from scopewatch.errors import EngineDied, EngineError
from scopewatch.sae.weights import Encoder
from scopewatch.types import Activations, EncodedBatch

log = logging.getLogger(__name__)

TokenIds = NDArray[np.int32]

ROW_TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Most tokens of one forward pass: on a CPU, as many as its caches hold the activations of."""


@dataclass(frozen=True, slots=True)
class PlacedEncoder:
    """An SAE's encoder and where it reads."""

    hookpoint: Hookpoint
    encoder: Encoder


class Runner:
    """The synchronous engine; call it from one thread.

    Args:
        reader: Loaded down to the deepest hookpoint.
        encoders: Columns of `Activations.column`, in this order; behind them, where the reader has its head, the
            log-probability of each token and the entropy of the distribution it was expected from.
        row_tokens: Tokens of one forward pass; a longer single text still gets one.
        prefix_bytes: Size of what is kept of beginnings that texts share; 0 for nothing. A reader with its head keeps
            nothing: what it says of a token comes from the token before, which might not be read again.
    """

    def __init__(
        self, reader: Reader, encoders: Sequence[PlacedEncoder], *, row_tokens: int, prefix_bytes: int = 0
    ) -> None:
        self._reader = reader
        self._prefixes = Prefixes(0 if reader.head else prefix_bytes)
        self._row_tokens = row_tokens
        self._multiple = MULTIPLE if reader.identity.attention == "packed_flex" else 1
        self._clock = _DeviceClock(reader.device)
        self._found: dict[Hookpoint, torch.Tensor] = {}
        hookpoints = sorted({placed.hookpoint for placed in encoders})
        for hookpoint in hookpoints:
            here = [placed.encoder for placed in encoders if placed.hookpoint == hookpoint]
            tap(reader, hookpoint, self._receive(hookpoint, HookpointEncoder(here).to(reader.device)))
        self._hookpoints = hookpoints
        self._order = _column_order(encoders, hookpoints, more=2 if reader.head else 0)

    @property
    def kept_bytes(self) -> int:
        """Size of what is kept of beginnings that texts share."""
        return self._prefixes.kept_bytes

    @torch.inference_mode()
    def __call__(self, batch: Sequence[TokenIds]) -> EncodedBatch:
        """Encodes pairs.

        Args:
            batch: Token ids, each of shape (n_tokens,) with n_tokens at least 1.

        Raises:
            EngineDied: The device is lost; nothing can run in this process any more.
        """
        started_s = time.perf_counter()
        self._clock.reset()
        readings = [self._prefixes.open(ids) for ids in batch]
        beginnings = self._prefixes.shared(readings)
        for beginning in beginnings:
            self._prefixes.recall(beginning)
            self._encode([beginning])
        ahead_tokens = sum(len(beginning.rest) for beginning in beginnings)
        for reading in readings:
            self._prefixes.recall(reading)
        activations = [outcome for row in self._rows(readings) for outcome in self._encode(row)]
        encode_s = self._clock.total_s()
        return EncodedBatch(
            activations,
            forward_s=time.perf_counter() - started_s - encode_s,
            encode_s=encode_s,
            # What was read ahead may have failed, or been dropped again.
            reused_tokens=max(0, sum(reading.past for reading in readings) - ahead_tokens),
        )

    def _rows(self, readings: Sequence[Reading]) -> Iterator[list[Reading]]:
        """Texts for one forward pass each."""
        row: list[Reading] = []
        tokens = 0
        for reading in readings:
            # What is known takes no computing, but memory.
            if row and tokens + len(reading.ids) > self._row_tokens:
                yield row
                row, tokens = [], 0
            row.append(reading)
            tokens += len(reading.ids)
        if row:
            yield row

    def _encode(self, batch: Sequence[Reading]) -> list[Activations | Exception]:
        """One forward pass; on failure the halves are tried alone, so that one pair cannot fail another."""
        try:
            return self._forward(batch)
        except torch.AcceleratorError as error:
            raise EngineDied(f"the device failed: {str(error).splitlines()[0]}") from error
        except Exception as error:
            failure = error
        # Out of the except block: the traceback kept the failed pass's tensors alive.
        self._found.clear()
        if len(batch) == 1:
            log.error("the reader failed on a pair of %d tokens", len(batch[0].ids), exc_info=failure)
            outcome = EngineError(f"the reader failed on this pair ({type(failure).__name__})")
            del failure
            return [outcome]
        del failure
        if self._reader.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return self._encode(batch[:half]) + self._encode(batch[half:])

    def _forward(self, batch: Sequence[Reading]) -> list[Activations | Exception]:
        packing = Packing(batch, [self._prefixes.wanted(reading) for reading in batch], multiple=self._multiple)
        ids, positions = (self._on_device(array)[None] for array in (packing.ids, packing.positions))
        read = self._reader.model(input_ids=ids, position_ids=positions, packing=packing, use_cache=False)
        columns = [self._found.pop(hookpoint)[0] for hookpoint in self._hookpoints]
        if self._reader.head:
            columns.append(self._predictions(self._reader.head, read.last_hidden_state[0], ids[0], packing))
        acts = torch.cat(columns, dim=-1)[: packing.tokens, self._order]
        # What does not fire is exactly 0, and NaN is not.
        fired = torch.nonzero(acts)
        token, column = fired.to(torch.int32).T.cpu().numpy()
        value = acts[tuple(fired.T)].cpu().numpy()
        if len(batch) > 1 and not np.isfinite(value).all():
            # A kernel that reads several texts at once may have carried it from one to another.
            raise EngineError("one of several pairs overflowed")
        return [self._outcome(text, token, column, value) for text in packing.texts]

    def _outcome(
        self, text: PackedText, token: NDArray[np.int32], column: NDArray[np.int32], value: NDArray[np.float32]
    ) -> Activations | Exception:
        """A text's part of what fired in its row; what is to be kept of it is kept."""
        start, stop = text.place.start, text.place.stop
        mine = slice(*np.searchsorted(token, (start, stop)))
        if not np.isfinite(value[mine]).all():
            return EngineError(
                "the reader's activations overflowed or are NaN on this pair; its weights may be damaged"
            )
        read = Activations(stop - start, token[mine] - np.int32(start), column[mine], value[mine])
        whole = joined(text.reading.known, read)
        for number, keys_values in text.kept.items():
            self._prefixes.keep(text.reading, number, Block.of(keys_values, number, whole))
        return whole

    def _predictions(self, head: Head, states: torch.Tensor, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Log-probability and entropy for every token of the row; 0 for those that nothing comes before."""
        with self._clock:
            follows = self._on_device(np.flatnonzero(packing.positions))
            told = states.new_zeros((len(ids), 2), dtype=torch.float32)
            told[follows] = head(states[follows - 1], ids[follows])
            return told

    def _on_device(self, array: NDArray[np.int64]) -> torch.Tensor:
        host = torch.from_numpy(array)
        if self._reader.device.type == "cuda":
            return host.pin_memory().to(self._reader.device, non_blocking=True)
        return host

    def _receive(self, hookpoint: Hookpoint, encoder: HookpointEncoder) -> Callable[[torch.Tensor], None]:
        def receive(activation: torch.Tensor) -> None:
            with self._clock:
                self._found[hookpoint] = encoder(activation)

        return receive


def _column_order(encoders: Sequence[PlacedEncoder], hookpoints: Sequence[Hookpoint], *, more: int) -> torch.Tensor:
    """Positions in the hookpoint-ordered concatenation that put columns back into the order of `encoders`.

    `more` columns behind those of the hookpoints stay where they are.
    """
    first: dict[int, int] = {}
    position = 0
    for hookpoint in hookpoints:
        for number, placed in enumerate(encoders):
            if placed.hookpoint == hookpoint:
                first[number] = position
                position += len(placed.encoder.watched)
    own = [torch.arange(len(placed.encoder.watched)) + first[number] for number, placed in enumerate(encoders)]
    return torch.cat([*own, torch.arange(position, position + more)])


class _DeviceClock:
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
