"""Beginnings of texts that were read before: a system prompt, or the earlier turns of a conversation.

A causal reader makes the same of a beginning whatever follows. So its keys and values, and what its tokens made fire,
are kept in blocks of 64 tokens under a digest of all tokens up to the block's end, and the rest of a text is read on
top of them. A block is kept when it is met for the second time, so that texts nobody repeats cost nothing.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from scopewatch.reader.pages import BLOCK as BLOCK  # noqa: PLC0414  (tokens of a block: what a page holds)
from scopewatch.reader.pages import PagePool
from scopewatch.types import Activations, TokenIds

_REMEMBERED = 1 << 16
"""Blocks met once whose digests are remembered; 32 bytes each."""


@dataclass(slots=True, eq=False)
class Block:
    """What the reader makes of 64 tokens after those before them."""

    page: int
    """Where in the pool their keys and values lie."""
    activations: Activations
    """Tokens counted from the block's first."""
    pins: int = 0
    """The number of texts that are read on top of it just now."""

    @property
    def activations_bytes(self) -> int:
        """Size of the activations."""
        return 12 * len(self.activations.token)


@dataclass(slots=True, eq=False)
class Reading:
    """A text on its way through the reader."""

    ids: TokenIds
    keys: tuple[bytes, ...]
    """Digests of its whole blocks, in order, without the last block if nothing follows that."""
    repeated: int = 0
    """The number of its leading blocks that were met before, so that they are worth keeping."""
    known: list[Block] = field(default_factory=list)
    """The leading blocks, which need not be read."""
    parent: "Reading | None" = None
    """A beginning that is read in the same pass, on which this text goes on."""
    shared: bool = False
    """Whether it is such a beginning itself."""
    wanted: dict[int, int] = field(default_factory=dict)
    """By the number of a block, the page on which its keys and values are to be kept."""

    @property
    def first(self) -> int:
        """Position of the first token to read."""
        return len(self.parent.ids) if self.parent else BLOCK * len(self.known)

    @property
    def pages(self) -> list[int]:
        """The pages of the pool on which its known blocks lie."""
        return [block.page for block in self.known]

    @property
    def rest(self) -> TokenIds:
        """The tokens to read; at least one."""
        return self.ids[self.first :]


class Prefixes:
    """Blocks of beginnings, the least recently used dropped first.

    Args:
        pool: Where keys and values are kept, with the greatest size of all blocks together; None to keep nothing.
    """

    def __init__(self, pool: PagePool | None) -> None:
        self.pool = pool
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        self._activations_bytes = 0
        self._reserved: dict[bytes, int] = {}
        self._met: OrderedDict[bytes, None] = OrderedDict()

    @property
    def kept_bytes(self) -> int:
        """Size of all blocks together."""
        return self._activations_bytes + (len(self._blocks) * self.pool.page_bytes if self.pool else 0)

    def open(self, batch: Sequence[TokenIds]) -> list[Reading]:
        """Begins to read texts: each with the digests of its beginnings, which are now met."""
        readings = [Reading(ids, self._digests(ids)) for ids in batch]
        times = Counter(key for reading in readings for key in reading.keys)
        for reading in readings:
            again = (times[key] > 1 or key in self._met or key in self._blocks for key in reading.keys)
            reading.repeated = next((number for number, met in enumerate(again) if not met), len(reading.keys))
        self._met.update(dict.fromkeys(times))
        while len(self._met) > _REMEMBERED:
            self._met.popitem(last=False)
        return readings

    def recall(self, reading: Reading) -> None:
        """Fills in which leading blocks of a text are known."""
        reading.known = []
        for key in reading.keys:
            if key not in self._blocks:
                break
            reading.known.append(self._blocks[key])

    @contextmanager
    def pinned(self, readings: Sequence[Reading]) -> Iterator[None]:
        """Nothing of what is known of these texts is dropped meanwhile; afterwards they are the last that were used."""
        known = [block for reading in readings for block in reading.known]
        for block in known:
            block.pins += 1
        try:
            yield
        finally:
            for block in known:
                block.pins -= 1
            for reading in readings:
                # The first blocks last: without them those behind are of no use.
                for key in reversed(reading.keys):
                    if key in self._blocks:
                        self._blocks.move_to_end(key)

    @contextmanager
    def pages_for(self, readings: Sequence[Reading]) -> Iterator[None]:
        """Takes pages for what is worth keeping of texts; those that `keep` does not use are given back at the end."""
        for reading in readings:
            reading.wanted = dict(self._reserve(reading))
        try:
            yield
        finally:
            for page in self._reserved.values():
                self._pool.give_back(page)
            self._reserved.clear()

    def keep(self, reading: Reading, whole: Activations) -> None:
        """Keeps the wanted blocks of a text, whose keys and values were written on their pages.

        Args:
            reading: The text.
            whole: Its activations from its first token on.
        """
        for number in reading.wanted:
            key = reading.keys[number]
            block = Block(self._reserved.pop(key), stretch(whole, number * BLOCK, (number + 1) * BLOCK))
            self._blocks[key] = block
            self._activations_bytes += block.activations_bytes
            while self.kept_bytes > self._pool.max_bytes and (page := self._drop()) is not None:
                self._pool.give_back(page)

    def clear(self) -> None:
        """Forgets all blocks, whose activations are of features that were watched."""
        for block in self._blocks.values():
            self._pool.give_back(block.page)
        self._blocks.clear()
        self._activations_bytes = 0

    @property
    def _pool(self) -> PagePool:
        if self.pool is None:
            raise ValueError("there are no pages, so nothing can be kept")
        return self.pool

    def _digests(self, ids: TokenIds) -> tuple[bytes, ...]:
        keys = []
        digest = hashlib.blake2b(digest_size=32)
        for end in range(BLOCK, len(ids) if self.pool else 0, BLOCK):
            digest.update(ids[end - BLOCK : end].astype("<i4").tobytes())
            keys.append(digest.digest())
        return tuple(keys)

    def _reserve(self, reading: Reading) -> Iterator[tuple[int, int]]:
        """Blocks of a text that are worth keeping and not known, with pages for them, as far as there are any."""
        for number in range(reading.first // BLOCK, min(reading.repeated, len(reading.keys))):
            key = reading.keys[number]
            if key in self._blocks or key in self._reserved:
                continue
            page = self._pool.take()
            if page is None and (page := self._drop()) is None:
                return
            self._reserved[key] = page
            yield number, page

    def _drop(self) -> int | None:
        """Forgets the block that was not used for longest, and gives its page; None if all are in use."""
        for key, block in self._blocks.items():
            if not block.pins:
                del self._blocks[key]
                self._activations_bytes -= block.activations_bytes
                return block.page
        return None


def stretch(whole: Activations, start: int, stop: int) -> Activations:
    """What fired from one token up to, and without, another; a copy, whose tokens are counted from the first."""
    inside = slice(*np.searchsorted(whole.token, (start, stop)))
    token = whole.token[inside] - np.int32(start)
    return Activations(stop - start, token, whole.column[inside].copy(), whole.value[inside].copy())
