"""Measures what an SAE does on given activations: how many features fire, and how much of the activation they explain.

The dictionary is read in slabs of features, never as a whole, and tokens are encoded in blocks, so that no array of
shape (tokens, d_sae) ever exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from scopewatch.acceptance.slabs import slabs_of
from scopewatch.engine.encoder import HookpointEncoder, pre_activations_of, reconstruction
from scopewatch.engine.strongest import Strongest
from scopewatch.errors import SaeError
from scopewatch.sae.weights import Sae

_SLAB_ELEMENTS = 4 << 20
_BLOCK_TOKENS = 1024


class InputAndTarget(NamedTuple):
    """Activations of the same tokens at the two places that an SAE connects, float32, on one device."""

    read: torch.Tensor
    """The activations that the SAE reads, shape (tokens, d_in)."""
    target: torch.Tensor
    """The activations that its reconstruction is compared with, shape (tokens, d_out)."""


@dataclass(frozen=True, slots=True)
class ReconstructionQuality:
    """How well an SAE reconstructs the activations of one sample, and how much of it fires."""

    tokens: int
    """The number of tokens measured on."""
    l0: float
    """The number of features that fire on a token, on average."""
    fvu: float
    """Fraction of variance unexplained: `sum ||y - y'||^2 / sum ||y - mean y||^2`, where y' reconstructs y."""
    shift: float
    """The part of `fvu` that one constant vector would explain, `n ||mean (y - y')||^2` over the same sum: `b_dec`
    should be that vector.
    """
    never_fired: float
    """The share of the features, 0 to 1, that fire on no token of the sample."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What can be measured of a dictionary without any text."""

    norm_min: float
    """The smallest norm of a decoder row, as the rows are in the file."""
    norm_median: float
    """The median of these norms."""
    norm_max: float
    """The largest of these norms."""
    cosine: float | None
    """The mean cosine of a feature's encoder column and decoder row; None where these live in different places."""
    damaged: int
    """The number of decoder rows that hold NaN or infinity; these rows count in no other number."""


class _Tally:
    """Adds up over the slabs of a dictionary what the features do on one sample.

    Args:
        sae: The SAE that is measured.
        sample: The activations that it reads, and those that it should reconstruct.
    """

    def __init__(self, sae: Sae, sample: InputAndTarget) -> None:
        self._x, self._y = sample
        self._made = torch.from_numpy(sae.b_out()).to(self._x.device).repeat(len(self._x), 1)
        self._contest: Strongest | None = None
        """The winners of a TopK contest so far."""
        self._fired = self._silent = 0

    def hold_contest(self, pre_of: HookpointEncoder, start: int, winners: int) -> None:
        """Lets the features of a slab, from `start` on, compete by their pre-activations with those before them."""
        self._contest = self._contest or Strongest(len(self._x), winners, self._x.device)
        for block in self._blocks():
            self._contest.add(pre_of(self._x[block]), start, block)

    def add(self, encode: HookpointEncoder, start: int, W_dec: torch.Tensor) -> None:
        """Adds what the features of a slab, from `start` on, contribute to each token; W_dec has shape (n, d_out)."""
        fired = torch.zeros(len(W_dec), dtype=torch.bool, device=W_dec.device)
        for block in self._blocks():
            f = encode(self._x[block])
            if self._contest:
                f = torch.where(self._contest.holds(start, len(W_dec), block), f, 0.0)
            self._made[block] += f @ W_dec
            fires = f != 0
            self._fired += int(fires.sum())
            fired |= fires.any(dim=0)
        self._silent += int((~fired).sum())

    def result(self, sae: Sae) -> ReconstructionQuality:
        """The quality of the reconstruction, once every slab has been added."""
        W_skip = torch.from_numpy(sae.W_skip.read()).to(self._x.device) if sae.W_skip else None
        left = self._y - reconstruction(self._made, self._x, sae, W_skip)
        unexplained = float(left.square().sum(dtype=torch.float64))
        constant = len(left) * float(left.mean(dim=0, dtype=torch.float64).square().sum())
        variance = float((self._y - self._y.mean(dim=0)).square().sum(dtype=torch.float64))
        return ReconstructionQuality(
            tokens=len(self._x),
            l0=self._fired / len(self._x),
            fvu=unexplained / variance if variance else float("inf"),
            shift=constant / variance if variance else 0.0,
            never_fired=self._silent / sae.d_sae,
        )

    def _blocks(self) -> list[slice]:
        return [slice(start, start + _BLOCK_TOKENS) for start in range(0, len(self._x), _BLOCK_TOKENS)]


@torch.inference_mode()
def measure_reconstruction(
    sae: Sae, samples: Sequence[InputAndTarget], folder: Path, *, slab_width: int = 0
) -> list[ReconstructionQuality]:
    """Runs the whole SAE on each sample, with one pass over the dictionary for all of them.

    Args:
        sae: An SAE with a decoder.
        samples: Activations, all on one device; the device must have room for three more arrays of their size.
        folder: Where `slabs_of` may write uncompressed copies.
        slab_width: The number of features read at once; 0 for as many as fill 16 MiB.

    Raises:
        SaeError: An array of the encoder or `b_dec` is damaged.
    """
    if not np.isfinite(sae.b_out()).all():
        raise SaeError(f"{sae.W_enc.file}: b_dec holds NaN or infinity; download it again")
    width = slab_width or slab_width_of(sae)
    device = samples[0].read.device
    tallies = [_Tally(sae, sample) for sample in samples]
    topk = sae.contest is not None and sae.contest.group == sae.d_sae
    dictionary = replace(sae, contest=None) if topk else sae
    if topk and sae.contest:
        for slab in slabs_of(dictionary, folder, width):
            pre_of = pre_activations_of(slab.encoder).to(device)
            for tally in tallies:
                tally.hold_contest(pre_of, slab.start, sae.contest.winners)
    for slab in slabs_of(dictionary, folder, width):
        W_dec = torch.from_numpy(np.where(np.isfinite(slab.decoder_norms)[:, None], slab.W_dec, 0)).to(device)
        encode = HookpointEncoder([slab.encoder]).to(device)
        for tally in tallies:
            tally.add(encode, slab.start, W_dec)
    return [tally.result(sae) for tally in tallies]


def measure_geometry(sae: Sae, folder: Path, *, in_place: bool) -> Geometry:
    """Measures the norms and directions of the dictionary itself.

    Args:
        sae: An SAE with a decoder.
        folder: Where `slabs_of` may write uncompressed copies.
        in_place: Whether the SAE writes where it reads, so that encoder and decoder can be compared.

    Raises:
        SaeError: An array of the encoder or `b_dec` is damaged.
    """
    norms = []
    cosines = []
    for slab in slabs_of(replace(sae, contest=None), folder, slab_width_of(sae)):
        norms.append(slab.decoder_norms)
        if in_place:
            whole = np.isfinite(slab.decoder_norms)
            W_enc, W_dec = slab.encoder.W_enc[:, whole], slab.W_dec[whole]
            lengths = np.linalg.norm(W_enc, axis=0) * np.linalg.norm(W_dec, axis=1)
            cosines.append(np.einsum("ij,ji->j", W_enc, W_dec) / np.where(lengths > 0, lengths, 1))
    every = np.concatenate(norms)
    sound = every[np.isfinite(every)] if np.isfinite(every).any() else np.zeros(1)
    return Geometry(
        norm_min=float(sound.min()),
        norm_median=float(np.median(sound)),
        norm_max=float(sound.max()),
        cosine=float(np.mean(np.concatenate(cosines))) if cosines else None,
        damaged=len(every) - int(np.isfinite(every).sum()),
    )


def slab_width_of(sae: Sae) -> int:
    """The number of features whose encoder columns, or decoder rows, fill 16 MiB."""
    return max(64, _SLAB_ELEMENTS // max(sae.d_in, sae.d_out))
