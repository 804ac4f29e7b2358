"""Which attention a GPU runs: the fastest of those that it shows to be right, measured in a reader's own shapes."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from scopewatch.reader.attention_trials import AttentionShapes
from scopewatch.reader.packed_tiles import PackedTiles
from scopewatch.reader.packing import AttentionKind
from scopewatch.reader.tiles import Form

log = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
"""Greatest difference from attention in float32, as a share of the largest number. TF32 for float32 exceeds it."""
_CLEARLY = 0.9
"""A rival takes less than this share of the time of the others."""
_FLEX_OPTIONS: tuple[Mapping[str, int], ...] = ({}, {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2})
"""Settings of FlexAttention's kernel to try; without any, torch's own choice."""
_BUDGET_S = 20.0
"""Seconds after which no further candidate is tried; compiling takes most of them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An attention that may be chosen."""

    title: str
    """What the log calls it."""
    make: Callable[[], AttentionKind]
    rival: bool = False
    """Whether it is chosen only where it is clearly faster, since it lacks what the others have."""


class Judge(Protocol):
    """What is asked of `Trials`."""

    def gathered(self, kind: AttentionKind) -> list[torch.Tensor]: ...

    def deviation(self, gathered: list[torch.Tensor]) -> float: ...

    def seconds(self, kind: AttentionKind) -> float: ...


@dataclass(frozen=True, slots=True)
class _Result:
    candidate: Candidate
    kind: AttentionKind
    gathered: list[torch.Tensor]
    seconds: float

    @property
    def counts_as(self) -> float:
        """Seconds by which it is compared with the others."""
        return self.seconds / (_CLEARLY if self.candidate.rival else 1)


def forms(shapes: AttentionShapes) -> list[Form]:
    """Ways of dividing the work that compile for these shapes and spill little, the likeliest to be fast first."""
    if shapes.head_dim > 256:
        return []
    wide, group = shapes.head_dim > 128, shapes.heads // shapes.kv_heads
    if shapes.dtype == torch.float32:
        return [Form(heads=1, queries=64, warps=16 if wide else 8, stages=1)]
    # One head's 64 queries leave room for two programs on a multiprocessor, of which one multiplies while one waits.
    single = Form(heads=1, queries=64, warps=4, stages=1 if wide else 2)
    if group == 1:
        return [single, Form(heads=1, queries=128, warps=8, stages=2)]
    return [Form(heads=2, queries=64, warps=8, stages=2), single, Form(heads=2, queries=64, warps=8, stages=1)]


def candidates(shapes: AttentionShapes, otherwise: AttentionKind) -> Iterator[Candidate]:
    """What may be chosen on a GPU, the likeliest first.

    Args:
        shapes: What the reader's layers ask of attention.
        otherwise: The attention for rows without a packing.
    """
    for form in forms(shapes) if shapes.wanted in {"auto", "packed_tiles"} else ():
        title = f"packed_tiles ({form.heads} x {form.queries} queries, {form.warps} warps, {form.stages} stages)"
        yield Candidate(title, partial(PackedTiles, form, otherwise=otherwise))
    for options in _FLEX_OPTIONS if shapes.wanted in {"auto", "packed_flex"} else ():
        yield Candidate(f"packed_flex ({options or 'as it comes'})", partial(_flex, options, otherwise), rival=True)


def _flex(options: Mapping[str, int], otherwise: AttentionKind) -> AttentionKind:
    # Importing it takes half a second, which a CPU need not wait for.
    from torch.nn.attention import flex_attention as torch_flex

    from scopewatch.reader.flex import PackedFlex

    flex: Any = torch_flex.flex_attention

    def tuned(*arguments: Any, **named: Any) -> Any:
        return flex(*arguments, **named, kernel_options=dict(options))

    compiled: Any = torch.compile(tuned if options else flex)
    return PackedFlex(compiled, otherwise=otherwise)


def choose(
    candidates: Iterable[Candidate],
    judge: Judge,
    otherwise: AttentionKind,
    dtype: torch.dtype,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> AttentionKind:
    """The fastest attention of those that are right.

    Args:
        candidates: What may be chosen. Of those that give the same kind, all give the same bits, or those drop out
            that differ from the first: another choice at another start must not change a number.
        judge: Checks and times them.
        otherwise: What is chosen where no candidate is right.
        dtype: The reader's type of numbers.
        clock: Gives the time in seconds.
    """
    began, results = clock(), list[_Result]()
    for candidate in candidates:
        if results and clock() - began > _BUDGET_S:
            log.info("attention %s is not tried: the others took %.0f s", candidate.title, clock() - began)
            continue
        # Compilers and drivers raise errors of many kinds; the others can still be right.
        try:
            result = _tried(candidate, judge, dtype, results)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            log.warning("attention %s is left out: %s", candidate.title, reason)
            continue
        results.append(result)
    if not results:
        log.warning("no attention for GPUs is right here; %s runs, text by text and slowly", otherwise.name)
        return otherwise
    best = min(results, key=lambda result: result.counts_as)
    figures = "; ".join(f"{result.candidate.title} {1e3 * result.seconds:.2f} ms" for result in results)
    log.info("attention %s is chosen; two rows through all layers: %s", best.candidate.title, figures)
    return best.kind


class _Wrong(Exception):
    """A candidate gives other numbers than it must."""


def _tried(candidate: Candidate, judge: Judge, dtype: torch.dtype, before: list[_Result]) -> _Result:
    """A candidate's result.

    Raises:
        _Wrong: Its numbers are wrong, or other bits than those of the first of its kind.
        Exception: Anything, where it cannot be compiled or run.
    """
    kind = candidate.make()
    gathered = judge.gathered(kind)
    # Written so that no number is too far off too.
    if not (deviation := judge.deviation(gathered)) <= _TOLERANCE[dtype]:
        raise _Wrong(f"it differs from plain attention by {deviation:.2g} of the largest number")
    alike = next((result for result in before if result.kind.name == kind.name), None)
    if alike and not all(map(torch.equal, alike.gathered, gathered)) and kind.invariant:
        raise _Wrong(f"it gives other bits than {alike.candidate.title}")
    return _Result(candidate, kind, gathered, judge.seconds(kind))
