"""Make the watchlist of a known reader with `scopewatch calibrate`: features, words beside them, and both together.

    python tools/make_real_watchlist.py --data ../shared/data --corpus ../shared/corpus --build tools/build/real \
        --work-dir tools/build/pooled

The reader has to be in the cache (`scopewatch reader get`), its SAEs in `service/scopewatch/demo/READER/sae`. Each set gives
at most so many pairs, whole groups in the order of a hash. Indicators are made side by side, `--workers` at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from corpus import HELD_OUT, Item, fraction
from indicators import load_items
from scopewatch.cli.data_files import SOME_LEFT_OUT
from scopewatch.reader.linear import multiplies_bfloat16

READER = "smollm2-135m-instruct"
HOME = Path(__file__).parents[1] / "service" / "scopewatch" / "demo" / READER
MOST = {"speculation": 1536, "bias": 1024, "medical_knowledge": 1024}
"""Pairs of a set; a multiple of the pairs that are kept in one file, so that what was read of one set is found again."""
SETS = {
    "speculation": ("hedging", "lexicon", "passages", "hedge_science_certainty", "hedge_earnings_calls"),
    "bias": ("bias_reddit", "bias_diasafety"),
    "medical_knowledge": ("domain_medical", "general"),
}
FLAGS = {
    "speculation": "--max-fpr 0.05",
    "bias": "--max-fpr 0.1",
    # Its texts are long: reading them a dozen times would take most of an hour.
    "medical_knowledge": "--max-fpr 0.02 --severity info --terms 64 --no-fragility",
}
POOLINGS = "mean,last,sentence_end"
"""Those that do not grow with the length: most of what is learnt from are single sentences (decision 0030)."""
LABELS = {
    "speculation": "Hedged, guessed or unbacked claims",
    "bias": "Stereotypes about, or attacks on, a group of people",
    "medical_knowledge": "Speaks of medicine as a text that explains it does",
}
SHOWS = {"speculation": "hedging", "medical_knowledge": "knowledge"}
"""What an indicator shows of a sentence."""
WORDS = {"speculation": ("--lexicon", "hedges")}
"""What counts words beside an indicator's features, where there is a lexicon for it."""


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
            items = capped(load_items(name, data, corpus, Path(__file__).parent / "hedging"), MOST[indicator])
            with (out / f"{indicator}.{name}.jsonl").open("w", encoding="utf-8") as lines:
                for item in items:
                    row = {"prompt": item.prompt, "response": item.response, "label": item.label, "group": item.group}
                    row |= {"source": name, "split": "held_out" if item.part == HELD_OUT else "fit"}
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def scopewatch(*arguments: object) -> None:
    """A command of the command line."""
    command = [sys.executable, "-m", "scopewatch", *map(str, arguments)]
    print(" ".join(command[2:]), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code not in {0, SOME_LEFT_OUT}:  # a copy of what is held out is left out
        raise SystemExit(f"{command[3]} ended with {code}")


def calibrate(name: str, files: list[Path], out: Path, *flags: object) -> None:
    """One indicator, written into a watchlist."""
    scopewatch("calibrate", *files, "--indicator", name, "--out", out, "--force", *flags)


def make(name: str, args: argparse.Namespace) -> Path:
    """An indicator, with its parts where it has some, in a watchlist of its own; only what stands last is read again."""
    out = HOME / f"next.{name}.yaml"  # beside the watchlist, so that its paths are right
    out.unlink(missing_ok=True)
    sae = HOME / "sae" / f"layer_{args.layer}"
    where = ("--reader", READER, "--sae", next(sae.rglob("params.npz")), "--sae-name", f"layer_{args.layer}")
    where += ("--hookpoint", f"layers.{args.layer}.resid_post", "--work-dir", args.work_dir, "--name", READER)
    where += ("--poolings", POOLINGS)
    files = [args.build / f"{name}.{each}.jsonl" for each in SETS[name]]
    asked = (*FLAGS[name].split(), *args.flags.split())
    shows = ("--shows", SHOWS[name]) if name in SHOWS else ()
    if name not in WORDS:
        calibrate(name, files, out, *asked, *shows, "--label", LABELS[name], *where)
        return out
    part = (*asked, "--severity", "info", "--no-fragility", "--label")
    features, words = f"{name}_features", f"{name}_words"
    calibrate(features, files, out, *part, f"{LABELS[name]}: features", *where)
    calibrate(words, files, out, *part, f"{LABELS[name]}: words", "--kind", "words", *WORDS[name])
    together = ("--combine", f"{features},{words}", "--weights", "equal", "--watchlist", out)
    calibrate(name, files, out, *asked, *shows, "--label", LABELS[name], *together)
    # How single sentences score, and how well the reader expects them.
    scopewatch("watchlist", "reference", out, *files, "--indicator", name)
    return out


def run(args: argparse.Namespace) -> None:
    """Data, then every indicator; their watchlists, which are alike down to `indicators:`, become one."""
    write_sets(args.data, args.corpus, args.build)
    with ThreadPoolExecutor(args.workers) as pool:
        made = list(pool.map(lambda name: make(name, args), args.indicators))
    head, *_ = parts = [file.read_text(encoding="utf-8").partition("indicators:\n") for file in made]
    (HOME / "watchlist.yaml").write_text("".join([*head[:2], *(part[2] for part in parts)]), encoding="utf-8")
    for file in made:
        file.unlink()
    if multiplies_bfloat16():
        files = [args.build / f"{name}.{each}.jsonl" for name in args.indicators for each in SETS[name]]
        scopewatch("watchlist", "measure", HOME / "watchlist.yaml", *files, "--dtype", "bfloat16")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True, help="folder for what is made on the way")
    parser.add_argument("--work-dir", type=Path, required=True, help="folder for what is read")
    parser.add_argument("--layer", type=int, default=18)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--indicators", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument(
        "--flags", default="", help="more for `calibrate`, such as --no-fragility, which saves most of the time"
    )
    run(parser.parse_args())
