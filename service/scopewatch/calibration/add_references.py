"""The recipe for the references of cards that are there: benign pairs, scored as the service would score them.

Where an indicator shows hedging, each of their sentences is scored too.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scopewatch.app.load import load
from scopewatch.app.spine import Spine, offline
from scopewatch.calibration.benign_pairs import BenignPairs, Choice, benign_pairs
from scopewatch.calibration.reference import SentenceValues, scored_reference
from scopewatch.config import Config
from scopewatch.errors import ScopewatchError, WatchlistError
from scopewatch.explain.sentence_scores import sentence_scores
from scopewatch.identity import EngineIdentity
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.scored import score_pairs
from scopewatch.pipeline.stages import Judged
from scopewatch.types import ScoreJob, Segment
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.reference import LEVELS, Reference
from scopewatch.watch.terms import CombinedTerm
from scopewatch.watch.watchlist import Watchlist


@dataclass(frozen=True, slots=True)
class Referenced:
    """References that were made, and what was read for each."""

    references: Mapping[str, Reference]
    """By the name of the indicator."""
    tallies: Mapping[str, Tally]
    """By the name of the indicator, the rows of the files and what was left out of them."""
    skipped: tuple[str, ...]
    """The names of the indicators that were not asked for by name and have no card."""

    def lines(self) -> list[str]:
        """What was made, in lines for a terminal."""
        told = [
            f"{name}: {one.n:,} benign pairs of {one.data}: score {one.score[0]:.4g} to {one.score[-1]:.4g}, median "
            f"{one.score[LEVELS.index(0.5)]:.4g}, 99 % below {one.score[LEVELS.index(0.99)]:.4g}"
            for name, one in self.references.items()
        ]
        return [*told, *(f"{name}: left as it is, since it has no card; calibrate it first" for name in self.skipped)]


def make_references(
    watchlist: Watchlist,
    names: Sequence[str],
    files: Sequence[Path],
    config: Config,
    *,
    choice: Choice,
    logprob: bool = True,
) -> Referenced:
    """The references that benign pairs make for indicators of a watchlist.

    Args:
        watchlist: The watchlist.
        names: The names of the indicators; none for all that have a card.
        files: The files that hold the pairs.
        config: Settings of the engine.
        choice: Which of the pairs are used.
        logprob: Whether the reader's head is loaded where an indicator shows hedging, so that it is known how well it
            expected single sentences.

    Raises:
        WatchlistError: There is no such indicator, it has no card, or its card does not speak for what runs.
        DataError: The files cannot be used.
        ScopewatchError: The reader or an SAE cannot be loaded, or failed.
    """
    indicators = _wanted(watchlist, names)
    benign = {indicator.name: benign_pairs(indicator, files, choice) for indicator in indicators}
    signals = [_logprob_of(indicator) for indicator in indicators if indicator.shows == "hedging" and logprob]
    loaded = load(config, [replace(watchlist, indicators=(*watchlist.indicators, *signals))])
    _refuse_others(watchlist, indicators, loaded.engine.identity)

    async def run() -> dict[str, _Made]:
        async with offline(config, loaded) as spine:
            return {one.name: await _made(one, benign[one.name], spine, config, choice) for one in indicators}

    made = asyncio.run(run())
    return Referenced(
        {name: one.reference for name, one in made.items()},
        {name: one.tally for name, one in made.items()},
        () if names else tuple(one.name for one in watchlist.indicators if not one.card),
    )


def _wanted(watchlist: Watchlist, names: Sequence[str]) -> list[Indicator]:
    """The indicators of these names, or all that have a card."""
    there = {indicator.name: indicator for indicator in watchlist.indicators}
    mend = "; calibrate it first (scopewatch calibrate), since a reference belongs to a card"
    for name in names:
        if name not in there:
            raise WatchlistError(f"--indicator: {watchlist.file} has no {name!r} ({', '.join(there)})")
        if not there[name].card:
            raise WatchlistError(f"--indicator: {name} of {watchlist.file} has no card{mend}")
    wanted = [there[name] for name in dict.fromkeys(names)] or [one for one in watchlist.indicators if one.card]
    if not wanted:
        raise WatchlistError(f"{watchlist.file}: no indicator has a card{mend}")
    return wanted


def _refuse_others(watchlist: Watchlist, indicators: Sequence[Indicator], running: EngineIdentity) -> None:
    """Refuses cards that were made with something else than what runs, by which the pairs would score otherwise."""
    problems = watchlist.card_problems(running, as_made=True)
    told = [
        f"{watchlist.where('indicators', place, 'card')}: {problems[indicator.name]}"
        for place, indicator in enumerate(watchlist.indicators)
        if indicator in indicators and indicator.name in problems
    ]
    if told:
        raise WatchlistError("\n".join([*told, "calibrate again, or load what the card was made with"]))


def _logprob_of(indicator: Indicator) -> Indicator:
    """What makes the online scorer tell the mean log-probability of the indicator's segment."""
    term = CombinedTerm(signal="mean_logprob", weight=1.0)
    signal = Indicator(name="logprob", kind="combination", segment=indicator.segment, combines=(term,), threshold=0.0)
    return signal.model_copy(update={"name": _logprob_name(indicator)})


def _logprob_name(indicator: Indicator) -> str:
    """A name that no indicator of a file can have."""
    return f"{indicator.name}: mean log-probability"


@dataclass(frozen=True, slots=True)
class _Made:
    reference: Reference
    tally: Tally


async def _made(indicator: Indicator, benign: BenignPairs, spine: Spine, config: Config, choice: Choice) -> _Made:
    heard = _Sentences(spine, indicator)
    score = heard.score if indicator.shows == "hedging" else spine.score
    scored = await score_pairs(
        benign.pairs, [indicator.name], "", score, at_once=config.at_once, reading=choice.reading, pooled=True
    )
    tally = benign.tally.without(scored.left_out).need(indicator.name)
    found = scored.by_indicator[indicator.name]
    values = SentenceValues(heard.scores, heard.logprobs)
    return _Made(scored_reference(benign.told, scored.pairs, indicator, found, values), tally)


@dataclass(slots=True)
class _Sentences:
    """A scorer of pairs that keeps what an indicator says of each single sentence."""

    spine: Spine
    indicator: Indicator
    scores: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    async def score(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        """Scores pairs as the spine does."""
        return list(await asyncio.gather(*map(self._score, jobs)))

    async def _score(self, job: ScoreJob) -> ScoredPair | ScopewatchError:
        try:
            judged = await self.spine.read(job)
            self._keep(judged)
        except ScopewatchError as error:
            return error
        return ScoredPair(judged.judgement, judged.timings, judged.read.cached)

    def _keep(self, judged: Judged) -> None:
        """Keeps what is said of the sentences of the pair as it was first read."""
        segment: Segment = self.indicator.read_segment
        tokens, covered = judged.read.tokenised.readings[0], judged.read.covered[0]
        for sentence in sentence_scores(judged.asked.watchlist, tokens, covered, segment):
            told = {one.name: one.score for one in sentence.indicators if not one.skipped_reason}
            self.scores += [told[name] for name in [self.indicator.name] if name in told]
            self.logprobs += [told[name] for name in [_logprob_name(self.indicator)] if name in told]
