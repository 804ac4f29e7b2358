"""Mistakes that give plausible but wrong numbers, each as the other way to run the SAE that would undo it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from scopewatch.acceptance.reconstruction import InputAndTarget, slab_width_of
from scopewatch.acceptance.slabs import slabs_of
from scopewatch.reader.families import UNIT
from scopewatch.reader.hookpoints import EMBED, EMBEDDING, Hookpoint
from scopewatch.sae.encoder import Contest, Normalise
from scopewatch.sae.tensors import Tensor, at_offset
from scopewatch.sae.weights import Sae
from scopewatch.types import Float32, Indices

_MATCHED_ELEMENTS = 1 << 26
"""The largest dictionary, in elements of W_enc, in which the counterpart of every feature is looked for: 256 MiB."""
_SAMPLED_FEATURES = 128
"""The number of features whose counterparts are looked for in a larger dictionary."""
_USUAL_L0 = 100
"""The number of features that fire on a token where nobody declares it."""
_MORE = 0.9
"""`Alternative.at_most` of alternatives that explain slightly less than an SAE that is run right."""
_NORMALISATIONS: tuple[Normalise, ...] = ("none", "layer_norm", "root_d")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an SAE reads, and where its reconstruction belongs (elsewhere for a transcoder)."""

    reads: Hookpoint
    writes: Hookpoint

    def __str__(self) -> str:
        return str(self.reads) if self.reads == self.writes else f"{self.reads} -> {self.writes}"


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to run an SAE: with something changed in it, or at another place."""

    claim: str
    """What is true of the SAE if its numbers come out right this way."""
    sae: Sae
    """The SAE with the change."""
    place: Place
    at_most: float = 2 / 3
    """The alternative counts if its FVU is at most this share of the FVU of the SAE as it is."""


@dataclass(frozen=True, slots=True)
class FeatureOrder:
    """For each feature, whose decoder row points most nearly where its encoder column points, and the reverse."""

    features: Indices
    """The features whose encoder columns were looked at, shape (n,)."""
    row: Indices
    """The feature whose decoder row is nearest to each of these columns, shape (n,)."""
    cosine: Float32
    """The cosine between each column and that row, shape (n,)."""
    column: Indices | None
    """The feature whose encoder column is nearest to each row, shape (d_sae,); None if not all were looked at."""
    chance: float
    """About the cosine that the nearest of d_sae random directions would have."""

    @property
    def mixed_up(self) -> bool:
        """Whether encoder and decoder hold the same features in different orders."""
        elsewhere = float(np.mean(self.row != self.features))
        return elsewhere > 0.1 and float(np.median(self.cosine)) > min(0.7, 2 * self.chance)


def nearby_places(place: Place, widths: Mapping[str, int], layers: int, sae: Sae) -> list[Alternative]:
    """Those of `other_places` that are in the same layer or in one beside it."""

    def beside(other: Place) -> bool:
        pairs = (place.reads, other.reads), (place.writes, other.writes)
        return all(abs(here.layer - there.layer) <= 1 for here, there in pairs)

    return [one for one in other_places(place, widths, layers, sae) if beside(one.place)]


def other_places(place: Place, widths: Mapping[str, int], layers: int, sae: Sae) -> list[Alternative]:
    """Every other place in the reader whose vectors have the right lengths.

    Args:
        place: Where the SAE reads and writes as it is.
        widths: The length of the activation vectors at each named site of the reader.
        layers: The number of the reader's layers that are loaded.
        sae: The SAE.
    """

    def has_room(hookpoint: Hookpoint, length: int) -> bool:
        return widths.get(hookpoint.site, length) == length

    found = dict.fromkeys(
        other
        for other in _places(place, widths, layers)
        if other != place and has_room(other.reads, sae.d_in) and has_room(other.writes, sae.d_out)
    )
    return [Alternative(f"the numbers fit {other}", sae, other) for other in found]


def _places(place: Place, widths: Mapping[str, int], layers: int) -> Iterator[Place]:
    # resid_pre is the resid_post before it, and the embedding module's output the first resid_pre.
    every = [Hookpoint(EMBEDDING, EMBED)] + [
        Hookpoint(layer, site)
        for layer in range(layers)
        for site in widths
        if site != EMBED and (site != "resid_pre" or layer == 0)
    ]
    yield from (Place(hookpoint, hookpoint) for hookpoint in every)
    if place.reads != place.writes:
        yield from (Place(hookpoint, place.writes) for hookpoint in every if hookpoint.layer == place.reads.layer)
        yield from (Place(place.reads, hookpoint) for hookpoint in every)
    for layer in range(layers):
        yield from (Place(Hookpoint(layer, site), Hookpoint(layer, "mlp_out")) for site in ("mlp_in", UNIT))


def other_centring(sae: Sae, place: Place) -> list[Alternative]:
    """The decoder bias subtracted from the activation before encoding, where it is not; and the reverse."""
    if sae.b_dec is None or sae.b_dec.shape != (sae.d_in,):
        return []
    claim = "b_dec must not be subtracted" if sae.subtracts_b_dec else "b_dec must be subtracted first"
    return [Alternative(claim, replace(sae, subtracts_b_dec=not sae.subtracts_b_dec), place)]


def other_scales(sae: Sae, place: Place, sample: InputAndTarget) -> Iterator[Alternative]:
    """Activations normalised once more, once less, or by another formula."""
    into, out = (float(vectors.shape[-1] ** 0.5 / vectors.norm(dim=-1).mean()) for vectors in sample)
    if sae.scale_in != 1 or sae.scale_out != 1:
        claim = f"activations must not be scaled by {sae.scale_in:.3g}"
        yield Alternative(claim, replace(sae, scale_in=1.0, scale_out=1.0), place)
    for claim, scale_in, scale_out in (
        (f"activations lack their normalisation, a factor of {into:.3g}", into, out),
        (f"activations are normalised twice, by a factor of {into:.3g} each time", 1 / into, 1 / out),
    ):
        scaled = replace(sae, scale_in=sae.scale_in * scale_in, scale_out=sae.scale_out * scale_out)
        yield Alternative(claim, scaled, place)
    if sae.d_in == sae.d_out:
        for how in _NORMALISATIONS:
            if how != sae.normalise:
                normalised = replace(sae, normalise=how, denormalises=how != "none")
                yield Alternative(f"each activation must be normalised by {how!r}", normalised, place)


def other_shapes(sae: Sae, place: Place) -> Iterator[Alternative]:
    """Encoder and decoder transposed, where they are square so that their shapes cannot tell."""
    if sae.d_in == sae.d_sae:
        yield Alternative("W_enc is transposed", replace(sae, W_enc=sae.W_enc.T), place)
    if sae.W_dec and sae.d_out == sae.d_sae:
        yield Alternative("W_dec is transposed", replace(sae, W_dec=sae.W_dec.T), place)


def other_k(sae: Sae, place: Place) -> Iterator[Alternative]:
    """For a TopK SAE, a contest with as many winners as features are declared to fire."""
    if sae.contest and sae.contest.group == sae.d_sae and sae.declared_l0:
        k = min(round(sae.declared_l0), sae.d_sae)
        if k != sae.contest.winners:
            change = replace(sae, contest=Contest(sae.d_sae, k))
            yield Alternative(f"k is {k}, not {sae.contest.winners}", change, place, _MORE)


def other_firing(sae: Sae, place: Place, l0: float) -> Iterator[Alternative]:
    """Other rules for which features fire, which need fewer arrays of the file: the k largest of each token fire.

    With such a rule no more features fire than with the SAE's own. If they still explain more, then the SAE's own rule
    picks the wrong ones; that of an SAE that is run right does slightly better than the largest k.

    Args:
        sae: The SAE.
        place: Where it reads and writes.
        l0: The number of features per token that were measured to fire there.
    """
    if sae.r_mag or sae.contest:
        return
    k = max(1, min(round(l0), round(sae.declared_l0 or _USUAL_L0), sae.d_sae))
    topk = replace(sae, contest=Contest(sae.d_sae, k), threshold=0.0, declared_l0=float(k))
    if sae.gain_scale is None:
        # Features compare by what they add to the reconstruction.
        topk = replace(topk, gain_scale=1.0, gain_only_decides=True)
    has_threshold = not isinstance(sae.threshold, float) or sae.threshold > 0
    claim = "the thresholds are not those of its features" if has_threshold else "only the largest of a token fire"
    yield Alternative(f"{claim}: TopK with k={k} fits", topk, place, _MORE)
    if sae.b_enc and (sae.b_dec is None or sae.b_dec.shape == (sae.d_in,)):
        for biased in (sae, topk):
            change = replace(biased, b_enc=None, subtracts_b_dec=sae.b_dec is not None)
            yield Alternative("b_enc is not that of its features: without it the rest fits", change, place, _MORE)


def other_order(sae: Sae, place: Place, order: FeatureOrder | None, folder: Path) -> Iterator[Alternative]:
    """Rows of the decoder put into the order of the encoder's columns, or the reverse; copies lie in `folder`."""
    if order is None or order.column is None or not order.mixed_up or sae.W_dec is None:
        return
    W_dec = _written(sae.W_dec.read()[order.row], folder / "W_dec.ordered.raw")
    claim = "the rows of W_dec are in another order than the columns of W_enc"
    yield Alternative(claim, replace(sae, W_dec=W_dec), place)
    W_enc = _written(np.ascontiguousarray(sae.W_enc.read()[:, order.column]), folder / "W_enc.ordered.raw")
    claim = "the columns of W_enc are in another order than the rows of W_dec, b_enc and threshold"
    yield Alternative(claim, replace(sae, W_enc=W_enc), place)


@torch.inference_mode()
def order_of(sae: Sae, folder: Path, device: torch.device) -> FeatureOrder:
    """Compares the directions of encoder columns and decoder rows of an SAE that writes where it reads.

    Args:
        sae: An SAE with a decoder.
        folder: Where `slabs_of` may write uncompressed copies.
        device: The device that computes.
    """
    whole = sae.d_in * sae.d_sae <= _MATCHED_ELEMENTS
    features = np.arange(sae.d_sae) if whole else np.linspace(0, sae.d_sae - 1, _SAMPLED_FEATURES).astype(np.intp)
    columns = _unit(torch.from_numpy(sae.W_enc.columns(features)).T.to(device))
    best = torch.full((len(features),), -2.0, device=device)
    row = torch.zeros(len(features), dtype=torch.long, device=device)
    column = torch.zeros(sae.d_sae if whole else 0, dtype=torch.long, device=device)
    for slab in slabs_of(replace(sae, contest=None), folder, min(1024, slab_width_of(sae))):
        cosines = columns @ _unit(torch.from_numpy(slab.W_dec).nan_to_num().to(device)).T
        here, where = cosines.max(dim=1)
        row = torch.where(here > best, where + slab.start, row)
        best = torch.maximum(here, best)
        if whole:
            column[slab.start : slab.start + cosines.shape[1]] = cosines.argmax(dim=0)
    return FeatureOrder(
        features,
        row=row.cpu().numpy(),
        cosine=best.cpu().numpy(),
        column=column.cpu().numpy() if whole else None,
        chance=math.sqrt(2 * math.log(sae.d_sae) / sae.d_in),
    )


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def _written(array: Float32, file: Path) -> Tensor:
    array.astype("<f4").tofile(file)
    return at_offset(file, file.name, array.shape, "float32", 0)
