"""The binary tasks of the package `sae-probes`: where its files are, and which texts of a task are read.

The package lists 113 tasks of kind "Binary Classification". Tasks of several classes are among them as files of their
own, each of one class against a sample of the others. So a file has two targets, of which the one that sorts last is
label 1, as `sklearn.preprocessing.LabelEncoder` has it in the package.
"""

import csv
import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

_LIST = "probing_datasets_MASTER.csv.zst"
_KIND = "Binary Classification"


@dataclass(frozen=True, slots=True)
class Example:
    """A text of a task."""

    text: str
    label: int


def find_data(given: Path | None) -> Path:
    """The folder of the package's files: the one that was given, else that of the package, which is not imported."""
    package = importlib.util.find_spec("sae_probes")
    homes = (package and package.submodule_search_locations) or []
    folder = given or next((Path(home) / "data" for home in homes), None)
    if folder is None or not (folder / _LIST).is_file():
        where = f"{given} has no {_LIST}" if given else "the package sae-probes is not installed"
        raise SystemExit(f"{where}: pip install --no-deps sae-probes, or give its folder sae_probes/data as --data DIR")
    return folder


def tasks(data: Path) -> list[str]:
    """The names of all tasks, in an order fixed by their digests: the first few of it are a sample of all."""
    names = [Path(row["Dataset save name"]).stem for row in _rows(data / _LIST) if row["Data type"] == _KIND]
    return sorted(names, key=_digest)


def examples(data: Path, task: str, most: int) -> list[Example]:
    """Texts of a task, at most half of `most` of each label, drawn by their digests, and in an order that mixes labels.

    A text that stands several times in the file, as in most of them, is drawn once; one with both labels never.
    """
    rows = _rows(data / "cleaned_data" / f"{task}.csv.zst")
    targets = sorted({row["target"] for row in rows})
    if len(targets) != 2:
        raise SystemExit(
            f"{task}: has {len(targets)} targets, not two; give the files of another release as --data DIR"
        )
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row["prompt"], set()).add(targets.index(row["target"]))
    drawn = [Example(text, *labels) for text, labels in found.items() if len(labels) == 1]
    drawn.sort(key=lambda example: _digest(example.text))
    halves = [[example for example in drawn if example.label == label][: most // 2] for label in (0, 1)]
    # By another digest than they were drawn by: the rarer label's halves reach further into that order.
    return sorted(halves[0] + halves[1], key=lambda example: _digest(f"order:{example.text}"))


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        text = pa.input_stream(str(file), compression="zstd").read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(
            f"{file}: cannot be read: {error}; pip install --force-reinstall --no-deps sae-probes"
        ) from None
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
