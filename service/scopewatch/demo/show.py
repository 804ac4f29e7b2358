"""Shows a reply as text for people: the verdict, the indicators, and the words on which features fired, marked."""

import string
from collections.abc import Iterable

from scopewatch.client import pb
from scopewatch.words.whole import whole_words

_VERDICT = {pb.VERDICT_PASS: "PASS", pb.VERDICT_FLAG: "FLAG", pb.VERDICT_INCOMPLETE: "INCOMPLETE"}
_MAX_TEXT = 360
"""The most characters of a response that are shown around its evidence."""
_MAX_LABELS = 3
"""The most features that are shown with their labels under a flagged indicator."""


def describe(reply: pb.ScoreResponse, prompt: str, response: str) -> str:
    """A reply in several lines.

    Args:
        reply: The reply; evidence is marked only if it was asked for.
        prompt: The prompt that was scored.
        response: The response that was scored.
    """
    coverage, timings = reply.coverage, reply.timings
    cut = " (cut to fit)" if coverage.truncated else ""
    source = "from cache" if reply.cached else "computed"
    lines = [
        f"{_VERDICT[reply.verdict]}  {coverage.tokens} tokens{cut}, {source}, {1000 * timings.total_s:.1f} ms",
        f"  prompt    {_short(prompt) or '(empty)'}",
        f"  response  {_short(response)}",
    ]
    lines += [f"  not judged whole: {reason}" for reason in reply.incomplete]
    for score in reply.indicators:
        lines += _indicator(score, response)
    if reply.label_note:
        lines.append(f"  {reply.label_note}")
    return "\n".join(lines)


def _indicator(score: pb.IndicatorScore, response: str) -> list[str]:
    """An indicator's line, and if it is flagged, the response with its evidence and the features that raised it."""
    if score.skipped_reason:
        return [f"  {score.name:18} not scored: {score.skipped_reason}"]
    mark = ("note" if score.severity == pb.SEVERITY_INFO else "FLAG") if score.flagged else "    "
    probability = f"  p={score.probability:.2f}" if score.HasField("probability") else ""
    why = f": {score.card_warning}" if score.card_warning else ""
    known = "" if score.calibration == pb.CALIBRATION_CALIBRATED else f"  uncalibrated{why}"
    lines = [f"  {mark} {score.name:18} score {score.score:7.2f}  threshold {score.threshold:6.2f}{probability}{known}"]
    if score.flagged and score.evidence:
        lines.append(f"       {_marked(response, score.evidence)}")
    if score.flagged:
        lines += _labelled(score)
    return lines


def _labelled(score: pb.IndicatorScore) -> list[str]:
    """Lines with the labelled features that raised the score most."""
    raised = [part for part in score.features if part.contribution > 0 and part.label]
    return [f"       {part.contribution:+7.2f}  {part.feature}  {_short(part.label)}" for part in raised[:_MAX_LABELS]]


def _marked(text: str, evidence: Iterable[pb.Evidence]) -> str:
    """The response with evidence words in guillemets, shortened around the first of them."""
    marked = bytearray(len(text))
    for span in evidence:
        if span.segment == pb.SEGMENT_RESPONSE:
            start, end = whole_words(text, span.start, span.end)
            if all(letter in string.punctuation for letter in text[start:end]):
                # Features often fire on the full stop that ends a sentence; people look for words.
                continue
            marked[start:end] = b"\x01" * (end - start)
    shown, inside = "", False
    first = max(0, marked.find(1) - 80)
    for position, letter in enumerate(text[first : first + _MAX_TEXT], first):
        if bool(marked[position]) != inside:
            shown += "»" if inside else "«"
            inside = not inside
        shown += letter
    shown += "»" if inside else ""
    shown = shown.replace("» «", " ").replace("»«", "")
    before, after = "… " if first else "", " …" if first + _MAX_TEXT < len(text) else ""
    return before + " ".join(shown.split()) + after


def _short(text: str) -> str:
    """A text on one line, cut to at most 100 characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 100 else f"{flat[:97]}…"
