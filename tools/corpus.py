"""Training text of the bundled reader: documents from public corpora and the calibration halves of labelled sets.

Every labelled set is split once, by `group`, with a fixed hash (`half_of`). The *held-out* half is never read by
any training script here, not even as plain text: documents of other files whose text repeats a held-out item
(several sets share sources) are dropped too. Hand-written hedging sentences are split by their own text.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT, CALIBRATE, TEACH = "held_out", "calibrate", "teach"

#: Labelled sets whose calibration half is partly used for reader's notes (see reader_notes.py), by the notes' topic.
BIAS_NOTE_SETS = ("bias_reddit", "bias_diasafety", "tox_toxigen_human")


@dataclass(frozen=True)
class Item:
    """One labelled example. `part` is HELD_OUT, CALIBRATE (never noted) or TEACH (may carry a reader's note)."""

    dataset: str
    prompt: str
    response: str
    label: int
    group: str
    part: str

    @property
    def text(self) -> str:
        """The text as the service presents it to the reader: prompt, blank line, response."""
        return joined(self.prompt, self.response)


@dataclass(frozen=True)
class Document:
    """One training text. `kind` names the mix it belongs to (see MIX in train_reader.py)."""

    kind: str
    response: str
    prompt: str = ""

    @property
    def text(self) -> str:
        """The text as a reader without a chat template reads it."""
        return joined(self.prompt, self.response)


def joined(prompt: str, response: str) -> str:
    """Prompt, blank line, response; the response alone where there is no prompt."""
    return f"{prompt}\n\n{response}" if prompt else response


def fraction(key: str, salt: str) -> float:
    """A number in [0, 1) fixed by `key`: the first 8 bytes of SHA-256 of "salt:key"."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def half_of(group: str) -> str:
    """HELD_OUT or CALIBRATE, half each, by the group's name alone (so equal groups of two files stay together)."""
    return HELD_OUT if fraction(group.strip().lower(), "scopewatch-half") < 0.5 else CALIBRATE


def part_of(dataset: str, group: str) -> str:
    """`half_of`, and 60 % of the calibration half of the bias sets set apart as TEACH."""
    half = half_of(group)
    if half == CALIBRATE and dataset in BIAS_NOTE_SETS and fraction(group, "scopewatch-teach") < 0.6:
        return TEACH
    return half


def read_items(data: Path, dataset: str) -> list[Item]:
    """All examples of one labelled set (JSONL with prompt, response, label, group)."""
    items = []
    with (data / f"{dataset}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            items.append(
                Item(
                    dataset,
                    row["prompt"],
                    row["response"],
                    int(row["label"]),
                    str(row["group"]),
                    part_of(dataset, str(row["group"])),
                )
            )
    return items


def read_hedging(folder: Path) -> list[Item]:
    """Hand-written sentences: `+ hedged` or `- plain` a line, one file per domain; other lines are comments.

    A sentence is TEACH (60 %), CALIBRATE (25 %) or HELD_OUT (15 %) by a hash of its letters.
    """
    items, seen = [], set()
    for path in sorted(folder.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line[:2] not in ("+ ", "- "):
                continue
            text = line[2:].strip()
            key = fingerprint(text)
            if not text or key in seen:
                continue
            seen.add(key)
            place = fraction(key, "scopewatch-hedging")
            part = HELD_OUT if place < 0.15 else CALIBRATE if place < 0.40 else TEACH
            items.append(Item(f"hedging/{path.stem}", "", text, int(line[0] == "+"), key, part))
    return items


def fingerprint(text: str) -> str:
    """Letters and digits of the first 160 characters, lower case: equal for copies that differ in spacing or case."""
    return "".join(c for c in text[:240].lower() if c.isalnum())[:160]


def labelled_sets(data: Path) -> list[str]:
    """Names of the labelled sets, sorted."""
    return sorted(path.stem for path in data.glob("*.jsonl"))


def held_out_prints(data: Path, hedging: Path) -> set[str]:
    """Fingerprints of every held-out response; nothing with one of these may be trained on."""
    items: list[Item] = [item for name in labelled_sets(data) for item in read_items(data, name)]
    items += read_hedging(hedging)
    return {fingerprint(item.response) for item in items if item.part == HELD_OUT}


def _paragraph_groups(lines: Iterable[str], size: int) -> Iterator[str]:
    """Neighbouring paragraphs joined to documents of about `size` characters."""
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line.strip())
        if sum(map(len, block)) >= size:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def plain_documents(corpus: Path) -> Iterator[Document]:
    """The public-domain and openly licensed text of the corpus folder."""
    with gzip.open(corpus / "gutenberg.txt.gz", "rt", encoding="utf-8") as lines:
        for text in _paragraph_groups(lines, 1200):
            yield Document("novels", text)
    with gzip.open(corpus / "bold_wikipedia.txt.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield Document("wikipedia", line.strip())
    with gzip.open(corpus / "medquad.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Document("medical", row["response"], row["prompt"])


def _copies_held_out(text: str, prints: set[str]) -> bool:
    """Whether `text`, or its part after the prompt, repeats a held-out response."""
    parts = (text, text.split("\n\n", 1)[-1])
    return any(fingerprint(part) in prints for part in parts)


def training_documents(corpus: Path, data: Path, hedging: Path) -> list[Document]:
    """Plain documents of every kind but the noted ones; held-out text and its copies are left out."""
    prints = held_out_prints(data, hedging)
    documents = list(plain_documents(corpus))
    for name in labelled_sets(data):
        kind = "dialogue" if name.startswith(("hallu_", "truth_")) else "labelled"
        documents += [
            Document(kind, item.response, item.prompt) for item in read_items(data, name) if item.part != HELD_OUT
        ]
    seen: set[str] = set()
    kept = []
    for document in documents:
        key = document.text.strip()
        if not key or key in seen or _copies_held_out(document.text, prints):
            continue
        seen.add(key)
        kept.append(document)
    return kept


_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")


def sentences(text: str) -> list[str]:
    """A rough split into sentences: after . ! ? before a capital or digit."""
    return [piece.strip() for piece in _SENTENCE_END.split(text) if piece.strip()]
