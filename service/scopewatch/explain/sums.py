"""The sum that each indicator's score is: bias and summands, which add up to the scored number to the last digit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scopewatch.explain.unusual import benign_pairs, reference_of, share_below, term_share_below
from scopewatch.explanation import Heat, IndicatorExplained, Term
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.stages import Judged
from scopewatch.pipeline.word_counts import OTHER_WORDS
from scopewatch.types import Cleaning
from scopewatch.verdicts import FeatureScore, IndicatorScore
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.reference import Reference

_ODD = "odd characters"
"""What the one summand of an indicator of kind obfuscation is called."""


@dataclass(frozen=True, slots=True)
class Summed:
    """An indicator's score, with every summand of it."""

    source: Indicator
    score: IndicatorScore
    """As it was judged."""
    summands: tuple[FeatureScore, ...]
    """All that are not 0, the largest first."""
    reading: int
    """The number of the reading that was judged."""
    cleaned: bool
    """Whether that is the cleaned one."""


def summed(judged: Judged) -> list[Summed]:
    """Every indicator's score with its summands, in the order of the watchlist.

    Each reading is judged again, for a judgement may name no word of a bag, and does not tell which reading it is of.
    """
    watchlist, (tokenised, covered, *_) = judged.asked.watchlist, judged.read
    by_reading = [
        judge(watchlist, [tokens], [fired], max_evidence=1).indicators
        for tokens, fired in zip(tokenised.readings, covered, strict=True)
    ]
    cleans = watchlist.source.cleaned
    found = []
    for place, (compiled, score) in enumerate(zip(watchlist.indicators, judged.judgement.indicators, strict=True)):
        scores = [indicators[place] for indicators in by_reading]
        reading = max(range(len(scores)), key=lambda one: (not scores[one].skipped_reason, scores[one].score))
        features = scores[reading].features
        if compiled.source.kind == "obfuscation" and not score.skipped_reason:
            share = tokenised.readings[reading].odd_shares.get(compiled.segment, 0.0)
            features = (FeatureScore(_ODD, "", "share", share, share),)
        found.append(
            Summed(
                compiled.source,
                score,
                _ordered(features),
                reading,
                cleaned=cleans is Cleaning.INSTEAD or reading > 0,
            )
        )
    return found


def indicator_explained(one: Summed, heat: Heat, card: tuple[str, ...]) -> IndicatorExplained:
    """What an explanation says of an indicator.

    Args:
        one: Its sum.
        heat: Where it stands on which token.
        card: What its card says.
    """
    source, score = one.source, one.score
    platt, skipped = source.probability, bool(score.skipped_reason)
    reference = None if skipped else reference_of(source, score)
    return IndicatorExplained(
        name=source.name,
        label=source.label,
        kind=source.kind,
        severity=source.severity,
        segment=source.segment,
        score=score.score,
        threshold=score.threshold,
        flagged=score.flagged,
        skipped_reason=score.skipped_reason,
        calibrated=score.calibrated,
        card_warning=score.card_warning,
        cleaned=one.cleaned,
        bias=0.0 if skipped else source.bias,
        slope=platt.slope if platt else None,
        intercept=platt.intercept if platt else None,
        probability=score.probability,
        terms=tuple(_term(source, part, reference) for part in one.summands),
        percentile=share_below(reference, score.score),
        benign_pairs=benign_pairs(reference, score.score),
        heat=heat,
        card=card,
    )


def differing_parts(sums: Mapping[str, Summed]) -> dict[str, list[str]]:
    """Of each combination the indicators that were judged on another reading than it, if there are any, by its name."""
    found = {
        name: [part for term in one.source.combines if (part := term.indicator) and sums[part].reading != one.reading]
        for name, one in sums.items()
    }
    return {name: parts for name, parts in found.items() if parts}


def _ordered(features: Sequence[FeatureScore]) -> tuple[FeatureScore, ...]:
    """Those that are not 0, the largest first; the words that are not named stay the last."""
    told = [part for part in features if part.contribution]
    others = [part for part in told[-1:] if part.feature == OTHER_WORDS]
    named = told[: len(told) - len(others)]
    return (*sorted(named, key=lambda part: -abs(part.contribution)), *others)


def _term(source: Indicator, part: FeatureScore, reference: Reference | None) -> Term:
    key = str(part.feature) if source.kind == "combination" else f"{part.feature} {part.pooling}"
    return Term(
        feature=str(part.feature),
        label=part.label,
        label_source=part.label_source,
        pooling=part.pooling,
        pooled=part.pooled,
        contribution=part.contribution,
        percentile=term_share_below(reference, key, part.pooled),
    )
