"""What each bundled indicator is calibrated and measured on, as files for `scopewatch calibrate`.

One file for each set of an indicator, `INDICATOR.SET.jsonl`. `split` keeps held out what the reader never read.
"""

from __future__ import annotations

import json
from pathlib import Path

from corpus import HELD_OUT
from indicators import SETS, load_items


def write_all(data: Path, corpus: Path, out: Path) -> None:
    """Every set of every indicator."""
    out.mkdir(parents=True, exist_ok=True)
    for indicator, sets in SETS.items():
        for name in sets:
            items = load_items(name, data, corpus, Path(__file__).parent / "hedging")
            with (out / f"{indicator}.{name}.jsonl").open("w", encoding="utf-8") as lines:
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
