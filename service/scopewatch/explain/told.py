"""The first paragraph of an explanation: what was looked at, what came of it, and what it does not show."""

from collections.abc import Sequence

from scopewatch.explain.phrases import called, listed, percent, plural
from scopewatch.explain.sums import Summed
from scopewatch.explain.unusual import reference_of, share_below
from scopewatch.identity import Relation
from scopewatch.types import Coverage
from scopewatch.verdicts import Judgement, Verdict

_MEANS = {
    Verdict.FLAG: (
        "FLAG means that something that is watched for was above its threshold, not that anything in the text is wrong."
    ),
    Verdict.PASS: "PASS means that nothing that makes a flag was above its threshold, not that the response is right.",
    Verdict.INCOMPLETE: (
        "INCOMPLETE means that nothing that makes a flag was above its threshold, but that not all was read."
    ),
}
_ODDS = ((0.5, "just above"), (2.0, "above"))
"""Up to how much log-odds above the threshold's a score is called what; beyond, it is far above."""


def summary(judgement: Judgement, sums: Sequence[Summed], words: Sequence[Sequence[str]]) -> str:
    """The first paragraph.

    Args:
        judgement: What the watchlist says of the pair.
        sums: Its indicators.
        words: The words that raised each of them most.
    """
    above = [(one, own) for one, own in zip(sums, words, strict=True) if one.score.flagged]
    noted = [_noted(one, own) for one, own in above if one.score.severity == "info"]
    told = [
        _looked_at(judgement, len(sums)),
        f"The verdict is {judgement.verdict.upper()}.",
        *(_above(one) + _strongest(own) for one, own in above if one.score.severity != "info"),
    ]
    if noted:
        is_ = "is" if len(noted) == 1 else "are"
        told.append(f"For the record, which makes no flag, {listed(noted)} {is_} above the threshold.")
    if not above:
        told.append("No indicator is above its threshold.")
    return " ".join([*told, _MEANS[judgement.verdict]])


def _looked_at(judgement: Judgement, n_indicators: int) -> str:
    """What was read, by whom, and by what it was judged."""
    made_by = judgement.made_by
    whose = "the same model" if made_by.relation is Relation.SAME_MODEL else "another model"
    return (
        f"The reader model “{made_by.reader}” read {_read(judgement.coverage)}, written by {whose}; "
        f"{plural(n_indicators, 'indicator')} of the watchlist “{made_by.watchlist}” judged it."
    )


def _read(coverage: Coverage) -> str:
    """How much of what was read."""
    before = coverage.prompt_tokens + coverage.history_tokens
    behind = f" behind {plural(before, 'token')} of what came before it" if before else ""
    left = ", though not all of it" if coverage.response_tokens_dropped else ""
    return f"a response of {plural(coverage.response_tokens, 'token')}{behind}{left}"


def _above(one: Summed) -> str:
    """That an indicator is above its threshold, and by how much."""
    score, source = one.score, one.source
    told = (
        f"{called(source)} is {_how_far(one)} its threshold (score {score.score:.3g}, threshold {score.threshold:.3g})"
    )
    if score.probability is not None:
        told += f"; by its calibration that is a probability of {percent(score.probability)}"
    below = share_below(reference_of(source, score), score.score)
    if below is not None:
        told += f"; {percent(below) if below < 1 else 'all'} of the benign pairs of its card score less"
    return told


def _noted(one: Summed, words: Sequence[str]) -> str:
    """An indicator that is for the record, with the words that counted most."""
    return f"{called(one.source)} (strongest on {_quoted(words)})" if words else called(one.source)


def _how_far(one: Summed) -> str:
    """How far a score is above its threshold, where the map to a probability says what far is."""
    platt = one.source.probability
    if platt is None:
        return "above"
    odds = platt.slope * (one.score.score - one.score.threshold)
    return next((word for most, word in _ODDS if odds <= most), "far above")


def _strongest(words: Sequence[str]) -> str:
    """The words that counted most."""
    if not words:
        return "."
    return f"; it was strongest on {_quoted(words)}."


def _quoted(words: Sequence[str]) -> str:
    return listed([f"“{word}”" for word in words])
