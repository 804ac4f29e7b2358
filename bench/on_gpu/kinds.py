"""The kinds of attention: a reader runs the one that is right and fastest on its device, unless one is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

from scopewatch.reader import attention
from scopewatch.reader.attention_choice import Candidate
from scopewatch.reader.attention_trials import AttentionShapes
from scopewatch.reader.packing import AttentionKind

KINDS = ("packed_tiles", "packed_flex", "packed")
"""The names of all kinds. `packed` is what runs where there is no other."""


@contextmanager
def only_kind(name: str) -> Iterator[None]:
    """Readers that are loaded meanwhile on a GPU run this kind, in the form that is tried first; all if it is empty."""
    offered = attention.candidates

    def first(shapes: AttentionShapes, otherwise: AttentionKind) -> Iterator[Candidate]:
        found = (candidate for candidate in offered(shapes, otherwise) if candidate.title.split()[0] == name)
        yield from [candidate for candidate in [next(found, None)] if candidate]

    if name:
        attention.candidates = first
    try:
        yield
    finally:
        attention.candidates = offered
