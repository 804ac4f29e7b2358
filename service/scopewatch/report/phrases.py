"""What the page and the terminal both say of an explanation, in the same words."""

from collections.abc import Sequence

from scopewatch.explanation import Explanation, IndicatorExplained, Quadrant

VERDICTS = {"pass": "PASS", "flag": "FLAG", "incomplete": "INCOMPLETE"}
QUADRANTS: dict[Quadrant, str] = {
    "check_first": "look here first",
    "speculative": "speculative",
    "cautious": "cautious",
    "solid": "solid",
    "": "not known",
}
QUADRANT_MEANS: dict[Quadrant, str] = {
    "check_first": "asserted, though the reader did not expect it",
    "speculative": "hedged, and the reader did not expect it",
    "cautious": "hedged, though the reader expected it",
    "solid": "asserted, and the reader expected it",
    "": "its hedging or how expected it was is not known",
}


def share(value: float) -> str:
    """A share between 0 and 1 in percent, never rounded to all or nothing."""
    if 0 < value < 0.005:
        return "less than 1 %"
    if 0.995 <= value < 1:
        return "more than 99 %"
    return f"{100 * value:.0f} %"


def unusual(percentile: float | None, of: str = "the benign pairs its card was made with") -> str:
    """How a number lies among those of benign pairs; empty where no card knows."""
    match percentile:
        case None:
            return ""
        case 0:
            return f"lower than all of {of}"
        case 1:
            return f"higher than all of {of}"
    return f"higher than {share(percentile)} of {of}"


def probability(indicator: IndicatorExplained) -> str:
    """The probability with the formula that gives it; empty where the indicator has none."""
    if indicator.probability is None:
        return ""
    chance = _chance(indicator.probability)
    if indicator.slope is None or indicator.intercept is None:
        return chance
    slope = "" if indicator.slope == 1 else f"{indicator.slope:.4g} * "
    intercept = f" {indicator.intercept:+.4g}".replace("+", "+ ").replace("-", "- ") if indicator.intercept else ""
    return f"{chance} = 1 / (1 + exp(-({slope}{indicator.score:.4g}{intercept})))"


def _chance(value: float) -> str:
    """A probability to three digits, and to as many more as show that it is neither 0 nor 1."""
    if 0 < value < 0.0005:
        return f"{value:.2g}"
    return f"1 - {1 - value:.2g}" if 0.9995 <= value < 1 else f"{value:.3f}"


def outcome(indicator: IndicatorExplained) -> str:
    """What became of an indicator, in one word or two."""
    if indicator.skipped_reason:
        return "not scored"
    if not indicator.flagged:
        return "below"
    return "noted" if indicator.severity == "info" else "flagged"


def by_weight(indicators: Sequence[IndicatorExplained]) -> list[IndicatorExplained]:
    """Indicators in the order in which people look at them: flagged, noted, below and not scored."""
    order = ("flagged", "noted", "below", "not scored")
    return sorted(indicators, key=lambda one: (order.index(outcome(one)), one.threshold - one.score))


def words_at(explanation: Explanation, text: int, start: int, end: int) -> str:
    """The letters at a place; empty where the document does not hold the text."""
    return explanation.texts[text].text[start:end] if text < len(explanation.texts) else ""
