"""The rounds of a benchmark: everything that reads a subject takes turns over the same pairs, and is timed."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ceilings import gemm_flops_per_s, needed_flops
from contenders import Contender, Dense, watched_thresholds
from equality import Difference, Judged, compare, judge
from scopewatch.client import pb
from scopewatch.engine.build import Engine
from scopewatch.server_process import RunningServer
from scopewatch.types import Pair, TokenisedPair
from subjects import Subject, pairs
from timed_calls import Calls, batches, unary

REFERENCE = "transformers"
"""The contender whose activations all others are compared with."""
_LONE_TOKENS = 512
"""The length of the pairs that are sent one by one, where pairs of that length are read whole."""
_PREFIX_TOKENS = 400
"""The length of the beginning that pairs share where `prefix_speedup` is measured."""
_FLOW_S = 5.0
"""For about how long pairs are sent to the server in batches, by the engine's own rate."""


@dataclass(slots=True)
class Measured:
    """What was measured of one subject, round by round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """The time that each contender took, by its name."""
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)
    """The processor time of this process: on a machine shared with others, steadier than `seconds`."""
    calls: dict[str, Calls] = field(default_factory=dict)
    """What calls of the server took, by the way of calling."""
    difference: dict[str, Difference] = field(default_factory=dict)
    """How far each contender's activations are from the reference's."""
    judged: Judged = field(default_factory=Judged)
    """How far the service's replies are from the engine's activations."""
    flagged: list[float] = field(default_factory=list)
    """The share of the pairs that the service flags."""
    found: list[Dense] = field(default_factory=list)
    """The engine's activations in the last round."""
    flops: list[float] = field(default_factory=list)
    """The FLOPs that the pairs of a round need."""
    tokens: list[int] = field(default_factory=list)
    """The lengths of the pairs in the last round."""
    prefix_speedup: float = 0.0
    gemm: dict[str, list[float]] = field(default_factory=dict)
    """FLOP/s by shape, the best of each round."""
    device_mib: float | None = None
    """The memory of the GPU that the engine holds at most; None on a CPU."""


@dataclass(slots=True)
class Bench:
    """One subject with everything that reads it, and what was measured of it so far."""

    subject: Subject
    device: torch.device
    engine: Engine
    contenders: dict[str, Contender]
    served: RunningServer
    sizes: list[int]
    """The length that each pair of a round should have, in tokens."""
    measured: Measured

    def warm_up(self) -> None:
        # Of two lengths: a kernel that is compiled is compiled for lengths that vary.
        ids = [pair.ids for pair in self._tokens(pairs([16, 300], salt=-1))]
        for own in (ids[:1], ids):
            self.contenders["engine"](own)
        for run in self.contenders.values():
            run(ids)

    def offline_round(self, number: int) -> None:
        """The contenders in turn over new pairs, compared; then the GEMM rate."""
        measured = self.measured
        ids = [pair.ids for pair in self._tokens(pairs(self.sizes, salt=number))]
        measured.tokens = [len(own) for own in ids]
        measured.flops.append(needed_flops(self.subject, measured.tokens))
        thresholds = watched_thresholds(self.subject)
        found = {}
        for name, run in self.contenders.items():
            resting = allocated(self.device, forget_peak=True)
            started, cpu_started = time.perf_counter(), time.process_time()
            found[name] = run(ids)
            measured.seconds.setdefault(name, []).append(time.perf_counter() - started)
            measured.cpu_seconds.setdefault(name, []).append(time.process_time() - cpu_started)
            if name == "engine" and number == 0 and measured.device_mib is not None:
                measured.device_mib += (torch.cuda.max_memory_allocated() - resting) / 2**20
        for name in self.contenders:
            difference = measured.difference.setdefault(name, Difference())
            compare(difference, found[REFERENCE], found[name], thresholds)
        measured.found = found["engine"]
        for shape, rate in gemm_flops_per_s(self.subject.config, self.device, repeats=3).items():
            measured.gemm.setdefault(shape, []).append(rate)

    def served_round(self, number: int, cached_pairs: int) -> None:
        """The server over the same pairs, over new ones, and from its cache."""
        measured, served = self.measured, self.served

        def calls(name: str) -> Calls:
            return measured.calls.setdefault(name, Calls())

        # For about five seconds, so that what a burst waits for at its beginning and end does not count; the first are
        # those that the contenders read.
        repeats = max(1, min(8, round(_FLOW_S / measured.seconds["engine"][0])))
        made = pairs(self.sizes * repeats, salt=number)
        replies = batches(served, made, calls("batch_computed"), cached=False)[: len(self.sizes)]
        made = made[: len(self.sizes)]
        answered = list(zip(self._tokens(made), measured.found, replies, strict=True))
        judge(measured.judged, answered, self.subject.feature_keys, watched_thresholds(self.subject))
        measured.flagged.append(sum(reply.verdict == pb.VERDICT_FLAG for reply in replies) / len(replies))
        batches(served, _many(made, cached_pairs), calls("batch_cached"), cached=True)
        unary(served, pairs(self.sizes, salt=10_000 + number), calls("unary_64_computed"), cached=False)
        unary(served, _many(made, cached_pairs // 2), calls("unary_64_cached"), cached=True)
        unary(served, _many(made, cached_pairs // 4), calls("unary_1_cached"), cached=True, callers=1)
        lone = pairs([min(_LONE_TOKENS, self.engine.max_tokens)] * 2, salt=20_000 + number)
        unary(served, lone, calls("lone_512_computed"), cached=False, callers=1)

    def _tokens(self, made: Sequence[Pair]) -> list[TokenisedPair]:
        return [pair for pair in self.engine.tokeniser.tokenise(made) if isinstance(pair, TokenisedPair)]


def prefix_speedup(engine: Engine, forgetful: Engine) -> float:
    """How much faster pairs with a common beginning of 400 tokens are read than by an engine that reuses nothing.

    Eight pairs of about 500 tokens in one batch, new ones in each of three rounds, compared within a round.
    """
    ratios = []
    for number in range(3):
        (common,) = pairs([_PREFIX_TOKENS], salt=30_000 + number)
        own = pairs([100] * 8, salt=40_000 + number)
        made = [Pair(f"{common.prompt} {common.response} {pair.prompt}", pair.response) for pair in own]
        tokens = [pair for pair in engine.tokeniser.tokenise(made) if isinstance(pair, TokenisedPair)]
        seconds = []
        for runner in (forgetful.runner, engine.runner):
            started = time.perf_counter()
            runner([pair.ids for pair in tokens])
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _many(made: Sequence[Any], count: int) -> list[Any]:
    return list(made) * math.ceil(count / len(made))


def allocated(device: torch.device, *, forget_peak: bool = False) -> int:
    if forget_peak and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0
