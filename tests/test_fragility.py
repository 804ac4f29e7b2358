"""The table of fragility: what is changed, what is left, and when a detector stands on one word."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from scopewatch.calibration.fragility import table
from scopewatch.calibration.fragility.changes import changed_prompts
from scopewatch.calibration.fragility.cue_words import cue_words
from scopewatch.calibration.fragility.rewordings import casual, formal, without_punctuation, without_words
from scopewatch.calibration.fragility.table import Reread, table_of
from scopewatch.calibration.split import split
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.reader.rounding import rounded
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Rows, Scores
from scopewatch.types import Pair, Rounding, Segment

FILLER = [f"w{n}" for n in range(60)]


# Rewordings


@pytest.mark.parametrize(
    ("text", "said_casually"),
    [
        ("I do not know. It is late.", "I don't know. It's late."),
        ("However, they will not\nobtain it", "But, they won't\nget it"),
        ("Isotherm is notable", "Isotherm is notable"),
    ],
)
def test_formal_words_become_casual(text: str, said_casually: str) -> None:
    """Contractions and everyday words, whole words only, and a capital stays one."""
    assert casual(text) == said_casually


@pytest.mark.parametrize(
    ("text", "said_formally"),
    [
        ("I don\u2019t know. It's late.", "I do not know. It is late."),
        ("Yeah, we can't", "Yes, we cannot"),
        ("The shan't of the canton", "The shan't of the canton"),
    ],
)
def test_casual_words_become_formal(text: str, said_formally: str) -> None:
    """Whichever apostrophe is written."""
    assert formal(text) == said_formally


def test_punctuation_goes_and_words_stay() -> None:
    """What separated two words leaves a blank, apostrophes inside words stay, lines too."""
    assert (
        without_punctuation("Well\u2014it's \u201cso-so\u201d, (isn\u2019t it)?\nYes!")
        == "Well it's so so isn't it \nYes"
    )


def test_words_are_taken_out_whole() -> None:
    """Whatever their case; a text without them is the very same."""
    take = without_words(["may", "don't"])
    assert take("May I?  Maybe. You don\u2019t") == "I? Maybe. You"
    assert take("two  blanks ") == "two  blanks "


def test_prompts_are_swapped_and_never_kept() -> None:
    """Every pair gets the prompt of another, each prompt is used once, and responses stay where they are."""
    pairs = [LabelledPair(Pair(f"p{n}", f"r{n}"), n % 2, n) for n in range(9)]
    removed, swapped = changed_prompts(pairs)
    assert {""} == {pair.pair.prompt for pair in removed.pairs}
    assert all(new.pair.prompt != old.pair.prompt for new, old in zip(swapped.pairs, pairs, strict=True))
    assert {pair.pair.prompt for pair in pairs} == {pair.pair.prompt for pair in swapped.pairs}
    assert [pair.pair.response for pair in pairs] == [pair.pair.response for pair in swapped.pairs]


# The reader's precision


def test_int8_is_what_torch_makes_of_it() -> None:
    """Rows of a decoder layer's matrices as torch's own quantisation per channel has them; the rest stays."""
    weights = {name: torch.randn(5, 40) for name in ("layers.0.q.weight", "embed_tokens.weight")}
    weights["layers.0.norm.weight"] = torch.randn(40)
    found = rounded(weights, "int8")
    matrix = weights["layers.0.q.weight"]
    steps, zeros = matrix.abs().amax(dim=1) / 127, torch.zeros(5, dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(matrix, steps, zeros, 0, -127, 127)
    assert torch.allclose(found["layers.0.q.weight"], theirs, atol=1e-6)
    assert not torch.equal(found["layers.0.q.weight"], matrix)
    assert all(torch.equal(found[name], weights[name]) for name in weights if name != "layers.0.q.weight")
    assert torch.equal(rounded({"a": torch.zeros(2, 3)}, "int8")["a"], torch.zeros(2, 3))


# The table


@dataclass
class WordCounter:
    """A detector that counts words, by one term each; in int8 its last term is noise."""

    pairs: Sequence[LabelledPair]
    words: tuple[str, ...]
    asked: int = 0

    def rescore(self, pairs: Sequence[LabelledPair], rounding: Rounding = "none") -> Reread:
        self.asked += len(pairs)
        texts = [pair.pair.response.lower().split() for pair in pairs]
        terms = np.array([[float(text.count(word)) for word in self.words] for text in texts])
        if rounding == "int8":
            terms[:, -1] = np.random.default_rng(0).normal(size=len(pairs))
        return Reread(np.where([bool(text) for text in texts], terms.sum(axis=1), np.nan), terms)

    def refit(self, fit: Rows, out: Rows) -> Scores:
        assert not {self.pairs[row].source for row in fit} & {self.pairs[row].source for row in out}
        return self.rescore([self.pairs[row] for row in out]).scores


def pairs_with(words: Sequence[str], n: int = 240) -> list[LabelledPair]:
    """Pairs of six words of filler; where the label is 1, most hold one of the words."""
    draw = np.random.default_rng(4)
    made = []
    for row in range(n):
        text = list(draw.choice(FILLER, 6))
        if row % 2 and draw.random() < 0.9:
            text[2] = str(draw.choice(words))
        source = "ours" if row % 3 else "theirs"
        made.append(LabelledPair(Pair("", " ".join(text)), row % 2, row, group=str(row), source=source))
    return made


def table_for(words: tuple[str, ...]) -> tuple[table.Table, WordCounter]:
    pairs = pairs_with(words)
    detector = WordCounter(pairs, words)
    parts = split(pairs, 0.5, np.ones(len(pairs), bool))
    return table_of(pairs, parts, detector, segment=Segment.RESPONSE), detector


def test_a_detector_that_stands_on_one_word_is_found_out() -> None:
    """Without the word it knows nothing; one that knows three words stands on none of them."""
    assert table_for(("may",))[0].stands_on == "may"
    found, _ = table_for(("may", "might", "could"))
    assert found.stands_on == ""
    rows = {row.change: row for row in found.rows}
    masked = next(row for name, row in rows.items() if name.endswith("cue words removed"))
    assert masked.auroc < 0.6 < rows["as they are"].auroc


def test_each_row_is_the_auroc_under_its_change() -> None:
    """By the definition of the change, on the held-out pairs; what leaves all pairs as they are has no row."""
    found, detector = table_for(("may", "might"))
    rows = {row.change: row for row in found.rows}
    held = [detector.pairs[row] for row in split(detector.pairs, 0.5, np.ones(240, bool)).held_out]
    assert rows["as they are"].auroc == round(auroc(labels_of(held), detector.rescore(held).scores), 4)
    assert rows["as they are"].survival is None
    assert rows["upper case"].auroc == rows["as they are"].auroc
    assert rows["upper case"].survival == 1.0
    assert rows["reader's weights in int8"].survival == 0.5
    assert not {"lower case", "prompts removed", "no punctuation"} & rows.keys()
    theirs = [pair for pair in detector.pairs if pair.source == "theirs"]
    expected = auroc(labels_of(theirs), detector.rescore(theirs).scores)
    assert (rows["source theirs, not fitted"].n, rows["source theirs, not fitted"].auroc) == (80, round(expected, 4))


def test_pairs_that_are_as_they_were_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many pairs so many are drawn, in the labels' shares, and a change asks only for what it changes."""
    monkeypatch.setattr(table, "_MOST_PAIRS", 40)
    pairs = pairs_with(("may",))
    detector = WordCounter(pairs, ("may",))
    found = table_of(pairs, split(pairs, 0.5, np.ones(240, bool)), detector, segment=Segment.RESPONSE, reads=False)
    assert found.rows[0].n == 40
    assert detector.asked < 40 * 6 + 240


def test_cue_words_are_those_that_tell_labels_apart() -> None:
    """The heaviest first; texts without a word that often is there have none."""
    pairs = pairs_with(("may", "might"))
    texts = [pair.pair.response for pair in pairs]
    assert set(cue_words(texts, labels_of(pairs), 2)) == {"may", "might"}
    assert cue_words(["a b", "c d"], np.array([True, False]), 5) == []
