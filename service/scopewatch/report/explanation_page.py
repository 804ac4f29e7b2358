"""The page of one pair: why it got its verdict, and how far that can be trusted."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scopewatch.explanation import BenignPair, Explanation, IndicatorExplained, Sentence
from scopewatch.report.heat import Choice, choices, for_script
from scopewatch.report.page import Number, beside, look, rendered
from scopewatch.report.phrases import (
    QUADRANT_MEANS,
    QUADRANTS,
    VERDICTS,
    by_weight,
    outcome,
    probability,
    share,
    unusual,
    words_at,
)
from scopewatch.report.pieces import MOST_SENTENCES, Piece, ShownText, shown_texts, struck_out
from scopewatch.report.visible import one_line
from scopewatch.report.waterfall import Waterfall, waterfall

_MOST_GRAVE = 3
"""How many sentences on trust stand at the top of the page; all of them stand below."""
_MOST_FIRST = 5
"""How many sentences to look at first stand at the top of the page."""
_MOST_TERMS = 12
_DEEPEST = 3
"""How deep the sums of a combination's parts are nested."""
_STRONGEST = 8
_COLUMNS = 160
_LONGEST_QUOTE = 300
_LONGEST_REFERENCE = 1500


@dataclass(frozen=True, slots=True)
class _Compared:
    """A benign pair beside the one that is explained."""

    pair: BenignPair
    unusual: str
    text: str
    """Its text, if the operator has it at hand."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """An indicator with its sum."""

    indicator: IndicatorExplained
    outcome: str
    waterfall: Waterfall | None
    unusual: str
    probability: str
    compared: tuple[_Compared, ...]
    parts: tuple["_Sum", ...]
    """The sums of the indicators that a combination adds up."""


@dataclass(frozen=True, slots=True)
class _Quoted:
    """A sentence of the response with its number on the page."""

    number: int
    sentence: Sentence
    quote: str


@dataclass(frozen=True, slots=True)
class _Strip:
    """The share of each token that an SAE does not explain, as the outline of columns; 100 units high."""

    path: str
    columns: int
    tokens: int
    """How many tokens a column stands for."""


def explanation_html(explanation: Explanation, *, references: Mapping[str, str] = {}) -> str:
    """One HTML page that needs nothing else: no script but its own runs, and no text leaves its place.

    Args:
        explanation: The explanation.
        references: The texts of benign pairs by their ids, from the operator's own file. Shown are those that the
            explanation names.
    """
    choosable = choices(explanation)
    texts = shown_texts(explanation, lambda piece: _start_tag(choosable[0], piece) if choosable else '<span class="t">')
    pieces = [piece for text in texts for piece in text.pieces]
    sums = [_sum(one, explanation, references) for one in by_weight(explanation.indicators)]
    quoted = _quoted(explanation)
    style, script = look() + beside("explanation.css"), beside("explanation.js")
    return rendered(
        "explanation.html",
        e=explanation,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        verdict=VERDICTS[explanation.verdict],
        tiles=_tiles(explanation),
        grave=explanation.trust[:_MOST_GRAVE],
        first=[one for one in quoted if one.sentence.quadrant == "check_first"][:_MOST_FIRST],
        texts=texts,
        choices=choosable,
        strongest=_strongest(explanation, choosable, texts),
        sums=sums,
        labels={one.name: one.label for one in explanation.indicators},
        quoted=quoted,
        sentences_left_out=len(explanation.sentences) - len(quoted),
        quadrants=QUADRANTS,
        means=QUADRANT_MEANS,
        strips=[_strips(explanation, sae.unexplained) for sae in explanation.saes],
        struck=_struck(explanation),
        words_at=lambda text, start, end: one_line(words_at(explanation, text, start, end), 60),
        share=share,
        unusual=unusual,
        data=for_script(explanation, choosable, pieces),
    )


def _hash(block: str) -> str:
    """What a content security policy calls a style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()


def _start_tag(choice: Choice, piece: Piece) -> str:
    """The start tag of a piece, which is hot where the script does not run too."""
    value = choice.at(piece)
    level = choice.level(value)
    heat = f' {"h" if level > 0 else "l"}{abs(level)}" title="{value:+.3g}' if level else ""
    return f'<span class="t{heat}">'


def _tiles(explanation: Explanation) -> list[Number]:
    """The numbers that matter most."""
    flagged = sum(outcome(one) == "flagged" for one in explanation.indicators)
    coverage = explanation.coverage
    tiles = [
        Number("Flagged", f"{flagged} of {len(explanation.indicators)}", "indicators of the watchlist"),
        Number(
            "Read of the pair",
            "not all of it" if coverage.truncated else "all of it",
            f"{coverage.tokens:,} tokens, {coverage.response_tokens:,} of the response",
        ),
    ]
    for sae in explanation.saes:
        for part in sae.segments:
            if part.unexplained is not None and part.segment == "response":
                most = ": more than half, so what matters may be in it" if part.unexplained > 0.5 else ""
                detail = f"of the response, by {one_line(sae.sae, 40)}{most}"
                tiles.append(Number("Not explained", share(part.unexplained), detail))
    return tiles


def _strongest(
    explanation: Explanation, choosable: Sequence[Choice], texts: Sequence[ShownText]
) -> list[tuple[str, str]]:
    """The hottest pieces of the default choice, with their numbers."""
    if not choosable:
        return []
    found = [(choosable[0].at(piece), text.number, piece) for text in texts for piece in text.pieces]
    hot = sorted((one for one in found if one[0]), key=lambda one: -abs(one[0]))[:_STRONGEST]
    return [
        (one_line(words_at(explanation, text, piece.start, piece.end), 40), f"{value:+.3g}")
        for value, text, piece in hot
    ]


def _sum(
    indicator: IndicatorExplained, explanation: Explanation, references: Mapping[str, str], above: tuple[str, ...] = ()
) -> _Sum:
    """An indicator with its sum, and those of its parts that are no part of themselves."""
    above = (*above, indicator.name)
    named = {one.name: one for one in explanation.indicators}
    parts = [named[term.feature] for term in indicator.terms if term.feature in named.keys() - set(above)]
    nested = indicator.kind == "combination" and len(above) < _DEEPEST
    return _Sum(
        indicator,
        outcome(indicator),
        None if indicator.skipped_reason else waterfall(indicator, _MOST_TERMS),
        unusual(indicator.percentile),
        probability(indicator),
        tuple(
            _Compared(pair, unusual(pair.percentile, "them"), references.get(pair.id, "")[:_LONGEST_REFERENCE])
            for pair in indicator.benign_pairs
        ),
        tuple(_sum(part, explanation, references, above) for part in parts) if nested else (),
    )


def _quoted(explanation: Explanation) -> list[_Quoted]:
    return [
        _Quoted(number, one, one_line(words_at(explanation, one.text, one.start, one.end), _LONGEST_QUOTE))
        for number, one in enumerate(explanation.sentences[:MOST_SENTENCES], 1)
    ]


def _strips(explanation: Explanation, unexplained: Sequence[float]) -> dict[str, _Strip]:
    """A strip for each segment that was measured."""
    by_segment: dict[str, list[float]] = {}
    for text, value in zip(explanation.tokens.text, unexplained, strict=False):
        by_segment.setdefault(explanation.texts[text].segment, []).append(min(value, 1.0))
    return {segment: _strip(values) for segment, values in by_segment.items()}


def _strip(values: Sequence[float]) -> _Strip:
    tokens = math.ceil(len(values) / _COLUMNS)
    heights = [round(100 * fmean(values[at : at + tokens])) for at in range(0, len(values), tokens)]
    path = "".join(f"M{at} 100v-{height}h1v{height}z" for at, height in enumerate(heights))
    return _Strip(path, len(heights), tokens)


def _struck(explanation: Explanation) -> list[tuple[str, str]]:
    """The texts that words were deleted from, as HTML, with their segments."""
    words = explanation.deletion.words if explanation.deletion else ()
    return [
        (text.segment, struck_out(text.text, [span for span in words if span.text == number]))
        for number, text in enumerate(explanation.texts)
        if any(span.text == number for span in words)
    ]
