"""An explanation as lines for a terminal: the verdict, the words behind it, the sums, and how far to trust them."""

from collections.abc import Iterator
from textwrap import wrap

from scopewatch.explanation import Explanation, IndicatorExplained
from scopewatch.report.heat import Choice, choices
from scopewatch.report.phrases import QUADRANTS, VERDICTS, by_weight, outcome, probability, unusual, words_at
from scopewatch.report.pieces import pieces_of
from scopewatch.report.visible import one_line, visible
from scopewatch.report.waterfall import Step, waterfall

_WIDTH = 96
_MOST_TERMS = 6
_MOST_FLAGGED, _MOST_OTHERS = 4, 6
_MOST_TRUST, _MOST_SENTENCES = 8, 6
_LONGEST_EXCERPT = 600
_BEFORE = 120
"""How many characters of a long text stand before its hottest word."""
_HOT = 3
"""The level of heat, of 9, from which on a word is marked."""


def explanation_text(explanation: Explanation) -> str:
    """An explanation in lines; no text of the pair can steer the terminal."""
    lines = [
        f"{VERDICTS[explanation.verdict]}  {one_line(explanation.request_id, 60)}",
        *(f"  not judged whole: {one_line(reason, 200)}" for reason in explanation.incomplete),
        *_wrapped(explanation.summary, ""),
        "",
        *_marked(explanation),
        *_indicators(explanation),
        *_sentences(explanation),
        *_matters(explanation),
        *_trust(explanation),
    ]
    return "\n".join(visible(line).rstrip() for line in lines).rstrip()


def _wrapped(text: str, indent: str, first: str | None = None) -> list[str]:
    begin = indent if first is None else first
    return wrap(" ".join(text.split()), _WIDTH, initial_indent=begin, subsequent_indent=indent)


def _marked(explanation: Explanation) -> Iterator[str]:
    """The text with the hottest word, its hot words in guillemets."""
    found = next(iter(choices(explanation)), None)
    if found is None:
        return
    hottest = max(found.heat, key=lambda token: abs(found.heat[token]))
    number = explanation.tokens.text[hottest]
    yield f"Where {found.name} was strongest, in the {explanation.texts[number].segment}"
    yield from _wrapped(_excerpt(explanation, found, number, explanation.tokens.start[hottest]), "  ")
    yield ""


def _excerpt(explanation: Explanation, choice: Choice, number: int, hottest: int) -> str:
    text = explanation.texts[number].text
    start = max(0, hottest - _BEFORE) if len(text) > _LONGEST_EXCERPT else 0
    parts, done = ["… " if start else ""], start
    for piece in pieces_of(explanation)[number]:
        if piece.start < start or piece.end > start + _LONGEST_EXCERPT:
            continue
        if choice.level(choice.at(piece)) >= _HOT:
            word = text[piece.start : piece.end]
            blank = len(word) - len(word.lstrip())
            parts += [text[done : piece.start + blank], f"«{word.strip()}»" if word.strip() else ""]
            done = piece.end
    end = min(len(text), max(done, start + _LONGEST_EXCERPT))
    return "".join([*parts, text[done:end], " …" if end < len(text) else ""]).replace("»«", "").replace("» «", " ")


def _indicators(explanation: Explanation) -> Iterator[str]:
    """The sums of those that flagged, and a line on each of the others."""
    labels = {one.name: one.label for one in explanation.indicators}
    raised = [one for one in by_weight(explanation.indicators) if outcome(one) in {"flagged", "noted"}]
    others = [one for one in by_weight(explanation.indicators) if outcome(one) not in {"flagged", "noted"}]
    for one in raised[:_MOST_FLAGGED]:
        yield from _sum(one, labels)
        yield ""
    for one in raised[_MOST_FLAGGED:]:
        yield _headline(one)
    yield from map(_headline, others[:_MOST_OTHERS])
    if len(others) > _MOST_OTHERS:
        yield f"and {len(others) - _MOST_OTHERS} more that did not flag"
    if others:
        yield ""


def _headline(indicator: IndicatorExplained) -> str:
    name = f"{one_line(indicator.label or indicator.name, 72)}: {outcome(indicator)}"
    if indicator.skipped_reason:
        return f"{name}, {one_line(indicator.skipped_reason, 100)}"
    shown = waterfall(indicator, 0)
    unknown = "" if indicator.calibrated else "; uncalibrated"
    rare = unusual(indicator.percentile, "benign pairs")
    return f"{name}, score {shown.score}, threshold {shown.threshold}{rare and f'; {rare}'}{unknown}"


def _sum(indicator: IndicatorExplained, labels: dict[str, str]) -> Iterator[str]:
    """The sum of an indicator in aligned lines that add up."""
    shown = waterfall(indicator, _MOST_TERMS)
    width = max(len(one) for one in (shown.score, *(step.adds for step in shown.steps)))
    yield _headline(indicator)
    for step in shown.steps:
        yield f"  {step.adds:>{width}}  {_named(step, labels)}"
    yield f"  {shown.score:>{width}}  score"
    if indicator.probability is not None:
        yield f"  probability {probability(indicator)}"


def _named(step: Step, labels: dict[str, str]) -> str:
    if step.term is None:
        return step.name
    term = step.term
    label = term.label or labels.get(term.feature, "")
    rare = unusual(term.percentile, "benign pairs")
    feature = one_line(term.feature, 60)
    name = feature if label in {"", term.feature} else f"{one_line(label, 48)} ({feature})"
    return f"{name}, {one_line(term.pooling, 30) or 'score'} {term.pooled:.3g}{rare and f', {rare}'}"


def _sentences(explanation: Explanation) -> Iterator[str]:
    """Where the sentences stand of which that is known, those first that are to be looked at first."""
    order = list(QUADRANTS)
    known = [one for one in explanation.sentences if one.quadrant]
    if not known:
        return
    yield "Sentences: hedged or asserted, and expected by the reader or not"
    width = max(len(QUADRANTS[one.quadrant]) for one in known)
    for one in sorted(known, key=lambda one: order.index(one.quadrant))[:_MOST_SENTENCES]:
        said = one_line(words_at(explanation, one.text, one.start, one.end), _WIDTH - width - 4)
        yield f"  {QUADRANTS[one.quadrant]:{width}}  {said}"
    if len(known) > _MOST_SENTENCES:
        yield f"  and {len(known) - _MOST_SENTENCES} more"
    yield ""


def _matters(explanation: Explanation) -> Iterator[str]:
    """What came of taking features out of the reader, and words out of the text."""
    labels = {one.name: one.label or one.name for one in explanation.indicators}
    for one in explanation.ablations:
        name = one_line(labels.get(one.indicator, one.indicator), 72)
        yield from _wrapped(one.conclusion, "  ", f"Does it matter? {name}: ")
    if explanation.deletion:
        yield from _wrapped(explanation.deletion.conclusion, "  ", "Fewer words: ")
    if explanation.ablations or explanation.deletion:
        yield ""


def _trust(explanation: Explanation) -> Iterator[str]:
    if explanation.trust:
        yield "How far to trust this"
    for sentence in explanation.trust[:_MOST_TRUST]:
        yield from _wrapped(sentence, "    ", "  - ")
    if len(explanation.trust) > _MOST_TRUST:
        yield f"  and {len(explanation.trust) - _MOST_TRUST} more"
