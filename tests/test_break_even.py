"""From when on reuse of known beginnings pays on a device, by passes that run on a clock of the test's own."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from families import save_weights
from scopewatch.engine.break_even import BreakEven, measured
from scopewatch.types import EncodedBatch, TokenIds
from test_prefixes import PLENTY, a_reader, a_runner, dense, text

SIZES = tuple(256 << step for step in range(7))


class Device:
    """A device whose passes take as long as their launches, their tokens and what is gathered for them.

    Args:
        launch_s: The least that a pass takes.
        token_s: What each token of a large pass takes.
        known_s: What it takes to gather anything.
        known_token_s: What each gathered token takes.
    """

    def __init__(self, *, launch_s: float, token_s: float, known_s: float = 0.0, known_token_s: float = 0.0) -> None:
        self._costs = launch_s, token_s, known_s, known_token_s
        self.now_s = 0.0
        self.passes: list[tuple[int, int]] = []

    def read(self, tokens: int, known: int) -> None:
        launch_s, token_s, known_s, known_token_s = self._costs
        self.passes.append((tokens, known))
        # Every third time something else runs beside it.
        self.now_s += 0.5 * launch_s * (len(self.passes) % 3 == 0)
        self.now_s += max(launch_s, token_s * tokens) + (known_s + known_token_s * known if known else 0.0)

    def measured(self) -> BreakEven:
        return measured(self.read, SIZES, (64, 2048), clock=lambda: self.now_s)


def test_where_launches_take_all_the_time_nothing_is_won() -> None:
    """Reuse stays out of passes that take as long without it, also where it costs nothing, and is used in larger ones."""
    free = Device(launch_s=0.025, token_s=1e-5).measured()

    assert not free.pays(500, 400)
    assert not free.pays(2000, 1600)
    assert free.pays(8192, 6400)


def test_gathering_has_to_be_won_back() -> None:
    """What is known is used only where its gathering takes less time than reading it."""
    break_even = Device(launch_s=0.01, token_s=1e-5, known_s=0.02, known_token_s=2e-6).measured()

    # 40 ms against 10 + 20 + 6.4, and 30 ms against 10 + 20 + 4.8.
    assert break_even.pays(4000, 3200)
    assert not break_even.pays(3000, 2400)
    least = break_even.least_tokens(16_384)
    assert least is not None
    assert 3000 < least < 4000


def test_where_gathering_takes_longer_than_reading_reuse_never_pays() -> None:
    """On such a device no size is told, however large passes are."""
    assert Device(launch_s=0.001, token_s=1e-5, known_token_s=2e-5).measured().least_tokens(65_536) is None


def test_passes_beyond_the_measured_ones_go_on_as_these() -> None:
    """A pass larger than all that were measured takes as much longer as the last did."""
    break_even = Device(launch_s=0.001, token_s=1e-5, known_s=0.25).measured()

    assert not break_even.pays(30_000, 20_000)
    assert break_even.pays(60_000, 40_000)


def test_a_slow_device_is_not_measured_for_long() -> None:
    """After a second no pass is run again, and each that is left runs once."""
    device = Device(launch_s=0.3, token_s=1e-3)
    device.measured()

    assert sorted([(256, 64)] * 3 + [(256, 2048)] + [(size, 0) for size in SIZES]) == sorted(device.passes)


def test_without_a_measurement_it_always_pays() -> None:
    """On a CPU nothing is measured."""
    assert BreakEven().pays(65, 64)


@pytest.mark.parametrize(
    ("device", "pays"),
    [
        (Device(launch_s=0.0001, token_s=1e-5), True),
        (Device(launch_s=0.025, token_s=1e-9), False),
    ],
    ids=["large passes", "launches only"],
)
def test_a_runner_reads_anew_what_it_does_not_pay_to_reuse(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: Device,
    pays: bool,
) -> None:
    """A GPU is measured by its own passes, on top of blocks that are really known. Where that is not faster nothing is
    kept, results stay what they were, and what texts of one batch share is read once all the same.
    """
    reader = a_reader(save_weights("llama", tmp_path))
    batch = [text((1, 200), (seed, 20)) for seed in (2, 3)]
    expected = dense(a_runner(reader, 0)(batch))
    runner = a_runner(reader, PLENTY)

    def timed(read: Callable[[int, int], object], *arguments: object) -> BreakEven:
        def on_device(tokens: int, known: int) -> None:
            before = runner.kept_bytes
            read(tokens, known)
            assert known == seen[-1]
            assert before == runner.kept_bytes > 0
            device.read(tokens, known)

        return measured(on_device, *arguments, clock=lambda: device.now_s)  # type: ignore[arg-type]

    seen: list[int] = []

    def run(texts: Sequence[TokenIds]) -> EncodedBatch:
        encoded = runner(texts)
        seen.append(encoded.reused_tokens)
        return encoded

    monkeypatch.setattr("scopewatch.engine.reuse.measured", timed)
    monkeypatch.setattr(runner._reuse, "_on_gpu", True)
    with caplog.at_level(logging.INFO):
        runner._reuse.weigh(run, max_tokens=400, most_tokens=1000)
    found = [runner(batch) for _ in range(3)]

    assert (caplog.records[-1].__dict__["pays_from_tokens"] is not None) == pays
    assert [192, *[2 * 192 if pays else 192] * 2] == [one.reused_tokens for one in found]
    assert (runner.kept_bytes > 0) == pays
    for one in found:
        for here, there in zip(expected, dense(one), strict=True):
            np.testing.assert_allclose(there, here, rtol=0, atol=1e-5 * np.abs(here).max())
