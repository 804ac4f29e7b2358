"""Write what each bundled indicator is calibrated and measured on, as files for `scopewatch calibrate`.

    python tools/calibration_data.py --data ../shared/data --corpus ../shared/corpus --out tools/build/calibration

One file for each set of an indicator, `INDICATOR.SET.jsonl`. `split` keeps held out what the reader never read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from corpus import HELD_OUT
from indicators import INDICATORS, load_items


def run(args: argparse.Namespace) -> None:
    """Every set of every indicator."""
    args.out.mkdir(parents=True, exist_ok=True)
    for indicator in INDICATORS:
        for name in dict.fromkeys([*indicator.sources, *indicator.tests]):
            items = load_items(name, args.data, args.corpus, Path(__file__).parent / "hedging")
            with (args.out / f"{indicator.name}.{name}.jsonl").open("w", encoding="utf-8") as lines:
                for item in items:
                    row = {
                        "prompt": item.prompt,
                        "response": item.response,
                        "label": item.label,
                        "group": item.group,
                        "source": name,
                        "split": "held_out" if item.part == HELD_OUT else "fit",
                    }
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    run(parser.parse_args())
