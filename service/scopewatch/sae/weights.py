"""The one form every released SAE is brought into.

`Sae` is an opened SAE: what its files declare, and its arrays, not yet read. Reading gives an `Encoder`, in which all
that differs between publishers (centring, scaling, decoder norms) has been folded into the weights.

Any SAE here is, for an activation x of shape (d_in,):

    z   = scale_in * normalise(x) - (b_dec if subtracts_b_dec else 0)
    pre = (z @ W_enc + b_enc) * gain                    gain_j = gain_scale * ||W_dec_j||, or 1
    f   = pre where it fires (see `Encoder`), else 0    f / gain if the gain only decides what fires
    y   = ((f / gain) @ W_dec + b_dec) / scale_out      f @ W_dec likewise

y is the reconstruction. Where the SAE says so, y is then scaled back as x was normalised; x @ W_skip is added.

A gated SAE (arXiv 2404.16014) has two arrays more: its gate is open where `x @ W_enc + b_enc > 0`, and f is then
`relu(x @ (W_enc * exp(r_mag)) + b_mag)`.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from scopewatch.errors import NoSuchFeature, SaeError
from scopewatch.sae.encoder import Contest, Encoder, Normalise, Training
from scopewatch.sae.tensors import Tensor
from scopewatch.types import Float32, Float64, Indices

_BLOCK = 1024
"""Features whose arrays exist in float64 at once."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """The decoder of n features of an SAE."""

    W_dec: Float32
    """Shape (n, d_out): what an activation of 1 adds to the reconstruction."""
    norms: Float64
    """Shape (n,): norms of the rows in the file."""


@dataclass(frozen=True, slots=True)
class Sae:
    """An opened SAE; the formula is in the module's docstring."""

    format: str
    """For instance gemma_scope, saelens, sparsify."""
    architecture: str
    """standard, jumprelu, gated, topk or groupmax; transcoders and crosscoders say so with a suffix."""
    hookpoint: str
    """Where the SAE reads, in any spelling that `parse_hookpoint` knows; empty when the files do not say."""
    W_enc: Tensor
    """Shape (d_in, d_sae)."""
    b_enc: Tensor | None
    """Shape (d_sae,); None for 0."""
    files: tuple[Path, ...]
    """Every file that the numbers come from; the weights first."""
    W_dec: Tensor | None = None
    """Shape (d_sae, d_out); None where the file holds no decoder for one place (a cross-layer transcoder)."""
    b_dec: Tensor | None = None
    """Shape (d_out,)."""
    threshold: Tensor | Float32 | float = 0.0
    """Shape (d_sae,) or one number."""
    r_mag: Tensor | None = None
    """Shape (d_sae,), of a gated SAE; None together with `b_mag`."""
    b_mag: Tensor | None = None
    """Shape (d_sae,)."""
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
    """Factor of the gain; None for no gain."""
    gain_only_decides: bool = False
    """Whether the gain decides what fires, but is no part of what features are worth."""
    hookpoint_out: str = ""
    """Where the reconstruction belongs; empty for where the SAE reads."""
    model: str = ""
    """The model that the SAE was made for, as its publisher writes it."""
    declared_l0: float | None = None
    """How many features fire per token on average, as the publisher says."""
    unit_decoder: bool = False
    """Whether the publisher promises decoder rows of norm 1."""
    recipe: str = ""
    """Settings from outside the files that change the numbers."""
    places: tuple[str, ...] = ()
    """Where the SAE may read when its files do not say which of these it is; empty when they leave even that open."""
    max_norm_multiple: float | None = None
    """As in `Encoder`."""
    training: Training = field(default_factory=Training)

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
        """This SAE, all of whose shapes and settings fit each other.

        Raises:
            SaeError: One does not; names file and array.
        """
        self._check_shapes()
        file, contest = self.W_enc.file, self.contest
        if contest and (not 1 <= contest.winners <= contest.group <= self.d_sae or self.d_sae % contest.group):
            raise SaeError(
                f"{file}: k={contest.winners}, but {contest.winners} of every {contest.group} among "
                f"{self.d_sae} features cannot fire"
            )
        if self.gain_scale is not None and self.W_dec is None:
            raise SaeError(f"{file}: holds no decoder, whose norms its activations depend on")
        for scale in (self.scale_in, self.scale_out, self.gain_scale or 1.0):
            if not (math.isfinite(scale) and scale > 0):
                raise SaeError(f"{file}: its activation scale {scale:g} is not a positive number")
        return self

    def assert_placed(self, told: str) -> None:
        """Checks that somebody says where the SAE reads.

        Args:
            told: Where it reads, as the caller says; empty if the caller does not.

        Raises:
            SaeError: Neither the caller nor the files say it; names what is possible.
        """
        if not (told or self.hookpoint):
            possible = f"one of {', '.join(self.places)}" if self.places else "for instance layers.20.resid_post"
            raise SaeError(
                f"{self.W_enc.file}: neither its files nor its folders say where it reads; say the hookpoint, "
                f"{possible} (--hookpoint, or hookpoint: in a watchlist)"
            )

    def _check_shapes(self) -> None:
        self.W_enc.expect(-1, -1)
        for vector in (self.b_enc, self.threshold, self.r_mag, self.b_mag):
            if isinstance(vector, Tensor):
                vector.expect(self.d_sae)
        if self.W_dec:
            self.W_dec.expect(self.d_sae, -1)
        if self.b_dec:
            self.b_dec.expect(self.d_in if self.subtracts_b_dec else self.d_out)
        if self.W_skip:
            self.W_skip.expect(self.d_in, self.d_out)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by its name; reads them whole."""
        digests = {}
        for file in self.files:
            with file.open("rb") as stream:
                digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return digests

    def on_disk(self, folder: Path) -> "Sae":
        """The same SAE, whose matrices can be sought in.

        Args:
            folder: Where uncompressed copies are put of the matrices that cannot be sought in as they are.

        Raises:
            SaeError: A matrix is damaged.
            OSError: There is no room in the folder.
        """
        return replace(self, W_enc=self.W_enc.on_disk(folder), W_dec=self.W_dec and self.W_dec.T.on_disk(folder).T)

    def encoder(self, features: Sequence[int]) -> Encoder:
        """Reads what the given features need: their columns, or with a contest the columns they compete with.

        Args:
            features: Indices, in any order.

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
            return self._fold(wanted, np.arange(len(wanted)))
        group = self.contest.group
        columns = np.concatenate([np.arange(g * group, (g + 1) * group) for g in np.unique(wanted // group)])
        return self._fold(columns, np.searchsorted(columns, wanted))

    def decoder(self, features: Indices) -> "Decoder":
        """Reads the decoder of some features.

        Args:
            features: Indices, ascending.

        Raises:
            SaeError: There is no decoder, or it is damaged.
        """
        if self.W_dec is None:
            raise SaeError(f"{self.W_enc.file}: holds no decoder of its own, so there is nothing to reconstruct")
        rows = self.W_dec.rows(features)
        norms = row_norms(rows)
        worth: Float64 | float = 1 / self.scale_out
        if self.gain_scale is not None and not self.gain_only_decides:
            worth = inverse(self.gain_scale * self.scale_out * norms)[:, None]
        return Decoder((rows * worth).astype(np.float32), norms)

    def b_out(self) -> Float32:
        """The reconstruction where nothing fires, shape (d_out,)."""
        if self.b_dec is None:
            return np.zeros(self.d_out, np.float32)
        return np.asarray(self.b_dec.read() / self.scale_out, np.float32)

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is refused by _assert_finite
    def _fold(self, columns: Indices, watched: Indices) -> Encoder:
        """Reads `columns` of the dictionary, and folds everything that they are multiplied and moved by into them."""
        W_enc = self.W_enc.columns(columns)
        gain = np.ones(len(columns))
        if self.gain_scale is not None:
            gain = self.gain_scale * self._decoder_norms(columns)
        b_enc = self._centred_bias(columns, W_enc)
        scale, offset = self._magnitude(columns, gain)
        if np.any(gain * self.scale_in != 1.0):
            W_enc *= (gain * self.scale_in).astype(np.float32)
        encoder = Encoder(
            normalise=self.normalise,
            W_enc=W_enc,
            b_enc=(b_enc * gain).astype(np.float32),
            threshold=np.maximum(_of(self.threshold, columns), 0),
            watched=watched,
            contest=self.contest,
            scale=scale,
            offset=offset,
            max_norm_multiple=self.max_norm_multiple,
        )
        self._assert_finite(encoder)
        return encoder

    def _centred_bias(self, columns: Indices, W_enc: Float32) -> Float64:
        """b_enc, less what subtracting b_dec first would take away."""
        b_enc = _of(self.b_enc, columns).astype(np.float64)
        if self.subtracts_b_dec and self.b_dec:
            # In float64, since this is a small difference of large numbers.
            b_dec = self.b_dec.read().astype(np.float64)
            for start in range(0, len(columns), _BLOCK):
                b_enc[start : start + _BLOCK] -= b_dec @ W_enc[:, start : start + _BLOCK]
        return b_enc

    def _magnitude(self, columns: Indices, gain: Float64) -> tuple[Float32 | None, Float32 | None]:
        """The scale and the offset that make of pre what features are worth; None where they are worth pre itself."""
        if self.r_mag and self.b_mag:
            boost = np.exp(_of(self.r_mag, columns).astype(np.float64))
            offset = _of(self.b_mag, columns) - boost * _of(self.b_enc, columns)
            return boost.astype(np.float32), offset.astype(np.float32)
        if self.gain_only_decides:
            return inverse(gain).astype(np.float32), np.zeros(len(columns), np.float32)
        return None, None

    def _assert_finite(self, encoder: Encoder) -> None:
        for name, values in encoder.arrays.items():
            if not np.isfinite(values).all():
                raise SaeError(
                    f"{self.W_enc.file}: {'magnitude' if name in {'scale', 'offset'} else name} of a feature that is "
                    "read, with what is folded into it, is NaN or infinite; download it again"
                )

    def _decoder_norms(self, columns: Indices) -> Float64:
        assert self.W_dec is not None
        if len(columns) <= _BLOCK:
            return row_norms(self.W_dec.rows(columns))
        starts = range(int(columns[0]), int(columns[-1]) + 1, _BLOCK)
        blocks = [row_norms(self.W_dec.rows(np.arange(s, min(s + _BLOCK, self.d_sae)))) for s in starts]
        norms: Float64 = np.concatenate(blocks)[columns - columns[0]]
        return norms


def _of(vector: Tensor | Float32 | float | None, columns: Indices) -> Float32:
    """The elements of a vector that some columns need; a number stands for all elements, None for 0."""
    if isinstance(vector, Tensor):
        return vector.read()[columns]
    if isinstance(vector, np.ndarray):
        return vector[columns]
    return np.full(len(columns), vector or 0.0, np.float32)


def row_norms(rows: Float32) -> Float64:
    """The Euclidean norm of each row, computed in float64."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)), np.float64)


def inverse(norms: Float64) -> Float64:
    """1 / norms, and 0 for features whose decoder is 0: they are never worth anything."""
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
