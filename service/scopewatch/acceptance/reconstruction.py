"""What an SAE does on given activations: how much fires, and how much of the activation it explains.

The dictionary is read in slabs, never as a whole, and tokens are encoded in blocks, so that nothing of the size of
tokens x d_sae ever exists.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from scopewatch.engine.encoder import HookpointEncoder, denormalised
from scopewatch.errors import SaeError
from scopewatch.sae.encoder import Encoder
from scopewatch.sae.weights import Sae

_SLAB_ELEMENTS = 4 << 20
_BLOCK_TOKENS = 1024

Pair = tuple[torch.Tensor, torch.Tensor]
"""What an SAE reads, shape (tokens, d_in), and what its reconstruction is compared with, shape (tokens, d_out)."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Numbers of an SAE on one sample."""

    tokens: int
    l0: float
    """Features that fire per token, on average."""
    fvu: float
    """Fraction of variance unexplained: `sum ||y - y'||^2 / sum ||y - mean y||^2`, y' the reconstruction."""
    shift: float
    """What of it one constant vector explains: `n ||mean (y - y')||^2` over the same sum; `b_dec` should be that."""
    never_fired: float
    """Share of the features."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Numbers of a dictionary that need no text."""

    norm_min: float
    """Of the decoder rows as they are in the file; so are the next two."""
    norm_median: float
    norm_max: float
    cosine: float | None
    """Mean cosine of a feature's encoder column and decoder row; None where these live in different places."""
    damaged: int
    """Decoder rows with NaN or infinity; they count in no other number."""


class _Tally:
    """What adds up over slabs for one pair."""

    def __init__(self, sae: Sae, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y
        self.made = torch.from_numpy(sae.b_out()).to(x.device).repeat(len(x), 1)
        self.bar: torch.Tensor | None = None
        self.fired = self.silent = 0

    def raise_bar(self, pre_of: HookpointEncoder, winners: int) -> None:
        """Keeps the `winners` largest pre-activations of each token so far."""
        rows = []
        for block in self._blocks():
            best = pre_of(self.x[block])
            if self.bar is not None:
                best = torch.cat([best, self.bar[block]], dim=-1)
            rows.append(best.topk(min(winners, best.shape[-1]), dim=-1).values)
        self.bar = torch.cat(rows)

    def add(self, encode: Callable[..., torch.Tensor], W_dec: torch.Tensor) -> None:
        fired = torch.zeros(len(W_dec), dtype=torch.bool, device=W_dec.device)
        for block in self._blocks():
            f = encode(self.x[block], None if self.bar is None else self.bar[block, -1:])
            self.made[block] += f @ W_dec
            fires = f != 0
            self.fired += int(fires.sum())
            fired |= fires.any(dim=0)
        self.silent += int((~fired).sum())

    def result(self, sae: Sae) -> Measurement:
        made = denormalised(self.made, self.x, sae.normalise) if sae.denormalises else self.made
        if sae.W_skip:
            made = made + self.x @ torch.from_numpy(sae.W_skip.read()).to(made.device)
        left = self.y - made
        unexplained = float(left.square().sum(dtype=torch.float64))
        constant = len(left) * float(left.mean(dim=0, dtype=torch.float64).square().sum())
        variance = float((self.y - self.y.mean(dim=0)).square().sum(dtype=torch.float64))
        return Measurement(
            tokens=len(self.x),
            l0=self.fired / len(self.x),
            fvu=unexplained / variance if variance else float("inf"),
            shift=constant / variance if variance else 0.0,
            never_fired=self.silent / sae.d_sae,
        )

    def _blocks(self) -> list[slice]:
        return [slice(start, start + _BLOCK_TOKENS) for start in range(0, len(self.x), _BLOCK_TOKENS)]


@torch.inference_mode()
def measure(sae: Sae, pairs: Sequence[Pair], folder: Path, *, slab_width: int = 0) -> list[Measurement]:
    """Runs the whole SAE on each pair.

    Args:
        sae: With a decoder.
        pairs: All on one device; their length is bounded by the memory for three more of them.
        folder: See `Sae.slabs`.
        slab_width: Features read at once; 0 for what 16 MiB hold.

    Raises:
        SaeError: An array of the encoder or `b_dec` is damaged.
    """
    if not np.isfinite(sae.b_out()).all():
        raise SaeError(f"{sae.W_enc.file}: b_dec holds NaN or infinity; download it again")
    width = slab_width or slab_width_of(sae)
    device = pairs[0][0].device
    tallies = [_Tally(sae, x, y) for x, y in pairs]
    topk = sae.contest is not None and sae.contest.group == sae.d_sae
    dictionary = replace(sae, contest=None) if topk else sae
    if topk and sae.contest:
        for slab in dictionary.slabs(folder, width):
            pre_of = _pre_activations(slab.encoder).to(device)
            for tally in tallies:
                tally.raise_bar(pre_of, sae.contest.winners)
    for slab in dictionary.slabs(folder, width):
        W_dec = torch.from_numpy(np.where(np.isfinite(slab.decoder_norms)[:, None], slab.W_dec, 0)).to(device)
        encode = _winners(slab.encoder, device) if topk else _all_firing(slab.encoder, device)
        for tally in tallies:
            tally.add(encode, W_dec)
    return [tally.result(sae) for tally in tallies]


def geometry(sae: Sae, folder: Path, *, in_place: bool) -> Geometry:
    """Measures the dictionary itself.

    Args:
        sae: With a decoder.
        folder: See `Sae.slabs`.
        in_place: Whether it writes where it reads.

    Raises:
        SaeError: As for `measure`.
    """
    norms = []
    cosines = []
    for slab in replace(sae, contest=None).slabs(folder, slab_width_of(sae)):
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
    """Features whose columns fill 16 MiB."""
    return max(64, _SLAB_ELEMENTS // max(sae.d_in, sae.d_out))


def _pre_activations(encoder: Encoder) -> HookpointEncoder:
    return HookpointEncoder(
        [replace(encoder, threshold=np.full_like(encoder.threshold, -np.inf), scale=None, offset=None, contest=None)]
    )


def _all_firing(encoder: Encoder, device: torch.device) -> Callable[..., torch.Tensor]:
    module = HookpointEncoder([encoder]).to(device)
    return lambda x, _bar: module(x)


def _winners(encoder: Encoder, device: torch.device) -> Callable[..., torch.Tensor]:
    """For TopK: `bar`, shape (tokens, 1), is the least pre-activation that is among the winners."""
    pre_of = _pre_activations(encoder).to(device)
    value_of = HookpointEncoder([encoder]).to(device)
    return lambda x, bar: torch.where(pre_of(x) >= bar, value_of(x), 0.0)
