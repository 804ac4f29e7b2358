"""Scores for callers who are to see a verdict and no slope: rounded, so that small changes of a text show nothing."""

from dataclasses import replace
from math import remainder

from scopewatch.verdicts import Evidence, FeatureScore, IndicatorScore, Judgement

_PROBABILITY_STEP = 0.1


def near(value: float, step: float) -> float:
    """The multiple of a step that is nearest to a value; the value itself where the step is 0."""
    return value - remainder(value, step) if step else value


def rounded(judgement: Judgement, step: float) -> Judgement:
    """A judgement whose scores, and all that they could be added up from, are multiples of a step.

    Whether an indicator is flagged, and the verdict, are of the exact scores. Probabilities are rounded to tenths.

    Args:
        judgement: The exact one.
        step: The step; 0 gives the judgement as it is.
    """
    if not step:
        return judgement

    def feature(part: FeatureScore) -> FeatureScore:
        return replace(part, pooled=near(part.pooled, step), contribution=near(part.contribution, step))

    def span(one: Evidence) -> Evidence:
        return replace(one, activation=near(one.activation, step))

    def indicator(one: IndicatorScore) -> IndicatorScore:
        probability = one.probability
        if probability is not None:
            probability = round(round(probability / _PROBABILITY_STEP) * _PROBABILITY_STEP, 1)
        return replace(
            one,
            score=near(one.score, step),
            probability=probability,
            features=tuple(map(feature, one.features)),
            evidence=tuple(map(span, one.evidence)),
        )

    return replace(judgement, indicators=tuple(map(indicator, judgement.indicators)))
