"""The lengths of rows that are replayed from a graph, and how much each has room for."""

from scopewatch.reader.packing import Room
from scopewatch.reader.prefixes import BLOCK

MOST_TOKENS = {"cpu": 0, "cuda": 2048}
"""The longest row that is replayed, by kind of device: a CPU does not wait for launches."""
_TEXT_TOKENS = 16
"""A row has room for as many texts as would be of this length."""
_KNOWN_TILES = 1024
"""A row has room for texts that go on behind so many known blocks."""


def lengths_up_to(most_tokens: int, multiple: int) -> list[int]:
    """The lengths of rows that have a graph, ascending: each is at most half as long again as the one before.

    Args:
        most_tokens: The longest.
        multiple: Each is a multiple of this, except that the longest is filled up to one.
    """
    steps = sorted(least << doubled for least in (BLOCK, BLOCK * 3 // 2) for doubled in range(16))
    longest = -(-most_tokens // multiple) * multiple
    return [
        *(length for length in steps if length < longest and length % multiple == 0),
        *([longest] if longest else []),
    ]


def room_of(length: int) -> Room:
    """What a graph for rows of this length has room for."""
    queries = length // BLOCK + length // _TEXT_TOKENS + 1
    return Room(query_tiles=queries, key_tiles=queries + _KNOWN_TILES)
