"""Two watchlists over the same pairs: which verdicts would change if one took the other's place."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from scopewatch.app.load import load
from scopewatch.app.spine import offline
from scopewatch.config import Config
from scopewatch.errors import NothingUsable
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import LeftOut
from scopewatch.pairs.scored import Scorer, answers
from scopewatch.statistics.bounds import false_positive_bound
from scopewatch.statistics.scores import Interval
from scopewatch.types import ScoreJob
from scopewatch.verdicts import IndicatorScore, ScoredPair, Verdict
from scopewatch.watch.watchlist import Watchlist


@dataclass(frozen=True, slots=True)
class Said:
    """What a watchlist said of one pair."""

    verdict: Verdict
    indicators: Mapping[str, IndicatorScore]
    """What each indicator said, by its name, without features and evidence."""


_Heard = tuple[LabelledPair, Said, Said]
"""A pair, and what was said of it before and after."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The shares of pairs of either label that an indicator flags."""

    tpr: float | None
    """None where no pair has label 1."""
    fpr: float | None
    """None where no pair has label 0."""


@dataclass(frozen=True, slots=True)
class IndicatorChange:
    """How often an indicator fired before and after; one that is new or gone never fires on the side that lacks it."""

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
    """An indicator that flagged the pair on the side where the verdict is FLAG, if one is, as both sides see it."""

    indicator: str
    score_before: float | None
    """None where the indicator was skipped or is not there."""
    threshold_before: float | None
    score_after: float | None
    threshold_after: float | None


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """A pair whose verdict changes."""

    file: str
    line: int
    id: str
    before: Verdict
    after: Verdict
    decided_by: tuple[Deciding, ...]

    @property
    def place(self) -> str:
        """Where a user finds the pair."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A pair that a watchlist could not score."""

    file: str
    line: int
    id: str
    error: str
    """Why, as `reason: message`."""

    @property
    def as_left_out(self) -> LeftOut:
        """The pair among what else is left out."""
        reason, _, detail = self.error.partition(": ")
        return LeftOut(f"{self.file}:{self.line}", reason, detail)


@dataclass(frozen=True, slots=True)
class Replay:
    """What would change, counted over the pairs that both watchlists could score."""

    n: int
    flag_rate_before: float
    flag_rate_after: float
    incomplete_rate_before: float
    """The share of pairs with the verdict INCOMPLETE."""
    incomplete_rate_after: float
    changed: Interval
    """The share of verdicts that change, with its 95 % Clopper-Pearson interval."""
    indicators: tuple[IndicatorChange, ...]
    changes: tuple[VerdictChange, ...]
    failures: tuple[Failure, ...]


async def hear(pairs: Sequence[LabelledPair], score: Scorer, at_once: int) -> list[Said | str]:
    """What a watchlist says of each pair, or why it cannot be scored.

    Args:
        pairs: The pairs, at least one.
        score: The online scorer, with the watchlist as its default one.
        at_once: The most pairs that the scorer is given in one call.

    Raises:
        ScopewatchError: The scorer failed altogether.
    """
    heard: list[Said | str] = []
    for first in tqdm(range(0, len(pairs), at_once), desc="scoring", unit="batch", disable=None):
        jobs = [ScoreJob(item.pair, "", item.id) for item in pairs[first : first + at_once]]
        for outcome in await answers(jobs, score):
            if isinstance(outcome, ScoredPair):
                lean = {part.name: replace(part, features=(), evidence=()) for part in outcome.indicators}
                heard.append(Said(outcome.verdict, lean))
            else:
                heard.append(f"{outcome.reason}: {outcome}")
    return heard


def hear_watchlist(pairs: Sequence[LabelledPair], watchlist: Watchlist, config: Config) -> list[Said | str]:
    """What a watchlist says of each pair, with its own reader and SAEs loaded for it."""

    async def run() -> list[Said | str]:
        async with offline(config, load(config, [watchlist])) as monitor:
            return await hear(pairs, monitor.score, config.at_once)

    return asyncio.run(run())


def replay(pairs: Sequence[LabelledPair], before: Sequence[Said | str], after: Sequence[Said | str]) -> Replay:
    """Compares what two watchlists said of the same pairs.

    Args:
        pairs: The pairs.
        before: What the one watchlist said of each of them, or why it could not score it.
        after: What the other watchlist said.

    Raises:
        NothingUsable: No pair could be scored by both.
    """
    heard, failures = _heard_by_both(pairs, before, after)
    n = len(heard)
    changes = tuple(_change(*each) for each in heard if each[1].verdict != each[2].verdict)
    names = dict.fromkeys([*heard[0][1].indicators, *heard[0][2].indicators])
    return Replay(
        n=n,
        flag_rate_before=sum(old.verdict is Verdict.FLAG for _, old, _ in heard) / n,
        flag_rate_after=sum(new.verdict is Verdict.FLAG for _, _, new in heard) / n,
        incomplete_rate_before=sum(old.verdict is Verdict.INCOMPLETE for _, old, _ in heard) / n,
        incomplete_rate_after=sum(new.verdict is Verdict.INCOMPLETE for _, _, new in heard) / n,
        changed=_share(len(changes), n),
        indicators=tuple(_indicator(name, heard) for name in names),
        changes=changes,
        failures=tuple(failures),
    )


def _share(some: int, n: int) -> Interval:
    """The share of n that are some, with its 95 % Clopper-Pearson interval: each bound has half of the error."""
    return Interval(some / n, 1 - false_positive_bound(n - some, n, 0.975), false_positive_bound(some, n, 0.975))


def _heard_by_both(
    pairs: Sequence[LabelledPair], before: Sequence[Said | str], after: Sequence[Said | str]
) -> tuple[list[_Heard], list[Failure]]:
    failures: list[Failure] = []
    heard: list[_Heard] = []
    for pair, old, new in zip(pairs, before, after, strict=True):
        if isinstance(old, Said) and isinstance(new, Said):
            heard.append((pair, old, new))
        else:
            failures.append(Failure(pair.file, pair.line, pair.id, old if isinstance(old, str) else str(new)))
    if not heard:
        raise NothingUsable(f"none of {len(pairs)} pairs can be scored by both watchlists: {failures[0].error}")
    return heard, failures


def _indicator(name: str, heard: Sequence[_Heard]) -> IndicatorChange:
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
        pair.file, pair.line, pair.id, old.verdict, new.verdict, tuple(_deciding(name, old, new) for name in decided)
    )


def _deciding(name: str, old: Said, new: Said) -> Deciding:
    numbers = []
    for part in (old.indicators.get(name), new.indicators.get(name)):
        numbers += [part.score if part and not part.skipped_reason else None, part.threshold if part else None]
    return Deciding(name, *numbers)
