"""Short honest labels for features: the words on which a feature is strongest in training text."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from torch import tensor

from activations import Reader
from pooling import SAE


@dataclass(frozen=True)
class FeatureNote:
    """What a feature fires on: its top words, one short excerpt, and the share of tokens on which it is active."""

    words: tuple[str, ...]
    excerpt: str
    density: float

    @property
    def label(self) -> str:
        """E.g. `fires on: may, might, could; e.g. "it may help"`."""
        if not self.words:
            return "silent on the sampled text"
        return f'fires on: {", ".join(self.words)}; e.g. "{self.excerpt}"'


def word_at(text: str, start: int, end: int) -> str:
    """The whole word (or the mark) that the characters `start`..`end` of `text` belong to."""
    piece = text[start:end]
    if not piece.strip():
        return "end of line" if "\n" in piece else "space"
    start += len(piece) - len(piece.lstrip())
    if not text[start].isalnum() and text[start] not in "'’":
        return piece.strip()
    while start > 0 and (text[start - 1].isalnum() or text[start - 1] in "'’"):
        start -= 1
    while end < len(text) and (text[end].isalnum() or text[end] in "'’"):
        end += 1
    return text[start:end].strip()


def describe_features(
    reader: Reader, sae: SAE, features: list[int], texts: list[str], most: int = 4
) -> dict[int, FeatureNote]:
    """Notes on `features` (ids) from `texts`; words are ranked by their mean activation times the root of their count."""
    columns = SAE(sae.W_enc[:, features], sae.b_enc[features], sae.threshold[features])
    sums: list[defaultdict[str, list[float]]] = [defaultdict(lambda: [0.0, 0.0]) for _ in features]
    best: list[tuple[float, str]] = [(0.0, "")] * len(features)
    active, tokens = np.zeros(len(features)), 0
    for text in texts:
        encoded = reader.tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=128)
        offsets = encoded["offset_mapping"]
        values = columns.encode(reader.residuals(tensor([encoded["input_ids"]]))[0].numpy())
        values[0] = 0.0
        active += (values > 0).sum(axis=0)
        tokens += len(offsets) - 1
        for place, column in zip(*np.nonzero(values), strict=True):
            entry = sums[column][word_at(text, *offsets[place]).lower()]
            entry[0] += values[place, column]
            entry[1] += 1
            if values[place, column] > best[column][0]:
                best[column] = (float(values[place, column]), excerpt(text, *offsets[place]))
    return {
        feature: FeatureNote(_top_words(sums[i], most), best[i][1], float(active[i] / tokens))
        for i, feature in enumerate(features)
    }


def _top_words(sums: dict[str, list[float]], most: int) -> tuple[str, ...]:
    ranked = sorted(sums, key=lambda word: -sums[word][0] / sums[word][1] ** 0.5)
    return tuple(ranked[:most])


def excerpt(text: str, start: int, end: int, before: int = 30) -> str:
    """A few words that end with the one the characters `start`..`end` belong to, on one line."""
    left = max(0, start - before)
    while 0 < left < start and text[left - 1].isalnum():
        left += 1
    while end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    return " ".join(text[left:end].split()).replace('"', "'")
