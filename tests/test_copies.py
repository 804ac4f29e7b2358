"""Copies and near-copies: found whatever groups the file gives them, and never on both sides of a split."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_letters

import numpy as np
import pytest

from plain_words import WORDS
from scopewatch.calibration.request import telling
from scopewatch.calibration.split import split
from scopewatch.errors import NothingUsable, Unsupported
from scopewatch.pairs.copies import clusters, join_copies, without_copies
from scopewatch.pairs.data_files import PairsRead, read_pairs
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import Tally
from scopewatch.types import Pair, Turn

SENTENCE = "On average the new method lowers yields a little, yet in dry years it kept up with ploughed fields."


def pair(response: str, number: int = 0, *, label: int = 0, prompt: str = "", **fields: str) -> LabelledPair:
    return LabelledPair(Pair(prompt, response), label, number, group=fields.pop("group", f"g{number}"), **fields)


def read(pairs: Sequence[LabelledPair]) -> PairsRead:
    return PairsRead(list(pairs), Tally(len(pairs)))


def sentences(n: int, words: int = 20, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, words)) for _ in range(n)]


@pytest.mark.parametrize(
    "copy",
    [
        SENTENCE.upper(),
        SENTENCE.replace(",", "").replace(" ", "  ") + "\n",
        SENTENCE.translate({code: code + 0xFEE0 for code in map(ord, ascii_letters)}),
        SENTENCE.replace("a little", "a bit"),
        SENTENCE + " (p. 4)",
    ],
    ids=["case", "punctuation and spaces", "letters of full width", "a word", "an addition"],
)
def test_copies_and_near_copies_share_a_cluster(copy: str) -> None:
    """A text is known again in other letters, other spacing, and with a word changed or added."""
    found = clusters([pair(SENTENCE), pair(copy), pair(sentences(1)[0])], "response")
    assert found[0] == found[1] != found[2]


def test_near_means_seven_tenths_of_the_pieces() -> None:
    """What MinHash takes for near agrees with the exact share of common pieces of eight letters, but near the limit."""
    draw = np.random.default_rng(1)
    for text in sentences(40, words=40):
        words = np.array(text.split(), object)
        words[draw.random(40) < draw.uniform(0, 0.12)] = "another"
        other = " ".join(words)
        one, two = ({whole[start : start + 8] for start in range(len(whole) - 7)} for whole in (text, other))
        share = len(one & two) / len(one | two)
        first, second = clusters([pair(text), pair(other)], "response")
        if abs(share - 0.7) > 0.15:
            assert (first == second) == (share > 0.7)


def test_what_may_be_said_twice_is_no_copy() -> None:
    """A short answer is one only with its prompt; a long prompt that many pairs share makes none of them a copy."""
    instruction = "Answer the question with yes or no, and think about it as long as you need to. "
    short = [pair("No, it is not.", prompt=instruction + text) for text in ("Is it wet?", "Is it late?", "is it WET")]
    assert [0, 1, 0] == np.unique(clusters(short, "response"), return_inverse=True)[1].tolist()
    assert 1 == len(set(clusters(short, "prompt").tolist()))


def test_the_history_counts_where_it_is_judged() -> None:
    """Equal answers in other conversations are copies for what reads answers, and not for what reads conversations."""
    pairs = [
        LabelledPair(Pair("Go on.", SENTENCE, (Turn("user", text),)), 0, row) for row, text in enumerate(sentences(2))
    ]
    assert 1 == len(set(clusters(pairs, "response").tolist()))
    assert 2 == len(set(clusters(pairs, "history").tolist()))


def test_copies_of_other_groups_are_on_one_side() -> None:
    """Four copies each under groups of their own: no text is on both sides of the split, and the tally says so."""
    pairs = [
        pair(text, 4 * number + copy, label=number % 2, group=f"g{copy}-{number}")
        for number, text in enumerate(sentences(100))
        for copy in range(4)
    ]
    joined = join_copies(read(pairs), "response")
    parts = split(joined.pairs, 0.5, np.ones(400, bool))
    fit, held_out = ({pairs[row].pair.response for row in rows} for rows in (parts.fit, parts.held_out))
    assert not fit & held_out
    assert 100 == len({item.group for item in joined.pairs})
    assert joined.tally.notes[0].startswith("400 pairs are copies or near-copies of pairs in other groups")
    assert joined.tally.notes[0] in joined.tally.sentences


def test_groups_are_joined_through_their_copies() -> None:
    """A copy joins two groups whole, in whatever order rows come; other groups keep their names."""
    one, two, *others = sentences(8)
    pairs = [
        pair(text, row, group=group)
        for row, (text, group) in enumerate(zip([one, two, one, *others], "aabcdefgh", strict=True))
    ]
    for order in (pairs, pairs[::-1]):
        joined = join_copies(read(order), "response")
        assert "aaacdefgh" == "".join(item.group for item in sorted(joined.pairs, key=lambda item: item.line))


def test_texts_without_copies_are_left_as_they_are() -> None:
    """Nothing is said and nothing changes where texts only look alike."""
    pairs = [
        pair(f"The {one} changed the {two} in {number} cases, as the {three} shows.", number)
        for number, (one, two, three) in enumerate(text.split()[:3] for text in sentences(300, seed=4))
    ]
    distinct = list({item.pair.response.split(" in ")[0]: item for item in pairs}.values())
    found = join_copies(read(distinct), "response")
    assert len(distinct) > 150
    assert len({item.group for item in found.pairs}) > 0.95 * len(distinct)


def test_what_the_file_holds_out_is_not_learnt_from() -> None:
    """Where the file's own split parts copies, the one to be fitted is left out, by name, and the other is kept."""
    pairs = [pair(SENTENCE, 1, split="fit", file="a"), pair(SENTENCE, 2, split="held_out"), pair(SENTENCE, 3)]
    joined = join_copies(read(pairs), "response")
    assert [(2, "held_out"), (3, "held_out")] == [(item.line, item.split) for item in joined.pairs]
    assert {"copy_of_held_out": 1} == joined.tally.reasons
    assert ("a:1: split holds a copy of it out",) == joined.tally.first


def test_texts_with_both_labels_are_counted() -> None:
    """Every text once with each label: they are named, also where nothing can be learnt for another reason."""
    pairs = [pair(text, row, label=label) for row, text in enumerate(sentences(30)) for label in (0, 1)]
    joined = join_copies(read([*pairs, pair("alone", 99), replace(pairs[0], group="other")]), "response")
    said = joined.tally.notes[-1]
    assert said.startswith("30 texts carry both labels")
    with pytest.raises(Unsupported, match=r"^no signal\n.*\n30 texts carry both labels"), telling(joined.tally):
        raise Unsupported("no signal")


def test_pairs_to_learn_from_hold_no_copy_of_what_is_measured() -> None:
    """Copies of measured pairs are left out of `--train`, and counted; if there is nothing else, that is said."""
    texts = sentences(30)
    train = [pair(text.upper(), row) for row, text in enumerate(texts)]
    measured = [pair(text, row) for row, text in enumerate(texts[:10])]
    left = without_copies(read(train), measured, "response")
    assert [item.line for item in left.pairs] == list(range(10, 30))
    assert {"copy_of_measured": 10} == left.tally.reasons
    with pytest.raises(NothingUsable, match=r"--train: none of 10 rows can be used\n(.*\n)*name other files"):
        without_copies(read(train[:10]), measured, "response")


def test_reading_and_joining_a_file(tmp_path: Path) -> None:
    """Rows of a file without groups: equal texts were one group before, near-copies are one now."""
    rows = [
        {"response": text, "label": row % 2} for row, text in enumerate([SENTENCE, SENTENCE, SENTENCE + " Indeed."])
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = read_pairs(file)
    assert 2 == len({item.group for item in found.pairs})
    assert 1 == len({item.group for item in join_copies(found, "response").pairs})
