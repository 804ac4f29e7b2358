"""Beginnings of texts that were read before: a system prompt, or the earlier turns of a conversation.

A causal reader makes the same of a beginning whatever follows. So its keys and values, and what its tokens made fire,
are kept in blocks of 64 tokens under a digest of all tokens up to the block's end, and the rest of a text is read on
top of them. A block is kept when it is met for the second time, so that texts nobody repeats cost nothing.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch

from scopewatch.types import Activations, TokenIds, in_a_row

BLOCK = 64
"""Tokens per block."""
_REMEMBERED = 1 << 16
"""Blocks met once whose digests are remembered; 32 bytes each."""


@dataclass(frozen=True, slots=True)
class Block:
    """What the reader makes of 64 tokens after those before them."""

    keys_values: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Per layer, each of shape (kv_heads, 64, head_dim)."""
    activations: Activations
    """Tokens counted from the block's first."""

    @classmethod
    def of(cls, keys_values: Sequence[tuple[torch.Tensor, torch.Tensor]], number: int, whole: Activations) -> Self:
        """Block `number` of a text, from its keys and values per layer and the activations of the whole text."""
        start = number * BLOCK
        inside = (whole.token >= start) & (whole.token < start + BLOCK)
        token = whole.token[inside] - np.int32(start)
        return cls(tuple(keys_values), Activations(BLOCK, token, whole.column[inside], whole.value[inside]))

    @property
    def nbytes(self) -> int:
        tensors = [tensor for pair in self.keys_values for tensor in pair]
        return sum(tensor.nbytes for tensor in tensors) + 12 * len(self.activations.token)


@dataclass(slots=True)
class Reading:
    """A text on its way through the reader."""

    ids: TokenIds
    keys: tuple[bytes, ...]
    """Digests of its whole blocks, in order, without the last block if nothing follows that."""
    known: list[Block] = field(default_factory=list)
    """The leading blocks, which need not be read."""
    pages: list[int] = field(default_factory=list)
    """On which pages of the pool their keys and values lie."""

    @property
    def past(self) -> int:
        """Number of tokens that need not be read."""
        return BLOCK * len(self.known)

    @property
    def rest(self) -> TokenIds:
        """The tokens to read; at least one."""
        return self.ids[self.past :]


class Prefixes:
    """Blocks of beginnings, the least recently used dropped first.

    Args:
        max_bytes: The greatest size of all blocks together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        self._met: OrderedDict[bytes, None] = OrderedDict()

    @property
    def kept_bytes(self) -> int:
        """Size of all blocks together."""
        return self._bytes

    def open(self, ids: TokenIds) -> Reading:
        """Begins to read a text: the text with the digests of its beginnings."""
        keys = []
        digest = hashlib.blake2b(digest_size=32)
        for end in range(BLOCK, len(ids) if self._max_bytes else 0, BLOCK):
            digest.update(ids[end - BLOCK : end].astype("<i4").tobytes())
            keys.append(digest.digest())
        return Reading(ids, tuple(keys))

    def shared(self, readings: Sequence[Reading]) -> list[Reading]:
        """Beginnings that several of these texts have in common and that are not known, in the order to read them."""
        often = {key for key, times in Counter(key for r in readings for key in r.keys).items() if times > 1}
        unknown: dict[bytes, Reading] = {}
        for reading in readings:
            leading = [key for key in reading.keys if key in often]
            if leading and leading[-1] not in self._blocks and not self._would_not_fit(len(leading)):
                unknown.setdefault(leading[-1], Reading(reading.ids[: BLOCK * len(leading)], tuple(leading)))
        self._met.update(dict.fromkeys(often))
        return sorted(unknown.values(), key=lambda beginning: len(beginning.keys))

    def recall(self, reading: Reading) -> None:
        """Fills in which leading blocks of a text are known."""
        reading.known = []
        for key in reading.keys:
            if key not in self._blocks:
                break
            reading.known.append(self._blocks[key])
        for key in reversed(reading.keys[: len(reading.known)]):
            self._blocks.move_to_end(key)

    def wanted(self, reading: Reading) -> list[int]:
        """Which blocks of a text are to be kept: those met before and not known. The others are now met."""
        unknown = [i for i, key in enumerate(reading.keys) if i >= len(reading.known) and key not in self._blocks]
        wanted = [i for i in unknown if reading.keys[i] in self._met]
        self._met.update(dict.fromkeys(reading.keys[i] for i in unknown))
        while len(self._met) > _REMEMBERED:
            self._met.popitem(last=False)
        return wanted

    def keep(self, reading: Reading, number: int, block: Block) -> None:
        """Keeps a block of a text, and drops the least recently used beyond the bound."""
        key = reading.keys[number]
        # Two texts of one row may have wanted it.
        if known := self._blocks.pop(key, None):
            self._bytes -= known.nbytes
        self._blocks[key] = block
        self._bytes += block.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._blocks.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forgets all blocks, whose activations are of features that were watched."""
        self._blocks.clear()
        self._bytes = 0

    def _would_not_fit(self, blocks: int) -> bool:
        """Whether so many blocks would push out their own first ones."""
        known = next(iter(self._blocks.values()), None)
        return known is not None and blocks * known.nbytes > self._max_bytes


def joined(known: Iterable[Block], rest: Activations) -> Activations:
    """Activations of a whole text from those of its known blocks and of what was read."""
    return in_a_row([*(block.activations for block in known), rest])
