"""What each bundled indicator is calibrated and tested on, and with which settings."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from corpus import CALIBRATE, HELD_OUT, TEACH, Item, fingerprint, fraction, read_hedging, read_items, sentences
from notes import UNCERTAIN, lexicon_note
from pooling import POOLINGS, PooledSet
from probes import Scores, SparseFit

MAX, SUM, MEAN, SHARE, ROLLING, SECOND = POOLINGS


@dataclass(frozen=True)
class Indicator:
    """`sources` names the calibration sets and the weight of each; `tests` the sets it is measured on."""

    name: str
    sources: dict[str, float]
    tests: tuple[str, ...]
    fit: SparseFit
    max_fpr: float
    #: Sets left out in turn, to see what carries over to a set never calibrated on.
    transfer: tuple[str, ...] = ()
    #: Whether to measure the tests taken together too (where they mean the same by a label).
    pool_tests: bool = False


INDICATORS = (
    Indicator(
        "speculation",
        {"hedging": 1.0, "lexicon": 1.0, "passages": 0.3, "hedge_science_certainty": 0.5, "hedge_earnings_calls": 0.1},
        ("hedging", "hedge_science_certainty", "hedge_earnings_calls"),
        SparseFit((SUM, MAX, MEAN), terms=15, l1=0.01, l2=0.05),
        max_fpr=0.05,
        transfer=("hedge_science_certainty", "hedge_earnings_calls"),
    ),
    Indicator(
        "bias",
        {"bias_reddit": 1.0, "bias_diasafety": 1.0},
        ("bias_reddit", "bias_diasafety"),
        SparseFit((MAX, MEAN), terms=160, l1=0.1, l2=0.0005),
        max_fpr=0.10,
        transfer=("bias_reddit", "bias_diasafety"),
        pool_tests=True,
    ),
    Indicator(
        "medical_knowledge",
        {"domain_medical": 1.0, "general": 1.0},
        ("domain_medical", "own_answers"),
        SparseFit((MAX, MEAN), terms=20, l1=0.02, l2=0.05),
        max_fpr=0.02,
    ),
)


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


def item_weights(pooled: PooledSet, sources: dict[str, float]) -> Scores:
    """Weight of every item: each set has its share of the total, half of it for either label; TEACH items count half."""
    weights = np.zeros(len(pooled.items))
    for index, item in enumerate(pooled.items):
        weights[index] = 0.5 if item.part == TEACH else 1.0
    names = np.array([item.dataset for item in pooled.items])
    for name, share in sources.items():
        for label in (0, 1):
            rows = (names == name) & (pooled.labels == label)
            if rows.any():
                weights[rows] *= share / 2 / weights[rows].sum()
    return weights * len(weights) / weights.sum()
