"""Runs batches: padded groups of similar length through the reader, watched columns encoded at each hookpoint."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.engine.hookpoints import Hookpoint, tap
from scopewatch.engine.prefixes import Prefixes, Reading, block_of, cache_of, joined
from scopewatch.engine.reader import Reader
from scopewatch.errors import EngineDied, EngineError
from scopewatch.sae.weights import Encoder
from scopewatch.types import Activations, EncodedBatch

log = logging.getLogger(__name__)

TokenIds = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PlacedEncoder:
    """An SAE's encoder and where it reads."""

    hookpoint: Hookpoint
    encoder: Encoder


class Runner:
    """The synchronous engine; call it from one thread.

    Args:
        reader: Loaded down to the deepest hookpoint.
        encoders: Columns of `Activations.column`, in this order.
        max_batch_tokens: Padded tokens of one forward pass.
        prefix_bytes: Size of what is kept of beginnings that texts share; 0 for nothing.
    """

    def __init__(
        self, reader: Reader, encoders: Sequence[PlacedEncoder], *, max_batch_tokens: int, prefix_bytes: int = 0
    ) -> None:
        self._reader = reader
        self._prefixes = Prefixes(prefix_bytes)
        self._max_batch_tokens = max_batch_tokens
        self._clock = _DeviceClock(reader.device)
        self._found: dict[Hookpoint, torch.Tensor] = {}
        hookpoints = sorted({placed.hookpoint for placed in encoders})
        for hookpoint in hookpoints:
            here = [placed.encoder for placed in encoders if placed.hookpoint == hookpoint]
            tap(reader, hookpoint, self._receive(hookpoint, HookpointEncoder(here).to(reader.device)))
        self._hookpoints = hookpoints
        self._order = _column_order(encoders, hookpoints)

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
        activations: list[Activations | Exception] = [EngineError("not encoded")] * len(batch)
        readings = [self._prefixes.open(ids) for ids in batch]
        beginnings = self._prefixes.shared(readings)
        for beginning in beginnings:
            self._prefixes.recall(beginning)
            self._encode([beginning])
        ahead_tokens = sum(len(beginning.rest) for beginning in beginnings)
        padded_tokens = ahead_tokens
        for reading in readings:
            self._prefixes.recall(reading)
        for group in self._groups(readings):
            padded_tokens += len(group) * max(len(readings[i].rest) for i in group)
            for index, outcome in zip(group, self._encode([readings[i] for i in group]), strict=True):
                activations[index] = outcome
        encode_s = self._clock.total_s()
        return EncodedBatch(
            activations,
            forward_s=time.perf_counter() - started_s - encode_s,
            encode_s=encode_s,
            padded_tokens=padded_tokens,
            reused_tokens=sum(reading.past for reading in readings) - ahead_tokens,
        )

    def _groups(self, readings: Sequence[Reading]) -> Iterator[list[int]]:
        """Indices of texts to pad together: as much known, and similar lengths of the rest, within the budget."""
        group: list[int] = []
        for index in sorted(range(len(readings)), key=lambda i: (readings[i].past, -len(readings[i].rest))):
            reading = readings[index]
            longest = len(readings[group[0]].rest) if group else 0
            other = bool(group) and readings[group[0]].past != reading.past
            # What is known takes no computing, but memory.
            full = (reading.past + longest) * (len(group) + 1) > self._max_batch_tokens
            wasteful = len(reading.rest) < 0.8 * longest and longest * len(group) >= 128
            if group and (other or full or wasteful):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

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
            return [EngineError(f"the reader failed on this pair ({type(failure).__name__})")]
        del failure
        if self._reader.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return self._encode(batch[:half]) + self._encode(batch[half:])

    def _forward(self, batch: Sequence[Reading]) -> list[Activations | Exception]:
        rests = [reading.rest for reading in batch]
        padded = np.zeros((len(batch), max(map(len, rests))), np.int64)
        for row, rest in zip(padded, rests, strict=True):
            row[: len(rest)] = rest
        wanted = [self._prefixes.wanted(reading) for reading in batch]
        cache = cache_of([reading.known for reading in batch]) if batch[0].known or any(wanted) else None
        # Padding is on the right and attention is causal: no real token can see it, so no mask is needed.
        self._reader.model(
            input_ids=torch.from_numpy(padded).to(self._reader.device),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        acts = torch.cat([self._found.pop(hookpoint) for hookpoint in self._hookpoints], dim=-1)[..., self._order]
        finite = torch.isfinite(acts)
        fired = torch.nonzero((acts > 0) | ~finite)
        values = acts[tuple(fired.T)].cpu().numpy()
        row, token, column = fired.cpu().numpy().astype(np.int32).T
        outcomes: list[Activations | Exception] = []
        for i, reading in enumerate(batch):
            outcome = _activations(row == i, token, column, values, len(reading.rest))
            if not isinstance(outcome, Exception):
                outcome = joined(reading.known, outcome)
                for number in wanted[i]:
                    assert cache is not None
                    self._prefixes.keep(reading, number, block_of(cache, i, number, outcome))
            outcomes.append(outcome)
        return outcomes

    def _receive(self, hookpoint: Hookpoint, encoder: HookpointEncoder) -> Callable[[torch.Tensor], None]:
        def receive(activation: torch.Tensor) -> None:
            with self._clock:
                self._found[hookpoint] = encoder(activation)

        return receive


def _activations(
    mine: NDArray[np.bool_],
    token: NDArray[np.int32],
    column: NDArray[np.int32],
    value: NDArray[np.float32],
    n_tokens: int,
) -> Activations | Exception:
    mine = mine & (token < n_tokens)
    if not np.isfinite(value[mine]).all():
        return EngineError("the reader's activations overflowed or are NaN on this pair; its weights may be damaged")
    return Activations(n_tokens, token[mine], column[mine], value[mine].astype(np.float32))


def _column_order(encoders: Sequence[PlacedEncoder], hookpoints: Sequence[Hookpoint]) -> torch.Tensor:
    """Positions in the hookpoint-ordered concatenation that put columns back into the order of `encoders`."""
    first: dict[int, int] = {}
    position = 0
    for hookpoint in hookpoints:
        for number, placed in enumerate(encoders):
            if placed.hookpoint == hookpoint:
                first[number] = position
                position += len(placed.encoder.watched)
    return torch.cat([torch.arange(len(p.encoder.watched)) + first[i] for i, p in enumerate(encoders)])


class _DeviceClock:
    """Adds up the device time spent inside `with` blocks."""

    def __init__(self, device: torch.device) -> None:
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
        torch.cuda.synchronize()
        return float(sum(start.elapsed_time(end) for start, end in self._laps)) / 1000

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
