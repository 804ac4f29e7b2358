"""Train the bundled SAE on the reader's residual stream and save it in Gemma Scope's `params.npz` form.

    python tools/train_sae.py --reader DIR --corpus ../shared/corpus --data ../shared/data --out DIR --minutes 11

`batch_topk.py` says how it is made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from activations import Reader, load_reader, response_residuals, stream_residuals
from batch_topk import Plan, fit, fold, measure, save
from stream import Mix, PackedStream, build_mix


def main() -> None:
    """Collect, train, fold, save, measure."""
    args = arguments()
    torch.set_num_threads(args.threads)
    reader = load_reader(args.reader, args.layer)
    mix = build_mix(args.corpus, args.data, args.hedging, args.seed)
    stream = PackedStream(mix, reader.tokenizer, args.seed + 100, notes=False)
    x = stream_residuals(reader, stream, args.tokens)
    print(f"collected {tuple(x.shape)}", flush=True)
    scale = float(x.square().mean().sqrt())
    fresh, x = x[:40_000], x[40_000:]
    plan = Plan(args.features, args.k, args.batch, args.lr, args.minutes, args.steps, args.seed)
    sae, record = fit(x, scale, plan)
    params = fold(sae, scale, fresh)
    record |= {
        "layer": args.layer,
        "d_sae": args.features,
        "k": args.k,
        "scale": scale,
        "seed": args.seed,
        "training_tokens": len(x),
        "held_out": measure(params, collect_held_out(reader, mix)),
    }
    save(params, args.out, args.layer, record["held_out"]["l0"])
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
