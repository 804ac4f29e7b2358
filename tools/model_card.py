"""Write the bundled model's card: fixed text about what it is, and every number from the runs' own records.

python tools/model_card.py --reader DIR --sae DIR --watchlist watchlist.yaml --left-out tools/out/left_out.json --out MODEL_CARD.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

METHODS = {
    "single_feature": "best single feature",
    "dense_probe": "dense probe",
    "bag_of_words": "bag of words",
    "hedge_words": "hedge words",
    "response_length": "length",
}

HEAD = """# The bundled reader and its SAE

A very small language model (`reader/`) and a sparse autoencoder on its residual stream (`sae/`), trained from scratch so that
scopewatch can be tried, tested and developed without downloading anything. They have the form of the real things (Gemma 2's
architecture, Gemma Scope's `params.npz`), not their abilities.

**Use it to see the service work. Do not use it to decide anything about people or their text.** It reads English only, knows
next to nothing, and its indicators are weak detectors with the error rates below. For anything real, use Gemma 2 or 3 with
Gemma Scope and calibrate on your own data.
"""

TRAINING = """## What it was trained on

| text | share of tokens | licence |
|---|---|---|
| novels (Project Gutenberg) | {novels} | public domain in the US |
| MedQuAD question/answer pairs | {medical} | CC BY 4.0 |
| BOLD openings of Wikipedia articles | {wikipedia} | CC BY-SA 4.0 |
| labelled sets on dialogue, facts and medicine, *calibration halves* as plain text (BEGIN, HaluEval, TruthfulQA, MedHallu, Truth is Universal) | {dialogue} | CC BY 4.0, MIT, Apache-2.0 |
| the other labelled sets, *calibration halves* as plain text (RedditBias, DiaSafety, ToxiGen, SubjECTive-QA, TAT-QA, LegalBench, ToS;DR, Certainty in Science Communication, MedQuAD) | {labelled} | MIT, Apache-2.0, CC BY 4.0 |
| sentences of the above with notes from a cue lexicon | {noted_text} | as above |
| minimal pairs made from the above by rules (hedged / asserted), with notes | {pairs} | as above |
| hand-written hedged and plain sentences (`tools/hedging`), partly with notes | {hedging} | Apache-2.0, as this project |
| biased and neutral comments (RedditBias, DiaSafety, ToxiGen; part of the calibration halves), partly with notes | {bias} | MIT, Apache-2.0 |

The held-out half of every labelled set (split by `group` with a fixed hash) was never read in training, not as plain text
either; texts of other files that repeat a held-out item were dropped. RedditBias, DiaSafety and ToxiGen contain slurs and
hateful statements; the reader has read them.

### Reader's notes

So small a model has no reason of its own to keep track of how certain a sentence sounds. It was given one: in part of the
training text a special token follows a sentence (`<note:uncertain>`, `<note:certain>`, `<note:biased>`, `<note:neutral>`), and
to predict it, the model must carry the answer in its residual stream at the sentence's end. Most copies of the sentences come
without a note, and scored text never has one. The notes come from hand-written sentences, rule-made minimal pairs, a lexicon of
cues, and, for bias, from {teach} of the calibration halves' human labels. The two human-labelled hedging sets never carried a note.
**So these features were partly taught, not merely found**; nothing here says what an ordinary model's features can do.
"""


def percent(value: float) -> str:
    """`12.3 %`."""
    return f"{100 * value:.1f} %"


def sizes(training: dict[str, Any], sae: dict[str, Any], config: dict[str, Any]) -> str:
    """Architecture, losses and the SAE's quality."""
    held = training["held_out"]
    rows = "\n".join(
        f"| {kind} | {v['nats_per_token']:.3f} | {v['bits_per_byte']:.3f} | {int(v['tokens'])} |"
        for kind, v in held.items()
    )
    phases = ", then ".join(
        f"{percent(share)} of the steps with {rows} windows of {context} tokens"
        for share, context, rows in training["phases"]
    )
    quality = sae["held_out"]
    return f"""## Sizes and losses

Reader: `Gemma2ForCausalLM`, {training["parameters"] / 1e6:.2f} M parameters, width {config["hidden_size"]}, {config["num_hidden_layers"]} layers,
{config["num_attention_heads"]} heads ({config["num_key_value_heads"]} for keys and values) of {config["head_dim"]}, byte-level BPE with {training["vocab"]} tokens,
sliding window {config["sliding_window"]} on every other layer, soft-capping {config["attn_logit_softcapping"]:g} and {config["final_logit_softcapping"]:g},
{training["tokens"] / 1e6:.1f} M training tokens in {training["steps"]} steps ({phases}). Weights are stored as bfloat16.

Loss on documents kept aside (1 % by hash; first 160 tokens of up to 60 documents each):

| text | nats per token | bits per byte | tokens |
|---|---|---|---|
{rows}

SAE: BatchTopK with nested reconstructions, saved as JumpReLU with one threshold; output of layer {sae["layer"]} (the first is 0),
{sae["d_sae"]} features, trained on {sae["training_tokens"]:,} activations (BOS left out). On {quality["tokens"]:,} tokens kept aside:
L0 {quality["l0"]:.1f}, fraction of variance unexplained {quality["fvu"]:.3f}, dead features {percent(quality["dead"])}
(never active there), active on more than a tenth of the tokens {percent(quality["denser_than_10_percent"])}.
"""


def table(rows: list[dict[str, Any]]) -> str:
    """AUROC with its 95 % interval: a row a set, a column a method."""
    lines = [
        "| set | n (positive) | SAE features | " + " | ".join(METHODS.values()) + " |",
        "|---" * (len(METHODS) + 3) + "|",
    ]
    for row in rows:
        own = f"{row['auroc']:.3f} ({row['auroc_low']:.2f}–{row['auroc_high']:.2f})"
        others = [f"{row['baselines'][m]:.3f}" if m in row["baselines"] else "–" for m in METHODS]
        lines.append(f"| {row['data']} | {row['n']} ({row['n_positive']}) | {own} | " + " | ".join(others) + " |")
    return "\n".join(lines)


def indicator_text(indicator: dict[str, Any], left_out: dict[str, Any]) -> str:
    """The measurements of one indicator."""
    card = indicator["card"]
    parts = [
        f"### {indicator['name']}\n\n{len(indicator['features'])} terms, fitted on {card['n']} pairs. {card['note']} Pairs held out:\n",
        table(card["measurements"]),
        "",
    ]
    parts += [
        f"- at the bundled threshold, {row['data']}: {percent(row['tpr'])} of the positives and {percent(row['fpr'])} of the negatives flagged"
        for row in card["measurements"]
    ]
    if left_out:
        rows = [
            {**found, "data": name, "auroc_low": found["interval"][0], "auroc_high": found["interval"][1]}
            for name, found in left_out.items()
        ]
        parts += ["\nWhen the set was **left out of calibration entirely** (all of the set's items):\n", table(rows)]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Read the records, write the card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("reader", "sae", "watchlist", "left-out", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    training, sae = (json.loads((folder / "training.json").read_text()) for folder in (args.reader, args.sae))
    config = json.loads((args.reader / "config.json").read_text())
    indicators = yaml.safe_load(args.watchlist.read_text())["indicators"]
    left_out = json.loads(args.left_out.read_text())
    spent = sum(training["tokens_by_kind"].values())
    shares = {kind: percent(tokens / spent) for kind, tokens in training["tokens_by_kind"].items()}
    body = [HEAD, sizes(training, sae, config), TRAINING.format(teach="60 %", **shares), METHOD]
    body += [indicator_text(indicator, left_out.get(indicator["name"], {})) for indicator in indicators]
    args.out.write_text("\n".join([*body, LIMITS]))


METHOD = """## How well the indicators work

Made by `scopewatch calibrate` and measured by it on pairs that were held out. AUROC, with 95 % intervals from a bootstrap over
groups; the other detectors are fitted on the same pairs. *Dense probe* is a logistic regression on mean-pooled residuals of the
same layer, *bag of words* one on TF-IDF of 1-2-grams, *hedge words* and *length* are counted in the response. The reader had read
the halves that were fitted on as plain text. The hand-written sentences come from the same pens as those the reader was taught
with, so numbers on them say the least.
"""

LIMITS = """## Limits

- It finds wording, not truth: `speculation` says that a text sounds unsure, not that it is wrong.
- `bias` is weak, above all on replies in dialogue, and mostly recognises which groups are talked about and how crudely.
- `medical_knowledge` recognises the topic and the style of patient information, nothing about correctness.
- Features were chosen by their weight in a fitted score and labelled by their strongest words; a label is no explanation.
- Texts beyond 1,024 tokens were cut in calibration.
"""


if __name__ == "__main__":
    main()
