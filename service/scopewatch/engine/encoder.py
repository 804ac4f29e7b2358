"""SAE encoders on the device: from the activations at one hookpoint to those of the watched features, in float32."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch

from scopewatch.sae.encoder import Contest, Encoder, Normalise
from scopewatch.sae.weights import Sae

_CHUNK_ELEMENTS = 1 << 24
"""Pre-activations of a contest that exist at once; 64 MiB."""


class HookpointEncoder(torch.nn.Module):
    """All SAEs that read at one hookpoint: (..., d_in) to (..., n), the watched features SAE by SAE in the given order.

    Features of an activation that is not finite are NaN, so that it cannot pass for silence.

    Args:
        encoders: Encoders of the SAEs; their arrays may be shared and must not change.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        # Neighbours that do the same are one matrix product.
        alone = iter(range(len(encoders)))
        groups = groupby(
            encoders,
            lambda e: (e.normalise, e.scale is None, e.max_norm_multiple, next(alone) if e.contest else None),
        )
        self._parts = torch.nn.ModuleList(_Part(list(members)) for _, members in groups)
        self.bounded = any(encoder.max_norm_multiple is not None for encoder in encoders)
        """Whether some encoder asks how large an activation is beside others of its text."""
        self.capturable = not self.bounded and not any(encoder.contest for encoder in encoders)
        """Whether what it runs depends on shapes alone, so that a graph can hold it."""

    def forward(self, activation: torch.Tensor, median: torch.Tensor | None = None) -> torch.Tensor:
        """Encodes activations.

        Args:
            activation: Shape (..., d_in).
            median: For each token the median norm of its text, from `median_norms`, shape (...); None where nothing is
                bounded, or all tokens are of one text.
        """
        x = activation.float()
        if self.bounded and median is None:
            median = median_norms(x.flatten(0, -2), []).reshape(x.shape[:-1])
        return torch.cat([part(x, median) for part in self._parts], dim=-1)


class _Part(torch.nn.Module):
    """Encoders without a contest that normalise alike, have one bound of norms and all a scale or none; or one encoder
    with a contest.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        self._normalise = encoders[0].normalise
        self._contest = encoders[0].contest
        self._max_norm_multiple = encoders[0].max_norm_multiple

        def joined(arrays: Sequence[np.ndarray]) -> torch.nn.Buffer:
            alone = len(arrays) == 1 and arrays[0].flags.writeable and arrays[0].flags.forc
            # Not copied where it is alone: the encoder of a contest is a whole dictionary.
            return torch.nn.Buffer(torch.from_numpy(arrays[0] if alone else np.concatenate(arrays, axis=-1)))

        self.W_enc = joined([e.W_enc for e in encoders])
        self.b_enc = joined([e.b_enc for e in encoders])
        self.threshold = joined([e.threshold[e.watched] for e in encoders])
        self.watched = joined([e.watched for e in encoders[:1]])
        scales = [e.scale[e.watched] for e in encoders if e.scale is not None]
        offsets = [e.offset[e.watched] for e in encoders if e.offset is not None]
        self.scale = joined(scales) if scales else None
        self.offset = joined(offsets) if offsets else None

    def forward(self, x: torch.Tensor, median: torch.Tensor | None) -> torch.Tensor:
        raw, x = x, normalised(x, self._normalise)
        if self._contest:
            pre, wins = self._compete(x, self._contest)
            fires = wins & (pre > self.threshold)
        else:
            pre = x @ self.W_enc + self.b_enc
            fires = pre > self.threshold
        if self._max_norm_multiple is not None and median is not None:
            fires &= (raw.norm(dim=-1) <= self._max_norm_multiple * median)[..., None]
        value = pre
        if self.scale is not None and self.offset is not None:
            value = torch.relu(pre * self.scale + self.offset)
        return torch.where(fires, value, pre * 0.0)

    def _compete(self, x: torch.Tensor, contest: Contest) -> tuple[torch.Tensor, torch.Tensor]:
        """Pre-activations of the watched features, and which of them win their contest.

        Of equal ones the first wins, whatever else is in the batch; `torch.topk` takes any of them. The dictionary is
        multiplied in chunks; of a chunk only its watched columns and its greatest pre-activations are kept.
        """
        watched: list[torch.Tensor] = []
        if contest.group < self.W_enc.shape[1]:
            wins = []
            for pre, here in self._chunks(x, contest.group):
                watched.append(pre[..., here])
                first = pre.reshape(*pre.shape[:-1], -1, contest.group).argmax(dim=-1)
                wins.append(first[..., here // contest.group] == here % contest.group)
            return torch.cat(watched, dim=-1), torch.cat(wins, dim=-1)
        best = x.new_empty((*x.shape[:-1], 0))
        for pre, here in self._chunks(x, 1):
            watched.append(pre[..., here])
            running = torch.cat([best, pre], dim=-1)
            # One more than can win: whether it equals the last of the winners.
            best = running.topk(min(contest.winners + 1, running.shape[-1]), dim=-1).values
        of_watched, least = torch.cat(watched, dim=-1), best[..., contest.winners - 1 : contest.winners]
        if not ((best[..., contest.winners :] == least) & (least > 0)).any():
            return of_watched, of_watched >= least
        return of_watched, self._first_of_equal(x, least, left=contest.winners - (best > least).sum(-1, keepdim=True))

    def _first_of_equal(self, x: torch.Tensor, least: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        """Which watched features are above the last place of a contest, or get one of the places that are left."""
        wins: list[torch.Tensor] = []
        before = torch.zeros_like(left)
        for pre, here in self._chunks(x, 1):
            equal = pre == least
            place = before + equal.cumsum(dim=-1, dtype=torch.int32)
            wins.append(((pre > least) | (equal & (place <= left)))[..., here])
            before = place[..., -1:]
        return torch.cat(wins, dim=-1)

    def _chunks(self, x: torch.Tensor, group: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The dictionary's pre-activations by some columns at a time, and which of these columns are watched."""
        step = max(1, _CHUNK_ELEMENTS // max(1, x[..., 0].numel()) // group) * group
        for start in range(0, self.W_enc.shape[1], step):
            pre = x @ self.W_enc[:, start : start + step] + self.b_enc[start : start + step]
            yield pre, self.watched[(self.watched >= start) & (self.watched < start + step)] - start


def median_norms(activation: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """For each token the median norm of its text's activations, of two in the middle the lower; shape (tokens,).

    Args:
        activation: Shape (tokens, d_in).
        lengths: The number of tokens of each text, in order; what stands behind them is one text more.
    """
    norms = activation.float().norm(dim=-1)
    texts = [text for text in norms.split([*lengths, len(norms) - sum(lengths)]) if len(text)]
    return torch.cat([text.median().expand(len(text)) for text in texts]) if texts else norms


def normalised(x: torch.Tensor, how: Normalise) -> torch.Tensor:
    """Activations as an SAE takes them in; the formulas are with `Normalise`.

    Args:
        x: Shape (..., d_in), float32.
        how: Which formula they are normalised by.
    """
    match how:
        case "none":
            return x
        case "layer_norm":
            mean, std = _mean_and_std(x)
            return (x - mean) / (std + 1e-5)
        case "root_d":
            return x / _rms(x)


def denormalised(y: torch.Tensor, x: torch.Tensor, how: Normalise) -> torch.Tensor:
    """A reconstruction scaled back as `x` was normalised, for SAEs that denormalise.

    Args:
        y: Shape (..., d_in), what the decoder gives.
        x: Shape (..., d_in), the activations that were encoded.
        how: How they were normalised.
    """
    match how:
        case "none":
            return y
        case "layer_norm":
            mean, std = _mean_and_std(x)
            return y * std + mean
        case "root_d":
            return y * _rms(x)


def denormalising_factor(x: torch.Tensor, how: Normalise) -> torch.Tensor:
    """What `denormalised` multiplies by, token by token, shape (..., 1): what is added to `y` counts so many times."""
    match how:
        case "none":
            return torch.ones_like(x[..., :1])
        case "layer_norm":
            return _mean_and_std(x)[1]
        case "root_d":
            return _rms(x)


def pre_activations_of(encoder: Encoder) -> HookpointEncoder:
    """An encoder of the same columns that gives every feature's pre-activation, whether it fires or not."""
    silent = np.full_like(encoder.threshold, -np.inf)
    always = replace(encoder, threshold=silent, scale=None, offset=None, contest=None, max_norm_multiple=None)
    return HookpointEncoder([always])


def reconstruction(decoded: torch.Tensor, x: torch.Tensor, sae: Sae, W_skip: torch.Tensor | None) -> torch.Tensor:
    """What an SAE makes of activations, given what its decoder makes of the features; see `sae.weights`.

    Args:
        decoded: Shape (..., d_out).
        x: The activations that were encoded, shape (..., d_in).
        sae: The SAE.
        W_skip: The SAE's, on the same device; None where there is none.
    """
    made = denormalised(decoded, x, sae.normalise) if sae.denormalises else decoded
    return made if W_skip is None else made + x @ W_skip


def _mean_and_std(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(dim=-1, keepdim=True).sqrt()
