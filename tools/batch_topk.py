"""A BatchTopK SAE (Bussmann et al. 2024, arXiv 2412.06410), trained on activations and saved in Gemma Scope's form.

Reconstructions are nested (Matryoshka). During training the k * batch largest pre-activations of a batch stay on.
Afterwards each feature gets the same JumpReLU threshold, chosen so that the mean number of active features on fresh
text is k. The normalisation scalar and the pre-encoder bias are folded away as in Gemma Scope (arXiv 2408.05147,
App. A, eqs 7-11), so that for raw activations x
    f = pre * (pre > threshold), pre = x @ W_enc + b_enc;  x^ = f @ W_dec + b_dec.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class Plan:
    """How an SAE is trained. `steps` 0 means: as many as fit into `minutes`, at least 25."""

    features: int
    k: int
    batch: int
    lr: float
    minutes: float
    steps: int
    seed: int

    @property
    def groups(self) -> tuple[int, ...]:
        """Prefix lengths of the dictionary, each of which has to reconstruct by itself."""
        return (self.features // 8, self.features // 3, self.features)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: 50 steps up, level, and down over the last 35 %."""
        return self.lr * max(0.02, min(1.0, (step + 1) / 50, (steps - step) / (0.35 * steps)))


def quantile_for(pre: Tensor, k: int) -> Tensor:
    """The value above which k entries a row lie, on average over the rows of `pre` (N, d_sae) >= 0."""
    positive = pre[pre > 0]
    above = k * pre.shape[0]
    if positive.numel() <= above:
        return pre.new_zeros(())
    return torch.kthvalue(positive, positive.numel() - above).values


class BatchTopKSAE(nn.Module):
    """x (N, d_in), already divided by the scalar; features (N, d_sae); decoder rows have unit norm."""

    def __init__(self, d_sae: int, k: int, mean: Tensor) -> None:
        super().__init__()
        rows = nn.functional.normalize(torch.randn(d_sae, len(mean)), dim=1)
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter(rows.T.clone() * 0.5)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(mean.cpu().clone())
        self.k = k

    def pre(self, x: Tensor) -> Tensor:
        """Rectified pre-activations (N, d_sae) of centred input."""
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def keep_top(self, pre: Tensor) -> Tensor:
        """All but the k * N largest entries set to zero; the cut is estimated on every eighth row."""
        return pre * (pre > quantile_for(pre.detach()[::8], self.k))

    @torch.no_grad()
    def project(self) -> None:
        """Unit-norm decoder rows."""
        self.W_dec.copy_(nn.functional.normalize(self.W_dec, dim=1))


def step_loss(sae: BatchTopKSAE, x: Tensor, groups: tuple[int, ...], fired: Tensor) -> Tensor:
    """Mean of the nested reconstruction errors, plus the error's own reconstruction by features long silent.

    `groups` are prefix lengths of the dictionary; `fired` (d_sae,) counts steps since a feature last fired.
    """
    pre = sae.pre(x)
    features = sae.keep_top(pre)
    fired += 1
    fired[(features > 0).any(dim=0)] = 0
    loss = x.new_zeros(())
    recon = sae.b_dec.expand_as(x)
    start = 0
    for end in groups:
        recon = recon + features[:, start:end] @ sae.W_dec[start:end]
        loss = loss + (x - recon).square().sum(dim=1).mean() / len(groups)
        start = end
    dead = fired > 60
    if dead.sum() > sae.k:
        silent = pre[:, dead]
        top = silent.topk(min(2 * sae.k, silent.shape[1]), dim=1)
        codes = torch.zeros_like(silent).scatter(1, top.indices, top.values)
        error = (x - recon).detach()
        loss = loss + (error - codes @ sae.W_dec[dead]).square().sum(dim=1).mean() / 32
    return loss


def fit(x: Tensor, scale: float, plan: Plan, device: str = "cpu") -> tuple[BatchTopKSAE, dict[str, float]]:
    """Adam over rows of `x` (N, d_in), raw activations of any precision; returns the SAE, and what was done."""
    torch.manual_seed(plan.seed)
    sample = x[torch.randint(len(x), (min(len(x), 50_000),))].float() / scale
    sae = BatchTopKSAE(plan.features, plan.k, sample.mean(dim=0)).to(device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=plan.lr, betas=(0.9, 0.999), fused=True)
    generator = torch.Generator(x.device).manual_seed(plan.seed)
    fired = torch.zeros(plan.features, device=device)
    began, steps, step = time.time(), plan.steps, 0
    bar = tqdm(total=steps or None, mininterval=20)
    while not steps or step < steps:
        rows = torch.randint(len(x), (plan.batch,), generator=generator, device=x.device)
        batch = x[rows].to(device, torch.float32) / scale
        if steps:
            optimizer.param_groups[0]["lr"] = plan.rate(step, steps)
        loss = step_loss(sae, batch, plan.groups, fired)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        sae.project()
        step += 1
        bar.update()
        if not steps and step == 25:
            steps = int(25 * plan.minutes * 60 / (time.time() - began))
            bar.total = steps
            print(f"{steps} steps fit into {plan.minutes} minutes", flush=True)
        if step % 100 == 0:
            print(
                f"step {step} loss {loss.item():.4f} dead {(fired > 60).sum().item()} {time.time() - began:.0f} s",
                flush=True,
            )
    return sae.to("cpu"), {"steps": step, "batch": plan.batch, "loss": loss.item(), "seconds": time.time() - began}


@torch.no_grad()
def fold(sae: BatchTopKSAE, scale: float, fresh: Tensor) -> dict[str, np.ndarray]:
    """Gemma Scope's parameters for raw activations, on float16's grid; `fresh` (N, d_in) are raw too."""
    parts = [sae.pre(part.float() / scale) for part in fresh.split(4096)]
    threshold = quantile_for(torch.cat(parts), sae.k).clamp_min(1e-4)
    b_enc = scale * (sae.b_enc - sae.b_dec @ sae.W_enc)
    folded = {
        "W_enc": sae.W_enc,
        "b_enc": b_enc,
        "threshold": (scale * threshold).expand(len(b_enc)),
        "W_dec": sae.W_dec,
        "b_dec": scale * sae.b_dec,
    }
    return {name: value.numpy().astype(np.float16).astype(np.float32) for name, value in folded.items()}


@torch.no_grad()
def encoded(params: dict[str, np.ndarray], x: Tensor) -> tuple[Tensor, Tensor]:
    """The features (N, d_sae) of raw activations (N, d_in), and their reconstruction (N, d_in)."""
    weights = {name: torch.from_numpy(value) for name, value in params.items()}
    pre = x @ weights["W_enc"] + weights["b_enc"]
    features = pre * (pre > weights["threshold"])
    return features, features @ weights["W_dec"] + weights["b_dec"]


def measure(params: dict[str, np.ndarray], x: Tensor) -> dict[str, float]:
    """L0, fraction of variance unexplained (FVU) and dead share of the saved parameters on raw activations (N, d_in)."""
    active = torch.zeros(len(params["b_enc"]))
    l0 = error = 0.0
    for part in x.split(4096):
        features, rebuilt = encoded(params, part.float())
        active += (features > 0).sum(dim=0)
        l0 += float((features > 0).sum())
        error += float((part.float() - rebuilt).square().sum())
    total = float((x.float() - x.float().mean(dim=0)).square().sum())
    return {
        "tokens": len(x),
        "l0": l0 / len(x),
        "fvu": error / total,
        "dead": float((active == 0).float().mean()),
        "denser_than_10_percent": float((active > 0.1 * len(x)).float().mean()),
    }


def save(params: dict[str, np.ndarray], out: Path, layer: int, l0: float, dtype: type = np.float32) -> Path:
    """Writes `layer_L/width_W/average_l0_N/params.npz` under `out`, as Gemma Scope's repositories are laid out."""
    features = len(params["b_enc"])
    width = f"{features // 1024}k" if features % 1024 == 0 else str(features)
    file = out / f"layer_{layer}" / f"width_{width}" / f"average_l0_{round(l0)}" / "params.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **{name: value.astype(dtype) for name, value in params.items()})
    return file
