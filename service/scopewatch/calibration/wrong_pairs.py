"""The pairs that an indicator gets most wrong: false positives and false negatives, and where it fired in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scopewatch.errors import ScopewatchError
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.pairs.scored import IndicatorScores, Scorer, answers
from scopewatch.statistics.scores import Bool, Rows
from scopewatch.types import ScoreJob
from scopewatch.verdicts import Evidence, ScoredPair
from scopewatch.watch.indicators import Indicator

_MOST = 10


@dataclass(frozen=True, slots=True)
class WrongPair:
    """A pair on the wrong side of its threshold."""

    pair: LabelledPair
    score: float
    threshold: float
    """The threshold that the pair was held against."""
    spans: tuple[Evidence, ...] = ()
    """Where the indicator fired, or what raises it if it combines others, the strongest first."""

    def document(self) -> dict[str, object]:
        """The pair as `evaluate --json` prints it, without its texts."""
        return {
            "id": self.pair.id,
            "file": self.pair.file,
            "line": self.pair.line,
            "group": self.pair.group,
            "source": self.pair.source,
            "score": self.score,
            "threshold": self.threshold,
            "spans": [
                {"segment": span.segment.name.lower(), "turn": span.turn, "start": span.start, "end": span.end}
                for span in self.spans
            ],
        }


@dataclass(frozen=True, slots=True)
class WrongPairs:
    """The pairs of one label that are on the wrong side of the threshold, furthest from it first."""

    n: int = 0
    """How many there are."""
    worst: tuple[WrongPair, ...] = ()
    """The first few of them; of those equally far, the ones that stand earlier in the data."""


@dataclass(frozen=True, slots=True)
class Mistakes:
    """What an indicator gets wrong."""

    false_positives: WrongPairs = field(default_factory=WrongPairs)
    false_negatives: WrongPairs = field(default_factory=WrongPairs)

    def document(self) -> dict[str, object]:
        """The first few as `evaluate --json` prints them."""
        return {
            "false_positives": [one.document() for one in self.false_positives.worst],
            "false_negatives": [one.document() for one in self.false_negatives.worst],
        }


def mistakes_of(pairs: Sequence[LabelledPair], scored: IndicatorScores, most: int = _MOST) -> Mistakes:
    """The pairs that an indicator gets wrong.

    Args:
        pairs: The n labelled pairs.
        scored: What the online scorer says of them.
        most: How many are kept of either label.
    """
    labels = labels_of(pairs)
    above = scored.scores - scored.thresholds
    return Mistakes(
        _wrong(pairs, scored, scored.flagged & ~labels, np.argsort(-above, kind="stable"), most),
        _wrong(pairs, scored, ~scored.flagged & labels, np.argsort(above, kind="stable"), most),
    )


def _wrong(pairs: Sequence[LabelledPair], scored: IndicatorScores, wrong: Bool, order: Rows, most: int) -> WrongPairs:
    rows = order[wrong[order]][:most].tolist()
    worst = (WrongPair(pairs[row], float(scored.scores[row]), float(scored.thresholds[row])) for row in rows)
    return WrongPairs(int(wrong.sum()), tuple(worst))


async def with_spans(mistakes: Mistakes, indicator: Indicator, watchlist: str, score: Scorer) -> Mistakes:
    """The mistakes with the places where the indicator fired, for which these few pairs are scored again.

    Args:
        mistakes: The pairs.
        indicator: The indicator.
        watchlist: The name of its watchlist.
        score: The online scorer.
    """
    kinds = (mistakes.false_positives, mistakes.false_negatives)
    again = [one for wrong in kinds for one in wrong.worst]
    jobs = [ScoreJob(one.pair.pair, watchlist, request_id="", include_evidence=True) for one in again]
    told = zip(again, await answers(jobs, score) if jobs else (), strict=True)
    found = iter([replace(one, spans=_spans(indicator, said)) for one, said in told])
    return Mistakes(*(replace(wrong, worst=tuple(next(found) for _ in wrong.worst)) for wrong in kinds))


def _spans(indicator: Indicator, told: ScoredPair | ScopewatchError) -> tuple[Evidence, ...]:
    """Where the indicator fired, and of one that combines others, where those fired that raise it."""
    if not isinstance(told, ScoredPair):
        return ()
    of: Mapping[str, tuple[Evidence, ...]] = {one.name: one.evidence for one in told.indicators}
    raising = [part.name for part in indicator.combines if part.indicator and part.weight > 0]
    return tuple(span for name in (indicator.name, *raising) for span in of.get(name, ()))
