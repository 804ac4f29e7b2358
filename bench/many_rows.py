"""Peak memory and time of `scopewatch calibrate` on many synthetic rows, by the bundled reader.

    python bench/many_rows.py --rows 200000 --work-dir build/many_rows

Rows are random words, more of them hedged where the label is 1. A second run finds the features that the first left.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

_WORDS = [first + last for first in ("co", "ra", "wi", "me") for last in ("per", "den", "dow", "rin")]
"""Words that say nothing."""
_HEDGES = ["perhaps", "may", "might", "possibly", "seems", "likely"]


def main() -> None:
    """Writes the rows, calibrates on them, and prints the peak of the process in MiB and its time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--words", type=int, default=40, help="words of a row, and four more")
    parser.add_argument("--work-dir", type=Path, default=Path("build/many_rows"))
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    data = args.work_dir / f"{args.rows}.jsonl"
    draw = np.random.default_rng(0)
    with data.open("w") as file:
        for row in range(args.rows):
            label = int(draw.random() < 0.2)
            words = draw.choice(_WORDS, args.words).tolist()
            hedged = draw.random() < 0.3 + 0.3 * label
            words += draw.choice(_HEDGES if hedged else _WORDS, 4).tolist()
            file.write(json.dumps({"response": " ".join(words), "label": label, "group": str(row)}) + "\n")
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "scopewatch",
        "calibrate",
        data,
        "--indicator",
        "x",
        "--max-fpr",
        "0.01",
        "--force",
    ]
    subprocess.run([*command, "--out", args.work_dir / "x.yaml", "--work-dir", args.work_dir / "work"], check=True)
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{args.rows:,} rows: {peak_mib:,.0f} MiB at most, {time.monotonic() - began:,.0f} s")


if __name__ == "__main__":
    main()
