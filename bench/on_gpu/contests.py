"""A TopK SAE, of which the whole dictionary has to be multiplied: how fast, and whether the right features win."""

import statistics

import numpy as np
import torch

from on_gpu.sections import Told
from on_gpu.stage import Stage
from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.sae.encoder import Contest, Encoder

_WATCHED = 64
_ROUNDS = 5
_CHECKED_TOKENS = 256
_CLOSE = 1e-5
"""Pre-activations whose distance from the last winner's is less, as a share of that, may win or not: float32's sums."""


def contests(stage: Stage, told: Told) -> None:
    """Times the contest, and decides it once more in float64."""
    width, features, winners = stage.sizes.contest
    generator = torch.Generator(device=stage.device).manual_seed(6)
    weights = torch.randn(width, features, device=stage.device, generator=generator) / width**0.5
    W_enc = weights.cpu().numpy()
    watched = np.sort(np.random.default_rng(6).choice(features, min(_WATCHED, features), replace=False)).astype(
        np.int64
    )
    encoder = HookpointEncoder(
        [
            Encoder(
                normalise="none",
                W_enc=W_enc,
                b_enc=np.zeros(features, np.float32),
                threshold=np.zeros(features, np.float32),
                watched=watched,
                contest=Contest(group=features, winners=winners),
            )
        ]
    ).to(stage.device)
    with torch.inference_mode():
        for tokens in stage.sizes.contest_tokens:
            x = torch.randn(1, tokens, width, device=stage.device, generator=generator)
            for _ in range(2):
                encoder(x)
            took_s = statistics.median(stage.seconds(lambda: encoder(x)) for _ in range(_ROUNDS))  # noqa: B023
            told.figures(
                **{f"{tokens} tokens": {"ms": round(1000 * took_s, 2), "tokens_per_s": round(tokens / took_s)}}
            )
            told.say(f"{features} features, {tokens} tokens: {tokens / took_s:,.0f} tokens/s")
        x = x[:, :_CHECKED_TOKENS]
        wrong, close = _wrong(encoder(x)[0], x[0], weights, watched, winners)
    told.figures(wrongly_decided=wrong, close_calls=close)
    if wrong:
        told.broken([f"{wrong} contests of watched features are decided otherwise than in float64"])


def _wrong(
    found: torch.Tensor, x: torch.Tensor, W_enc: torch.Tensor, watched: np.ndarray, winners: int
) -> tuple[int, int]:
    """How many watched features win or lose wrongly, and how many of all are too close to tell."""
    wrong = close = 0
    columns = torch.from_numpy(watched).to(x.device)
    for own, got in zip(x.split(32), found.split(32), strict=True):
        pre = own.double() @ W_enc.double()
        least = pre.topk(winners, dim=-1).values[:, -1:]
        mine = pre[:, columns]
        uncertain = (mine - least).abs() <= _CLOSE * least.abs()
        wrong += int((((mine >= least) & (mine > 0)) != (got > 0))[~uncertain].sum())
        close += int(uncertain.sum())
    return wrong, close
