"""Make the bundled watchlist with `scopewatch calibrate`, and measure its indicators with whole sets left out.

    python tools/make_watchlist.py --data ../shared/data --corpus ../shared/corpus --build tools/build/calibration

Writes `service/scopewatch/demo/watchlist.yaml`, and in `tools/out/` what was left out (`left_out.json`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from calibration_data import write_all
from indicators import SETS
from scopewatch.cli.data_files import SOME_LEFT_OUT
from scopewatch.reader.linear import multiplies_bfloat16

DEMO = Path(__file__).parents[1] / "service" / "scopewatch" / "demo"
INDICATORS: dict[str, dict[str, Any]] = {
    "speculation": {
        "left_out": ("hedge_science_certainty", "hedge_earnings_calls"),
        "flags": ("--max-fpr", "0.05", "--across-sources", "--severity", "medium", "--shows", "hedging"),
        "label": "Hedged, guessed or unbacked claims",
    },
    "bias": {
        "left_out": ("bias_reddit", "bias_diasafety"),
        "flags": ("--max-fpr", "0.1", "--severity", "high"),
        "label": "Stereotypes about, or attacks on, a group of people",
    },
    "medical_knowledge": {
        "left_out": (),
        "flags": ("--max-fpr", "0.02", "--terms", "16", "--severity", "info", "--shows", "knowledge"),
        "label": "Speaks of medicine as a text that explains it does",
    },
}


def scopewatch(*arguments: object) -> str:
    """Standard output of the command line."""
    command = [sys.executable, "-m", "scopewatch", *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode not in {0, SOME_LEFT_OUT}:  # a copy of what is held out is left out
        raise SystemExit(f"{' '.join(command[2:5])}: ended with {done.returncode}")
    return done.stdout


def calibrate(name: str, sets: tuple[str, ...], build: Path, out: Path, sae: Path) -> None:
    """One indicator, from some of its sets."""
    made = INDICATORS[name]
    files = [build / f"{name}.{each}.jsonl" for each in sets]
    flags = [flag for flag in made["flags"] if len(sets) > 1 or flag != "--across-sources"]
    scopewatch(
        "calibrate", *files, "--indicator", name, "--label", made["label"], *flags, "--force", "--reader", DEMO / "reader",
        "--sae", sae, "--hookpoint", "layers.2.resid_post", "--sae-name", "res", "--name", "demo", "--out", out,
    )  # fmt: skip


def left_out(name: str, test: str, build: Path, sae: Path) -> dict[str, Any]:
    """What an indicator makes of a whole set when its calibration has not seen any of it."""
    sets = tuple(each for each in SETS[name] if each != test)
    out = build / f"{name}.without.{test}.yaml"
    out.unlink(missing_ok=True)
    calibrate(name, sets, build, out, sae)
    fitted = build / f"{name}.without.{test}.fit.jsonl"
    lines = [line for each in sets for line in (build / f"{name}.{each}.jsonl").read_text().splitlines()]
    fitted.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["split"] == "fit"))
    data = build / f"{name}.{test}.jsonl"
    arguments = ("--watchlist", out, "--indicator", name, "--train", fitted, "--json")
    return json.loads(scopewatch("evaluate", data, *arguments))


def run(args: argparse.Namespace) -> None:
    """Data, watchlist, what is left out."""
    write_all(args.data, args.corpus, args.build)
    sae = next((DEMO / "sae").rglob("params.npz"))
    out = DEMO / "next.yaml"  # beside it, so that its paths are right; the old one stays until all is done
    out.unlink(missing_ok=True)
    for name in INDICATORS:
        calibrate(name, SETS[name], args.build, out, sae)
    hedging = [args.build / f"speculation.{each}.jsonl" for each in SETS["speculation"]]
    scopewatch("watchlist", "reference", out, *hedging, "--indicator", "speculation")
    if multiplies_bfloat16():
        files = [args.build / f"{name}.{each}.jsonl" for name in INDICATORS for each in SETS[name]]
        scopewatch("watchlist", "measure", out, *files, "--dtype", "bfloat16")
    kept = ("n", "n_positive", "auroc", "interval", "tpr", "fpr", "baselines", "baseline_intervals")
    found = {
        name: {test: left_out(name, test, args.build, sae) for test in made["left_out"]}
        for name, made in INDICATORS.items()
        if made["left_out"]
    }
    short = {
        name: {test: {key: each[key] for key in kept} for test, each in tests.items()} for name, tests in found.items()
    }
    out.replace(DEMO / "watchlist.yaml")
    left = Path(__file__).parent / "out" / "left_out.json"
    left.parent.mkdir(exist_ok=True)
    left.write_text(json.dumps(short, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True, help="folder for what is made on the way")
    run(parser.parse_args())
