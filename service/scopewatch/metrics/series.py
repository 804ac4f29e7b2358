"""Collectors for what every pair moves: prometheus_client's own take longer to find a series than to count.

Only the event loop fills them, so they need no lock.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from scopewatch.types import Trace

M = TypeVar("M", Counter, Histogram)


class Bound(dict[tuple[str, ...], M], Generic[M]):
    """The series of a metric by their label values, each bound once: `labels()` costs more than counting.

    Args:
        metric: The metric.
        starts: Of a metric with one label, the values whose series are there from the start, so that rates have a first
            point.
    """

    def __init__(self, metric: M, starts: Iterable[str] = ()) -> None:
        self._metric: M = metric
        for value in starts:
            self[value,]

    def __missing__(self, values: tuple[str, ...]) -> M:
        series: M = self._metric.labels(*values)
        self[values] = series
        return series


def exemplar_of(trace: Trace | None) -> dict[str, str] | None:
    """The labels by which a bucket names a trace; None for none."""
    return {"trace_id": trace.trace_id} if trace else None


class Named(Collector):
    """A collector whose series can be asked for by name."""

    def describe(self) -> Iterable[Metric]:
        """What the registry asks for the names, when the collector is registered."""
        return self.collect()


class Counts:
    """Counts of many series in one array, so that a pair moves all of its own by one vector operation."""

    def __init__(self) -> None:
        self._values = np.zeros(0, np.int64)
        self._released: dict[int, list[int]] = {}
        """Where counts began that are needed no longer, by how many they were."""

    def reserve(self, size: int) -> int:
        """Makes room for so many counts more, which begin at 0; what is counted already stays.

        Returns:
            The index of the first of them.
        """
        if released := self._released.get(size):
            return released.pop()
        begin = len(self._values)
        self._values = np.append(self._values, np.zeros(size, np.int64))
        return begin

    def release(self, begin: int, size: int) -> None:
        """Gives back what was reserved: nobody may count there any more, until it is reserved again."""
        self._values[begin : begin + size] = 0
        self._released.setdefault(size, []).append(begin)

    def add(self, indices: NDArray[np.intp]) -> None:
        """Counts each index as often as it stands there."""
        self._values += np.bincount(indices, minlength=len(self._values))

    def add_to(self, index: int, times: int) -> None:
        """Counts one index so many times."""
        self._values[index] += times

    def of(self, begin: int, size: int) -> list[int]:
        """The counts from an index on."""
        counts: list[int] = self._values[begin : begin + size].tolist()
        return counts


@dataclass(frozen=True, slots=True)
class _Buckets:
    """The buckets of one series."""

    bounds: tuple[float, ...]
    begin: int
    """The index of the first one's count; that of the values above all bounds stands last."""

    def place(self, value: float) -> int:
        """The index of the count of the bucket that a value falls into."""
        return self.begin + bisect_left(self.bounds, value)


class Histograms(Named):
    """Histograms of one name.

    Args:
        registry: Where they are collected.
        counts: Where their buckets are counted.
        name: The metric's name without its prefix.
        text: The metric's help.
        bounds: The buckets' upper bounds, ascending.
        labels: The names of the labels.
    """

    def __init__(
        self, registry: CollectorRegistry, counts: Counts, name: str, text: str, bounds: Sequence[float], *labels: str
    ) -> None:
        self._about = (f"scopewatch_{name}", text)
        self._labels = labels
        self._bounds = bounds
        self._counts = counts
        self._buckets: dict[tuple[str, ...], _Buckets] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._exemplars: dict[int, Exemplar] = {}
        """The last value of a pair that is traced, by the index of its bucket."""
        registry.register(self)

    def start(self, *labels: str, bound: float | None = None) -> None:
        """Starts a series at 0, if it is not there yet; one that has other bounds starts again, as after a restart.

        Args:
            labels: The values of the labels.
            bound: An upper bound that this series has beside those of all.
        """
        bounds = tuple(sorted({*self._bounds} if bound is None else {*self._bounds, bound}))
        former = self._buckets.get(labels)
        if former and former.bounds == bounds:
            return
        self._buckets[labels] = _Buckets(bounds, self._counts.reserve(len(bounds) + 1))
        self._sums[labels] = 0.0
        if former:
            self._counts.release(former.begin, len(former.bounds) + 1)
            for place in range(former.begin, former.begin + len(former.bounds) + 1):
                self._exemplars.pop(place, None)

    def place(self, value: float, *labels: str) -> int:
        """The index, in the counts, of the bucket that a value falls into."""
        return self._buckets[labels].place(value)

    def observe(self, value: float, times: int, *labels: str, trace: Trace | None = None) -> None:
        """Counts a value so many times. Whoever counts by `place` instead adds to the sum alone.

        Args:
            value: The value.
            times: How often it is counted.
            labels: The values of the labels.
            trace: A trace in which it was seen; pages in OpenMetrics name the last one of each bucket.
        """
        place = self.place(value, *labels)
        self._counts.add_to(place, times)
        self.add_to_sum(value * times, *labels)
        if exemplar := exemplar_of(trace):
            self._exemplars[place] = Exemplar(exemplar, value, time.time())

    def add_to_sum(self, total: float, *labels: str) -> None:
        """Adds the sum of values whose buckets are counted by `place`."""
        self._sums[labels] += total

    def collect(self) -> Iterable[Metric]:
        name, text = self._about
        # Not HistogramMetricFamily, which leaves out the count, too, where values may be below 0.
        family = Metric(name, text, "histogram")
        for values, buckets in list(self._buckets.items()):
            bounds = [*(str(float(bound)) for bound in buckets.bounds), "+Inf"]
            labels = dict(zip(self._labels, values, strict=True))
            cumulated = np.cumsum(self._counts.of(buckets.begin, len(bounds))).tolist()
            for place, (bound, count) in enumerate(zip(bounds, cumulated, strict=True), buckets.begin):
                exemplar = self._exemplars.get(place)
                family.add_sample(f"{name}_bucket", labels | {"le": bound}, count, exemplar=exemplar)
            family.add_sample(f"{name}_count", labels, cumulated[-1])
            if self._bounds[0] >= 0:
                family.add_sample(f"{name}_sum", labels, self._sums[values])
        yield family


class Totals(Named):
    """Counters of one name, told apart by one label.

    Args:
        registry: Where they are collected.
        counts: Where they are counted.
        name: The metric's name without its prefix and `_total`.
        text: The metric's help.
        label: The name of the label.
    """

    def __init__(self, registry: CollectorRegistry, counts: Counts, name: str, text: str, label: str) -> None:
        self._about = (f"scopewatch_{name}", text)
        self._label = label
        self._counts = counts
        self._places: dict[str, int] = {}
        registry.register(self)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def place(self, name: str) -> int:
        """The index, in the counts, of the series of this name, which is started at 0 if it is not there yet."""
        if name not in self._places:
            self._places[name] = self._counts.reserve(1)
        return self._places[name]

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(*self._about, labels=[self._label])
        for name, place in list(self._places.items()):
            family.add_metric([name], self._counts.of(place, 1)[0])
        yield family
