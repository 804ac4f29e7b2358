"""The whole dictionary of an SAE in order, encoder and decoder, some features at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scopewatch.sae.encoder import Encoder
from scopewatch.sae.weights import Sae
from scopewatch.types import Float32, Float64, Indices


@dataclass(frozen=True, slots=True)
class Slab:
    """Neighbouring features of a dictionary, n of them, with encoder and decoder."""

    start: int
    """Index of the first feature."""
    encoder: Encoder
    W_dec: Float32
    """Shape (n, d_out): what an activation of 1 adds to the reconstruction."""
    decoder_norms: Float64
    """Shape (n,): norms of the rows in the file."""


def slabs_of(sae: Sae, folder: Path, width: int = 8192) -> Iterator[Slab]:
    """The whole dictionary in order, `width` features at a time.

    Features that compete are never parted: TopK gives one slab, groupmax whole groups.

    Args:
        sae: The SAE.
        folder: Where uncompressed copies are put of arrays that cannot be sought in.
        width: The number of features in a slab.

    Raises:
        SaeError: There is no decoder, or an array is damaged.
    """
    if sae.contest:
        width = -(-width // sae.contest.group) * sae.contest.group
    on_disk = sae.on_disk(folder)
    for start in range(0, sae.d_sae, width):
        yield _slab(on_disk, np.arange(start, min(start + width, sae.d_sae)))


def _slab(sae: Sae, features: Indices) -> Slab:
    decoder = sae.decoder(features)
    return Slab(int(features[0]), sae.encoder(features.tolist()), decoder.W_dec, decoder.norms)
