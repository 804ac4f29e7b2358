"""Find and calibrate SAE features for the bundled indicators, beside the baselines they have to beat.

    python tools/calibrate_demo.py --reader DIR --sae DIR/layer_L/…/params.npz --data ../shared/data \\
        --corpus ../shared/corpus --out tools/out

Writes `demo_watchlist.json` (terms, threshold, probability and card of each indicator) and `calibration_report.json`
(the same measurements for every method, held-out and with whole sets left out).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from activations import load_reader
from corpus import HELD_OUT, Item, fingerprint, read_hedging
from describe import FeatureNote, describe_features
from indicators import INDICATORS, Indicator, item_weights, load_items
from pooling import SAE, PooledSet, join, load_sae, pool_items
from probes import (
    Scorer,
    Scores,
    SparseScore,
    Term,
    auroc_interval,
    best_single_feature,
    fit_bag_of_words,
    fit_dense,
    fold_of,
    hedge_words,
    length,
)


@dataclass(frozen=True)
class Calibration:
    """A finished indicator: its score, its threshold on the score, and probability = sigmoid(slope * score + intercept)."""

    score: SparseScore
    threshold: float
    slope: float
    intercept: float
    fpr_on_calibration: float


def fit_methods(indicator: Indicator, pooled: PooledSet) -> dict[str, Scorer]:
    """The SAE score and every baseline, fitted on the same items with the same weights."""
    weights = item_weights(pooled, indicator.sources)
    feature, pooling, sign = best_single_feature(pooled, weights)
    return {
        "sae": indicator.fit(pooled, weights),
        "best_single_feature": SparseScore((Term(feature, pooling, sign),), 0.0),
        "dense_probe": fit_dense(pooled, weights),
        "bag_of_words": fit_bag_of_words(pooled, weights),
        "hedge_words": hedge_words,
        "length": length,
    }


def measure(methods: dict[str, Scorer], pooled: PooledSet) -> dict[str, Any]:
    """AUROC with its 95 % interval, by method."""
    groups = [item.group for item in pooled.items]
    found = {name: auroc_interval(pooled.labels, scorer(pooled), groups) for name, scorer in methods.items()}
    return {
        "n": len(pooled.items),
        "n_positive": int(pooled.labels.sum()),
        "auroc": {
            name: {"value": round(v, 4), "low": round(lo, 4), "high": round(hi, 4)}
            for name, (v, lo, hi) in found.items()
        },
    }


def cross_scores(indicator: Indicator, pooled: PooledSet, folds: int = 5) -> Scores:
    """The SAE score of every item from a fit that did not see its group's fold."""
    fold, scores = fold_of(pooled, folds), np.zeros(len(pooled.items))
    for number in range(folds):
        out = fold == number
        rest = pooled.where(~out)
        scores[out] = indicator.fit(rest, item_weights(rest, indicator.sources))(pooled.where(out))
    return scores


def calibrate(indicator: Indicator, pooled: PooledSet, score: SparseScore) -> Calibration:
    """Threshold and probability from cross-fitted scores: the threshold leaves `max_fpr` of the (weighted) negatives above it."""
    weights, scores = item_weights(pooled, indicator.sources), cross_scores(indicator, pooled)
    platt = LogisticRegression(C=1e6).fit(scores[:, None], pooled.labels, sample_weight=weights)
    negative = pooled.labels == 0
    order = np.argsort(-scores[negative])
    above = np.cumsum(weights[negative][order]) / weights[negative].sum()
    place = int(np.searchsorted(above, indicator.max_fpr, side="right"))
    threshold = float(scores[negative][order][min(place, len(order) - 1)])
    return Calibration(score, threshold, float(platt.coef_[0, 0]), float(platt.intercept_[0]), indicator.max_fpr)


def rates(calibration: Calibration, pooled: PooledSet) -> dict[str, float]:
    """Share of positives (tpr) and negatives (fpr) above the threshold, and the mean predicted probability of either."""
    scores, labels = calibration.score(pooled), pooled.labels
    flagged = scores > calibration.threshold
    probability = expit(calibration.slope * scores + calibration.intercept)
    return {
        "tpr": round(float(flagged[labels == 1].mean()), 4),
        "fpr": round(float(flagged[labels == 0].mean()), 4),
        "mean_probability_of_positives": round(float(probability[labels == 1].mean()), 4),
        "mean_probability_of_negatives": round(float(probability[labels == 0].mean()), 4),
    }


def part(pooled: PooledSet, held_out: bool) -> PooledSet:
    """The held-out items, or the others."""
    return pooled.where(np.array([(item.part == HELD_OUT) == held_out for item in pooled.items]))


def evaluate(indicator: Indicator, sets: dict[str, PooledSet]) -> tuple[dict[str, Any], Calibration]:
    """Fit on all calibration items and test on held-out ones; then again with each transfer set left out of the fit."""
    calibration_items = join([part(sets[name], held_out=False) for name in indicator.sources])
    methods = fit_methods(indicator, calibration_items)
    score = methods["sae"]
    assert isinstance(score, SparseScore)
    finished = calibrate(indicator, calibration_items, score)
    held_out = {name: part(sets[name], held_out=True) for name in indicator.tests}
    if indicator.pool_tests:
        held_out["both together"] = join(list(held_out.values()))
    report: dict[str, Any] = {
        "calibrated_on": {
            "n": len(calibration_items.items),
            "n_positive": int(calibration_items.labels.sum()),
            "weights": indicator.sources,
        },
        "held_out": {
            name: measure(methods, pooled) | {"at_threshold": rates(finished, pooled)}
            for name, pooled in held_out.items()
        },
        "left_out": {},
    }
    for name in indicator.transfer:
        others = join([part(sets[other], held_out=False) for other in indicator.sources if other != name])
        fitted = fit_methods(indicator, others)
        report["left_out"][name] = measure(fitted, sets[name])
    return report, finished


def domain_folds(indicator: Indicator, pooled: PooledSet, domains: list[str]) -> dict[str, Any]:
    """AUROC on the held-out sentences of each hand-written domain, that domain left out of the fit."""
    results = {}
    names = np.array(domains)
    for name in sorted(set(domains)):
        inside = names == name
        rest = part(pooled.where(~inside), held_out=False)
        results[name] = measure(fit_methods(indicator, rest), part(pooled.where(inside), held_out=True))
    return results


def file_digests(names: list[str], data: Path, hedging: Path) -> dict[str, str]:
    """SHA-256 of the files an indicator's evidence comes from."""
    paths = [data / f"{name}.jsonl" for name in names if (data / f"{name}.jsonl").exists()]
    if "hedging" in names:
        paths += sorted(hedging.glob("*.txt"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def entry(
    indicator: Indicator,
    finished: Calibration,
    report: dict[str, Any],
    notes: dict[int, FeatureNote],
    digests: dict[str, str],
) -> dict[str, Any]:
    """One indicator of the watchlist, heaviest terms first."""
    terms = sorted(finished.score.terms, key=lambda term: -abs(term.weight))
    return {
        "name": indicator.name,
        "terms": [
            {
                "feature": t.feature,
                "pooling": t.pooling.kind,
                "params": t.pooling.model_dump(exclude={"kind"}, exclude_none=True),
                "weight": float(f"{t.weight:.6g}"),
                "label": notes[t.feature].label,
            }
            for t in terms
        ],
        "bias": finished.score.bias,
        "probability": {"slope": finished.slope, "intercept": finished.intercept},
        "threshold": finished.threshold,
        "card": {"files": digests, "max_fpr_on_calibration": indicator.max_fpr, **report},
    }


def sample_texts(items: list[Item], most: int = 1500) -> list[str]:
    """Texts to describe features on, from items that are not held out."""
    usable = sorted(
        (i for i in items if i.part != HELD_OUT),
        key=lambda i: hashlib.sha256(fingerprint(i.response).encode()).hexdigest(),
    )
    return [item.response for item in usable[:most]]


def run(args: argparse.Namespace) -> None:
    """Read every set once, then fit, test and write."""
    torch.set_num_threads(args.threads)
    reader, sae = load_reader(args.reader, args.layer), load_sae(args.sae)
    sets = read_sets(args, sae)
    entries, reports = [], {}
    for indicator in INDICATORS:
        report, finished = evaluate(indicator, sets)
        if indicator.name == "speculation":
            domain_of = {item.group: item.dataset for item in read_hedging(args.hedging)}
            domains = [domain_of[item.group] for item in sets["hedging"].items]
            report["domain_left_out"] = domain_folds(indicator, sets["hedging"], domains)
        texts = sample_texts([item for name in indicator.sources for item in sets[name].items])
        features = sorted({term.feature for term in finished.score.terms})
        notes = describe_features(reader, sae, features, texts)
        digests = file_digests([*indicator.sources, *indicator.tests], args.data, args.hedging)
        entries.append(entry(indicator, finished, report, notes, digests))
        reports[indicator.name] = report | {"fit": asdict(indicator.fit)}
        print(indicator.name, json.dumps(report, indent=1), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "demo_watchlist.json").write_text(
        json.dumps({"layer": args.layer, "indicators": entries}, indent=1) + "\n"
    )
    (args.out / "calibration_report.json").write_text(json.dumps(reports, indent=1) + "\n")


def read_sets(args: argparse.Namespace, sae: SAE) -> dict[str, PooledSet]:
    """Every set that an indicator needs, read and pooled once."""
    reader = load_reader(args.reader, args.layer)
    names = dict.fromkeys(name for indicator in INDICATORS for name in (*indicator.sources, *indicator.tests))
    sets = {}
    for name in names:
        sets[name] = pool_items(reader, sae, load_items(name, args.data, args.corpus, args.hedging))
        print(f"read {name}: {len(sets[name].items)} items", flush=True)
    return sets


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reader", type=Path, required=True)
    parser.add_argument("--sae", type=Path, required=True, help="a params.npz")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--hedging", type=Path, default=Path(__file__).parent / "hedging")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    run(arguments())
