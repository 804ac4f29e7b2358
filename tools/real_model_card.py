"""Write the card of a known reader's SAEs and watchlist: every number from the runs' own records.

python tools/real_model_card.py --sae tools/build/sae --out service/scopewatch/demo/smollm2-135m-instruct/MODEL_CARD.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

HEAD = """# SmolLM2-135M-Instruct: its SAEs and its watchlist

Two sparse autoencoders on the residual stream of the reader that `scopewatch reader get smollm2-135m-instruct` makes (135 M parameters,
4-bit weights; its own `CARD.md` says where it comes from), and indicators that were calibrated on them. They are small, and were
trained on few tokens: use them to see what the service does with a language model that has read English, and as an example of
how to make your own. Calibrate on your own data, and set thresholds by your own traffic (`scopewatch calibrate --benign`), before
anything depends on a verdict.

The SAEs belong to these 4-bit weights. What they say of the original weights was not measured.
"""

TEXT = """## What they were trained on

The residual stream behind a layer, on tokens of prompts and responses read in the reader's chat template; tokens of the template
and the first token are left out, as they are in scoring. Text: novels (Project Gutenberg, public domain), MedQuAD questions and
answers (CC BY 4.0), openings of Wikipedia articles (BOLD, CC BY-SA 4.0), the *calibration halves* of the labelled sets that
`docs/transfer.md` names, without their labels (MIT, Apache-2.0, CC BY 4.0), and hand-written sentences (`tools/hedging`). The held-out
halves were never read. Some of this text contains slurs and hateful statements.

BatchTopK with nested reconstructions, saved as JumpReLU with one threshold for all features, as float16 in Gemma Scope's layout.
"""

MEASURED = """On the held-out half of the groups, beside detectors fitted on the same pairs. What carries over to other sets is less: see
`docs/transfer.md`. Each indicator's card in `watchlist.yaml` has the rest."""

ROWS = {
    "d_sae": ("features", "{:,}"),
    "training_tokens": ("residuals to train on", "{:,}"),
    "tokens_seen": ("residuals seen", "{:,}"),
    "steps": ("steps", "{:,}"),
    "batch": ("residuals a step", "{:,}"),
    "seconds": ("seconds of training, on one core that others shared", "{:,.0f}"),
}
HELD_OUT = {
    "tokens": ("tokens", "{:,}"),
    "l0": ("L0", "{:.1f}"),
    "fvu": ("fraction of variance unexplained", "{:.3f}"),
    "dead": ("features that never fired there", "{:.1%}"),
    "denser_than_10_percent": ("features on more than a tenth of the tokens", "{:.1%}"),
    "loss": ("the reader's loss, nats a token", "{:.3f}"),
    "loss_reconstructed": ("with the reconstruction in place of the residuals", "{:.3f}"),
    "loss_ablated": ("with their mean in place of them", "{:.3f}"),
    "loss_recovered": ("loss recovered", "{:.3f}"),
}


def table(records: list[dict[str, Any]], rows: dict[str, tuple[str, str]]) -> str:
    """One column a layer."""
    head = "| | " + " | ".join(f"layer {record['layer']}" for record in records) + " |"
    lines = [head, "|---|" + "---|" * len(records)]
    for key, (name, form) in rows.items():
        cells = [form.format({**record, **record["held_out"]}[key]) for record in records]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def indicators(watchlist: dict[str, Any]) -> str:
    """What each indicator's card says of the pairs held out."""
    rivals = ("bag_of_words", "dense_probe", "hedge_words")
    lines = [
        "| indicator | made of | pairs (positive) | AUROC (95 %) | TPR / FPR at its threshold | "
        + " | ".join(rivals)
        + " |"
    ]
    lines.append("|" + "---|" * (5 + len(rivals)))
    for one in watchlist["indicators"]:
        kind = one.get("kind", "features")
        made = f"{len(one['features'])} terms" if kind == "features" else kind
        for row in one["card"]["measurements"]:
            source = f", {row['data']}" if row is not one["card"]["measurements"][0] else ""
            low, high = row.get("auroc_low"), row.get("auroc_high")
            cells = [
                f"{one['name']}{source}",
                made,
                f"{row['n']:,} ({row['n_positive']:,})",
                f"{row['auroc']:.3f} ({low:.2f} to {high:.2f})" if low is not None else f"{row['auroc']:.3f}",
                f"{row['tpr']:.3f} / {row['fpr']:.3f}",
                *(f"{row['baselines'][name]:.3f}" if name in row.get("baselines", {}) else "" for name in rivals),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """The whole page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sae", type=Path, required=True, help="folder with the runs' training.LAYER.json")
    parser.add_argument("--out", type=Path, required=True, help="MODEL_CARD.md, beside watchlist.yaml")
    args = parser.parse_args()
    records = [json.loads(file.read_text()) for file in sorted(args.sae.glob("training.*.json"))]
    watchlist = yaml.safe_load((args.out.parent / "watchlist.yaml").read_text(encoding="utf-8"))
    parts = [
        HEAD,
        TEXT,
        table(records, ROWS),
        "On documents kept aside (1 % of the plain text, and items of the held-out halves):",
        table(records, HELD_OUT),
        "## How well the indicators work",
        MEASURED,
        indicators(watchlist),
    ]
    args.out.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
