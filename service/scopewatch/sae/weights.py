"""The one form every released SAE is brought into.

`Sae` is an opened SAE: what its files declare, and its arrays, not yet read. Reading gives an `Encoder`, in which all
that differs between publishers (centring, scaling, decoder norms) has been folded into the weights.

Any SAE here is, for an activation x of shape (d_in,):

    z   = scale_in * normalise(x) - (b_dec if subtracts_b_dec else 0)
    pre = (z @ W_enc + b_enc) * gain                    gain_j = gain_scale * ||W_dec_j||, or 1
    f   = pre where it fires (see `Encoder`), else 0    f / gain if the gain only decides what fires
    y   = ((f / gain) @ W_dec + b_dec) / scale_out      f @ W_dec likewise

y is the reconstruction. Where the SAE says so, y is then scaled back as x was normalised; x @ W_skip is added.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import NoSuchFeature, SaeError
from scopewatch.sae.tensors import Float32, Indices, Tensor

Float64 = NDArray[np.float64]
_BLOCK = 1024
"""Features whose arrays exist in float64 at once."""
Normalise = Literal["none", "layer_norm", "root_d"]
"""What is done to each activation vector first.

layer_norm: `(x - mean) / (std + 1e-5)`, std unbiased, no affine. root_d: `x * sqrt(d_in) / ||x||` (SAELens'
`constant_norm_rescale`).
"""


@dataclass(frozen=True, slots=True)
class Contest:
    """Only the `winners` largest of every `group` neighbouring columns fire (TopK: one group; groupmax: one winner)."""

    group: int
    winners: int


@dataclass(frozen=True, slots=True)
class Magnitude:
    """What features are worth where they fire, if not pre: `relu(scale * pre + offset)`; each shape (n,)."""

    scale: Float32
    offset: Float32


@dataclass(frozen=True, slots=True)
class Encoder:
    """The part of an SAE's encoder that watched features need; n columns.

    `pre = normalise(x) @ W_enc + b_enc`, x in float32. A feature fires where pre is greater than its threshold and
    wins its contest if there is one; its activation is pre, or what `magnitude` says.
    """

    normalise: Normalise
    W_enc: Float32
    """Shape (d_in, n)."""
    b_enc: Float32
    """Shape (n,)."""
    threshold: Float32
    """Shape (n,), at least 0; minus infinity for a probe, which always fires."""
    magnitude: Magnitude | None
    contest: Contest | None
    watched: Indices
    """Columns of the watched features, in ascending order of the features; all n unless there is a contest."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The extra arrays of a gated SAE (arXiv 2404.16014): the gate is open where `x @ W_enc + b_enc > 0`, the
    magnitude `relu(x @ (W_enc * exp(r_mag)) + b_mag)`; each shape (d_sae,).
    """

    r_mag: Tensor
    b_mag: Tensor


@dataclass(frozen=True, slots=True)
class Sae:
    """A released SAE, opened; the formula is in the module's docstring."""

    format: str
    """For instance gemma_scope, saelens, sparsify."""
    architecture: str
    """standard, jumprelu, gated, topk or groupmax; transcoders and crosscoders say so with a suffix."""
    hookpoint: str
    """Where it reads, in any spelling `parse_hookpoint` knows; empty when the files do not say."""
    W_enc: Tensor
    """Shape (d_in, d_sae)."""
    b_enc: Tensor | None
    """Shape (d_sae,); None for 0."""
    files: tuple[Path, ...]
    """Everything its numbers come from; the weights first."""
    W_dec: Tensor | None = None
    """Shape (d_sae, d_out); None where the file holds no decoder for one place (a cross-layer transcoder)."""
    b_dec: Tensor | None = None
    """Shape (d_out,)."""
    threshold: Tensor | Float32 | float = 0.0
    """Shape (d_sae,) or one number."""
    gate: Gate | None = None
    contest: Contest | None = None
    W_skip: Tensor | None = None
    """Shape (d_in, d_out)."""
    normalise: Normalise = "none"
    denormalises: bool = False
    """Whether y is scaled back, token by token, as x was normalised."""
    subtracts_b_dec: bool = False
    scale_in: float = 1.0
    scale_out: float = 1.0
    gain_scale: float | None = None
    """None: no gain."""
    gain_only_decides: bool = False
    """Whether the gain decides what fires, but is no part of what features are worth."""
    hookpoint_out: str = ""
    """Where the reconstruction belongs; empty for where it reads."""
    model: str = ""
    """The model it was made for, as its publisher writes it."""
    declared_l0: float | None = None
    unit_decoder: bool = False
    """Whether the publisher promises decoder rows of norm 1."""
    recipe: str = ""
    """Settings from outside the files that change the numbers."""

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1] if self.W_dec else self.d_in

    def checked(self) -> "Sae":
        """This SAE, all of whose shapes fit each other.

        Raises:
            SaeError: One does not; names file and array.
        """
        self.W_enc.expect(-1, -1)
        for vector in (self.b_enc, self.threshold, self.gate and self.gate.r_mag, self.gate and self.gate.b_mag):
            if isinstance(vector, Tensor):
                vector.expect(self.d_sae)
        if self.W_dec:
            self.W_dec.expect(self.d_sae, -1)
        if self.b_dec:
            self.b_dec.expect(self.d_in if self.subtracts_b_dec else self.d_out)
        if self.W_skip:
            self.W_skip.expect(self.d_in, self.d_out)
        contest = self.contest
        if contest and (not 1 <= contest.winners <= contest.group <= self.d_sae or self.d_sae % contest.group):
            raise SaeError(
                f"{self.W_enc.file}: k={contest.winners}, but {contest.winners} of every {contest.group} among "
                f"{self.d_sae} features cannot fire"
            )
        if self.gain_scale is not None and self.W_dec is None:
            raise SaeError(f"{self.W_enc.file}: holds no decoder, whose norms its activations depend on")
        for scale in (self.scale_in, self.scale_out, self.gain_scale or 1.0):
            if not (math.isfinite(scale) and scale > 0):
                raise SaeError(f"{self.W_enc.file}: its activation scale {scale:g} is not a positive number")
        return self

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by its name; reads them whole."""
        digests = {}
        for file in self.files:
            with file.open("rb") as stream:
                digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return digests

    def encoder(self, features: Sequence[int]) -> Encoder:
        """Reads what the given features need: their columns, or with a contest the columns they compete with.

        Args:
            features: Indices, any order.

        Raises:
            NoSuchFeature: An index is out of range.
            SaeError: An array is damaged or holds NaN.
        """
        for feature in features:
            if not 0 <= feature < self.d_sae:
                raise NoSuchFeature(
                    f"there is no feature {feature} in {self.W_enc.file}; it has 0 to {self.d_sae - 1}", feature
                )
        wanted = np.array(sorted(set(features)), np.intp)
        if self.contest is None:
            return self._fold(wanted, self.W_enc.columns(wanted), np.arange(len(wanted)))
        group = self.contest.group
        columns = np.concatenate([np.arange(g * group, (g + 1) * group) for g in np.unique(wanted // group)])
        return self._fold(columns, self.W_enc.columns(columns), np.searchsorted(columns, wanted))

    def slabs(self, folder: Path, width: int = 8192) -> Iterator["Slab"]:
        """The whole dictionary in order, `width` features at a time.

        Features that compete are never parted: TopK gives one slab, groupmax whole groups.

        Args:
            folder: Room for uncompressed copies of arrays that cannot be sought in.
            width: Features per slab.

        Raises:
            SaeError: There is no decoder, or an array is damaged.
        """
        if self.W_dec is None:
            raise SaeError(f"{self.W_enc.file}: holds no decoder of its own, so there is nothing to reconstruct")
        if self.contest:
            width = -(-width // self.contest.group) * self.contest.group
        on_disk = replace(self, W_enc=self.W_enc.on_disk(folder), W_dec=self.W_dec.T.on_disk(folder).T)
        for start in range(0, self.d_sae, width):
            yield on_disk.slab(start, min(start + width, self.d_sae))

    def b_out(self) -> Float32:
        """What the reconstruction is where nothing fires, shape (d_out,)."""
        if self.b_dec is None:
            return np.zeros(self.d_out, np.float32)
        return np.asarray(self.b_dec.read() / self.scale_out, np.float32)

    def slab(self, start: int, stop: int) -> "Slab":
        """Features `start` to `stop`; quick only where the arrays can be sought in, see `slabs`."""
        assert self.W_dec is not None
        encoder = self._fold(np.arange(start, stop), self.W_enc.slab(start, stop), np.arange(stop - start))
        W_dec = self.W_dec.T.slab(start, stop).T
        norms = _norms(W_dec)
        worth: Float64 | float = 1 / self.scale_out
        if self.gain_scale is not None and not self.gain_only_decides:
            worth = _inverse(self.gain_scale * self.scale_out * norms)[:, None]
        return Slab(start, encoder, (W_dec * worth).astype(np.float32), norms)

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is refused below
    def _fold(self, columns: Indices, W_enc: Float32, watched: Indices) -> Encoder:
        """What `columns` of the dictionary do; `W_enc`, those columns as they are in the file, is used up."""
        gain = np.ones(len(columns))
        if self.gain_scale is not None:
            gain = self.gain_scale * self._decoder_norms(columns)
        b_enc = self._of(self.b_enc, columns).astype(np.float64)
        if self.subtracts_b_dec and self.b_dec:
            # In float64: a small difference of large numbers.
            b_dec = self.b_dec.read().astype(np.float64)
            for start in range(0, len(columns), _BLOCK):
                b_enc[start : start + _BLOCK] -= b_dec @ W_enc[:, start : start + _BLOCK]
        magnitude = None
        if self.gate:
            boost = np.exp(self._of(self.gate.r_mag, columns).astype(np.float64))
            offset = self._of(self.gate.b_mag, columns) - boost * self._of(self.b_enc, columns)
            magnitude = Magnitude(boost.astype(np.float32), offset.astype(np.float32))
        elif self.gain_only_decides:
            magnitude = Magnitude(_inverse(gain).astype(np.float32), np.zeros(len(columns), np.float32))
        if np.any(gain * self.scale_in != 1.0):
            W_enc *= (gain * self.scale_in).astype(np.float32)
        encoder = Encoder(
            normalise=self.normalise,
            W_enc=W_enc,
            b_enc=(b_enc * gain).astype(np.float32),
            threshold=np.maximum(self._of(self.threshold, columns), 0),
            magnitude=magnitude,
            contest=self.contest,
            watched=watched,
        )
        named = {"W_enc": encoder.W_enc, "b_enc": encoder.b_enc, "threshold": encoder.threshold}
        named |= {"magnitude": magnitude.scale + magnitude.offset} if magnitude else {}
        for name, values in named.items():
            if not np.isfinite(values).all():
                raise SaeError(
                    f"{self.W_enc.file}: {name} of a feature that is read, with what is folded into it, is NaN or "
                    "infinite; download it again"
                )
        return encoder

    def _decoder_norms(self, columns: Indices) -> Float64:
        assert self.W_dec is not None
        if len(columns) <= _BLOCK:
            return _norms(self.W_dec.rows(columns))
        starts = range(int(columns[0]), int(columns[-1]) + 1, _BLOCK)
        stops = [min(start + _BLOCK, self.d_sae) for start in starts]
        blocks = [_norms(self.W_dec.T.slab(start, stop).T) for start, stop in zip(starts, stops, strict=True)]
        norms: Float64 = np.concatenate(blocks)[columns - columns[0]]
        return norms

    def _of(self, vector: Tensor | Float32 | float | None, columns: Indices) -> Float32:
        if isinstance(vector, Tensor):
            return vector.read()[columns]
        if isinstance(vector, np.ndarray):
            return vector[columns]
        return np.full(len(columns), vector or 0.0, np.float32)


def _norms(rows: Float32) -> Float64:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)), np.float64)


def _inverse(norms: Float64) -> Float64:
    """1 / norms, and 0 for features whose decoder is 0: they are never worth anything."""
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)


@dataclass(frozen=True, slots=True)
class Slab:
    """Neighbouring features of a dictionary, n of them, encoder and decoder."""

    start: int
    """Index of the first."""
    encoder: Encoder
    W_dec: Float32
    """Shape (n, d_out): what an activation of 1 adds to the reconstruction."""
    decoder_norms: Float64
    """Shape (n,): norms of the rows in the file."""
