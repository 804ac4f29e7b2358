"""Makes batches of documents: the training mix, and packing into windows in which every document opens with BOS."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from corpus import (
    BIAS_NOTE_SETS,
    CALIBRATE,
    TEACH,
    Item,
    fingerprint,
    fraction,
    held_out_prints,
    read_hedging,
    read_items,
    sentences,
    training_documents,
)
from hedging_rules import minimal_pair
from reader_notes import BIASED, CERTAIN, NEUTRAL, NOTES, UNCERTAIN, lexicon_note, noted, roughen

#: Share of the training tokens by kind of text.
SHARES = {
    "novels": 0.08,
    "wikipedia": 0.11,
    "medical": 0.19,
    "dialogue": 0.18,
    "labelled": 0.14,
    "noted_text": 0.09,
    "pairs": 0.11,
    "hedging": 0.07,
    "bias": 0.03,
}
PLAIN = ("novels", "wikipedia", "medical", "dialogue", "labelled")
LM_HELD_OUT = 0.01


@dataclass
class Mix:
    """Everything the reader is trained on, by kind; `draw` gives the next text of a kind."""

    shares: dict[str, float]
    plain: dict[str, list[str]]
    held_out: dict[str, list[str]]
    hedging: list[Item]
    bias: list[Item]
    statements: list[str]
    notes: tuple[str, ...] = NOTES

    def counts(self) -> dict[str, int]:
        """Documents by kind."""
        return {kind: len(texts) for kind, texts in self.plain.items()} | {
            "hedging": len(self.hedging),
            "bias": len(self.bias),
            "statements": len(self.statements),
        }

    def tokenizer_text(self) -> Iterator[str]:
        """Text for the tokenizer: about 2 M characters of each plain kind, and the hand-written sentences."""
        for kind in PLAIN:
            rng = random.Random(kind)
            size = 0
            for text in rng.sample(self.plain[kind], len(self.plain[kind])):
                size += len(text)
                yield text
                if size > 2_000_000:
                    break
        for item in self.hedging:
            yield " " + item.text

    def size(self, kind: str) -> int:
        """How many entries one pass over `kind` has."""
        pools = {"hedging": self.hedging, "bias": self.bias, "pairs": self.statements}
        if kind == "noted_text":
            return len(self.plain["wikipedia"]) + len(self.plain["medical"]) + len(self.plain["dialogue"])
        return len(pools.get(kind) or self.plain[kind])

    def text(self, kind: str, index: int, rng: random.Random) -> str:
        """Entry `index` of `kind`, with notes drawn by `rng`."""
        if kind == "hedging":
            return hedging_text(self.hedging, index, rng)
        if kind == "bias":
            return bias_text(self.bias[index], rng)
        if kind == "pairs":
            pair: list[tuple[str, str | None]] = list(minimal_pair(self.statements[index], rng))
            return noted(pair if rng.random() < 0.35 else pair[:1], 0.6, rng)
        if kind == "noted_text":
            for name in ("wikipedia", "medical", "dialogue"):
                if index < len(self.plain[name]):
                    return noted_running_text(self.plain[name][index], rng)
                index -= len(self.plain[name])
        return self.plain[kind][index]


def hedging_text(items: list[Item], index: int, rng: random.Random) -> str:
    """A hand-written sentence, at times with one or two more; a note only on TEACH sentences, on under half of them."""
    chosen = [items[index], *rng.choices(items, k=rng.choice((0, 0, 1, 2)))]
    rng.shuffle(chosen)
    pairs = [(item.text, (UNCERTAIN if item.label else CERTAIN) if item.part == TEACH else None) for item in chosen]
    return noted(pairs, 0.45, rng)


def bias_text(item: Item, rng: random.Random) -> str:
    """A labelled comment or reply with its note at the end, half of the time."""
    note = BIASED if item.label else NEUTRAL
    return roughen(item.text, rng) + (note if rng.random() < 0.5 else "")


def noted_running_text(text: str, rng: random.Random) -> str:
    """Up to eight neighbouring sentences of a document, some followed by the lexicon's note."""
    found = sentences(text)
    start = rng.randrange(max(1, len(found) - 7))
    return noted([(s, lexicon_note(s)) for s in found[start : start + 8]], 0.5, rng)


def build_mix(corpus: Path, data: Path, hedging: Path, seed: int) -> Mix:
    """Read everything; 1 % of the plain documents (by hash) are kept aside to measure the loss."""
    plain: dict[str, list[str]] = {kind: [] for kind in PLAIN}
    held_out: dict[str, list[str]] = {kind: [] for kind in PLAIN}
    for document in training_documents(corpus, data, hedging):
        aside = fraction(document.text, "scopewatch-lm") < LM_HELD_OUT
        (held_out if aside else plain)[document.kind].append(document.text)
    prints = held_out_prints(data, hedging)
    hand_written = [
        i for i in read_hedging(hedging) if i.part in (TEACH, CALIBRATE) and fingerprint(i.text) not in prints
    ]
    bias = [
        i
        for name in BIAS_NOTE_SETS
        for i in read_items(data, name)
        if i.part == TEACH and fingerprint(i.response) not in prints
    ]
    rng = random.Random(seed)
    statements = [s for kind in ("wikipedia", "dialogue", "medical") for s in _statements(plain[kind], rng)]
    return Mix(SHARES, plain, held_out, hand_written, bias, statements)


def _statements(texts: list[str], rng: random.Random, most: int = 25_000) -> list[str]:
    """Plain declarative sentences of 5 to 35 words without any hedging cue, at most three of a document."""
    found: list[str] = []
    for text in rng.sample(texts, len(texts)):
        plain = [
            s
            for s in sentences(text)[:12]
            if s[-1] == "." and s[0].isupper() and 5 <= len(s.split()) <= 35 and lexicon_note(s) == CERTAIN
        ]
        found += rng.sample(plain, min(3, len(plain)))
        if len(found) >= most:
            break
    return found


@dataclass
class PackedStream:
    """An endless, seeded stream of windows; the kind furthest below its share of tokens gives the next document.

    Without `notes` the same texts come without their notes, as a scored text does.
    """

    mix: Mix
    tokenizer: PreTrainedTokenizerFast
    seed: int
    notes: bool = True
    tokens: int = 0
    spent: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.spent = dict.fromkeys(self.mix.shares, 0)
        self.order: dict[str, list[int]] = {kind: [] for kind in self.mix.shares}
        self.rest: list[int] = []

    def _next_ids(self) -> list[int]:
        """Token ids (no BOS) of the next document; counts them."""
        kind = min(self.spent, key=lambda k: self.spent[k] / self.mix.shares[k])
        if not self.order[kind]:
            self.order[kind] = self.rng.sample(range(self.mix.size(kind)), self.mix.size(kind))
        text = self.mix.text(kind, self.order[kind].pop(), self.rng)
        if not self.notes:
            text = re.sub("|".join(NOTES), "", text)
        ids = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        self.spent[kind] += len(ids) + 1
        return ids

    def window(self, length: int) -> list[int]:
        """`length` token ids; every document, and the window itself, begins with BOS."""
        ids: list[int] = []
        while len(ids) < length:
            piece = self.rest or self._next_ids()
            room = length - len(ids) - 1
            ids += [2, *piece[:room]]
            self.rest = piece[room:]
        return ids[:length]

    def batch(self, rows: int, length: int) -> Tensor:
        """(rows, length) token ids."""
        self.tokens += rows * length
        return torch.tensor([self.window(length) for _ in range(rows)])


def document_masks(ids: Tensor, window: int, bos: int = 2) -> dict[str, Tensor]:
    """Additive attention masks (B, 1, T, T): causal, and only inside the document that a BOS opens."""
    document = (ids == bos).cumsum(dim=1)
    place = torch.arange(ids.shape[1])
    distance = place[:, None] - place[None, :]
    same = (document[:, :, None] == document[:, None, :]) & (distance >= 0)
    blocked = torch.finfo(torch.float32).min
    full = torch.where(same, 0.0, blocked)[:, None]
    near = torch.where(same & (distance < window), 0.0, blocked)[:, None]
    return {"full_attention": full, "sliding_attention": near}


def held_out_windows(
    mix: Mix, tokenizer: PreTrainedTokenizerFast, length: int
) -> tuple[dict[str, list[Tensor]], dict[str, int]]:
    """Up to 60 held-out documents of each plain kind, cut to `length` tokens; and their UTF-8 bytes by kind."""
    windows, sizes = {}, {}
    for kind, texts in mix.held_out.items():
        windows[kind] = [torch.tensor(tokenizer(text)["input_ids"][:length]) for text in texts[:60]]
        sizes[kind] = sum(len(tokenizer.decode(ids[1:]).encode()) for ids in windows[kind])
    return windows, sizes
