"""Train an SAE on a layer of a real reader and save it in Gemma Scope's `params.npz` form, as float16.

On a CPU, from files that `residuals.py` wrote (its parts side by side, one a core; then a layer a core):

    python tools/train_real_sae.py --reader DIR --corpus ../shared/corpus --data ../shared/data --layer 15 \
        --residuals tools/build/residuals --out tools/build/sae

On a GPU, without `--residuals`: the residuals stay in its memory.

    python tools/train_real_sae.py ... --layer 15 --device cuda --tokens 50000000 --steps 24000 --out tools/build/sae

Beside the parameters `training.L.json` is written: what was done, and on documents kept aside L0, the fraction of
variance unexplained, the share of dead features, and how much of the reader's loss is recovered when the reconstruction
stands in for the residual stream (between 0, every token's residual the mean one, and 1, the residual itself).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from batch_topk import Plan, encoded, fit, fold, measure, save
from corpus import Document
from real_text import documents, in_shares
from residuals import Batch, RealReader, collect

_FRESH = 40_000
"""Tokens that set the threshold and are not trained on."""


def stored(folder: Path, layer: int) -> Tensor:
    """The residuals of a layer that `residuals.py` wrote, in the order of their chunks; float16, shape (N, d_in)."""
    files = sorted(folder.glob(f"{layer}.*.npy"))
    if not files:
        raise SystemExit(f"{folder}: no residuals of layer {layer}; run tools/residuals.py first")
    return torch.cat([torch.from_numpy(np.load(file)) for file in files])


@torch.inference_mode()
def loss(reader: RealReader, batch: Batch, layer: int, stand_in: Tensor | None, params: dict | None) -> Tensor:
    """Nats of each predicted token that counts, (N,), with something in place of the layer's residuals there.

    Args:
        stand_in: A vector in place of each residual, (d_in,); None for none.
        params: The SAE whose reconstruction stands in; None for none.
    """

    def replace(_block: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        x = out[batch.counts]
        new = encoded(params, x)[1] if params else stand_in.expand_as(x)
        whole = out.clone()
        whole[batch.counts] = new
        return whole

    hooks = []
    if params or stand_in is not None:
        hooks.append(reader.model.model.layers[layer].register_forward_hook(replace))
    try:
        logits = reader.model(input_ids=batch.ids, attention_mask=batch.there, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    expected = batch.counts[:, 1:]
    return nn.functional.cross_entropy(logits[:, :-1][expected].float(), batch.ids[:, 1:][expected], reduction="none")


def held_out(reader: RealReader, texts: list[Document], layer: int, params: dict) -> dict[str, float]:
    """What the documents kept aside say of the saved parameters; the reader is on the CPU."""
    batches = list(reader.batches(texts, 2048))
    x = torch.cat([reader.residuals(batch, (layer,))[layer] for batch in batches])
    quality = measure(params, x)
    own, rebuilt, ablated = (
        float(torch.cat([loss(reader, batch, layer, *instead) for batch in batches]).mean())
        for instead in ((None, None), (None, params), (x.mean(dim=0), None))
    )
    return quality | {
        "loss": own,
        "loss_reconstructed": rebuilt,
        "loss_ablated": ablated,
        "loss_recovered": (ablated - rebuilt) / (ablated - own),
    }


def main() -> None:
    """Collect or load, train, fold, save, measure."""
    args = arguments()
    torch.set_num_threads(args.threads)
    kinds, aside = documents(args.corpus, args.data, args.hedging)
    if args.residuals:
        x = stored(args.residuals, args.layer)
    else:
        reader = RealReader(args.reader, args.device, args.max_tokens)
        texts = in_shares(kinds, args.seed)
        x = next(collect(reader, texts, (args.layer,), args.batch_tokens, args.tokens))[args.layer]
        del reader
    print(f"{len(x)} residuals of layer {args.layer}", flush=True)
    sample = x[torch.randint(len(x), (50_000,))].float()
    scale = float(sample.square().mean().sqrt())
    fresh, x = x[:_FRESH].cpu(), x[_FRESH:]
    sae, record = fit(
        x, scale, Plan(args.features, args.k, args.batch, args.lr, args.minutes, args.steps, args.seed), args.device
    )
    params = fold(sae, scale, fresh)
    done = {"layer": args.layer, "d_sae": args.features, "k": args.k, "scale": scale, "seed": args.seed}
    record |= done | {"training_tokens": len(x), "tokens_seen": record["steps"] * args.batch}
    record["held_out"] = held_out(
        RealReader(args.reader, "cpu", args.max_tokens), aside[: args.aside], args.layer, params
    )
    save(params, args.out, args.layer, record["held_out"]["l0"], np.float16)
    (args.out / f"training.{args.layer}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reader", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hedging", type=Path, default=Path(__file__).parent / "hedging")
    parser.add_argument("--residuals", type=Path, help="folder that residuals.py wrote; else they are collected")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=3_000_000, help="to collect")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--aside", type=int, default=400, help="documents that measure")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="of a forward pass")
    parser.add_argument("--max-tokens", type=int, default=320, help="of a document")
    return parser.parse_args()


if __name__ == "__main__":
    main()
