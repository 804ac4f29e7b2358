"""SAE encoders on the device: from the activations at one hookpoint to those of the watched features, in float32."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch

from scopewatch.engine.columns import Columns
from scopewatch.engine.contests import Competition
from scopewatch.sae.encoder import Encoder, Normalise
from scopewatch.sae.weights import Sae


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
        self._max_norm_multiple = encoders[0].max_norm_multiple

        def joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
            alone = len(arrays) == 1 and arrays[0].flags.writeable and arrays[0].flags.forc
            # Not copied where it is alone: the encoder of a contest is a whole dictionary.
            return torch.from_numpy(arrays[0] if alone else np.concatenate(arrays, axis=-1))

        W_enc, b_enc = joined([e.W_enc for e in encoders]), joined([e.b_enc for e in encoders])
        self.threshold = torch.nn.Buffer(joined([e.threshold[e.watched] for e in encoders]))
        self._columns, self._contest = None, None
        if contest := encoders[0].contest:
            self._contest = Competition(W_enc, b_enc, joined([encoders[0].watched]), self.threshold, contest)
        else:
            self._columns = Columns(W_enc, b_enc)
        scales = [e.scale[e.watched] for e in encoders if e.scale is not None]
        offsets = [e.offset[e.watched] for e in encoders if e.offset is not None]
        self.scale = torch.nn.Buffer(joined(scales)) if scales else None
        self.offset = torch.nn.Buffer(joined(offsets)) if offsets else None

    def forward(self, x: torch.Tensor, median: torch.Tensor | None) -> torch.Tensor:
        raw, x = x, normalised(x, self._normalise)
        if self._contest is not None:
            pre, wins = self._contest(x)
            fires = wins & (pre > self.threshold)
        elif self._columns is not None:
            pre = self._columns(x)
            fires = pre > self.threshold
        if self._max_norm_multiple is not None and median is not None:
            fires &= (raw.norm(dim=-1) <= self._max_norm_multiple * median)[..., None]
        value = pre
        if self.scale is not None and self.offset is not None:
            value = torch.relu(pre * self.scale + self.offset)
        return torch.where(fires, value, pre * 0.0)


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
