"""A row's product does not depend on the rows beside it: the mechanism, with products whose sums do."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from scopewatch.reader.products import RowCounts, RowwiseLinear, Slabs, product, product_weights, through_product

COUNTS = (64, 128, 256, 512, 1024)
D_IN, D_OUT = 24, 5


def added_up(x: torch.Tensor, weight: torch.Tensor, first: torch.Tensor | int) -> torch.Tensor:
    """A product whose sums begin at input `first`, which may be another one for each row: the same numbers in any
    company, and others for another beginning.
    """
    order = (torch.arange(D_IN) + torch.as_tensor(first).reshape(-1, 1)) % D_IN
    total = torch.zeros(len(x), len(weight))
    for column in order.expand(len(x), D_IN).T:
        total += x.gather(1, column[:, None]) * weight[:, column].T
    return total


def by_rows(first: Callable[[int], torch.Tensor | int]) -> Callable[..., torch.Tensor]:
    """A device whose products begin their sums at what `first` says of a number of rows."""

    def multiply(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        made = added_up(x, weight, first(len(x))) + (0 if bias is None else bias)
        return made if out is None else out.copy_(made)

    return multiply


TWO_KERNELS = by_rows(lambda rows: 0 if rows < 512 else 7)
STREAM_K = by_rows(lambda rows: torch.arange(rows) // 16)
"""Where the sums of a row begin goes by its place."""


def timed(launch_s: float, row_s: float) -> Callable[[Callable[[], object]], float]:
    """A clock by which products take a while to start and then some time a row."""

    def seconds(run: Callable[[], object]) -> float:
        made = run()
        assert isinstance(made, torch.Tensor)
        return launch_s + row_s * len(made)

    return seconds


def a_weight() -> torch.Tensor:
    return torch.randn(D_OUT, D_IN, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("launch_s", "counts"), [(1e-6, {64, 128, 256}), (1.0, {512, 1024})])
def test_the_row_counts_that_agree_are_found_and_the_faster_of_them_taken(launch_s: float, counts: set[int]) -> None:
    """Of two kernels for few and for many rows one serves all rows; which one is decided by the time that they take."""
    weight = a_weight()

    assert RowCounts(COUNTS, timer=timed(launch_s, 1e-6), multiply=TWO_KERNELS).settle([(weight, None)])
    assert set(weight.slabs.counts) == counts  # type: ignore[attr-defined]


@pytest.mark.parametrize("launch_s", [1e-6, 1.0])
def test_a_row_is_the_same_alone_and_in_any_company(launch_s: float) -> None:
    """Whatever number of rows is multiplied and wherever a row stands, its numbers are the same to the last bit."""
    weight, bias = a_weight(), torch.ones(D_OUT)
    RowCounts(COUNTS, timer=timed(launch_s, 1e-6), multiply=TWO_KERNELS).settle([(weight, bias)])
    x = torch.randn(1500, D_IN, generator=torch.Generator().manual_seed(4))
    whole = product(x, weight, bias)
    parts = [(0, 1), (700, 701), (3, 70), (0, 64), (100, 611), (64, 1024), (5, 1300), (1499, 1500)]

    assert all(torch.equal(product(x[first:last], weight, bias), whole[first:last]) for first, last in parts)
    assert torch.allclose(functional.linear(x, weight, bias), whole, atol=1e-5)
    # Without, they are not: there is something to find.
    assert not torch.equal(TWO_KERNELS(x[:64], weight, bias), TWO_KERNELS(x, weight, bias)[:64])


def test_where_no_row_counts_agree_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A device whose sums go by a row's place is told, and multiplies as it would have."""
    weight = a_weight()
    with caplog.at_level(logging.WARNING):
        settled = RowCounts(COUNTS, timer=timed(1e-6, 1e-6), multiply=STREAM_K).settle([(weight, None)])

    assert not settled
    assert not hasattr(weight, "slabs")
    assert f"products of {D_OUT} by {D_IN} do not give the same numbers" in caplog.text


def test_time_for_looking_is_bounded() -> None:
    """What is asked for when the time is up is left as it is, and what was found before stays."""
    one, other = a_weight(), torch.randn(3, D_IN)
    counts = RowCounts((64,), timer=timed(1e-6, 1e-6), budget_s=1e-9)

    assert counts.settle([(one, None)])
    assert not counts.settle([(one, None), (other, None)])
    assert not hasattr(other, "slabs")


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200, 257, 300, 1000, 70_000])
def test_slabs_cover_the_rows_and_little_more(rows: int) -> None:
    """All slabs are of given row counts, and what is computed twice is less than the shortest of them."""
    slabs = Slabs({count: 1e-7 + 1e-6 * count for count in (64, 256, 1024)}).cut(rows)

    assert set(slabs) <= {64, 256, 1024}
    assert 0 <= sum(slabs) - rows < 64 + (960 if rows > 65_536 else 0)


def test_a_model_goes_by_its_row_counts() -> None:
    """All linear layers of a model multiply by `product`, and so over the row counts found for them."""
    model = torch.nn.Sequential(torch.nn.Linear(D_IN, 8), torch.nn.ReLU(), torch.nn.Linear(8, D_IN, bias=False))
    x = torch.randn(2, 3, D_IN)
    with torch.inference_mode():
        expected = model(x)
        through_product(model)
        settled = RowCounts(COUNTS, timer=timed(1e-6, 1e-6)).settle(product_weights(model))
        made = model(x)

    assert settled
    assert all(type(layer) is RowwiseLinear for layer in (model[0], model[2]))
    assert torch.allclose(expected, made, atol=1e-6)
    assert made.shape == x.shape
