"""Where sentences end, in many scripts, and which tokens of a pair end one."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sentences import SegmentSentences, sentence_ends, sentence_spans
from scopewatch.types import Cleaning, Pair, Segment, TokenisedPair, Turn


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["It rains.", "Does it?", "It does!", "Well…", "Perhaps;", "then so be it"],
        ["He said “stop.”", "(He did.)", "**Truly!**", "'Yes.'", "So it is.[3][12]", "Or [1].", "End"],
        ["Really?!", "No...", "Yes!!!", "Then"],
        ["3.5 mg of v1.2.3, at 10.30, from https://a.b/c.d?e=f.", "Next"],
        ["Dr. Smith (cf. Prof. Jones) said, e.g. in winter, that it is so.", "J. R. R. Tolkien agreed."],
        ["See Fig. 3 and No. 5 of Jan. 2020, and Lee et al. (2021).", "No.", "That is a fig.", "It is ripe."],
        ["It works... mostly.", "They came at 5 p.m. and left, etc. as before."],
        ["i think its a virus.", "you wont need it.", "no.", "see a doctor"],
        ["Das ist z.B. Regen.", "Gut."],
        ["これは文です。", "「はい。」", "と言った！", "本当？", "３．５です"],
        ["यह एक वाक्य है।", "दूसरा वाक्य है॥", "तीसरा"],
        ["هل هذا سؤال؟", "نعم۔", "هذا جواب."],
        ["Այո։", "Ոչ։"],
    ],
    ids=lambda expected: expected[0],
)
def test_a_sentence_ends_at_its_stop(expected: list[str]) -> None:
    """With the quotes and brackets behind it, not inside numbers, addresses, names and abbreviations."""
    assert expected == sentences(" ".join(expected))


def test_a_script_that_writes_no_spaces_needs_none() -> None:
    """A full-width stop ends a sentence though the next one follows at once; the quote that follows opens it."""
    assert ["他走了。", "「好。」", "然后！"] == sentences("他走了。「好。」然后！")


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n", " \n\t", "\u2028"])
def test_a_line_is_a_sentence(line_end: str) -> None:
    """Headings and items of lists end without a stop, and the number of an item ends nothing."""
    lines = ["# Heading", "1. First thing", "2. Second thing. ", "- third", "iv. fourth", "a. fifth"]
    expected = [line.strip() for line in lines]
    assert expected == sentences(line_end.join(lines))


def test_signs_alone_are_no_sentence() -> None:
    """Rules, fences and faces are of the sentence behind them; behind the last sentence they are not its end."""
    assert ["Yes.", "---\nNo.", "```\ncode"] == sentences("Yes.\n\n---\nNo.\n```\ncode\n```\n")
    assert ["I think so."] == sentences("I think so. 🙂\n")
    assert ["???"] == sentences(" ???\n")
    assert [] == sentences(" \n\t") == sentences("")


TEXTS = st.text(st.sampled_from(list("ab1A .!?;…\n\t\"')]。।؟𝒂🙂\u200b")) | st.characters(), max_size=40)


@given(TEXTS)
def test_ends_are_places_of_the_text(text: str) -> None:
    """Ascending, each behind a visible character, and none if and only if the text shows nothing."""
    ends = sentence_ends(text)
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(text) and not text[end - 1].isspace() for end in ends)
    assert bool(ends) == bool(text.strip())


@given(TEXTS, TEXTS)
def test_a_line_is_parted_alone(one: str, other: str) -> None:
    """What stands on one line changes nothing about another, as long as both hold words."""
    one, other = f"a {one.strip()}".replace("\n", " ") + " b", f"c {other.strip()}".replace("\n", " ") + " d"
    if len((one + other).splitlines()) == 1:
        assert sentences(one) + sentences(other) == sentences(f"{one}\n{other}")


@pytest.mark.parametrize(
    "hostile", ["." * 400_000 + "x", "-\n" * 200_000, "A. " * 100_000, '."' * 200_000, "\n" * 400_000]
)
def test_no_text_takes_long(hostile: str) -> None:
    """Texts on which a careless pattern would try every pair of places, and take minutes, are parted all the same."""
    assert len(sentence_ends(hostile)) <= 1


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser(Path(__file__).parents[1] / "service/scopewatch/demo/reader", max_tokens=64, max_windows=8)


def tokens_of(tokeniser: Tokeniser, pair: Pair, cleaning: Cleaning = Cleaning.NONE) -> TokenisedPair:
    (readings,) = tokeniser.readings([pair], [cleaning])
    return readings[-1]


def last_words(read: TokenisedPair, segment: Segment, *texts: str) -> list[str]:
    """The text of each token that ends a sentence, given the texts of the segment by turn."""
    found = SegmentSentences(read, segment)
    at = found.positions[found.last_tokens]
    return [texts[read.turns[i]][read.starts[i] : read.ends[i]] for i in at.tolist()]


HISTORY = (Turn("user", "Hi. Does it rain"), Turn("assistant", "It may!\n"))
ANSWER = "It rains; Dr. May said so. 雨。雪\n\n- Perhaps tomorrow…\n- no stop here \n"


def test_a_token_ends_each_sentence(tokeniser: Tokeniser) -> None:
    """That of the stop, or the last of a sentence without one; never white space; and a turn ends a sentence."""
    read = tokens_of(tokeniser, Pair("What is it? ", ANSWER, HISTORY))

    assert [".", "in", "!"] == last_words(read, Segment.HISTORY, *(turn.content for turn in HISTORY))
    assert ["?"] == last_words(read, Segment.PROMPT, "What is it? ")
    assert [";", ".", "。", "雪", "…", "here"] == [w.strip() for w in last_words(read, Segment.RESPONSE, ANSWER)]


def test_every_token_is_of_one_sentence(tokeniser: Tokeniser) -> None:
    """That which its first character stands in or before; what is behind the last sentence is of it."""
    read = tokens_of(tokeniser, Pair("", ANSWER))
    found, spans = SegmentSentences(read, Segment.RESPONSE), list(sentence_spans(ANSWER))

    starts = read.starts[found.positions]
    expected = [next((k for k, (_, end) in enumerate(spans) if start < end), len(spans) - 1) for start in starts]
    assert expected == found.of_tokens.tolist()
    assert list(range(len(spans))) == found.of_tokens[found.last_tokens].tolist()


def test_windows_part_no_sentence(tokeniser: Tokeniser) -> None:
    """Sentences of an answer that is read in several windows are those of the answer."""
    answer = "It may rain in the evening or in the night, nobody knows when. " * 20
    read = tokens_of(tokeniser, Pair("What?", answer))

    assert len(read.window_tokens) > 2
    assert ["."] * 20 == last_words(read, Segment.RESPONSE, answer)


def test_a_cut_answer_ends_where_it_was_read(tokeniser: Tokeniser) -> None:
    """Of the sentence that was not read whole, the last token that was read ends it."""
    read = tokens_of(tokeniser, Pair("What?", "It may rain. " * 2 + "So it goes " * 400))
    found = SegmentSentences(read, Segment.RESPONSE)

    assert read.coverage.response_tokens_dropped
    assert [3, len(found.positions) - 1] == [len(found.last_tokens), found.last_tokens[-1]]


def test_the_cleaned_reading_has_the_sentences_of_the_clean_text(tokeniser: Tokeniser) -> None:
    """Stops that imitate others are stops there, and places are those of the caller's text."""
    answer = "Ｉｔ ｍａｙ ｒａｉｎ\uff0e Ｔｈｅ\u200bｎ ｉｔ ｓｔｏｐｓ\uff01 Ｙｅｓ"
    read = tokens_of(tokeniser, Pair("", answer, ()), Cleaning.INSTEAD)

    assert ["\uff0e", "\uff01", "Ｙｅｓ"[-1]] == [word[-1] for word in last_words(read, Segment.RESPONSE, answer)]


def test_given_tokens_have_the_sentences_of_their_text(tokeniser: Tokeniser) -> None:
    """A caller who gives tokens, with or without the text, gets the same ends as one who gives the text."""
    alone = tokens_of(tokeniser, Pair("", "It rains. It may stop! Yes"))
    ids = tuple(alone.ids[alone.segments == Segment.RESPONSE].tolist())
    expected = SegmentSentences(alone, Segment.RESPONSE).last_tokens
    assert len(expected) == 3
    for text in ("", "It rains. It may stop! Yes"):
        given_ids = tokens_of(tokeniser, Pair("", text, response_token_ids=ids))
        np.testing.assert_array_equal(expected, SegmentSentences(given_ids, Segment.RESPONSE).last_tokens)


def test_an_empty_segment_has_no_sentence(tokeniser: Tokeniser) -> None:
    """Nor any token of one."""
    found = SegmentSentences(tokens_of(tokeniser, Pair("", "a")), Segment.HISTORY)
    assert [] == found.of_tokens.tolist() == found.last_tokens.tolist()
