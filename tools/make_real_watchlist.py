"""Make the watchlist of a known reader with `scopewatch calibrate`: features, words beside them, and both together.

    python tools/make_real_watchlist.py --data ../shared/data --corpus ../shared/corpus --build tools/build/real

The reader has to be in the cache (`scopewatch reader get`), its SAEs in `service/scopewatch/demo/READER/sae`. Each set gives
at most MOST pairs, whole groups in the order of a hash, so that two cores read them in half an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from corpus import HELD_OUT, Item, fraction
from indicators import load_items

READER = "smollm2-135m-instruct"
HOME = Path(__file__).parents[1] / "service" / "scopewatch" / "demo" / READER
MOST = 1536
"""Pairs of a set; a multiple of the pairs that are kept in one file, so that what was read of one set is found again."""
SETS = {
    "speculation": ("hedge_science_certainty", "hedge_earnings_calls"),
    "bias": ("bias_reddit", "bias_diasafety"),
    "medical_knowledge": ("domain_medical", "general"),
}
FLAGS = {
    "speculation": ("--max-fpr", "0.05", "--across-sources"),
    "bias": ("--max-fpr", "0.1"),
    "medical_knowledge": ("--max-fpr", "0.02", "--terms", "16", "--severity", "info"),
}
LABELS = {
    "speculation": "Hedged, guessed or unbacked claims",
    "bias": "Stereotypes about, or attacks on, a group of people",
    "medical_knowledge": "Speaks of medicine as a text that explains it does",
}
WORDS = {"speculation": ("--lexicon", "hedges"), "bias": ()}
"""What counts words beside an indicator's features: a lexicon, or a bag that is fitted."""


def capped(items: Iterable[Item], most: int) -> list[Item]:
    """At most so many items, whole groups first by a hash, in the order they came in."""
    items = list(items)
    order = sorted(range(len(items)), key=lambda i: (fraction(items[i].group.strip().lower(), "real"), i))
    return [items[i] for i in sorted(order[:most])]


def write_sets(data: Path, corpus: Path, out: Path) -> None:
    """One file a set, `INDICATOR.SET.jsonl`; `split` keeps held out what the SAEs never read."""
    out.mkdir(parents=True, exist_ok=True)
    for indicator, sets in SETS.items():
        for name in sets:
            items = capped(load_items(name, data, corpus, Path(__file__).parent / "hedging"), MOST)
            with (out / f"{indicator}.{name}.jsonl").open("w", encoding="utf-8") as lines:
                for item in items:
                    row = {"prompt": item.prompt, "response": item.response, "label": item.label, "group": item.group}
                    row |= {"source": name, "split": "held_out" if item.part == HELD_OUT else "fit"}
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def calibrate(name: str, files: list[Path], out: Path, *flags: object) -> None:
    """One indicator, written into the watchlist."""
    command = [sys.executable, "-m", "scopewatch", "calibrate", *files, "--indicator", name, "--out", out, "--force"]
    print(" ".join(map(str, command[3:])), flush=True)
    subprocess.run([*map(str, command), *map(str, flags)], check=True)


def run(args: argparse.Namespace) -> None:
    """Data, then every indicator."""
    write_sets(args.data, args.corpus, args.build)
    out = HOME / "next.yaml"  # beside it, so that its paths are right; the old one stays until all is done
    out.unlink(missing_ok=True)
    sae = HOME / "sae" / f"layer_{args.layer}"
    where = ("--reader", READER, "--sae", next(sae.rglob("params.npz")), "--sae-name", f"layer_{args.layer}")
    where += ("--hookpoint", f"layers.{args.layer}.resid_post", "--name", READER)
    for name in args.indicators:
        files = [args.build / f"{name}.{each}.jsonl" for each in SETS[name]]
        flags = (*FLAGS[name], *args.flags.split(), "--label", LABELS[name])
        if name not in WORDS:
            calibrate(name, files, out, *flags, *where)
            continue
        bound = (*FLAGS[name][:2], *args.flags.split())
        parts = (*FLAGS[name], *args.flags.split(), "--severity", "info", "--label")
        features, words = f"{name}_features", f"{name}_words"
        calibrate(features, files, out, *parts, f"{LABELS[name]}: features", *where)
        calibrate(words, files, out, "--kind", "words", *WORDS[name], *bound, "--severity", "info",
                  "--label", f"{LABELS[name]}: words")  # fmt: skip
        together = ("--combine", f"{features},{words}", "--weights", "equal", "--watchlist", out)
        calibrate(name, files, out, *bound, "--label", LABELS[name], *together)
    out.replace(HOME / "watchlist.yaml")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True, help="folder for what is made on the way")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--indicators", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument(
        "--flags", default="", help="more for `calibrate`, such as --no-fragility, which saves most of the time"
    )
    run(parser.parse_args())
