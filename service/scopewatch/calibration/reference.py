"""Where benign pairs lie by an indicator: what its card keeps of them, so that other pairs can be held against it.

Of each group of pairs one is taken, as for the threshold: siblings are no further evidence of what is usual.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scopewatch.calibration.evidence import HeldOutEvidence
from scopewatch.calibration.split import Split
from scopewatch.pairs.labelled import LabelledPair, groups_of
from scopewatch.pairs.scored import IndicatorScores
from scopewatch.statistics.bounds import one_per_group
from scopewatch.statistics.scores import Rows, Scores
from scopewatch.watch.bins import bins_of, kept
from scopewatch.watch.cards import DataFile
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.reference import Reference, at_levels, quantiles


@dataclass(frozen=True, slots=True)
class SentenceValues:
    """What single sentences of benign pairs have, one value a sentence; empty where it was not measured."""

    score: Sequence[float] = ()
    """By the indicator."""
    logprob: Sequence[float] = ()
    """The mean log-probability of the sentence's tokens, in nats."""


def reference_of(
    data: str,
    pairs: Sequence[LabelledPair],
    scores: Scores,
    terms: Mapping[str, Scores],
    sentences: SentenceValues = SentenceValues(),
) -> Reference:
    """The reference that n benign pairs make, n at least 1.

    Args:
        data: What the pairs are, for people.
        pairs: The pairs, no two of one group.
        scores: Their scores, shape (n,).
        terms: The pooled value of each term, shape (n,), by its `term_name`.
        sentences: What was measured of their sentences.
    """
    nearest = [int(np.abs(scores - value).argmin()) for value in at_levels(scores)]
    return Reference(
        data=data,
        n=len(pairs),
        score=quantiles(scores),
        ids=tuple(pairs[row].known_as for row in nearest),
        id_scores=tuple(kept(scores[row]) for row in nearest),
        terms={name: quantiles(values) for name, values in terms.items()},
        sentence_score=quantiles(sentences.score) if sentences.score else None,
        sentence_logprob=quantiles(sentences.logprob) if sentences.logprob else None,
        score_bins=bins_of(scores),
        term_bins={name: bins_of(values) for name, values in terms.items()},
    )


def held_out_reference(
    files: Sequence[DataFile],
    pairs: Sequence[LabelledPair],
    parts: Split,
    evidence: HeldOutEvidence,
    terms: Callable[[Rows], Mapping[str, Scores]] = lambda _: {},
) -> Reference:
    """The reference that the held-out benign pairs make, those that set the threshold.

    Args:
        files: The files that hold the pairs.
        pairs: All labelled pairs.
        parts: Which of them are held out.
        evidence: What the held-out pairs say of the indicator.
        terms: Gives the pooled values of the terms on some rows of the pairs, which ascend, by the terms' names.
    """
    benign = np.flatnonzero(~evidence.labels)
    mine = benign[one_per_group([evidence.groups[row] for row in benign])]
    rows = parts.held_out[mine]
    told = f"{names_of(files)}: the groups held out"
    return reference_of(told, [pairs[row] for row in rows], evidence.scores[mine], terms(rows))


def scored_reference(
    data: str,
    pairs: Sequence[LabelledPair],
    indicator: Indicator,
    found: IndicatorScores,
    sentences: SentenceValues = SentenceValues(),
) -> Reference:
    """The reference that benign pairs make which the online scorer scored.

    Args:
        data: What the pairs are, for people.
        pairs: The pairs, at least one.
        indicator: The indicator.
        found: What it said of them, with the pooled values of its terms.
        sentences: What was measured of their sentences.
    """
    rows = one_per_group(groups_of(pairs))
    nowhere = np.zeros(len(pairs))
    terms = {name: found.pooled.get(name, nowhere)[rows] for name in indicator.term_names}
    return reference_of(data, [pairs[row] for row in rows], found.scores[rows], terms, sentences)


def names_of(files: Sequence[DataFile]) -> str:
    """The names of data files, as a card says them."""
    return ", ".join(file.name for file in files)
