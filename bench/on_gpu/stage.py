"""What the sections stand on: the device, the sizes, the reader of random weights, and engines over it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ceilings import gemm_flops_per_s
from contenders import config_for, engine_of
from scopewatch.config import Config
from scopewatch.engine.build import Engine
from scopewatch.types import TokenIds
from subjects import Subject, gemma2_2b, lengths, random_subject

_TINY: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 32,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    shape: dict[str, Any]
    """What differs from the released sizes of Gemma 2 2B."""
    layers: tuple[int, ...]
    d_sae: int
    watched: int
    max_tokens: int
    max_batch_tokens: int
    passes: tuple[int, ...]
    """Tokens of the passes that are timed."""
    profiled: tuple[int, ...]
    """Tokens of the passes that are taken apart."""
    lone_tokens: int
    lone_pairs: int
    shared: tuple[int, int]
    """Tokens of a pair, and how many of them all have in common."""
    stream_s: float
    """How long pairs are sent to the server in batches, about."""
    calls: int
    """Pairs that are sent one by one."""
    pairs: int
    """Pairs that the contenders read in a round."""
    contest: tuple[int, int, int]
    """Width of what a TopK SAE reads, its features, and its winners."""
    contest_tokens: tuple[int, ...]


FULL = Sizes(
    shape={},
    layers=(12, 20),
    d_sae=16_384,
    watched=32,
    max_tokens=2048,
    max_batch_tokens=65_536,
    passes=(512, 2048, 8192, 16_384, 65_536),
    profiled=(16_384, 512),
    lone_tokens=512,
    lone_pairs=100,
    shared=(500, 400),
    stream_s=5.0,
    calls=512,
    pairs=256,
    contest=(2304, 131_072, 64),
    contest_tokens=(512, 4096, 16_384),
)
TINY = Sizes(
    shape=_TINY,
    layers=(1, 2),
    d_sae=512,
    watched=8,
    max_tokens=128,
    max_batch_tokens=512,
    passes=(64, 256),
    profiled=(256, 64),
    lone_tokens=64,
    lone_pairs=5,
    shared=(120, 80),
    stream_s=0.3,
    calls=16,
    pairs=6,
    contest=(64, 1024, 8),
    contest_tokens=(32,),
)


@dataclass
class Stage:
    """What the sections of one process share; what takes time is made when it is first asked for.

    Args:
        device: Where everything runs.
        sizes: How much is measured.
        scratch: The folder of what is written.
        threads: CPU threads of an engine.
        labelled: Files of labelled pairs.
    """

    device: torch.device
    sizes: Sizes
    scratch: Path
    threads: int
    labelled: tuple[Path, ...] = ()
    _engines: dict[tuple[tuple[str, object], ...], Engine] = field(default_factory=dict)

    @cached_property
    def subject(self) -> Subject:
        """The reader of random weights in the shape of Gemma 2 2B, with its SAEs and watchlist."""
        sizes = self.sizes
        return random_subject(
            "gemma-2-2b",
            self.scratch / f"gemma-2-2b-{'tiny' if sizes.shape else 'whole'}",
            gemma2_2b(**sizes.shape),
            layers=sizes.layers,
            d_sae=sizes.d_sae,
            watched=sizes.watched,
            device=self.device.type,
        )

    @cached_property
    def peak(self) -> float:
        """FLOP/s of the fastest matrix product, of the reader's shapes or square."""
        repeats = 1 if self.sizes.shape else 5
        return max(gemm_flops_per_s(self.subject.config, self.device, repeats).values())

    def config(self, **changes: object) -> Config:
        """Settings of the sections' engines, with these changes."""
        sizes = self.sizes
        return config_for(
            self.subject,
            threads=self.threads,
            max_tokens=sizes.max_tokens,
            max_batch_tokens=sizes.max_batch_tokens,
            device=self.device,
        ).model_copy(update=changes)

    def engine(self, **changes: object) -> Engine:
        """An engine with these changes of settings; the same one each time."""
        key = tuple(sorted(changes.items()))
        if key not in self._engines:
            self._engines[key] = engine_of(self.config(**changes))
        return self._engines[key]

    def settle(self) -> None:
        """Waits until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """What a piece of work takes, until the device is done with it."""
        self.settle()
        started_s = time.perf_counter()
        work()
        self.settle()
        return time.perf_counter() - started_s


def read(engine: Engine, texts: Sequence[TokenIds]) -> list[Any]:
    """A batch through an engine, no pair of which may fail."""
    outcomes = engine.runner(texts).activations
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


def new_texts(total: int, longest: int, draw: np.random.Generator) -> list[TokenIds]:
    """Texts of random tokens, as long as pairs are and `total` tokens together; up to 600 tokens are one text."""
    left, made = total, list[TokenIds]()
    usual = iter([total] if total <= min(600, longest) else lengths(4 * (1 + total // 120), longest))
    while left:
        made.append(text_of(min(next(usual), left), draw))
        left -= len(made[-1])
    return made


def text_of(tokens: int, draw: np.random.Generator) -> TokenIds:
    """A text of so many random tokens, which nobody has read before."""
    return draw.integers(5, 4000, tokens).astype(np.int32)


def p_ms(seconds: Sequence[float], percent: int) -> float:
    """The milliseconds that a share of the times does not exceed."""
    return round(1000 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1], 2)
