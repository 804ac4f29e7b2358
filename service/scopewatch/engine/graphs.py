"""Small passes as graphs: a row is filled up to one of few lengths, and the device is told once what it does with them.

A pass of few tokens waits for its launches: Python needs longer to ask for a kernel than the device to run it. A graph
is launched as a whole. All that varies between two rows of one length is an input of it: token ids, positions, and
what the attention plans for the texts.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from scopewatch.engine.cuda_graph import Recorded, Recorder
from scopewatch.engine.device_clock import DeviceClock
from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.engine.graph_lengths import lengths_up_to, room_of
from scopewatch.engine.layout import Inputs, on_device
from scopewatch.engine.passes import Passes, Row, Tap, untouched
from scopewatch.errors import EngineDied, EngineError
from scopewatch.reader.configuration import on_one_line
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader
from scopewatch.reader.pages import PagePool
from scopewatch.reader.prefixes import Reading

log = logging.getLogger(__name__)

RECORD_S = 20.0
"""How long a start may record; rows of a length that has no graph by then take the next longer one."""
_SHARE = 0.1
"""The share of the free memory that graphs may take."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a service wants of every pass."""

    encoders: Mapping[Hookpoint, HookpointEncoder]
    """What is made of activations, by hookpoint."""
    whole: bool = False
    """Whether every layer runs that is loaded."""
    pool: PagePool | None = None
    """Where known blocks of texts lie."""

    @property
    def taps(self) -> dict[Hookpoint, Tap]:
        """What a graph holds: encoders as far as one can hold them, else the activations that they take."""
        return {place: encoder if encoder.capturable else untouched for place, encoder in self.encoders.items()}


@dataclass(frozen=True, slots=True)
class _Graph:
    """The pass for rows of one length."""

    inputs: Inputs
    recorded: Recorded[Row]
    encode_share: float
    """The share of its device time that its taps take, as measured before it was recorded."""


class Graphs:
    """The graphs of the passes that a service runs; call them from one thread at a time.

    Args:
        reader: The reader.
        recorder: Records a pass.
        most_tokens: The length of the longest row that has a graph.
    """

    def __init__(self, reader: Reader, recorder: Recorder, most_tokens: int) -> None:
        self._reader = reader
        self._passes = Passes(reader)
        self._recorder = recorder
        self._possible = lengths_up_to(most_tokens, reader.attention.multiple) if self._have_room() else []
        if not self._possible:
            log.info("small passes are not replayed: the plans of %s have no fixed shapes", reader.attention.name)
        self._graphs: dict[int, _Graph] = {}
        self._left: list[int] = []
        self.idle_bytes = 0
        """Memory that belongs to graphs, and that no batch can have though no tensor uses it."""
        self.watch(Served({}))

    @property
    def most_tokens(self) -> int:
        """The length of the longest row that is replayed, once its graph is recorded; 0 where there is none."""
        return max(self._possible, default=0)

    @property
    def complete(self) -> bool:
        """Whether all graphs are recorded that there can be."""
        return not self._left

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the rows that have a graph, ascending."""
        return tuple(sorted(self._graphs))

    def watch(self, served: Served) -> None:
        """Forgets all graphs: from now on passes give something else. `record_next` makes new ones.

        Args:
            served: What they give.
        """
        self._served = served
        self._graphs = {}
        self._left = self._possible[::-1] if served.encoders or served.whole else []
        if self._left and served.pool:
            # A graph reads known blocks where they lie when it is recorded.
            served.pool.allocate()
        self._recorder.restart()
        self._before = self._recorder.memory()

    def record_all(self, within_s: float = RECORD_S, now_s: Callable[[], float] = time.monotonic) -> None:
        """Records the graphs that are left, unless time is up before.

        Args:
            within_s: No graph is begun after so many seconds.
            now_s: The clock.

        Raises:
            EngineDied: The device is lost.
        """
        began_s = now_s()
        while self._left and now_s() - began_s < within_s:
            self.record_next()
        if self._left:
            log.warning("there was no time for graphs of passes of %s tokens", ", ".join(map(str, self._left)))
            self._possible, self._left = list(self.lengths), []

    @torch.inference_mode()
    def record_next(self) -> bool:
        """Records the graph of the longest rows that have none; the others run in their memory.

        One that cannot be recorded, or does not give what its pass gives, is left out for good.

        Returns:
            Whether there is another one to record.

        Raises:
            EngineDied: The device is lost.
        """
        if not self._left:
            return False
        length = self._left.pop(0)
        try:
            with self._reader.turn:
                graph = self._recorded(length)
            self._graphs[length] = graph
            self._check_memory()
        except Exception as error:
            self._graphs.pop(length, None)
            self._possible.remove(length)
            why = str(error) if isinstance(error, EngineError) else on_one_line(error)
            log.warning("passes of %d tokens are not replayed: %s", length, why)
            assert_alive(self._reader.device)
            self._recorder.restart()
        if not self._left:
            log.info("graphs recorded", extra={"tokens": self.lengths, "idle_bytes": self.idle_bytes})
        return bool(self._left)

    def length_of(self, readings: Sequence[Reading]) -> int | None:
        """The length that a row of texts is filled up to, whether its graph is there or not; None for longer rows."""
        tokens = sum(len(reading.rest) for reading in readings)
        return next((length for length in self._possible if length >= tokens), None)

    def replay(self, readings: Sequence[Reading], taps: Mapping[Hookpoint, Tap], clock: DeviceClock) -> Row | None:
        """Reads texts in one pass, if there is a graph that fits them and nothing of them is to be kept.

        Args:
            readings: As of `Passes.read`.
            taps: By hookpoint, what is done with its activations where the graph cannot do it.
            clock: Is told the device time of the taps. Nothing inside a graph can be timed: it is the share of the
                pass that they took before it was recorded.

        Returns:
            What `Passes.read` gives, until the next replay; None where no graph fits.
        """
        length = self.length_of(readings) or 0
        graph = self._graphs.get(length)
        if not graph or any(reading.wanted for reading in readings):
            return None
        packing = self._passes.pack(readings, pool=self._served.pool, filled=length)
        arrays = self._passes.arrays(packing, room_of(length))
        if arrays is None:
            return None
        graph.inputs.fill(arrays)
        with clock.lap(graph.encode_share):
            graph.recorded.replay()
        tapped = dict(graph.recorded.result.tapped)
        for place, encoder in self._served.encoders.items():
            if not encoder.capturable:
                tapped[place] = taps[place](tapped[place][None])[0]
        return replace(graph.recorded.result, packing=packing, tapped=tapped)

    def _have_room(self) -> bool:
        """Whether the attention runs by its inputs alone."""
        row = self._passes.pack([_trial(1, self._reader.vocabulary)], filled=self._reader.attention.multiple)
        return self._passes.arrays(row, room_of(len(row.ids))) is not None

    def _recorded(self, length: int) -> _Graph:
        """The graph for rows of one length, which gives what the pass gives of other texts than it was recorded with.

        Raises:
            EngineError: It does not.
        """
        longest = min(length, self._reader.context)
        pool, taps = self._served.pool, self._served.taps
        served = partial(self._passes.run, whole=self._served.whole)
        row = self._passes.pack(self._trials(length, longest), pool=pool, filled=length)
        arrays = self._passes.arrays(row, room_of(length))
        assert arrays is not None
        inputs = Inputs(arrays, self._reader.device)
        row.inputs = inputs.tensors
        # Kernels are compiled, and libraries loaded, by the first pass.
        served(row, taps)
        recorded = self._recorder.record(lambda: served(row, taps))

        other = self._passes.pack(self._trials(length - length // 5, max(1, longest // 3)), pool=pool, filled=length)
        plan = self._passes.arrays(other)
        fitting = self._passes.arrays(other, room_of(length))
        assert plan is not None
        assert fitting is not None
        other.inputs = on_device(plan, self._reader.device)
        encode, total = DeviceClock(self._reader.device), DeviceClock(self._reader.device)
        with total.lap():
            expected = served(other, {place: encode.timing(make) for place, make in taps.items()})
        inputs.fill(fitting)
        recorded.replay()
        _assert_equal(expected, recorded.result)
        return _Graph(inputs, recorded, encode.total_s() / max(total.total_s(), 1e-9))

    def _trials(self, tokens: int, longest: int) -> list[Reading]:
        """Texts of so many tokens together, none longer than the longest."""
        starts = range(0, tokens, longest)
        return [_trial(min(longest, tokens - start), self._reader.vocabulary, start + tokens) for start in starts]

    def _check_memory(self) -> None:
        """Notes how much memory the graphs take.

        Raises:
            EngineError: They take more than they may.
        """
        now = self._recorder.memory()
        if self._before.free_bytes - now.free_bytes > _SHARE * self._before.free_bytes:
            raise EngineError(f"graphs would take more than {_SHARE:.0%} of the free memory")
        self.idle_bytes = max(0, now.idle_bytes - self._before.idle_bytes)


def assert_alive(device: torch.device) -> None:
    """Waits for a device.

    Raises:
        EngineDied: It is lost.
    """
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except torch.AcceleratorError as error:
        raise EngineDied(f"the device failed: {str(error).splitlines()[0]}") from error


def _trial(tokens: int, vocabulary: int, seed: int = 0) -> Reading:
    """A text to try a pass with."""
    return Reading((np.arange(seed, seed + tokens) * 7919 % vocabulary).astype(np.int32), ())


def _assert_equal(expected: Row, found: Row) -> None:
    """Compares two passes over the same texts, bit by bit but for what fills up the row.

    Raises:
        EngineError: They differ.
    """
    pairs = [(expected.states, found.states), *((made, found.tapped[place]) for place, made in expected.tapped.items())]
    for one, other in pairs:
        a, b = (made[: expected.packing.tokens] for made in (one, other))
        if not bool(((a == b) | (a.isnan() & b.isnan())).all()):
            raise EngineError("the graph gives other numbers than the pass")
