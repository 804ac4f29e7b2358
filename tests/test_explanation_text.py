"""An explanation on a terminal: it fits, it adds up, and no text of the pair steers what it is printed on."""

import re
from collections.abc import Callable
from decimal import Decimal

import pytest

import explanations
from scopewatch.explanation import Explanation
from scopewatch.report.explanation_text import explanation_text
from scopewatch.report.phrases import probability

EVERY = [explanations.flagged, explanations.plain, explanations.hostile, explanations.huge, explanations.empty]


def test_what_matters_is_told() -> None:
    """Verdict, summary, marked words, sums with percentiles, what to look at first, and how far to trust it."""
    made = explanations.flagged()
    text = explanation_text(made)
    flat = " ".join(text.split())

    assert text.startswith("FLAG  req-2291\n")
    assert made.summary in flat
    assert "Ibuprofen «probably» narrowed" in flat
    assert "You will need dialysis within ten days. It «may also» be that" in flat, "what lowers a score is not marked"
    assert "hedging: flagged, score 1.589, threshold 0.000; higher than 93 % of benign pairs" in text
    assert "+1.271  hedging, score 1.59, higher than 93 % of benign pairs" in text
    assert "+0.368  claims without support (no_support), score 0.614" in text
    assert "probability 0.903 = 1 / (1 + exp(-(2.4 * 1.389 - 1.1)))" in text
    assert "claims without support: below, score 0.614, threshold 1.500" in text
    assert "tone: not scored, the pair has no history that it could read" in text
    assert f"look here first  {explanations.SENTENCES[2]}\n  speculative      {explanations.SENTENCES[3][:60]}" in text
    assert all(f": {one.conclusion}" in flat for one in made.ablations)
    assert f"Fewer words: {made.deletion.conclusion}" in flat
    assert [] == [sentence for sentence in made.trust if sentence not in flat]


@pytest.mark.parametrize("made", EVERY)
def test_sums_add_up(made: Callable[[], Explanation]) -> None:
    """The numbers above each score come to it, to the last digit, and stand below each other."""
    blocks = re.findall(r"((?:^ +[+-][\d.]+  .*\n)+)^ +(-?[\d.]+)  score$", explanation_text(made()), re.MULTILINE)

    assert len(blocks) == min(4, sum(one.flagged and not one.skipped_reason for one in made().indicators))
    for lines, score in blocks:
        numbers = re.findall(r"^( +)([+-][\d.]+)", lines, re.MULTILINE)
        assert Decimal(score) == sum(Decimal(number) for _, number in numbers)
        assert 1 == len({len(blank) + len(number) for blank, number in numbers})


@pytest.mark.parametrize("made", EVERY)
def test_it_fits_a_terminal(made: Callable[[], Explanation]) -> None:
    """However many flagged, at most eighty lines, none of them endless, and none that ends in spaces."""
    lines = explanation_text(made()).splitlines()

    assert len(lines) <= 80
    assert max(map(len, lines)) <= 260
    assert [] == [line for line in lines if line != line.rstrip()]


def test_a_usual_pair_fits_a_screen() -> None:
    """A flagged pair of which everything is told takes at most sixty lines of at most a hundred columns."""
    lines = explanation_text(explanations.flagged()).splitlines()

    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("made", EVERY)
def test_no_text_steers_the_terminal(made: Callable[[], Explanation]) -> None:
    """Of a hostile text no control is printed: escapes, overrides and NUL are told by their numbers."""
    text = explanation_text(made())

    assert [] == [letter for letter in text if letter != "\n" and not letter.isprintable() and letter != "\u200d"]
    if made is explanations.hostile:
        assert "[U+001B][31m" in text
        assert "[U+202E]reversed[U+202C]" in text


def test_a_pair_that_passed_is_short() -> None:
    """Without flags there are no sums; each indicator has a line, which says where it is uncalibrated."""
    text = explanation_text(explanations.plain())

    assert text.startswith("PASS  req-1\n")
    assert "hedging: below, score -0.875, threshold 0.500; uncalibrated" in text
    assert " score\n" not in text


def test_what_was_not_judged_whole_says_so() -> None:
    """The reasons stand below the verdict, and a text is cut around its hottest word."""
    text = explanation_text(explanations.huge())

    assert re.match(r"INCOMPLETE  x+…\n  not judged whole: the response was cut\n", text)
    assert re.search(r"^  … «?<+", text, re.MULTILINE)
    assert text.count(": flagged, score 30.500") == 12


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.000"), (3.1e-5, "3.1e-05"), (0.5, "0.500"), (0.99999, "1 - 1e-05"), (1.0, "1.000")]
)
def test_no_probability_is_rounded_to_certainty(value: float, shown: str) -> None:
    """What rounds to 0 or 1 is shown by how far it is from it."""
    indicator = explanations.flagged().indicators[0].model_copy(update={"probability": value, "slope": None})

    assert probability(indicator) == shown
