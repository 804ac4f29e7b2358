"""What a runner keeps of beginnings that texts share, and in which passes it reads on top of it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from scopewatch.engine.break_even import BreakEven, measured
from scopewatch.reader.loading import Reader
from scopewatch.reader.pages import BLOCK, PagePool
from scopewatch.reader.prefixes import Prefixes, Reading
from scopewatch.reader.sharing import distinct_tokens, known_tokens
from scopewatch.types import TokenIds

log = logging.getLogger(__name__)

_FEW_TOKENS = 256
"""The smallest pass that is measured; each of the others has twice as many tokens as the one before."""
_MANY_BLOCKS = 32
"""The most known blocks that a pass is measured with."""


class Reuse:
    """Beginnings that are kept.

    Args:
        reader: The reader.
        max_bytes: The greatest size of what is kept; 0 for nothing.
    """

    def __init__(self, reader: Reader, max_bytes: int) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._on_gpu = reader.device.type != "cpu"
        self._break_even = BreakEven()
        self.prefixes = Prefixes(None)
        """What is kept now."""

    @property
    def pending_bytes(self) -> int:
        """Memory that is taken as soon as something is kept."""
        pool = self.prefixes.pool
        return pool.max_bytes if pool and not pool.keys else 0

    def restart(self, layers: int) -> None:
        """Forgets everything, and keeps from now on what so many layers make of beginnings; with 0 of them, nothing."""
        if (pool := self.prefixes.pool) and pool.layers == layers:
            self.prefixes.clear()
        else:
            self.prefixes = Prefixes(self._new_pool(layers) if self._max_bytes and layers else None)

    @contextmanager
    def on_top_of_known(self, row: Sequence[Reading]) -> Iterator[None]:
        """Fills in what is known of the texts of a row, where it is faster to read on top of that, and holds it."""
        for reading in row:
            self.prefixes.recall(reading)
        known = known_tokens(row)
        if known and not self._break_even.pays(distinct_tokens(row), known):
            for reading in row:
                reading.known = []
        with self.prefixes.pinned(row):
            yield

    def weigh(self, run: Callable[[Sequence[TokenIds]], object], *, max_tokens: int, most_tokens: int) -> None:
        """Measures on a GPU which passes reuse makes faster; it stays out of the others.

        On a CPU it pays in all of them: a token's products take far longer than copying its keys and values.

        Args:
            run: The runner of these beginnings.
            max_tokens: Tokens of the longest text.
            most_tokens: Tokens of the largest pass.
        """
        if not (pool := self.prefixes.pool):
            return
        few = min(_FEW_TOKENS, max_tokens // 2)
        many = min(_MANY_BLOCKS, (max_tokens - few) // BLOCK, pool.pages - 2)
        if self._on_gpu and many > 1:
            sizes = [few << step for step in range(16) if few << step <= max(few, most_tokens)]
            read = self._trial(run, max_tokens, (BLOCK, BLOCK * many))
            self._break_even = measured(read, sizes, (BLOCK, BLOCK * many))
            self.prefixes.clear()
        least = self._break_even.least_tokens(most_tokens)
        log.info("reuse of shared beginnings weighed", extra={"pays_from_tokens": least})
        if least is None:
            pool.close()

    def _trial(
        self, run: Callable[[Sequence[TokenIds]], object], max_tokens: int, known: Sequence[int]
    ) -> Callable[[int, int], None]:
        """What reads so many new tokens on top of none, or of one of these numbers of known ones."""
        numbers = np.random.default_rng(0)

        def text(tokens: int) -> TokenIds:
            return numbers.integers(self._reader.vocabulary, size=tokens, dtype=np.int32)

        beginnings = {tokens: text(tokens) for tokens in known}

        def read(tokens: int, known: int) -> None:
            whole = [text(min(max_tokens, tokens - start)) for start in range(0, tokens, max_tokens)]
            run([np.concatenate([beginnings[known], whole[0]])] if known else whole)

        for tokens in [*known] * 2:
            # Met once, and kept when met again.
            read(1, tokens)
        return read

    def _new_pool(self, layers: int) -> PagePool:
        config: Any = self._reader.model.config
        return PagePool(
            self._max_bytes,
            layers=layers,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            dtype=self._reader.model.dtype,
            device=self._reader.device,
        )
