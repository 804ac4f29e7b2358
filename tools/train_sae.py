"""Train the bundled SAE on the reader's residual stream and save it in Gemma Scope's `params.npz` form.

    python tools/train_sae.py --reader DIR --corpus ../shared/corpus --data ../shared/data --out DIR --minutes 11

A BatchTopK SAE (Bussmann et al. 2024, arXiv 2412.06410) with nested (Matryoshka) reconstructions: during training
the k * batch largest pre-activations of a batch stay on. Afterwards each feature gets the same JumpReLU threshold,
chosen so that the mean number of active features on fresh text is k. The normalisation scalar and the pre-encoder
bias are folded away as in Gemma Scope (arXiv 2408.05147, App. A, eqs 7-11), so that for raw activations x
    f = pre * (pre > threshold), pre = x @ W_enc + b_enc;  x^ = f @ W_dec + b_dec.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from activations import Reader, load_reader, response_residuals, stream_residuals
from stream import Mix, PackedStream, build_mix


def quantile_for(pre: Tensor, k: int) -> Tensor:
    """The value above which k entries a row lie, on average over the rows of `pre` (N, d_sae) >= 0."""
    positive = pre[pre > 0]
    above = k * pre.shape[0]
    if positive.numel() <= above:
        return pre.new_zeros(())
    return torch.kthvalue(positive, positive.numel() - above).values


class BatchTopKSAE(nn.Module):
    """x (N, d_in), already divided by the scalar; features (N, d_sae); decoder rows have unit norm."""

    def __init__(self, d_in: int, d_sae: int, k: int, mean: Tensor) -> None:
        super().__init__()
        rows = nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter(rows.T.clone() * 0.5)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(mean.clone())
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


def fit(sae: BatchTopKSAE, x: Tensor, args: argparse.Namespace, groups: tuple[int, ...]) -> dict[str, float]:
    """Adam over `x` (N, d_in) until `args.minutes` are spent or `args.steps` are done; returns what was done."""
    optimizer = torch.optim.Adam(sae.parameters(), lr=args.lr, betas=(0.9, 0.999))
    generator = torch.Generator().manual_seed(args.seed)
    fired = torch.zeros(sae.W_dec.shape[0])
    began, steps, step = time.time(), args.steps, 0
    bar = tqdm(total=steps or None, mininterval=20)
    while not steps or step < steps:
        batch = x[torch.randint(len(x), (args.batch,), generator=generator)]
        if steps:
            optimizer.param_groups[0]["lr"] = args.lr * max(
                0.02, min(1.0, (step + 1) / 50, (steps - step) / (0.35 * steps))
            )
        loss = step_loss(sae, batch, groups, fired)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        sae.project()
        step += 1
        bar.update()
        if not steps and step == 25:
            steps = int(25 * args.minutes * 60 / (time.time() - began))
            bar.total = steps
            print(f"{steps} steps fit into {args.minutes} minutes", flush=True)
        if step % 200 == 0:
            print(
                f"step {step} loss {loss.item():.4f} dead {(fired > 60).sum().item()} {time.time() - began:.0f} s",
                flush=True,
            )
    return {"steps": step, "batch": args.batch, "loss": loss.item()}


@torch.no_grad()
def fold(sae: BatchTopKSAE, scale: float, fresh: Tensor) -> dict[str, np.ndarray]:
    """Gemma Scope's parameters for raw activations, rounded to float16's grid; `fresh` is normalised, (N, d_in)."""
    threshold = quantile_for(torch.cat([sae.pre(part) for part in fresh.split(4096)]), sae.k).clamp_min(1e-4)
    b_enc = scale * (sae.b_enc - sae.b_dec @ sae.W_enc)
    folded = {
        "W_enc": sae.W_enc,
        "b_enc": b_enc,
        "threshold": (scale * threshold).expand(len(b_enc)),
        "W_dec": sae.W_dec,
        "b_dec": scale * sae.b_dec,
    }
    return {name: value.numpy().astype(np.float16).astype(np.float32) for name, value in folded.items()}


def measure(params: dict[str, np.ndarray], x: Tensor) -> dict[str, float]:
    """L0, fraction of variance unexplained (FVU) and dead share of the saved parameters on raw activations (N, d_in)."""
    weights = {name: torch.from_numpy(value) for name, value in params.items()}
    active = torch.zeros(weights["b_enc"].shape[0])
    l0 = error = 0.0
    for part in x.split(4096):
        pre = part @ weights["W_enc"] + weights["b_enc"]
        features = pre * (pre > weights["threshold"])
        active += (features > 0).sum(dim=0)
        l0 += float((features > 0).sum())
        error += float((part - features @ weights["W_dec"] - weights["b_dec"]).square().sum())
    total = float((x - x.mean(dim=0)).square().sum())
    return {
        "tokens": len(x),
        "l0": l0 / len(x),
        "fvu": error / total,
        "dead": float((active == 0).float().mean()),
        "denser_than_10_percent": float((active > 0.1 * len(x)).float().mean()),
    }


def main() -> None:
    """Collect, train, fold, save, measure."""
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    reader = load_reader(args.reader, args.layer)
    mix = build_mix(args.corpus, args.data, args.hedging, args.seed)
    stream = PackedStream(mix, reader.tokenizer, args.seed + 100, notes=False)
    x = stream_residuals(reader, stream, args.tokens)
    print(f"collected {tuple(x.shape)}", flush=True)
    scale = float(x.square().mean().sqrt())
    fresh, x = x[:40_000] / scale, x[40_000:] / scale
    sae = BatchTopKSAE(x.shape[1], args.features, args.k, x.mean(dim=0))
    groups = (args.features // 8, args.features // 3, args.features)
    record = fit(sae, x, args, groups)
    params = fold(sae, scale, fresh)
    held_out = collect_held_out(reader, mix)
    record |= {
        "layer": args.layer,
        "d_sae": args.features,
        "k": args.k,
        "scale": scale,
        "seed": args.seed,
        "training_tokens": len(x),
        "held_out": measure(params, held_out),
    }
    l0 = round(record["held_out"]["l0"])
    width = f"{args.features // 1024}k" if args.features % 1024 == 0 else str(args.features)
    folder = args.out / f"layer_{args.layer}" / f"width_{width}" / f"average_l0_{l0}"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "params.npz", **params)
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1), flush=True)


def collect_held_out(reader: Reader, mix: Mix) -> Tensor:
    """Activations (N, d_in) of the plain documents kept aside from training (LM_HELD_OUT), BOS left out."""
    texts = [("", text) for kind in mix.held_out.values() for text in kind[:80]]
    return torch.cat(list(response_residuals(reader, texts, max_tokens=256)))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reader", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hedging", type=Path, default=Path(__file__).parent / "hedging")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--features", type=int, default=3072)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=800_000)
    parser.add_argument("--minutes", type=float, default=11.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
