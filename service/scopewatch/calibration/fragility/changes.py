"""Pairs with one thing changed: their style, their cue words, or the prompts they answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scopewatch.calibration.fragility.rewordings import STYLES, without_words
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.types import Pair, Segment


@dataclass(frozen=True, slots=True)
class Changed:
    """The same pairs in the same order, with one thing changed."""

    change: str
    """What was changed, for a table."""
    pairs: list[LabelledPair]


def changed_styles(pairs: Sequence[LabelledPair], segment: Segment) -> list[Changed]:
    """The pairs reworded by rule in the segment that is scored."""
    return [Changed(name, [_reworded(pair, segment, reword) for pair in pairs]) for name, reword in STYLES.items()]


def without(pairs: Sequence[LabelledPair], segment: Segment, words: Sequence[str], change: str) -> Changed:
    """The pairs without these words in the segment that is scored."""
    reword = without_words(words)
    return Changed(change, [_reworded(pair, segment, reword) for pair in pairs])


def changed_prompts(pairs: Sequence[LabelledPair]) -> list[Changed]:
    """The pairs without their prompts, and each with the prompt of another; what went before is left out of both."""
    others = [pair.pair.prompt for pair in pairs]
    order = np.random.default_rng(0).permutation(len(pairs))
    swapped = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))

    def asked(pair: LabelledPair, prompt: str) -> LabelledPair:
        return replace(pair, pair=Pair(prompt, pair.pair.response, inputs=pair.pair.inputs))

    return [
        Changed("prompts removed", [asked(pair, "") for pair in pairs]),
        Changed("prompts swapped", [asked(pair, others[swapped[row]]) for row, pair in enumerate(pairs)]),
    ]


def text_of(pair: LabelledPair, segment: Segment) -> str:
    """The text of the segment that is scored."""
    if segment is Segment.HISTORY:
        return "\n".join(turn.content for turn in pair.pair.history)
    return pair.pair.prompt if segment is Segment.PROMPT else pair.pair.response


def _reworded(item: LabelledPair, segment: Segment, reword: Callable[[str], str]) -> LabelledPair:
    pair = item.pair
    if segment is Segment.HISTORY:
        history = tuple(replace(turn, content=reword(turn.content)) for turn in pair.history)
        return replace(item, pair=replace(pair, history=history))
    name = segment.name.lower()
    text: str = getattr(pair, name)
    if (new := reword(text)) == text:
        return item
    # Tokens that the caller knows are those of the text as it was.
    fields: dict[str, Any] = {name: new, f"{name}_token_ids": ()}
    return replace(item, pair=replace(pair, **fields))
