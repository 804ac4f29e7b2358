"""Whether a pair's numbers are the same bits whatever it is batched with, and after its beginning was known."""

import numpy as np

from on_gpu.passes import NOTHING_KEPT
from on_gpu.sections import Told
from on_gpu.stage import Stage, new_texts, read, text_of
from scopewatch.types import Activations

_COMPANIES = 6


def invariance(stage: Stage, told: Told) -> None:
    """Pairs alone, in batches at other places each time, and once more when their beginnings are known."""
    draw, longest = np.random.default_rng(4), stage.sizes.lone_tokens
    common = text_of(stage.sizes.shared[1], draw)
    own = [text_of(n, draw) for n in (longest // 8 + 1, longest // 2 - 3, longest)]
    own += [np.concatenate([common, text_of(n, draw)]) for n in (9, 70)]
    engine = stage.engine(**NOTHING_KEPT)
    alone = [read(engine, [text])[0] for text in own]
    in_batches = _Same()
    for number in range(_COMPANIES):
        others = new_texts((number + 1) * 3 * longest, longest, draw)
        for place, text in enumerate(own):
            at = min(place + number, len(others))
            in_batches.add(alone[place], read(engine, [*others[:at], text, *others[at:]])[at])
    keeping, reused, reused_tokens = stage.engine(), _Same(), 0
    # Met, kept, known: each pair alone, then all of them among others.
    for batch in [*([text] for text in own), own + new_texts(3 * longest, longest, draw)] * 3:
        reused_tokens += keeping.runner(batch).reused_tokens
    for place, text in enumerate(own):
        found = keeping.runner([text])
        reused_tokens += found.reused_tokens
        reused.add(alone[place], found.activations[0])
    for before, after in zip(alone, read(keeping, [*own, text_of(40, draw)]), strict=False):
        reused.add(before, after)
    for name, same in (("in_batches", in_batches), ("after_reuse", reused)):
        told.figures(**{name: {"same": same.same, "of": same.of, "largest_difference": same.largest}})
        told.say(f"{name}: {same.same} of {same.of} are the same bits, at most {same.largest:.1e} of the largest apart")
    claimed = keeping.identity.reader.batch_invariant
    told.figures(reused_tokens=reused_tokens, provenance_says_so=claimed)
    if claimed and (in_batches.same, reused.same) != (in_batches.of, reused.of):
        told.broken(["the provenance says that numbers do not depend on the batch, and they do"])
    if not reused_tokens:
        told.say("no beginning was reused, so `after_reuse` shows nothing")


class _Same:
    """How many readings of a pair were identical."""

    def __init__(self) -> None:
        self.same = self.of = 0
        self.largest = 0.0

    def add(self, one: Activations, other: Activations) -> None:
        pairs = ((one.token, other.token), (one.column, other.column), (one.value, other.value))
        identical = all(a.tobytes() == b.tobytes() for a, b in pairs)
        self.same, self.of = self.same + identical, self.of + 1
        if not identical:
            self.largest = max(self.largest, _apart(one, other))


def _apart(one: Activations, other: Activations) -> float:
    """The largest difference where both fired, as a share of the largest activation."""
    values = {(t, c): v for t, c, v in zip(one.token.tolist(), one.column.tolist(), one.value.tolist(), strict=True)}
    found = zip(other.token.tolist(), other.column.tolist(), other.value.tolist(), strict=True)
    apart = [abs(v - values[t, c]) for t, c, v in found if (t, c) in values]
    return max(apart, default=0.0) / max(values.values(), default=1.0)
