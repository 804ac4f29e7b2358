"""What the reader's hookpoints give on a pair, window by window, between the batches of a service."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from scopewatch.engine.dictionary import not_finite
from scopewatch.engine.encoder import median_norms
from scopewatch.engine.looks import Steps
from scopewatch.engine.passes import Passes, Row, halved, untouched
from scopewatch.engine.runner import failed
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader
from scopewatch.reader.prefixes import Reading
from scopewatch.types import TokenIds, TokenisedPair


@dataclass(frozen=True, slots=True)
class Heard:
    """The reader's activations on all n tokens of a pair."""

    activations: Mapping[Hookpoint, torch.Tensor]
    """Shape (n, width), float32."""
    median: Mapping[Hookpoint, torch.Tensor]
    """For each token the median norm of all tokens of its window, shape (n,)."""


def hear(reader: Reader, tokens: TokenisedPair, places: Collection[Hookpoint]) -> Steps[Heard]:
    """Reads a pair, a window at each step.

    Args:
        reader: The reader.
        tokens: The pair.
        places: Where the reader is listened to; with none of them nothing is read.

    Raises:
        EngineError: The reader fails on the pair.
    """
    found: dict[Hookpoint, list[torch.Tensor]] = {place: [] for place in places}
    for window in tokens.windows if places else []:
        row = _read(reader, window, places)
        for place, parts in found.items():
            parts.append(row.tapped[place][: len(window)].float())
            if not torch.isfinite(parts[-1]).all():
                raise not_finite()
        yield
    lengths = [len(window) for window in tokens.windows]
    activations = {place: torch.cat(parts) for place, parts in found.items()}
    return Heard(activations, {place: median_norms(x, lengths) for place, x in activations.items()})


def _read(reader: Reader, window: TokenIds, places: Collection[Hookpoint]) -> Row:
    def run(batch: Sequence[Reading]) -> list[Row | Exception]:
        return [Passes(reader).read(batch, dict.fromkeys(places, untouched))]

    (row,) = halved(run, [Reading(window, ())], failed, reader.device)
    if isinstance(row, Exception):
        raise row
    return row
