"""Does it matter? What the features behind a flag do: they are taken out of the reader, beside random ones."""

import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from scopewatch.engine.looks import Looks, Steps
from scopewatch.errors import EngineDied, EngineError, NotReady, SaeError
from scopewatch.explain.beyond_random import RESPONSE, change, conclusion
from scopewatch.explain.predictions import logprobs
from scopewatch.explain.texts import ReadTexts
from scopewatch.explanation import Ablation, Change, WordChange
from scopewatch.identity import FeatureKey
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.stages import Judged
from scopewatch.pipeline.word_counts import words_read
from scopewatch.types import CoveredActivations, Float64, Segment, TokenisedPair
from scopewatch.verdicts import IndicatorScore
from scopewatch.watch.indicators import Indicator

T = TypeVar("T")
_MOST_WORDS = 8
"""How many words are told of, of those whose log-probability changed."""
_NO_FEATURES = {
    "probe": "It is made of a probe's directions and of no features: there is nothing to take out of the reader.",
    "words": "It counts words: there is nothing to take out of the reader.",
    "obfuscation": "It counts characters: there is nothing to take out of the reader.",
}


class RunsSteps(Protocol):
    """Drives work of the engine step by step, each when no pair waits to be scored."""

    def __call__(self, steps: Steps[T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class _Run:
    """A pair read again without some features."""

    scores: Mapping[str, float]
    """The score of every indicator that is not skipped, by its name."""
    logprobs: Float64 | None
    """The log-probability of each token of the pair as it was sent; None where the head is not loaded."""
    removed: float


async def ablate(judged: Judged, looks: Looks, steps: RunsSteps, *, controls: int) -> tuple[Ablation, ...]:
    """Measures what the features do that raised the scores of flagged indicators, those of severity info included.

    They are taken out where their SAE reads, of every reading that was judged, and the reader runs on. The same pair
    gives the same numbers: the random sets are drawn by a digest of its tokens and of the indicator.

    Args:
        judged: The pair.
        looks: The engine.
        steps: Runs the engine's work.
        controls: How many random sets of features each is held against, at least 1.

    Returns:
        One for each flagged indicator, in the order of the watchlist. Where nothing can be taken out, or the reader
        fails without it, its conclusion says so, and nothing else is there.

    Raises:
        NotReady: The watchlists were replaced meanwhile.
        EngineDied: The engine is gone.
    """
    flagged = [score for score in judged.judgement.indicators if score.flagged]
    ablating = _Ablating(judged, looks, steps, controls)
    return tuple([await ablating.without(score) for score in flagged])


class _Ablating:
    """The ablations of one pair."""

    def __init__(self, judged: Judged, looks: Looks, steps: RunsSteps, controls: int) -> None:
        self._judged = judged
        self._looks = looks
        self._steps = steps
        self._controls = controls
        self._readings = judged.read.tokenised.readings
        self._sources = {one.source.name: one.source for one in judged.asked.watchlist.indicators}
        self._scores = {score.name: score for score in judged.judgement.indicators}
        self._expected: Float64 | None = None

    async def without(self, score: IndicatorScore) -> Ablation:
        """What changes without the features that raised a score."""
        raised = [feature for feature, added in self._contributions(score.name).items() if added > 0]
        names = tuple(map(str, raised))
        if not raised:
            return Ablation(indicator=score.name, conclusion=self._nothing_to_take_out(self._sources[score.name]))
        try:
            run = await self._run(raised)
            random = [await self._run(raised, _seed(self._readings[0], score.name, n)) for n in range(self._controls)]
            if self._looks.has_head and self._expected is None:
                self._expected = self._logprobs(await self._steps(_at_once(self._looks, self._readings[0])))
        except EngineDied:
            raise
        except (SaeError, EngineError) as error:
            return Ablation(indicator=score.name, features=names, conclusion=f"It could not be measured: {error}")
        changes = tuple(self._changes(run, random))
        made_of_them = [score.name, *(name for name in self._sources if not self._features(name).isdisjoint(raised))]
        return Ablation(
            indicator=score.name,
            features=names,
            controls=self._controls,
            removed=run.removed,
            changes=changes,
            words=self._words(run),
            conclusion=conclusion(changes, made_of_them, features=len(raised), controls=self._controls),
        )

    def _contributions(self, name: str) -> dict[FeatureKey, float]:
        """What each SAE feature that an indicator is made of, itself or by its parts, adds to its score."""
        added: defaultdict[FeatureKey, float] = defaultdict(float)
        source = self._sources[name]
        for term in self._scores[name].features if source.kind == "features" else ():
            if isinstance(term.feature, FeatureKey):
                added[term.feature] += term.contribution
        for part in source.combines:
            for feature, contribution in self._contributions(part.indicator).items() if part.indicator else ():
                added[feature] += part.weight * contribution
        return added

    def _features(self, name: str) -> set[FeatureKey]:
        """The SAE features that an indicator is made of, itself or by its parts."""
        source = self._sources[name]
        own = {feature.key for feature in source.features}
        return own.union(*(self._features(part.indicator) for part in source.combines if part.indicator))

    def _nothing_to_take_out(self, source: Indicator) -> str:
        if source.kind in _NO_FEATURES:
            return _NO_FEATURES[source.kind]
        if source.kind == "combination" and not any(
            self._sources[part.indicator].kind == "features" for part in source.combines if part.indicator
        ):
            return "None of its parts is made of features: there is nothing to take out of the reader."
        return "None of its features raised its score: there is nothing to take out of the reader."

    async def _run(self, features: Sequence[FeatureKey], seed: int | None = None) -> _Run:
        """Reads the pair without features, or without random ones in their place."""
        removed = [await self._steps(self._looks.remove(tokens, features, seed=seed)) for tokens in self._readings]
        covered = [one.covered for one in removed]
        watchlist = self._judged.asked.watchlist
        if any(watchlist.slots_of(one.table) is None for one in covered):
            raise NotReady("the watchlists are being replaced; try again")
        judgement = judge(watchlist, self._readings, covered, max_evidence=0)
        scores = {score.name: score.score for score in judgement.indicators if not score.skipped_reason}
        return _Run(scores, self._logprobs(covered[0]), removed[0].removed)

    def _logprobs(self, covered: CoveredActivations) -> Float64 | None:
        return logprobs(covered, self._judged.asked.watchlist.made_by.reader_digest)

    def _changes(self, run: _Run, random: Sequence[_Run]) -> list[Change]:
        """What became of the response's log-probability, where it is known, and of every score."""
        changes = []
        response = self._readings[0].segments == Segment.RESPONSE
        each = [one.logprobs for one in random]
        if self._expected is not None and run.logprobs is not None and response.any():
            means = [float(one[response].mean()) for one in each if one is not None]
            before, after = (float(one[response].mean()) for one in (self._expected, run.logprobs))
            changes.append(change(RESPONSE, before, after, means))
        for name, after in run.scores.items():
            changes.append(change(name, self._scores[name].score, after, [one.scores[name] for one in random]))
        return changes

    def _words(self, run: _Run) -> tuple[WordChange, ...]:
        """The words of the response whose log-probability changed most, the most changed first."""
        if self._expected is None or run.logprobs is None:
            return ()
        tokens = self._readings[0]
        words = words_read(tokens, Segment.RESPONSE)
        starts, ends = words.places[:, 1], words.places[:, 2]
        mine = np.flatnonzero(tokens.segments == Segment.RESPONSE)
        # A token is of the first word that ends behind its beginning, if it reaches into that.
        word = np.searchsorted(ends, tokens.starts[mine], side="right")
        reaches = word < len(ends)
        reaches[reaches] &= starts[word[reaches]] < tokens.ends[mine][reaches]
        changed = (run.logprobs - self._expected)[mine]
        sums = np.bincount(word[reaches], changed[reaches], minlength=len(ends))
        most = [place for place in np.argsort(-np.abs(sums), kind="stable")[:_MOST_WORDS].tolist() if sums[place]]
        text = ReadTexts.of(self._judged.asked.job.pair, tokens).number_of(Segment.RESPONSE, 0)
        return tuple(
            WordChange(text=text, start=int(starts[place]), end=int(ends[place]), change=float(sums[place]))
            for place in most
        )


def _at_once(looks: Looks, tokens: TokenisedPair) -> Steps[CoveredActivations]:
    """The pair as it is, in one step of the engine."""
    yield
    return looks.read(tokens)


def _seed(tokens: TokenisedPair, indicator: str, number: int) -> int:
    """The seed of a random set: the same for the same pair, indicator and number."""
    digest = hashlib.sha256(tokens.ids.tobytes() + f"{indicator} {number}".encode())
    return int.from_bytes(digest.digest()[:4], "big")
