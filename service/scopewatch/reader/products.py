"""Matrix products of what runs on a GPU, whose numbers for a row do not depend on the rows beside it (decision 0053).

A GPU's library of products chooses a kernel by the number of rows, and kernels differ in the order in which they add
up. So a product runs over slabs of rows, and a slab has one of a few row counts that the device itself showed to give
the same bits for a row at every place.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional

log = logging.getLogger(__name__)

COUNTS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384)
"""Row counts that are tried, ascending multiples of `_UNIT`; beyond the last, products are no faster a row."""
_UNIT = 64
_PASSES = (256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536)
"""Lengths of passes over which choices of row counts are compared, in tokens; the last is the longest."""
_PROBES = 61
"""Rows that are followed from place to place: a prime, so that their copies stand at ever other places."""
_SHIFTS = (0, 29)
_BUDGET_S = 30.0
"""Time in which row counts are looked for; products that are left then run as they would without."""

Multiply = Callable[..., torch.Tensor]
"""See `multiplied`."""
Timer = Callable[[Callable[[], object]], float]
"""The seconds that a call takes on the device."""


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer's output, over the row counts that were found for the weight, if any were.

    Args:
        x: Shape (..., in_features).
        weight: Shape (out_features, in_features).
        bias: Shape (out_features,), or None.
    """
    slabs: Slabs | None = getattr(weight, "slabs", None)
    if slabs is None:
        return functional.linear(x, weight, bias)
    return slabs.multiply(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))


def multiplied(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The one call by which slabs are multiplied, when row counts are looked for and later."""
    out = x.new_empty((len(x), len(weight))) if out is None else out
    if bias is None:
        return torch.mm(x, weight.T, out=out)
    return torch.addmm(bias, x, weight.T, out=out)


class Slabs:
    """Row counts that agree to the last bit, and how rows are cut into slabs of them.

    Args:
        seconds: By row count, the time of a product of so many rows; at least one.
        multiply: Multiplies a slab.
    """

    def __init__(self, seconds: Mapping[int, float], multiply: Multiply = multiplied) -> None:
        self._multiply = multiply
        self.counts = tuple(sorted(seconds))
        self._longest = max(self.counts)
        # For each number of rows, in units, the time of its cheapest cut and the first slab of that.
        self._best: list[tuple[float, int]] = [(0.0, 0)]
        for units in range(1, max(_PASSES[-1], self._longest) // _UNIT + 1):
            self._best.append(
                min((took + self._best[max(0, units - count // _UNIT)][0], count) for count, took in seconds.items())
            )

    def cut(self, rows: int) -> list[int]:
        """The row counts of the slabs for so many rows, together as many or more."""
        slabs: list[int] = []
        units = -(-rows // _UNIT)
        while units > 0:
            slabs.append(self._best[units][1] if units < len(self._best) else self._longest)
            units -= slabs[-1] // _UNIT
        return slabs

    def seconds(self, rows: int) -> float:
        """The time of a product of so many rows, at most `_PASSES[-1]`."""
        return self._best[-(-rows // _UNIT)][0]

    def multiply(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The product with (rows, in_features), slab by slab.

        The last slab reaches back over rows that are there already, and makes the same of them once more. Only what is
        shorter than any slab is filled up.
        """
        slabs = self.cut(len(x))
        if not slabs:
            return functional.linear(x, weight, bias)
        if slabs[0] > len(x):
            filled = functional.pad(x, (0, 0, 0, slabs[0] - len(x)))
            return self._multiply(filled, weight, bias)[: len(x)]
        out = x.new_empty((len(x), len(weight)))
        start = 0
        for slab in slabs:
            first = min(start, len(x) - slab)
            self._multiply(x[first : first + slab], weight, bias, out[first : first + slab])
            start = first + slab
        return out


class RowCounts:
    """Finds the row counts of a device's products, once for each shape of weights.

    Args:
        counts: Row counts to try; see `COUNTS`.
        timer: Takes the time of a product.
        budget_s: The time in which row counts are looked for; what is asked for later gets none.
        multiply: Multiplies a slab, now and later.
    """

    def __init__(
        self,
        counts: Sequence[int] = COUNTS,
        *,
        timer: Timer | None = None,
        budget_s: float = _BUDGET_S,
        multiply: Multiply = multiplied,
    ) -> None:
        self._counts, self._timer, self._multiply = counts, timer or on_device, multiply
        self._left_s = budget_s
        self._found: dict[tuple[object, ...], Slabs | None] = {}

    def settle(self, weights: Iterable[tuple[torch.Tensor, torch.Tensor | None]]) -> bool:
        """Gives weights their row counts, by which `product` goes from then on.

        Args:
            weights: Weights, (out_features, in_features), with their biases.

        Returns:
            Whether there are row counts for all of them.
        """
        began_s, known = time.monotonic(), len(self._found)
        settled = [self._settle(weight, bias) for weight, bias in weights]
        took_s = time.monotonic() - began_s
        self._left_s -= took_s
        if new := list(self._found.values())[known:]:
            lost = sum(slabs is None for slabs in new)
            log.info("row counts of %d shapes of products found in %.1f s, of %d not", len(new) - lost, took_s, lost)
        return all(settled)

    def _settle(self, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
        shape = (*weight.shape, weight.dtype, weight.stride(), bias is not None)
        if shape not in self._found:
            slabs = self._find(weight, bias) if self._left_s > 0 else None
            if slabs is None:
                log.warning(
                    "products of %d by %d do not give the same numbers in any company; a pair's last digits may vary "
                    "with the pairs it is read with",
                    *weight.shape,
                )
            self._found[shape] = slabs
        found = self._found[shape]
        if found:
            # So that they go where the weight goes.
            weight.slabs = found  # type: ignore[attr-defined]
        return found is not None

    def _find(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Slabs | None:
        """The fastest set of row counts that agree; None if there is none."""
        probes, multiply = _probes(weight), partial(self._multiply, weight=weight, bias=bias)
        alike: list[_Alike] = []
        every: dict[int, float] = {}
        for count in self._counts:
            try:
                filled = probes[0][_places(count, 0, weight.device)]
                every[count] = self._timer(partial(multiply, filled))
                given = [_given(multiply, probe, count) for probe in probes]
            except torch.OutOfMemoryError:
                break
            rows = [one for one in given if one is not None]
            if len(rows) < len(probes):
                continue
            same = next((one for one in alike if all(map(torch.equal, one.rows, rows))), None)
            if same is None:
                alike.append(same := _Alike(rows, {}))
            same.seconds[count] = every[count]
        fastest = Slabs(every)

        def slowness(slabs: Slabs) -> float:
            return sum(slabs.seconds(rows) / fastest.seconds(rows) for rows in _PASSES) / len(_PASSES)

        found = min((Slabs(one.seconds, self._multiply) for one in alike), key=slowness, default=None)
        if found:
            log.debug(
                "products of %d by %d run over %s rows, in %.2f of the time of the fastest",
                *weight.shape,
                "/".join(map(str, found.counts)),
                slowness(found),
            )
        return found


class _Alike(NamedTuple):
    """Row counts that make the same of the probes."""

    rows: list[torch.Tensor]
    seconds: dict[int, float]


def _probes(weight: torch.Tensor) -> list[torch.Tensor]:
    """Rows to multiply a weight with, each (_PROBES, in_features); the second are of many magnitudes, and so round
    otherwise in another order of sums.
    """
    made = torch.Generator(weight.device).manual_seed(0)
    shape = _PROBES, weight.shape[1]
    even, spread = (torch.randn(shape, generator=made, device=weight.device) for _ in range(2))
    return [even.to(weight.dtype), (even * spread.mul_(2).exp_()).to(weight.dtype)]


def _places(count: int, shift: int, device: torch.device) -> torch.Tensor:
    """Which probe stands in each of so many rows."""
    return torch.arange(shift, shift + count, device=device) % _PROBES


def _given(multiply: Callable[[torch.Tensor], torch.Tensor], probe: torch.Tensor, count: int) -> torch.Tensor | None:
    """What a product of so many rows makes of each probe, (_PROBES, out_features); None if it varies with the place."""
    given = multiply(probe[_places(count, 0, probe.device)])[:_PROBES]
    for shift in _SHIFTS:
        places = _places(count, shift, probe.device)
        if not torch.equal(multiply(probe[places]), given[places]):
            return None
    return given


def on_device(run: Callable[[], object]) -> float:
    """The seconds that a call takes on the current GPU: the least of a few, behind one that warms up."""
    laps = []
    for _ in range(4):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        laps.append((begin, end))
    torch.cuda.synchronize()
    return min(float(begin.elapsed_time(end)) for begin, end in itertools.islice(laps, 1, None)) / 1000


class RowwiseLinear(torch.nn.Linear):
    """A linear layer that goes by `product`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name in torch
        """The layer's output, (..., in_features) to (..., out_features)."""
        return product(input, self.weight, self.bias)


def through_product(model: torch.nn.Module) -> None:
    """Makes a model's linear layers go by `product`."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = RowwiseLinear


def product_weights(model: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """The weights that a model multiplies by, with their biases: of linear layers, and what else its modules tell."""
    found: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            found.append((module.weight, module.bias))
        found.extend(getattr(module, "product_weights", ()))
    return found
