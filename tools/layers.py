"""At which layers a dense probe tells the labelled sets best: what chose the layers of a real reader's SAEs.

    python tools/layers.py --reader DIR --data ../shared/data --layers 8,12,14,15,16,18,20,22,24 --most 500

For each set the mean AUROC over five grouped folds of a logistic regression on standardised activations, averaged over the
response's tokens, at its last one, and averaged over its sentences' last ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from corpus import fraction
from residuals import RealReader
from scopewatch.sentences import SegmentSentences
from scopewatch.types import Pair, Segment, TokenisedPair

SETS = (
    "hedge_science_certainty",
    "hedge_earnings_calls",
    "bias_reddit",
    "bias_diasafety",
    "tox_toxigen_human",
    "tox_diasafety",
)
POOLINGS = ("mean", "last", "sentence_end")
STRENGTH = 3e-4


def pooled(reader: RealReader, pairs: list[TokenisedPair], layers: tuple[int, ...]) -> np.ndarray:
    """The response's activations, shape (n_poolings, n_layers, n_pairs, d_in)."""
    found = []
    for pair in pairs:
        states = reader.residuals(reader.padded([pair]), layers)
        sentences = SegmentSentences(pair, Segment.RESPONSE)
        own = np.isin(np.flatnonzero(pair.segments != Segment.TEMPLATE), sentences.positions)
        x = torch.stack([states[layer].float() for layer in layers]).numpy()[:, own]
        found.append(np.stack([x.mean(axis=1), x[:, -1], x[:, sentences.last_tokens].mean(axis=1)]))
    return np.stack(found, axis=2)


def main() -> None:
    """One line for each set and pooling."""
    args = arguments()
    torch.set_num_threads(args.threads)
    reader = RealReader(args.reader, "cpu", args.max_tokens)
    layers = tuple(map(int, args.layers.split(",")))
    for name in SETS:
        rows = [json.loads(line) for line in (args.data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        rows = sorted(rows, key=lambda row: fraction(str(row["group"]), "layers"))[: args.most]
        read = reader.tokeniser.tokenise([Pair(prompt=row["prompt"], response=row["response"]) for row in rows])
        x = pooled(reader, read, layers)
        labels, groups = np.array([row["label"] for row in rows]), [str(row["group"]) for row in rows]
        folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(x[0, 0], labels, groups))
        for pooling, per_layer in zip(POOLINGS, x, strict=True):
            shown = [
                f"{layer}: {cross_validated(each, labels, folds):.3f}"
                for layer, each in zip(layers, per_layer, strict=True)
            ]
            print(name, pooling, "  ".join(shown), flush=True)


def cross_validated(x: np.ndarray, labels: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The mean AUROC of the folds left out."""
    found = []
    for fit, out in folds:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=300)).fit(x[fit], labels[fit])
        found.append(roc_auc_score(labels[out], probe.decision_function(x[out])))
    return float(np.mean(found))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reader", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layers", default="8,12,14,15,16,18,20,22,24")
    parser.add_argument("--most", type=int, default=500, help="pairs of a set")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
