"""SAE encoders on the device: from the activations at one hookpoint to those of the watched features, in float32."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch

from scopewatch.sae.encoder import Contest, Encoder, Normalise

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
        groups = groupby(encoders, lambda e: (e.normalise, e.scale is None, next(alone) if e.contest else None))
        self._parts = torch.nn.ModuleList(_Part(list(members)) for _, members in groups)

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        x = activation.float()
        return torch.cat([part(x) for part in self._parts], dim=-1)


class _Part(torch.nn.Module):
    """Encoders that normalise alike and all have a scale or none, without a contest; or one encoder with a contest."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        self._normalise = encoders[0].normalise
        self._contest = encoders[0].contest

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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = normalised(x, self._normalise)
        if self._contest:
            pre, least = self._compete(x, self._contest)
            fires = (pre >= least) & (pre > self.threshold)
        else:
            pre = x @ self.W_enc + self.b_enc
            fires = pre > self.threshold
        value = pre
        if self.scale is not None and self.offset is not None:
            value = torch.relu(pre * self.scale + self.offset)
        return torch.where(fires, value, pre * 0.0)

    def _compete(self, x: torch.Tensor, contest: Contest) -> tuple[torch.Tensor, torch.Tensor]:
        """Pre-activations of the watched features, and for each the least pre-activation that wins its contest.

        The dictionary is multiplied in chunks; of a chunk only its watched columns and its greatest pre-activations
        are kept.
        """
        n = self.W_enc.shape[1]
        grouped = contest.group < n
        chunk = max(1, _CHUNK_ELEMENTS // max(1, x[..., 0].numel()))
        if grouped:
            chunk = max(1, chunk // contest.group) * contest.group
        watched: list[torch.Tensor] = []
        best: list[torch.Tensor] = []
        for start in range(0, n, chunk):
            pre = x @ self.W_enc[:, start : start + chunk] + self.b_enc[start : start + chunk]
            here = self.watched[(self.watched >= start) & (self.watched < start + chunk)] - start
            watched.append(pre[..., here])
            if grouped:
                best.append(pre.reshape(*pre.shape[:-1], -1, contest.group).amax(dim=-1)[..., here // contest.group])
            else:
                running = torch.cat([*best, pre], dim=-1)
                best = [running.topk(min(contest.winners, running.shape[-1]), dim=-1).values]
        return torch.cat(watched, dim=-1), torch.cat(best, dim=-1) if grouped else best[0][..., -1:]


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


def _mean_and_std(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(dim=-1, keepdim=True).sqrt()
