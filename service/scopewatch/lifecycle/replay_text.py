"""A replay in words and tables, for a terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping

from scopewatch.lifecycle.replay import IndicatorChange, Rates, Replay, VerdictChange
from scopewatch.pairs.labelled import LabelledPair


def replay_lines(result: Replay, limit: int, texts: Mapping[str, LabelledPair]) -> Iterator[str]:
    """What would change, in lines.

    Args:
        result: The replay.
        limit: The most changed verdicts that are shown.
        texts: The pairs whose texts are shown too, by their places.
    """
    share = result.changed
    yield (
        f"{result.n} pairs; flagged: {result.flag_rate_before:.2%} before, {result.flag_rate_after:.2%} after; "
        f"incomplete: {result.incomplete_rate_before:.2%} before, {result.incomplete_rate_after:.2%} after"
    )
    turns = Counter(f"{change.before} to {change.after}" for change in result.changes)
    turned = ": " + ", ".join(f"{count} {turn}" for turn, count in sorted(turns.items())) if turns else ""
    yield (
        f"verdicts that change: {len(result.changes)} ({share.value:.2%}, 95 % interval {share.low:.2%} to "
        f"{share.high:.2%}){turned}"
    )
    yield f"\n{'flagged by':32} {'both':>8} {'only before':>12} {'only after':>12} {'neither':>8}"
    yield from map(_indicator, result.indicators)
    for change in result.changes[:limit]:
        yield from _change(change, texts.get(change.place))
    if (more := len(result.changes) - limit) > 0:
        yield f"and {more} more; --limit-shown shows them, --json has all"


def _indicator(row: IndicatorChange) -> str:
    there = "" if row.in_before and row.in_after else "  new" if row.in_after else "  gone"
    counts = f"{row.both:8} {row.only_before:12} {row.only_after:12} {row.neither:8}"
    return f"{row.name:32} {counts}{there}{_rates(row.rates_before, row.rates_after)}"


def _change(change: VerdictChange, shown: LabelledPair | None) -> Iterator[str]:
    decided = ", ".join(
        f"{part.indicator} {_number(part.score_before)} of {_number(part.threshold_before)}"
        f" -> {_number(part.score_after)} of {_number(part.threshold_after)}"
        for part in change.decided_by
    )
    why = f": {decided}" if decided else ""
    yield f"{change.place}, id {change.id}: {change.before} -> {change.after}{why}"
    if shown:
        yield f"    prompt: {shown.pair.prompt!r}\n    response: {shown.pair.response!r}"


def _rates(before: Rates | None, after: Rates | None) -> str:
    if before is None or after is None:
        return ""
    return f"  TPR {_number(before.tpr)} -> {_number(after.tpr)}, FPR {_number(before.fpr)} -> {_number(after.fpr)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
