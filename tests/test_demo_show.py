"""A reply as people read it."""

import pytest

from scopewatch.demo.show import describe
from scopewatch.v1 import monitor_pb2 as pb


def indicator(*spans: tuple[int, int], segment: int = pb.SEGMENT_RESPONSE, **fields: object) -> pb.IndicatorScore:
    """A flagged indicator with evidence."""
    evidence = [pb.Evidence(start=start, end=end, segment=segment, activation=1.0) for start, end in spans]
    fields = {"name": "guess", "score": 1.5, "threshold": 1.0, "flagged": True} | fields
    return pb.IndicatorScore(evidence=evidence, **fields)


def shown(response: str, score: pb.IndicatorScore, prompt: str = "p", **fields: object) -> list[str]:
    """Lines of the description of a reply with one indicator."""
    reply = pb.ScoreResponse(verdict=pb.VERDICT_FLAG, indicators=[score], **fields)
    return describe(reply, prompt, response).split("\n")


def marked(response: str, *spans: tuple[int, int]) -> str:
    return shown(response, indicator(*spans))[-1].strip()


def span(text: str, part: str) -> tuple[int, int]:
    start = text.index(part)
    return start, start + len(part)


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        pytest.param("It is speculation.", "ecul", "It is «speculation».", id="inside a word"),
        pytest.param("It may rain.", " may", "It «may» rain.", id="token with its space"),
        pytest.param("It may rain.", "It", "«It» may rain.", id="first word"),
        pytest.param("It may", "may", "It «may»", id="last word"),
        pytest.param("It may rain.", " ", "It may rain.", id="only white space"),
        pytest.param("Is it 4.5%?", "%?", "Is it 4.5%?", id="only punctuation"),
        pytest.param("the naïve guess", "a", "the «naïve» guess", id="accent"),
        pytest.param("the nai\u0308ve guess", "a", "the «nai\u0308ve» guess", id="accent as a mark of its own"),
        pytest.param("也许 later", "也", "«也许» later", id="CJK"),
        pytest.param("Sure 🤔 no", "🤔", "Sure «🤔» no", id="emoji"),
        pytest.param("well 🤷🏽‍♀️ ok", "🤷", "well «🤷🏽‍♀️» ok", id="start of an emoji of five code points"),
        pytest.param("well 🤷🏽‍♀️ ok", "♀", "well «🤷🏽‍♀️» ok", id="middle of an emoji of five code points"),
        pytest.param("👍🏿👍🏿", "🏿", "«👍🏿»👍🏿", id="one of two emoji"),
    ],
)
def test_whole_words_are_marked(text: str, part: str, expected: str) -> None:
    """Evidence on a piece of a word or of an emoji marks the whole of it, and nothing beside it."""
    assert expected == marked(text, span(text, part))


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 2), (3, 6)], "«It may» rain soon"),
        ([(3, 6), (0, 2)], "«It may» rain soon"),
        ([(0, 2), (7, 11)], "«It» may «rain» soon"),
        ([(0, 6), (3, 11)], "«It may rain» soon"),
        ([(0, 16)], "«It may rain soon»"),
    ],
    ids=["neighbours", "any order", "apart", "overlapping", "all"],
)
def test_marks_do_not_pile_up(spans: list[tuple[int, int]], expected: str) -> None:
    """Neighbouring and overlapping spans are marked as one."""
    assert expected == marked("It may rain soon", *spans)


def test_text_over_several_lines_is_shown_on_one() -> None:
    """A response with line breaks is described in the same number of lines as any other."""
    flat, broken = (shown(text, indicator((0, 2))) for text in ("It may rain", "It\nmay\r\n\n rain"))

    assert flat[2:] == broken[2:]


def test_a_long_text_is_shortened_around_the_evidence() -> None:
    """Of a long response a stretch around the first mark is shown, with dots for what is left out."""
    text = "padding " * 200 + "perhaps " + "padding " * 200
    line = marked(text, span(text, "perhaps"))

    assert "«perhaps»" in line
    assert line.startswith("… ")
    assert line.endswith(" …")
    assert len(line) < 400


def test_a_long_prompt_and_response_are_cut() -> None:
    """The lines that repeat the pair are short, whatever was sent."""
    lines = shown("r" * 10_000, indicator(flagged=False), prompt="p" * 10_000)

    assert [line.strip()[-2:] for line in lines[1:3]] == ["p…", "r…"]
    assert max(map(len, lines)) < 130


def test_evidence_of_other_segments_is_not_marked_in_the_response() -> None:
    """Offsets into the prompt do not mark the response."""
    assert shown("It may rain", indicator((0, 2), segment=pb.SEGMENT_PROMPT))[-1].strip() == "It may rain"


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        pytest.param(indicator(), "FLAG guess", id="flagged"),
        pytest.param(indicator(calibration=pb.CALIBRATION_UNCALIBRATED), "uncalibrated", id="uncalibrated"),
        pytest.param(indicator(probability=0.875), "p=0.88", id="probability"),
        pytest.param(indicator(skipped_reason="empty_segment"), "not scored: empty_segment", id="skipped"),
    ],
)
def test_an_indicator_says_what_is_known_of_it(score: pb.IndicatorScore, expected: str) -> None:
    """A line has the flag, the probability, the lack of calibration, or why there is no score."""
    assert expected in "\n".join(shown("r", score))


def labelled(*contributions: float, label: str = "hedges", **fields: object) -> pb.IndicatorScore:
    """An indicator with as many features of that label as there are contributions, in their order."""
    features = [
        pb.FeatureScore(feature=f"res/{index}", label=label, contribution=value)
        for index, value in enumerate(contributions)
    ]
    return indicator(features=features, **fields)


def test_a_flag_names_the_features_that_raised_it_most() -> None:
    """Under a flagged indicator stand at most three labelled features, strongest first, none that lowered the score."""
    lines = [line.strip() for line in shown("r", labelled(4.0, -3.5, 3.0, 2.0, 1.0))]

    assert ["+4.00  res/0  hedges", "+3.00  res/2  hedges", "+2.00  res/3  hedges"] == lines[-3:]
    assert [] == [line for line in shown("r", labelled(4.0, flagged=False)) if "res/" in line]
    assert [] == [line for line in shown("r", labelled(4.0, label="")) if "res/" in line]


def test_a_long_label_is_cut() -> None:
    """A label of any length, over any number of lines, takes one short line."""
    line = shown("r", labelled(1.0, label="hedges\n" * 1000))[-1]

    assert "res/0  hedges hedges" in line
    assert len(line) < 130


def test_the_note_about_labels_stands_once_at_the_end() -> None:
    """What the reply says of its labels is the last line, however many of them are shown; without it there is none."""
    scores = [labelled(2.0, 1.0), labelled(2.0, 1.0)]
    text = describe(pb.ScoreResponse(verdict=pb.VERDICT_FLAG, indicators=scores, label_note="no evidence"), "p", "r")

    assert text.endswith("\n  no evidence")
    assert text.count("no evidence") == 1
    assert "hedges" in shown("r", labelled(2.0))[-1]


def test_what_is_calibrated_does_not_say_otherwise() -> None:
    """`uncalibrated` stands only where it is true."""
    assert "uncalibrated" not in "\n".join(shown("r", indicator(calibration=pb.CALIBRATION_CALIBRATED)))


def test_the_first_line_says_where_the_answer_comes_from() -> None:
    """Verdict, tokens, truncation, cache and time stand in the first line."""
    line = shown(
        "r",
        indicator(),
        coverage=pb.Coverage(tokens=12, truncated=True),
        cached=True,
        timings=pb.Timings(total_s=0.0125),
    )[0]

    assert line == "FLAG  12 tokens (cut to fit), from cache, 12.5 ms"
