"""The token budget: what the device's memory holds."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scopewatch.engine.budget import MOST_TOKENS, batch_tokens, fitting_pairs
from scopewatch.errors import ConfigError, EngineError
from scopewatch.types import Activations, EncodedBatch

MIB = 1 << 20


def line(fixed: int, each: int) -> Callable[[int], int]:
    return lambda pairs: fixed + each * pairs


@pytest.mark.parametrize(
    ("fixed", "each", "free", "expected"),
    [(10, 100, 1000, 9), (10, 100, 910, 9), (10, 100, 909, 8), (0, 100, 99, 0), (1000, 1, 999, 0)],
)
def test_as_many_pairs_as_fit(fixed: int, each: int, free: int, expected: int) -> None:
    """Where each pair takes as much as the next, the number found is the most that fit."""
    assert expected == fitting_pairs(line(fixed, each), free)
    if expected:
        assert line(fixed, each)(expected) <= free
        if fixed <= each:
            assert line(fixed, each)(expected + 1) > free


def test_a_second_pair_that_takes_nothing_is_not_believed() -> None:
    """If the allocator hid the second pair, no more fit than if each took half of the first."""
    assert 21 == fitting_pairs(lambda _: 100, 1100)


class FakeGpu:
    """A device's memory, and an engine that takes some of it per token and halves a batch that is too large."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, free: int, per_token: int) -> None:
        self.free, self.per_token, self.peak = free, per_token, 0
        self.batches: list[int] = []
        self.first_tokens: list[int] = []
        for name, answer in {
            "mem_get_info": lambda _: (self.free, self.free),
            "memory_reserved": lambda _: 3 * MIB,
            "memory_allocated": lambda _: 2 * MIB,
            "max_memory_allocated": lambda _: 2 * MIB + self.peak,
            "reset_peak_memory_stats": lambda _: setattr(self, "peak", 0),
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    def run(self, batch: Sequence[NDArray[np.int32]]) -> EncodedBatch:
        tokens = sum(map(len, batch))
        self.batches.append(tokens)
        self.first_tokens += [int(ids[0]) for ids in batch]
        there = self.free + MIB
        self.peak = min(max(self.peak, tokens * self.per_token), there)
        fits = max(map(len, batch)) * self.per_token <= there
        return EncodedBatch(
            [
                Activations(len(ids), *[np.zeros(0, np.int32)] * 2, np.zeros(0, np.float32))
                if fits
                else EngineError("no")
                for ids in batch
            ],
            0,
            0,
        )


@pytest.mark.parametrize(("free_mib", "expected"), [(100, 9 * 1024), (10_000, MOST_TOKENS["cuda"]), (12, 1024)])
def test_a_gpu_s_budget_is_what_its_memory_holds(monkeypatch: pytest.MonkeyPatch, free_mib: int, expected: int) -> None:
    """The largest number of longest pairs in nine tenths of the free memory, and no more than pays; at least one."""
    gpu = FakeGpu(monkeypatch, free=free_mib * MIB, per_token=10 * 1024)

    found = batch_tokens(gpu.run, torch.device("cuda"), max_tokens=1024, held_bytes=0)

    assert expected == found
    assert max(gpu.batches) <= 2 * 1024


def test_what_is_kept_is_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for kept beginnings is not given to batches."""
    gpu = FakeGpu(monkeypatch, free=100 * MIB, per_token=10 * 1024)

    assert 4 * 1024 == batch_tokens(gpu.run, torch.device("cuda"), max_tokens=1024, held_bytes=50 * MIB)


def test_a_pair_that_never_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the device cannot read one pair of the longest length, the setting to lower is named."""
    gpu = FakeGpu(monkeypatch, free=MIB, per_token=10 * 1024)

    with pytest.raises(ConfigError, match="max_tokens 1024: the device cannot read so long a pair"):
        batch_tokens(gpu.run, torch.device("cuda"), max_tokens=1024, held_bytes=0)


@pytest.mark.parametrize("max_tokens", [512, 8192])
def test_a_cpu_runs_nothing(max_tokens: int) -> None:
    """A CPU's budget is known without running anything, and takes the longest pair."""

    def run(_: object) -> EncodedBatch:
        raise AssertionError

    assert max(max_tokens, 4096) == batch_tokens(run, torch.device("cpu"), max_tokens=max_tokens, held_bytes=0)


def test_what_measures_memory_shares_no_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all its batches no two texts begin alike, so none is read from what is kept of another."""
    gpu = FakeGpu(monkeypatch, free=100 * MIB, per_token=10 * 1024)

    batch_tokens(gpu.run, torch.device("cuda"), max_tokens=1024, held_bytes=0)

    assert [1, 1, 2] == [tokens // 1024 for tokens in gpu.batches]
    assert 4 == len(set(gpu.first_tokens))
