"""What each bundled indicator is calibrated and measured on."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

from corpus import CALIBRATE, HELD_OUT, Item, fingerprint, fraction, read_hedging, read_items, sentences
from reader_notes import UNCERTAIN, lexicon_note

SETS = {
    "speculation": ("hedging", "lexicon", "passages", "hedge_science_certainty", "hedge_earnings_calls"),
    "bias": ("bias_reddit", "bias_diasafety"),
    "medical_knowledge": ("domain_medical", "general", "own_answers"),
}
"""What each indicator is calibrated and measured on."""


def load_items(name: str, data: Path, corpus: Path, hedging: Path) -> list[Item]:
    """The items of a set, labelled file or derived, of every part."""
    if name == "hedging":
        return [replace(item, dataset="hedging") for item in read_hedging(hedging)]
    if name == "lexicon":
        return lexicon_items(corpus)
    if name == "passages":
        return passage_items(read_hedging(hedging))
    if name == "own_answers":
        return own_answers()
    if name == "general":
        return general_items(data)
    return read_items(data, name)


def lexicon_items(corpus: Path, most: int = 1500) -> list[Item]:
    """Corpus sentences that the cue lexicon calls hedged (1) or plain (0), `most` of each; labels are weak."""
    texts = []
    with gzip.open(corpus / "medquad.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts += [json.loads(line)["response"] for line in lines]
    with gzip.open(corpus / "bold_wikipedia.txt.gz", "rt", encoding="utf-8") as lines:
        texts += list(lines)
    rng = random.Random(7)
    found: dict[int, list[Item]] = {0: [], 1: []}
    for text in rng.sample(texts, len(texts)):
        for sentence in sentences(text)[:6]:
            note = lexicon_note(sentence)
            label = int(note == UNCERTAIN)
            if note and 4 <= len(sentence.split()) <= 60 and len(found[label]) < most:
                found[label].append(Item("lexicon", "", sentence, label, fingerprint(sentence), CALIBRATE))
        if min(map(len, found.values())) >= most:
            break
    return found[0] + found[1]


def passage_items(written: list[Item], count: int = 800) -> list[Item]:
    """Two to six hand-written sentences of one domain in a row; 1 if at least two in five are hedged, 0 if none is."""
    rng = random.Random(11)
    pools: dict[tuple[str, int], list[str]] = {}
    for item in written:
        if item.part != HELD_OUT:
            pools.setdefault((item.dataset, item.label), []).append(item.response)
    domains = sorted({domain for domain, _ in pools})
    items = []
    for number in range(count):
        domain, label, size = rng.choice(domains), number % 2, rng.randint(2, 6)
        hedged = rng.randint(-(-2 * size // 5), size) if label else 0
        chosen = rng.sample(pools[domain, 1], hedged) + rng.sample(pools[domain, 0], size - hedged)
        rng.shuffle(chosen)
        text = " ".join(chosen)
        items.append(Item("passages", "", text, label, fingerprint(text), CALIBRATE))
    return items


def general_items(data: Path, most: int = 250) -> list[Item]:
    """Answers and remarks that are not medical (0), and short medical statements and answers (1), of the calibration halves."""
    items = []
    for name, label in (
        ("hallu_begin_wow", 0),
        ("hallu_truthfulqa", 0),
        ("truth_statements", 0),
        ("bias_reddit", 0),
        ("hallu_medhallu", 1),
    ):
        found = [
            i for i in read_items(data, name) if i.part != HELD_OUT and not (label == 0 and _sounds_medical(i.text))
        ]
        found = sorted(found, key=lambda i: fraction(i.text, "general"))[: most * (4 if label else 1)]
        items += [Item("general", i.prompt, i.response, label, i.group, CALIBRATE) for i in found]
    return items


def own_answers() -> list[Item]:
    """Answers written for checking `medical_knowledge`; all held out."""
    lines = (Path(__file__).parent / "checks" / "medical_answers.txt").read_text(encoding="utf-8").splitlines()
    return [
        Item("own_answers", "", line[2:], int(line[0] == "+"), fingerprint(line), HELD_OUT)
        for line in lines
        if line[:2] in {"+ ", "- "}
    ]


def _sounds_medical(text: str) -> bool:
    words = (
        "disease",
        "patient",
        "medic",
        "cancer",
        "health",
        "symptom",
        "doctor",
        "drug",
        "blood",
        "virus",
        "vaccin",
        "infect",
        "syndrome",
        "diagnos",
        "treatment",
        "cold",
        "brain",
        "pregnan",
        "diet",
        "cure",
    )
    return any(word in text.lower() for word in words)
