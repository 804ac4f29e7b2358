"""Turn the calibration's JSON into the bundled watchlist.

    python tools/write_watchlist.py --calibration tools/out/demo_watchlist.json --sae layer_2/…/params.npz \\
        --out service/scopewatch/demo/watchlist.yaml --date 2026-01-31
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

LABELS = {
    "speculation": ("Hedged, guessed or unbacked claims", "medium"),
    "bias": ("Stereotypes about, or attacks on, a group of people", "high"),
    "medical_knowledge": ("Speaks of medicine as a text that explains it does", "info"),
}
BASELINES = ("hedge_words", "bag_of_words", "dense_probe", "best_single_feature", "length")
NOTE = (
    "A demonstration on a reader of a few million parameters; English only; not for decisions. Held-out halves come from"
    " the same sources as the calibration halves; on other text expect less. See MODEL_CARD.md."
)


def measurement(name: str, row: dict[str, Any], rates: dict[str, float] | None, relation: str) -> dict[str, Any]:
    """One row of a card."""
    sae = row["auroc"]["sae"]
    entry: dict[str, Any] = {
        "data": f"{name}, {relation}",
        "n": row["n"],
        "n_positive": row["n_positive"],
        "auroc": round(sae["value"], 3),
        "auroc_low": round(sae["low"], 3),
        "auroc_high": round(sae["high"], 3),
    }
    if rates:
        entry |= {"tpr": round(rates["tpr"], 3), "fpr": round(rates["fpr"], 3)}
    others = {method: round(row["auroc"][method]["value"], 3) for method in BASELINES if method in row["auroc"]}
    return entry | {"baselines": others}


def card(entry: dict[str, Any], date: str) -> dict[str, Any]:
    """The evidence: held-out halves of the sets calibrated on, then whole sets left out of a refit."""
    found = entry["card"]
    rows = [
        measurement(name, row, row.get("at_threshold"), "half not calibrated on")
        for name, row in found["held_out"].items()
    ]
    rows += [measurement(name, row, None, "whole set left out of a refit") for name, row in found["left_out"].items()]
    sets = ", ".join(found["calibrated_on"]["weights"])
    return {
        "date": date,
        "calibrated_on": f"{sets} (calibration halves), threshold at {found['max_fpr_on_calibration']:.0%} false positives",
        "n": found["calibrated_on"]["n"],
        "measurements": rows,
        "note": NOTE,
    }


def indicator(entry: dict[str, Any], sae: str, date: str) -> dict[str, Any]:
    """One indicator as the watchlist file writes it."""
    label, severity = LABELS[entry["name"]]
    features = []
    for term in entry["terms"]:
        pooling = {"kind": term["pooling"], **term["params"]} if term["params"] else term["pooling"]
        features.append(
            {
                "feature": f"{sae}/{term['feature']}",
                "weight": float(f"{term['weight']:.5g}"),
                "pooling": pooling,
                "label": term["label"],
            }
        )
    return {
        "name": entry["name"],
        "label": label,
        "segment": "response",
        "severity": severity,
        "features": features,
        "bias": round(entry["bias"], 5),
        "threshold": round(entry["threshold"], 5),
        "probability": {name: round(value, 5) for name, value in entry["probability"].items()},
        "card": card(entry, date),
    }


def run(args: argparse.Namespace) -> None:
    """Read, convert, write."""
    calibration = json.loads(args.calibration.read_text())
    document = {
        "version": 1,
        "name": "demo",
        "reader": {"path": "reader", "relation": "reader_model"},
        "saes": {"res": {"path": f"sae/{args.sae}"}},
        "indicators": [indicator(entry, "res", args.date) for entry in calibration["indicators"]],
    }
    text = yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
    args.out.write_text("# Written by tools/write_watchlist.py from the calibration; see MODEL_CARD.md.\n" + text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--sae", required=True, help="path of params.npz below demo/sae")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--date", required=True, help="of the calibration, ISO 8601")
    run(parser.parse_args())
