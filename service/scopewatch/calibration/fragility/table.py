"""The table of fragility: the AUROC of a detector on held-out pairs, and what is left of it under each change.

The same pairs are scored again with their style, cue words or prompts changed, and by a reader whose weights are
rounded; and each source is scored by a detector that was fitted on the others. Nothing is fitted on what it measures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scopewatch.calibration.fragility.changes import Changed, changed_prompts, changed_styles, text_of, without
from scopewatch.calibration.fragility.cue_words import cue_words
from scopewatch.calibration.split import Split
from scopewatch.errors import TooLittleData, Unsupported
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.types import Rounding, Segment
from scopewatch.watch.cards import Fragility

_MOST_PAIRS = 400
_MOST_SOURCES = 8
_CUE_WORDS = 20
_SINGLE_WORDS = 5
_ROUNDINGS: tuple[Rounding, ...] = ("int8", "bfloat16")
_ALIKE = 0.9
"""The correlation above which a feature counts as the same."""


@dataclass(frozen=True, slots=True)
class Reread:
    """What a detector makes of n pairs."""

    scores: Scores
    """Shape (n,); not a number where a pair cannot be scored."""
    terms: Scores
    """The values that the score is the weighted sum of, shape (n, n_terms)."""


class Detector(Protocol):
    """A detector that was fitted."""

    def rescore(self, pairs: Sequence[LabelledPair], rounding: Rounding = "none") -> Reread:
        """Scores pairs with the detector as it was fitted, by a reader with its weights rounded."""
        ...

    def refit(self, fit: Rows, out: Rows) -> Scores:
        """Fits the detector's recipe on some of its pairs, and scores others of them."""
        ...


@dataclass(frozen=True, slots=True)
class Table:
    """What a card says of fragility."""

    rows: tuple[Fragility, ...]
    """The pairs as they are, and then under each change."""
    stands_on: str
    """The one word without which the AUROC loses more than half of its way above chance; empty if there is none."""


def table_of(
    pairs: Sequence[LabelledPair],
    parts: Split,
    detector: Detector,
    *,
    segment: Segment,
    reads: bool = True,
) -> Table:
    """Measures how fragile a detector is.

    Args:
        pairs: All labelled pairs.
        parts: Which of them were fitted and which are held out; of these some 400 are scored again.
        detector: The detector.
        segment: The segment that it scores.
        reads: Whether it depends on the reader's weights.
    """
    held = [pairs[row] for row in _some(labels_of(pairs), parts.held_out)]
    fit = [pairs[row] for row in parts.fit]
    cues = cue_words([text_of(pair, segment) for pair in fit], labels_of(fit), _CUE_WORDS)
    changes = changed_styles(held, segment)
    if cues:
        changes.append(without(held, segment, cues, f"{len(cues)} cue words removed"))
    if segment is Segment.RESPONSE:
        changes += changed_prompts(held)
    single = [without(held, segment, [word], word) for word in cues[:_SINGLE_WORDS]]
    plain, *reread = _all_at_once(held, [*changes, *single], detector)
    changed, alone = reread[: len(changes)], reread[len(changes) :]
    labels = labels_of(held)
    told = [_row("as they are", labels, plain, plain)]
    told += [
        _row(change.change, labels, plain, found)
        for change, found in zip(changes, changed, strict=True)
        if found is not plain
    ]
    for rounding in _ROUNDINGS if reads else ():
        told.append(_row(f"reader's weights in {rounding}", labels, plain, detector.rescore(held, rounding)))
    told += _by_source(pairs, parts, detector)
    rows = tuple(row for row in told if row)
    by_word = [_row(change.change, labels, plain, found) for change, found in zip(single, alone, strict=True)]
    return Table(rows, _stands_on(rows[0], [row for row in by_word if row]) if rows else "")


def _some(labels: Bool, rows: Rows) -> list[int]:
    """At most so many of these rows, drawn at random, with both labels in their share."""
    drawn = np.random.default_rng(0).permutation(rows)
    share = min(1.0, _MOST_PAIRS / len(rows))
    parts = [drawn[labels[drawn] == label] for label in (False, True)]
    return sorted(row for part in parts for row in part[: round(share * len(part))].tolist())


def _all_at_once(held: Sequence[LabelledPair], changes: Sequence[Changed], detector: Detector) -> list[Reread]:
    """What the detector makes of the pairs as they are and under each change; pairs that are unchanged are scored once.

    Where a change leaves all pairs as they are, the result is the very object that the pairs as they are have.
    """
    asked = list(held)
    places = []
    for change in changes:
        mine = np.arange(len(held))
        for row, (new, old) in enumerate(zip(change.pairs, held, strict=True)):
            if new.pair != old.pair:
                mine[row] = len(asked)
                asked.append(new)
        places.append(mine)
    found = detector.rescore(asked)
    plain = Reread(found.scores[: len(held)], found.terms[: len(held)])
    unchanged = np.arange(len(held))
    return [plain] + [
        plain if np.array_equal(mine, unchanged) else Reread(found.scores[mine], found.terms[mine]) for mine in places
    ]


def _row(change: str, labels: Bool, plain: Reread, found: Reread) -> Fragility | None:
    """A row of the table; None where too few pairs can be scored to rank any."""
    there = np.isfinite(plain.scores) & np.isfinite(found.scores)
    if not 0 < labels[there].sum() < there.sum():
        return None
    return Fragility(
        change=change,
        n=int(there.sum()),
        auroc=round(auroc(labels[there], found.scores[there]), 4),
        survival=None if found is plain else _survival(plain.terms[there], found.terms[there]),
    )


def _survival(before: Scores, after: Scores) -> float | None:
    """The share of the terms that correlate with what they were; None where none varies."""
    kept = []
    for old, new in zip(before.T, after.T, strict=True):
        if old.std() > 0:
            kept.append(new.std() > 0 and np.corrcoef(old, new)[0, 1] > _ALIKE)
    return round(float(np.mean(kept)), 4) if kept else None


def _by_source(pairs: Sequence[LabelledPair], parts: Split, detector: Detector) -> Iterator[Fragility]:
    """The AUROC on each source, the largest first, of a detector that was fitted on the others."""
    rows, labels = np.concatenate([parts.fit, parts.held_out]), labels_of(pairs)
    sources = np.array([pair.source for pair in pairs], dtype=object)
    names, counts = np.unique(sources[rows], return_counts=True)
    for name in names[np.argsort(-counts, kind="stable")][:_MOST_SOURCES] if len(names) > 1 else ():
        mine, others = rows[sources[rows] == name], parts.fit[sources[parts.fit] != name]
        groups = {pairs[row].group for row in mine}
        others = np.array([row for row in others if pairs[row].group not in groups], np.intp)
        if not all(0 < labels[some].sum() < len(some) for some in (mine, others)):
            continue
        try:
            scores = detector.refit(others, mine)
        except (TooLittleData, Unsupported):
            continue
        yield Fragility(change=f"source {name}, not fitted", n=len(mine), auroc=round(auroc(labels[mine], scores), 4))


def _stands_on(plain: Fragility, alone: Sequence[Fragility]) -> str:
    """The word whose absence takes most from the AUROC, if that is more than half of its way above chance."""
    worst = min(alone, key=lambda row: row.auroc, default=None)
    return worst.change if worst and worst.auroc < (plain.auroc + 0.5) / 2 else ""
