"""Collectors for what every pair moves: prometheus_client's own take longer to find a series than to count.

Only the event loop fills them, so they need no lock.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
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
    """The series of a metric by their label values, each bound once: `labels()` costs more than counting."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric

    def __missing__(self, values: tuple[str, ...]) -> M:
        series: M = self._metric.labels(*values)
        self[values] = series
        return series


def exemplar_of(trace: Trace | None) -> dict[str, str] | None:
    """The labels by which a bucket names a trace; None for none."""
    return {"trace_id": trace.trace_id} if trace else None


class Counts:
    """Counts of many series in one array, so that a pair moves all of its own by one vector operation."""

    def __init__(self) -> None:
        self._values = np.zeros(0, np.int64)

    def reserve(self, size: int) -> int:
        """Makes room for so many counts more, which begin at 0; what is counted already stays.

        Returns:
            The index of the first of them.
        """
        begin = len(self._values)
        self._values = np.append(self._values, np.zeros(size, np.int64))
        return begin

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


class Histograms(Collector):
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
        self._begins: dict[tuple[str, ...], int] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._exemplars: dict[int, Exemplar] = {}
        """The last value of a pair that is traced, by the index of its bucket."""
        registry.register(self)

    def start(self, *labels: str) -> None:
        """Starts a series at 0, if it is not there yet."""
        if labels not in self._begins:
            self._begins[labels] = self._counts.reserve(len(self._bounds) + 1)
            self._sums[labels] = 0.0

    def place(self, value: float, *labels: str) -> int:
        """The index, in the counts, of the bucket that a value falls into."""
        return self._begins[labels] + bisect_left(self._bounds, value)

    def observe(self, value: float, times: int, *labels: str, trace: Trace | None = None) -> None:
        """Counts a value so many times. Whoever counts by `place` instead leaves the sum where it is.

        Args:
            value: The value.
            times: How often it is counted.
            labels: The label values of its series.
            trace: A trace in which it is seen; pages in OpenMetrics name the last one of each bucket.
        """
        place = self.place(value, *labels)
        self._counts.add_to(place, times)
        self._sums[labels] += value * times
        if exemplar := exemplar_of(trace):
            self._exemplars[place] = Exemplar(exemplar, value, time.time())

    def describe(self) -> Iterable[Metric]:
        """Its name, without which a page that is asked for by names leaves it out."""
        # Not HistogramMetricFamily, which leaves out the count, too, where values may be below 0.
        yield Metric(*self._about, "histogram")

    def collect(self) -> Iterable[Metric]:
        (family,) = self.describe()
        name = family.name
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, begin in list(self._begins.items()):
            labels = dict(zip(self._labels, values, strict=True))
            cumulated = np.cumsum(self._counts.of(begin, len(bounds))).tolist()
            for place, (bound, count) in enumerate(zip(bounds, cumulated, strict=True), begin):
                exemplar = self._exemplars.get(place)
                family.add_sample(f"{name}_bucket", labels | {"le": bound}, count, exemplar=exemplar)
            family.add_sample(f"{name}_count", labels, cumulated[-1])
            if self._bounds[0] >= 0:
                family.add_sample(f"{name}_sum", labels, self._sums[values])
        yield family


class FiredFeatures(Collector):
    """In how many pairs features fired.

    Args:
        registry: Where they are collected.
        counts: Where they are counted.
    """

    def __init__(self, registry: CollectorRegistry, counts: Counts) -> None:
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

    def describe(self) -> Iterable[Metric]:
        """Its name, as of `Histograms`."""
        yield self._family()

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        for name, place in list(self._places.items()):
            family.add_metric([name], self._counts.of(place, 1)[0])
        yield family

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(
            "scopewatch_feature_fired_pairs", "Pairs in which a watched feature fired.", labels=["feature"]
        )
