"""Attention checked and timed on a device, on synthetic rows in a reader's shapes."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional

from scopewatch.reader.packing import AttentionKind, Packing
from scopewatch.reader.pages import BLOCK, PagePool
from scopewatch.reader.prefixes import Block, Reading
from scopewatch.types import Activations

_CHECKED = (1, 63, 64, 65, 129, 300)
"""Tokens of the texts on which an attention is checked."""
_RUNS, _ROUNDS = 5, 5
"""Runs that are timed together, and how often; the median counts."""
_MEDIAN_TOKENS, _SIGMA, _MOST_TOKENS = 120, 1.0, 2000
"""Log-normal lengths of the texts on which it is timed."""
_LAYER = SimpleNamespace(layer_idx=0)
_Numbers = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries, keys and values, each of shape (1, heads, tokens, head_dim)."""


@dataclass(frozen=True, slots=True)
class AttentionShapes:
    """What a reader's layers ask of attention."""

    heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    softcap: float | None
    windows: Mapping[int | None, int]
    """How many layers have each window."""
    dtype: torch.dtype
    wanted: str = "auto"
    """The name of the attention that is to run; auto for the fastest."""

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype, wanted: str = "auto") -> Self:
        """The shapes of a text model, from its configuration (transformers')."""
        heads: int = config.num_attention_heads
        head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * max(1, config.num_hidden_layers)
        windows = Counter(window if kind == "sliding_attention" else None for kind in kinds)
        return cls(
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=head_dim,
            scaling=getattr(config, "query_pre_attn_scalar", head_dim) ** -0.5,
            softcap=getattr(config, "attn_logit_softcapping", None),
            windows=dict(windows),
            dtype=dtype,
            wanted=wanted,
        )


class Trials:
    """Checks and times attention on synthetic rows in a reader's shapes.

    Args:
        shapes: What the reader's layers ask.
        device: Where it runs.
        reference: The attention that is right, run in float32 on a CPU.
        row: Tokens of the row of short texts on which it is timed.
        long: Tokens of the one text on which it is timed.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        shapes: AttentionShapes,
        device: torch.device,
        *,
        reference: AttentionKind,
        row: int = 16_384,
        long: int = 4_096,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._shapes = shapes
        self._device = device
        self._lengths = (_short_texts(row), [long])
        self._clock = clock
        self._right = self._gathered(reference, torch.float32, torch.device("cpu"))

    def gathered(self, kind: AttentionKind) -> list[torch.Tensor]:
        """What the tokens of small rows gather, with windows, beginnings in the row and on pages; on the CPU."""
        return self._gathered(kind, self._shapes.dtype, self._device)

    def deviation(self, gathered: Sequence[torch.Tensor]) -> float:
        """Greatest difference from what is right, as a share of the largest number; infinite if it is no number."""
        shares = [
            float((found.float() - right).abs().max() / right.abs().max())
            for found, right in zip(gathered, self._right, strict=True)
        ]
        return max(share if math.isfinite(share) else math.inf for share in shares)

    def seconds(self, kind: AttentionKind) -> float:
        """Time of all layers' attention over a row of short texts and over one long text."""
        return sum(
            layers * self._timed(kind, lengths, window)
            for lengths in self._lengths
            for window, layers in self._shapes.windows.items()
        )

    def _gathered(self, kind: AttentionKind, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
        found, dice = [], torch.Generator().manual_seed(0)
        for window in self._shapes.windows:
            pool = self._pool(dtype, device)
            for readings in self._rows(pool):
                packing = _packed(kind, readings, device, pool)
                numbers = self._numbers(packing, dtype, device, dice)
                found.append(self._attend(kind, packing, numbers, window)[0, : packing.tokens].cpu())
        return found

    def _rows(self, pool: PagePool) -> tuple[list[Reading], list[Reading]]:
        """Two rows: as the first is read, two blocks of a beginning are kept, on which the second goes on."""
        pages = [page for page in (pool.take(), pool.take()) if page]
        beginning = Reading(np.zeros(len(pages) * BLOCK, np.int32), (), wanted=dict(enumerate(pages)), shared=True)
        nobody = np.zeros(0, np.int32)
        nothing = Activations(BLOCK, nobody, nobody, np.zeros(0, np.float32))
        known = [Block(page, nothing) for page in pages]
        first = [*map(_text, _CHECKED), beginning, Reading(np.zeros(200, np.int32), (), parent=beginning)]
        return first, [_text(65), Reading(np.zeros(300, np.int32), (), known=known)]

    def _pool(self, dtype: torch.dtype, device: torch.device) -> PagePool:
        kv_heads, head_dim = self._shapes.kv_heads, self._shapes.head_dim
        pages = 3 * 2 * BLOCK * kv_heads * head_dim * dtype.itemsize
        return PagePool(pages, layers=1, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype, device=device)

    def _timed(self, kind: AttentionKind, lengths: Sequence[int], window: int | None) -> float:
        """Seconds that one layer takes."""
        packing = _packed(kind, [_text(length) for length in lengths], self._device)
        numbers = self._numbers(packing, self._shapes.dtype, self._device)
        rounds = []
        for _ in range(1 + _ROUNDS):
            began = self._clock()
            for _ in range(_RUNS):
                self._attend(kind, packing, numbers, window)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            rounds.append((self._clock() - began) / _RUNS)
        # The first round compiles.
        return statistics.median(rounds[1:])

    def _numbers(
        self, packing: Packing, dtype: torch.dtype, device: torch.device, dice: torch.Generator | None = None
    ) -> _Numbers:
        """Random numbers that the reader's type can hold; from dice, the same for every kind of attention."""
        shapes, filling = self._shapes, len(packing.ids) - packing.tokens
        query, key, value = (
            functional.pad(
                torch.randn(
                    1, packing.tokens, heads, shapes.head_dim, generator=dice, device=dice.device if dice else device
                ),
                (0, 0, 0, 0, 0, filling),
            )
            .to(shapes.dtype)
            .to(device, dtype)
            .transpose(1, 2)
            for heads in (shapes.heads, shapes.kv_heads, shapes.kv_heads)
        )
        return query, key, value

    def _attend(self, kind: AttentionKind, packing: Packing, numbers: _Numbers, window: int | None) -> torch.Tensor:
        shapes = self._shapes
        with torch.inference_mode():
            return kind(
                _LAYER,
                *numbers,
                None,
                scaling=shapes.scaling,
                packing=packing,
                sliding_window=window,
                softcap=shapes.softcap,
            )[0]


def _packed(
    kind: AttentionKind, readings: Sequence[Reading], device: torch.device, pool: PagePool | None = None
) -> Packing:
    packing = Packing(readings, multiple=kind.multiple, pool=pool)
    plan = kind.plan(packing, None) or {}
    packing.inputs = {name: torch.from_numpy(array).to(device) for name, array in plan.items()}
    return packing


def _text(tokens: int) -> Reading:
    return Reading(np.zeros(tokens, np.int32), ())


def _short_texts(row: int) -> list[int]:
    """Lengths of texts that fill a row."""
    lengths = np.exp(np.log(_MEDIAN_TOKENS) + _SIGMA * np.random.default_rng(0).standard_normal(row))
    ends = np.cumsum(np.clip(lengths, 1, _MOST_TOKENS).astype(int))
    return np.diff(np.minimum(ends[: np.searchsorted(ends, row) + 1], row), prepend=0).tolist()  # type: ignore[no-any-return]
