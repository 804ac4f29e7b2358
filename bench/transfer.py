"""What carries over: calibrated on one labelled set, measured on another of its kind, beside every simple detector.

    python bench/transfer.py ../shared/data --work-dir build/transfer --out docs/transfer.md

It runs the commands a user would run, `scopewatch calibrate` and `scopewatch evaluate --train`, on every ordered couple
of sets that have the same `indicator`, and writes a table. The detectors that learn do so from just those pairs that
the combination of features was fitted on. What is there already in the work folder is not run again.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from itertools import permutations
from pathlib import Path

from page import write_between
from scopewatch.calibration.split import SPLIT_SALT
from scopewatch.pairs.labelled import Labels, fraction, parse_row

HELD_OUT = 0.5
MAX_FPR = 0.05
BASELINES = ("bag_of_words", "dense_probe", "difference_of_means", "hedge_words", "response_length")
LEAKY = frozenset({"hallu_medhallu", "med_unqualified_advice", "domain_medical", "domain_financial", "domain_legal"})
"""Sets in which form alone gives the label away: what carries over of them says nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of labelled sets")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="Markdown file, in which the table between two marks is replaced")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(args.data.glob("*.jsonl")):
        if file.stem not in LEAKY:
            kinds[json.loads(file.open(encoding="utf-8").readline())["indicator"]].append(file)
    rows = []
    for files in kinds.values():
        own = {train: calibrated(train, args.work_dir) for train in files}
        rows += [row_of(train, test, own[train], args.work_dir) for train, test in permutations(files, 2)]
        print("\n".join(rows[-len(files) * (len(files) - 1) :]), flush=True)
    if args.out:
        write_between(args.out, "bench/transfer.py", table(rows))


def calibrated(train: Path, folder: Path) -> dict | str:
    """What `calibrate` says of a set; or in one sentence why it writes nothing."""
    out = folder / f"{train.stem}.yaml"
    report = folder / f"{train.stem}.calibrate.json"
    if not report.exists():
        done = scopewatch(
            "calibrate", train, "--indicator", "x", "--max-fpr", MAX_FPR, "--held-out", HELD_OUT, "--force",
            "--out", out, "--json",
        )  # fmt: skip
        out_of_it = (
            json.loads(done.stdout) if done.returncode == 0 else {"refused": done.stderr.strip().splitlines()[-1]}
        )
        report.write_text(json.dumps(out_of_it))
    found = json.loads(report.read_text())
    return found.get("refused") or found


def row_of(train: Path, test: Path, own: dict | str, folder: Path) -> str:
    """One line of the table."""
    if isinstance(own, str):
        return f"| {train.stem} | {test.stem} | nothing written: {own.split(': ')[1]} |" + " |" * (len(BASELINES) + 3)
    report = folder / f"{train.stem}.{test.stem}.json"
    if not report.exists():
        done = scopewatch(
            "evaluate", test, "--watchlist", folder / f"{train.stem}.yaml", "--indicator", "x",
            "--train", fitted(train, folder), "--json",
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr)
        report.write_text(done.stdout)
    found = json.loads(report.read_text())
    best = max(found["auroc"], *found["baselines"].values())

    def shown(value: float) -> str:
        return f"**{value:.3f}**" if value == best else f"{value:.3f}"

    cells = [
        train.stem,
        test.stem,
        f"{shown(found['auroc'])} ({found['auroc_low']:.2f} to {found['auroc_high']:.2f})",
        *(shown(found["baselines"][name]) for name in BASELINES),
        f"{own['auroc']:.3f}",
        f"{found['fpr']:.3f}",
        f"{found['tpr']:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def fitted(train: Path, folder: Path) -> Path:
    """The pairs of a set that `calibrate` fits."""
    part = folder / f"{train.stem}.fit.jsonl"
    with train.open(encoding="utf-8") as lines, part.open("w", encoding="utf-8") as kept:
        for number, line in enumerate(lines, 1):
            pair = parse_row(json.loads(line), number, train.stem, labels=Labels.NEEDED)
            if fraction(pair.group, SPLIT_SALT) >= HELD_OUT:
                kept.write(line)
    return part


def scopewatch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scopewatch", *map(str, arguments)], check=False, capture_output=True, text=True
    )


def table(rows: list[str]) -> str:
    head = ["calibrated on", "measured on", "SAE combination (95 %)", *(name.replace("_", " ") for name in BASELINES)]
    head += ["SAE on its own held-out half", "FPR", "TPR"]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])


if __name__ == "__main__":
    main()
