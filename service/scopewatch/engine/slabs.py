"""The encoder of a whole SAE, slab by slab.

Activations are encoded in tiles of tokens x features, of which only what fires is kept; nothing of the size of
tokens x d_sae ever exists, and a dictionary that is large is read from its files again for every batch.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.sae.weights import Sae
from scopewatch.types import Activations

_TILE_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 25}
"""The size of a tile by device; on a CPU, what its caches hold."""

_FEW_ELEMENTS = 1 << 17
"""A tile of up to this size is copied from a GPU as it is, and searched here: that waits once, not three times."""


@dataclass(frozen=True, slots=True)
class Portions:
    """How much is worked on at once. It decides the time and the memory that the work takes, and no number."""

    batch_tokens: int = 16_384
    """The most tokens whose activations are encoded together: the dictionary is gone through once for them."""
    slab: int = 2048
    """The number of features whose columns are multiplied at once."""
    tile_elements: int | None = None
    """The size of a tile of tokens x features; None for what suits the device."""
    contest_elements: int = 16 << 20
    """The size of a tile where a whole dictionary competes: all of it by few tokens."""
    kept_bytes: int = 512 << 20
    """An encoder up to this size stays in memory; on a GPU, one up to a quarter of what is free."""


class Dictionary:
    """All features of an SAE: in memory where they take little of it, else read from the files again each time.

    Args:
        sae: The opened SAE; a decoder is not needed.
        device: Where its encoder is multiplied.
        portions: How much of it is worked on at once.

    Raises:
        SaeError: An array is damaged, or there is no room to uncompress it.
    """

    def __init__(self, sae: Sae, device: torch.device, portions: Portions | None = None) -> None:
        portions = portions or Portions()
        folder = Path(tempfile.mkdtemp(prefix="scopewatch-"))
        scratch = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._sae = sae.on_disk(folder)
        self._device = device
        group = sae.contest.group if sae.contest else 1
        self._width = min(-(-portions.slab // group) * group, sae.d_sae)
        elements = portions.tile_elements or _TILE_ELEMENTS[device.type]
        self._tile = portions.contest_elements if group == sae.d_sae else elements
        room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else portions.kept_bytes
        self._kept: list[tuple[int, HookpointEncoder]] = []
        if 4 * sae.d_in * sae.d_sae <= room:
            self._kept = list(self._slabs())
            scratch()

    def fired(self, residual: torch.Tensor, median: torch.Tensor | None = None) -> Activations:
        """What fires on activations; what is not finite counts as firing.

        Args:
            residual: Shape (n_tokens, d_in).
            median: As `HookpointEncoder` takes it, shape (n_tokens,).

        Raises:
            SaeError: An array is damaged.
        """
        step = max(1, self._tile // self._width)
        # Arrays that grow in place: thousands of small ones between the tiles would tear the heap to pieces.
        found = bytearray(), bytearray(), bytearray()
        for feature, encoder in self._kept or self._slabs():
            for first in range(0, len(residual), step):
                tile = slice(first, first + step)
                encoded = encoder(residual[tile], None if median is None else median[tile])
                fires = what_fires(encoded, first, feature)
                for kept, part in zip(found, (fires.token, fires.column, fires.value), strict=True):
                    kept.extend(part.tobytes())
        token, column = (np.frombuffer(array, np.int32) for array in found[:2])
        # Stable: a token's features are ascending already.
        order = np.argsort(token, kind="stable")
        return Activations(len(residual), token[order], column[order], np.frombuffer(found[2], np.float32)[order])

    def _slabs(self) -> Iterator[tuple[int, HookpointEncoder]]:
        for start in range(0, self._sae.d_sae, self._width):
            encoder = self._sae.encoder(range(start, min(start + self._width, self._sae.d_sae)))
            yield start, HookpointEncoder([encoder]).to(self._device)


def what_fires(tile: torch.Tensor, first_token: int = 0, first_feature: int = 0) -> Activations:
    """What fires in a tile of shape (tokens, features), token by token; what is NaN fires.

    Args:
        tile: Activations; what does not fire is exactly 0.
        first_token: The number of the tile's first token.
        first_feature: The number of its first feature.
    """
    if tile.is_cuda and tile.numel() <= _FEW_ELEMENTS:
        tile = tile.cpu()
    fires = (tile != 0).reshape(-1)
    # On a CPU torch.nonzero takes twice as long.
    place = torch.nonzero(fires)[:, 0] if fires.is_cuda else torch.from_numpy(np.flatnonzero(fires.numpy()))
    token, feature = np.divmod(place.cpu().numpy(), tile.shape[1])
    value = tile.reshape(-1)[place].cpu().numpy()
    return Activations(
        len(tile), (token + first_token).astype(np.int32), (feature + first_feature).astype(np.int32), value
    )
