"""Runs batches: texts packed into rows through the reader, watched columns encoded at each hookpoint."""

import logging
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch

from scopewatch.engine.device_clock import DeviceClock
from scopewatch.engine.encoder import HookpointEncoder, median_norms
from scopewatch.engine.graphs import Graphs, Served
from scopewatch.engine.passes import Passes, Row, Tap, halved
from scopewatch.engine.reuse import Reuse
from scopewatch.engine.slabs import what_fires
from scopewatch.errors import EngineError
from scopewatch.identity import FeatureTable
from scopewatch.reader.head import Head
from scopewatch.reader.hookpoints import Change, Hookpoint
from scopewatch.reader.loading import Reader
from scopewatch.reader.prefixes import Reading, stretch
from scopewatch.reader.sharing import shared_rows, side_by_side, with_beginnings
from scopewatch.sae.encoder import Encoder
from scopewatch.types import Activations, EncodedBatch, TokenIds, in_a_row

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlacedEncoder:
    """An SAE's encoder and where it reads."""

    hookpoint: Hookpoint
    encoder: Encoder


class Runner:
    """The synchronous engine; call it from one thread.

    Args:
        reader: The reader, loaded down to the deepest hookpoint.
        encoders: See `watch`.
        row_tokens: The most tokens of one forward pass; a longer single text still gets one.
        prefix_bytes: Size of what is kept of beginnings that texts share; 0 for nothing. While the head runs, they are
            read anew: what it says of a token comes from the token before, which might not be read again.
        table: See `watch`.
        head: See `watch`.
        graphs: Where small passes are replayed from; None where all run as they come.
    """

    def __init__(
        self,
        reader: Reader,
        encoders: Sequence[PlacedEncoder],
        *,
        row_tokens: int,
        prefix_bytes: int = 0,
        table: FeatureTable = FeatureTable(()),  # noqa: B008 - immutable
        head: bool = True,
        graphs: Graphs | None = None,
    ) -> None:
        self._reader = reader
        self._graphs = graphs
        self._may_replay = True
        self._replays: list[int] = []
        self._passes = Passes(reader)
        self._reuse = Reuse(reader, prefix_bytes)
        self._reused_tokens = 0
        self._row_tokens = row_tokens
        self._clock = DeviceClock(reader.device)
        self.watch(encoders, table, head=head)

    def watch(self, encoders: Sequence[PlacedEncoder], table: FeatureTable, *, head: bool = True) -> None:
        """Watches these features from now on and no others; what was kept of beginnings is forgotten.

        Args:
            encoders: Columns of `Activations.column`, in this order; behind them, where the reader has its head, the
                log-probability of each token and the entropy of the distribution it was expected from.
            table: Which feature each of these columns belongs to.
            head: Whether the reader's head runs, if it has one.
        """
        hookpoints = sorted({placed.hookpoint for placed in encoders})
        self._encoders = {}
        for hookpoint in hookpoints:
            here = [placed.encoder for placed in encoders if placed.hookpoint == hookpoint]
            self._encoders[hookpoint] = HookpointEncoder(here).to(self._reader.device)
        self._head = self._reader.head if head else None
        self._order = _column_order(encoders, hookpoints, more=2).to(self._reader.device)
        self._table = table
        # Blocks of beginnings have no norms, and a text's median needs those of all its tokens.
        anew = bool(self._head) or any(encoder.bounded for encoder in self._encoders.values())
        self._reuse.restart(0 if anew else self._passes.depth(hookpoints))
        if self._graphs:
            self._graphs.watch(Served(self._encoders, whole=bool(self._head), pool=self._reuse.prefixes.pool))

    @property
    def kept_bytes(self) -> int:
        """Size of what is kept of beginnings that texts share."""
        return self._reuse.prefixes.kept_bytes

    @property
    def pending_bytes(self) -> int:
        """Memory that will be taken for beginnings once something is kept of them."""
        return self._reuse.pending_bytes

    @torch.inference_mode()
    def __call__(self, batch: Sequence[TokenIds]) -> EncodedBatch:
        """Encodes pairs.

        Args:
            batch: Token ids, each of shape (n_tokens,) with n_tokens at least 1.

        Raises:
            EngineDied: The device is lost; nothing can run in this process any more.
        """
        if not self._encoders and not self._head:
            # Watchlists of words and characters alone need nothing of the reader.
            return EncodedBatch([_nothing(len(ids)) for ids in batch], 0.0, 0.0, table=self._table)
        started_s = time.perf_counter()
        self._clock.reset()
        self._replays = []
        self._reused_tokens = 0
        readings = self._reuse.prefixes.open(batch)
        order = side_by_side(readings)
        rows = shared_rows([readings[number] for number in order], self._row_tokens)
        outcomes = dict(zip(order, (outcome for row in rows for outcome in self._encode(row)), strict=True))
        encode_s = self._clock.total_s()
        return EncodedBatch(
            [outcomes[number] for number in range(len(batch))],
            forward_s=time.perf_counter() - started_s - encode_s,
            encode_s=encode_s,
            reused_tokens=self._reused_tokens,
            table=self._table,
            graph_tokens=tuple(self._replays),
        )

    def plainly(self, batch: Sequence[TokenIds]) -> EncodedBatch:
        """Encodes pairs as a call does, and replays nothing.

        Args:
            batch: As of a call.

        Raises:
            EngineDied: The device is lost.
        """
        other = copy(self)
        other._may_replay = False  # noqa: SLF001 - its own
        return other(batch)

    @torch.inference_mode()
    def alone(self, ids: TokenIds, edits: Mapping[Hookpoint, Change] | None = None) -> Activations:
        """Encodes one text in a pass of its own.

        Args:
            ids: Token ids, at least one.
            edits: As `Passes.read` takes them.

        Raises:
            SaeError: Nothing can be replaced at a hookpoint.
            EngineError: The reader fails on the text.
        """
        if not self._encoders and not self._head:
            return _nothing(len(ids))
        (outcome,) = halved(lambda batch: self._forward(batch, edits), [Reading(ids, ())], failed, self._reader.device)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def weigh_reuse(self, *, max_tokens: int, most_tokens: int) -> None:
        """Measures which passes are faster on top of what is known of beginnings; see `Reuse.weigh`."""
        self._reuse.weigh(self, max_tokens=max_tokens, most_tokens=most_tokens)

    def aside(self, table: FeatureTable) -> "Runner":
        """A runner of the same encoders, beside what is served: its head runs if it is loaded, and nothing is kept.

        Args:
            table: Which feature each of its columns belongs to.
        """
        other = copy(self)
        other._turn_aside(table)  # noqa: SLF001 - its own
        return other

    def _turn_aside(self, table: FeatureTable) -> None:
        self._reuse = Reuse(self._reader, 0)
        self._may_replay = False
        self._head = self._reader.head
        self._table = table

    def _encode(self, row: Sequence[Reading]) -> list[Activations | Exception]:
        """One forward pass over neighbouring texts, on top of what is known of them; on failure several."""
        with self._reuse.on_top_of_known(row):
            return halved(self._forward, row, failed, self._reader.device)

    def _forward(
        self, batch: Sequence[Reading], edits: Mapping[Hookpoint, Change] | None = None
    ) -> list[Activations | Exception]:
        """One forward pass, with the outcome of each text; what is worth keeping of them is kept."""
        readings = with_beginnings(batch)
        with self._reuse.prefixes.pages_for(readings):
            row, fired = self._read(readings, edits)
            if not np.isfinite(fired.value).all():
                if len(batch) > 1:
                    # A kernel that reads several texts at once may have carried it from one to another.
                    raise EngineError("one of several pairs overflowed")
                told = "the reader's activations overflowed or are NaN on this pair; its weights may be damaged"
                return [EngineError(told)]
            found: dict[Reading, Activations] = {}
            for text in row.packing.texts:
                reading, own = text.reading, stretch(fired, text.place.start, text.place.stop)
                before = [found[reading.parent]] if reading.parent else [block.activations for block in reading.known]
                found[reading] = in_a_row([*before, own])
                self._reuse.prefixes.keep(reading, found[reading])
        self._reused_tokens += sum(len(reading.ids) for reading in batch) - row.packing.tokens
        return [found[reading] for reading in readings if not reading.shared]

    def _read(self, readings: Sequence[Reading], edits: Mapping[Hookpoint, Change] | None) -> tuple[Row, Activations]:
        """A row, and what fired on it; its values may not be finite."""
        lengths = [len(reading.rest) for reading in readings]
        taps = {hookpoint: self._timed(encoder, lengths) for hookpoint, encoder in self._encoders.items()}
        graphs, row = self._graphs, None
        if graphs and self._may_replay and not edits:
            row = graphs.replay(readings, taps, self._clock)
        if row:
            self._replays.append(len(row.ids))
        else:
            # As long as it would be replayed, so that what is said of a pair aside is of the same numbers.
            filled = graphs.length_of(readings) if graphs else None
            pool, whole = self._reuse.prefixes.pool, bool(self._head)
            row = self._passes.read(readings, taps, pool=pool, edits=edits, whole=whole, filled=filled)
        columns = [row.tapped[hookpoint] for hookpoint in taps]
        if self._head:
            columns.append(self._predictions(self._head, row))
        acts = torch.cat(columns, dim=-1)[: row.packing.tokens]
        acts = acts[:, self._order[: acts.shape[1]]]
        return row, what_fires(acts)

    def _predictions(self, head: Head, row: Row) -> torch.Tensor:
        """Log-probability and entropy for every token of the row; 0 for those that nothing comes before."""
        with self._clock.lap():
            follows = self._passes.on_device(np.flatnonzero(row.packing.positions))
            told = row.states.new_zeros((len(row.ids), 2), dtype=torch.float32)
            told[follows] = head(row.states[follows - 1], row.ids[follows])
            return told

    def _timed(self, encoder: HookpointEncoder, lengths: Sequence[int]) -> Tap:
        def encode(activations: torch.Tensor) -> torch.Tensor:
            with self._clock.lap():
                median = median_norms(activations[0], lengths) if encoder.bounded else None
                encoded: torch.Tensor = encoder(activations, median)
                return encoded

        return encode


def failed(reading: Reading, failure: Exception) -> EngineError:
    """What becomes of a pair on which the reader fails; the log has the traceback."""
    log.error("the reader failed on a pair of %d tokens", len(reading.ids), exc_info=failure)
    return EngineError(f"the reader failed on this pair ({type(failure).__name__})")


def _column_order(encoders: Sequence[PlacedEncoder], hookpoints: Sequence[Hookpoint], *, more: int) -> torch.Tensor:
    """Positions in the hookpoint-ordered concatenation that put columns back into the order of `encoders`.

    `more` columns behind those of the hookpoints, which there may be, stay where they are.
    """
    first: dict[int, int] = {}
    position = 0
    for hookpoint in hookpoints:
        for number, placed in enumerate(encoders):
            if placed.hookpoint == hookpoint:
                first[number] = position
                position += len(placed.encoder.watched)
    own = [torch.arange(len(placed.encoder.watched)) + first[number] for number, placed in enumerate(encoders)]
    return torch.cat([*own, torch.arange(position, position + more)])


def _nothing(n_tokens: int) -> Activations:
    """The activations of a text in which nothing is watched."""
    none = np.empty(0, np.int32)
    return Activations(n_tokens, none, none, np.empty(0, np.float32))
