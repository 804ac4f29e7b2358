"""Two watchlists over the same pairs: which verdicts would change if one took the other's place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from scopewatch.errors import DataError, EngineDied, EngineError, InvalidRequest
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.scored import Score
from scopewatch.statistics.bounds import false_positive_bound
from scopewatch.statistics.scores import Interval
from scopewatch.types import IndicatorScore, ScoredPair, ScoreJob, Verdict


@dataclass(frozen=True, slots=True)
class Said:
    """What a watchlist said of one pair."""

    verdict: Verdict
    indicators: Mapping[str, IndicatorScore]
    """By name, without features and evidence."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one indicator, or of a verdict: shares that are flagged, of the pairs whose label is known."""

    tpr: float | None
    """None where no pair has label 1."""
    fpr: float | None
    """None where no pair has label 0."""


@dataclass(frozen=True, slots=True)
class IndicatorChange:
    """How often an indicator fired before and after; of one that is new or gone, never on the side that lacks it."""

    name: str
    in_before: bool
    in_after: bool
    both: int
    only_before: int
    only_after: int
    neither: int
    rates_before: Rates | None
    """None unless both watchlists have it."""
    rates_after: Rates | None


@dataclass(frozen=True, slots=True)
class Deciding:
    """An indicator that flagged the pair on the side where the verdict is FLAG, as both sides see it."""

    indicator: str
    score_before: float | None
    """None where it was skipped, or is not there."""
    threshold_before: float | None
    score_after: float | None
    threshold_after: float | None


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """A pair whose verdict is another one."""

    line: int
    id: str
    before: Verdict
    after: Verdict
    decided_by: tuple[Deciding, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A pair that a watchlist could not score."""

    line: int
    id: str
    error: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What would change; of the pairs that both could score."""

    n: int
    flag_rate_before: float
    flag_rate_after: float
    changed: Interval
    """Share of verdicts that change, with its 95 % Clopper-Pearson interval."""
    indicators: tuple[IndicatorChange, ...]
    changes: tuple[VerdictChange, ...]
    failures: tuple[Failure, ...]


async def hear(pairs: Sequence[LabelledPair], score: Score, at_once: int) -> list[Said | str]:
    """What a watchlist says of each pair, or why it cannot be scored.

    Args:
        pairs: At least one.
        score: The online scorer, with the watchlist as its default one.
        at_once: Most pairs given to it in one call.

    Raises:
        ScopewatchError: It failed altogether.
    """
    heard: list[Said | str] = []
    for first in tqdm(range(0, len(pairs), at_once), desc="scoring", unit="batch", disable=None):
        jobs = [ScoreJob(item.pair, "", item.id) for item in pairs[first : first + at_once]]
        for outcome in await score(jobs):
            if isinstance(outcome, ScoredPair):
                lean = {part.name: replace(part, features=(), evidence=()) for part in outcome.indicators}
                heard.append(Said(outcome.verdict, lean))
            elif isinstance(outcome, (InvalidRequest, EngineError)) and not isinstance(outcome, EngineDied):
                heard.append(f"{outcome.reason}: {outcome}")
            else:
                raise outcome
    return heard


def replay(pairs: Sequence[LabelledPair], before: Sequence[Said | str], after: Sequence[Said | str]) -> Replay:
    """Compares what two watchlists said of the same pairs.

    Raises:
        DataError: No pair could be scored by both.
    """
    failures: list[Failure] = []
    heard: list[tuple[LabelledPair, Said, Said]] = []
    for pair, old, new in zip(pairs, before, after, strict=True):
        if isinstance(old, Said) and isinstance(new, Said):
            heard.append((pair, old, new))
        else:
            failures.append(Failure(pair.line, pair.id, old if isinstance(old, str) else str(new)))
    if not heard:
        raise DataError(f"none of {len(pairs)} pairs can be scored by both watchlists: {failures[0].error}")
    n = len(heard)
    changes = tuple(_change(*each) for each in heard if each[1].verdict != each[2].verdict)
    names = dict.fromkeys([*heard[0][1].indicators, *heard[0][2].indicators])
    return Replay(
        n=n,
        flag_rate_before=sum(old.verdict is Verdict.FLAG for _, old, _ in heard) / n,
        flag_rate_after=sum(new.verdict is Verdict.FLAG for _, _, new in heard) / n,
        changed=Interval(
            len(changes) / n,
            # One bound on each side, of half the error.
            1 - false_positive_bound(n - len(changes), n, 0.975),
            false_positive_bound(len(changes), n, 0.975),
        ),
        indicators=tuple(_indicator(name, heard) for name in names),
        changes=changes,
        failures=tuple(failures),
    )


def _indicator(name: str, heard: Sequence[tuple[LabelledPair, Said, Said]]) -> IndicatorChange:
    sides = [
        [said.indicators.get(name) for said in side]
        for side in ([old for _, old, _ in heard], [new for _, _, new in heard])
    ]
    old, new = ([bool(part and part.flagged) for part in parts] for parts in sides)
    fired = list(zip(old, new, strict=True))
    there = [parts[0] is not None for parts in sides]
    labels = [pair.label for pair, _, _ in heard]
    compare = all(there) and any(label is not None for label in labels)
    return IndicatorChange(
        name=name,
        in_before=there[0],
        in_after=there[1],
        both=fired.count((True, True)),
        only_before=fired.count((True, False)),
        only_after=fired.count((False, True)),
        neither=fired.count((False, False)),
        rates_before=_rates(labels, old) if compare else None,
        rates_after=_rates(labels, new) if compare else None,
    )


def _rates(labels: Sequence[int | None], flagged: Sequence[bool]) -> Rates:
    def share(label: int) -> float | None:
        of_label = [flag for known, flag in zip(labels, flagged, strict=True) if known == label]
        return sum(of_label) / len(of_label) if of_label else None

    return Rates(share(1), share(0))


def _change(pair: LabelledPair, old: Said, new: Said) -> VerdictChange:
    flagging = old if old.verdict is Verdict.FLAG else new
    decided = [name for name, part in flagging.indicators.items() if part.flagged and part.severity != "info"]
    return VerdictChange(
        pair.line, pair.id, old.verdict, new.verdict, tuple(_deciding(name, old, new) for name in decided)
    )


def _deciding(name: str, old: Said, new: Said) -> Deciding:
    numbers = []
    for part in (old.indicators.get(name), new.indicators.get(name)):
        numbers += [part.score if part and not part.skipped_reason else None, part.threshold if part else None]
    return Deciding(name, *numbers)
