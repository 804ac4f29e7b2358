"""What the SAEs of a real reader are trained on: pairs of prompt and response, read as the service reads them.

Plain text is a response without a prompt; questions and answers are pairs. The held-out half of every labelled set, and
what repeats an item of it, is never read (see `corpus.py`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from corpus import HELD_OUT, Document, fraction, labelled_sets, read_hedging, read_items, training_documents

#: Share of the pairs' tokens by kind of text.
SHARES = {"novels": 0.12, "wikipedia": 0.12, "medical": 0.23, "dialogue": 0.25, "labelled": 0.25, "hedging": 0.03}
ASIDE = 0.01


def documents(corpus: Path, data: Path, hedging: Path) -> tuple[dict[str, list[Document]], list[Document]]:
    """Documents to train on by kind, and documents kept aside: 1 % of plain text, and held-out labelled items."""
    kinds: dict[str, list[Document]] = defaultdict(list)
    aside: list[Document] = []
    for document in training_documents(corpus, data, hedging):
        kept_aside = fraction(document.text, "scopewatch-lm") < ASIDE
        (aside if kept_aside else kinds[document.kind]).append(document)
    kinds["hedging"] = [Document("hedging", i.response) for i in read_hedging(hedging) if i.part != HELD_OUT]
    for name in labelled_sets(data):
        held_out = [item for item in read_items(data, name) if item.part == HELD_OUT]
        aside += [Document("held_out", i.response, i.prompt) for i in random.Random(name).sample(held_out, 40)]
    return kinds, random.Random(0).sample(aside, len(aside))


def in_shares(kinds: dict[str, list[Document]], seed: int) -> Iterator[Document]:
    """Documents without end; the kind furthest below its share of characters gives the next one."""
    rng = random.Random(seed)
    spent = dict.fromkeys(SHARES, 0)
    order: dict[str, list[Document]] = {kind: [] for kind in SHARES}
    while True:
        kind = min(spent, key=lambda each: spent[each] / SHARES[each])
        if not order[kind]:
            order[kind] = rng.sample(kinds[kind], len(kinds[kind]))
        document = order[kind].pop()
        spent[kind] += len(document.text)
        yield document
