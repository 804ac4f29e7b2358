"""Whole SAEs of which some features are watched, encoder and decoder, slab by slab: for explanations."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from scopewatch.config import Config
from scopewatch.engine.dictionary import open_whole
from scopewatch.engine.encoder import HookpointEncoder, pre_activations_of
from scopewatch.engine.watching import LoadedSae
from scopewatch.errors import SaeError
from scopewatch.reader.hookpoints import Hookpoint, parse_hookpoint, width
from scopewatch.reader.loading import Reader
from scopewatch.sae.weights import Sae
from scopewatch.watch.indicators import PROBE

_SLAB_ELEMENTS = 1 << 20
"""The size of the encoder, or the decoder, of a slab: 4 MiB."""
_KEPT_BYTES = 64 << 20
"""An SAE up to this size stays in memory."""


@dataclass(frozen=True, slots=True)
class WholeSlab:
    """Neighbouring features of a dictionary on the device, n of them."""

    start: int
    """The index of the first feature."""
    features: int
    """The number of features, n."""
    encoder: HookpointEncoder
    pre_activations: HookpointEncoder | None
    """Gives what they compete by, where the features of the whole dictionary do; otherwise None."""
    W_dec: torch.Tensor | None
    """Shape (n, d_out), what an activation of 1 adds to the reconstruction; None without a decoder."""


class WholeDictionary:
    """An SAE that is watched, of which every feature can be had: in memory where it is small, else from its files.

    Args:
        sae: The opened SAE.
        reads: Where it reads.
        reader: The reader that it fits.

    Raises:
        SaeError: An array is damaged.
        OSError: There is no room to uncompress it.
    """

    def __init__(self, sae: Sae, reads: Hookpoint, reader: Reader) -> None:
        folder = Path(tempfile.mkdtemp(prefix="scopewatch-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.sae = sae.on_disk(folder)
        self.reads = reads
        self._device = reader.device
        self.problem = _why_no_decoder(sae, reads, reader)
        """Why it says nothing of what it leaves unexplained, and nothing of it can be taken out; empty if it does."""
        self.writes = None if self.problem else writes_at(sae, reads)
        """Where its reconstruction belongs; None where there is a problem."""
        contest = sae.contest
        self.winners = contest.winners if contest and contest.group == sae.d_sae else 0
        """How many features of the whole dictionary fire at most, as they compete; 0 if they do not."""
        # Who competes within the whole dictionary is found slab by slab, so that this is not one single slab.
        self._parted = replace(self.sae, contest=None) if self.winners else self.sae
        self._kept = list(self._read()) if 4 * sae.d_sae * (sae.d_in + sae.d_out) <= _KEPT_BYTES else []

    @property
    def places(self) -> tuple[Hookpoint, ...]:
        """Where the reader's activations are needed to look at a pair."""
        return (self.reads,) if self.writes is None else (self.reads, self.writes)

    @cached_property
    def b_out(self) -> torch.Tensor:
        """The reconstruction where nothing fires, shape (d_out,)."""
        return torch.from_numpy(self.sae.b_out()).to(self._device)

    @cached_property
    def W_skip(self) -> torch.Tensor | None:  # noqa: N802 - as `Sae` has it
        """Shape (d_in, d_out); None where there is none."""
        return torch.from_numpy(self.sae.W_skip.read()).to(self._device) if self.sae.W_skip else None

    @property
    def width(self) -> int:
        """The number of features in a slab but the last."""
        group = self._parted.contest.group if self._parted.contest else 1
        wanted = max(64, _SLAB_ELEMENTS // max(self.sae.d_in, self.sae.d_out))
        return min(-(-wanted // group) * group, self.sae.d_sae)

    def slabs(self) -> Iterator[WholeSlab]:
        """The whole dictionary in order; features that compete with few others are never parted.

        Where the features of the whole dictionary compete, the encoders know nothing of that.

        Raises:
            SaeError: An array is damaged.
        """
        yield from self._kept or self._read()

    def _read(self) -> Iterator[WholeSlab]:
        for start in range(0, self.sae.d_sae, self.width):
            features = np.arange(start, min(start + self.width, self.sae.d_sae))
            encoder = self._parted.encoder(features.tolist())
            W_dec = None if self.problem else torch.from_numpy(self.sae.decoder(features).W_dec)
            yield WholeSlab(
                start,
                len(features),
                encoder=HookpointEncoder([encoder]).to(self._device),
                pre_activations=pre_activations_of(encoder).to(self._device) if self.winners else None,
                W_dec=None if W_dec is None else W_dec.to(self._device),
            )


def open_dictionary(loaded: LoadedSae, reader: Reader, config: Config) -> WholeDictionary:
    """Opens the whole of an SAE that is watched.

    Args:
        loaded: The SAE as it is watched.
        reader: The reader that it fits.
        config: Settings.

    Raises:
        SaeError: There is no whole SAE, its files are damaged, or they are not those of the watched features any more.
    """
    if loaded.watched.architecture == PROBE:
        raise SaeError("a probe has no dictionary: it is one direction, and not one of many features")
    whole = open_whole(loaded.source, config)
    if whole.identity.digest != loaded.watched.digest:
        raise SaeError(f"{whole.sae.files[0]}: has changed since its features were loaded; restart the service")
    try:
        return WholeDictionary(whole.sae, loaded.hookpoint, reader)
    except OSError as error:
        raise SaeError(f"{whole.sae.files[0]}: cannot be uncompressed: {error.strerror}") from None


def writes_at(sae: Sae, reads: Hookpoint) -> Hookpoint:
    """Where an SAE's reconstruction belongs.

    Args:
        sae: The SAE.
        reads: Where it reads.

    Raises:
        SaeError: Its files name a place that is none in a model.
    """
    return reads if sae.hookpoint_out in {"", sae.hookpoint} else parse_hookpoint(sae.hookpoint_out)


def _why_no_decoder(sae: Sae, reads: Hookpoint, reader: Reader) -> str:
    """Why what an SAE writes cannot be held against the reader's activations; empty if it can."""
    if sae.W_dec is None:
        return "its file holds no decoder of its own, so that what it leaves unexplained is not known"
    try:
        writes = writes_at(sae, reads)
        if writes == reads and "transcoder" in sae.architecture:
            raise SaeError(f"{sae.files[0]} does not say where")
        there = width(reader, writes)
    except SaeError as error:
        return f"what it leaves unexplained is not known, since it writes elsewhere than it reads: {error}"
    if there != sae.d_out:
        return f"what it leaves unexplained is not known, since it writes vectors of {sae.d_out}: {writes} has {there}"
    return ""
