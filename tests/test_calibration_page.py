"""The page of a calibration shows what the indicator is made of: what is written, and what the pairs show of it."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from plain_words import WORDS
from scopewatch.app.spine import offline
from scopewatch.calibration.split import split
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import read_pairs
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.pairs.scored import IndicatorScores, score_pairs
from scopewatch.watch.reference import term_name
from scopewatch.watch.watchlist import load_watchlist
from scopewatch.words.bag import Bag

Page = Callable[..., "MadeOf"]


class MadeOf:
    """The table of terms on a page."""

    def __init__(self, html: str) -> None:
        _, found, rest = html.partition("<h2>What it is made of</h2>")
        assert found
        table, _, after = rest.partition("</table>")
        self.html = html
        self.swatches = dict(self._swatches(table))
        self.all_swatches = set(self._swatches(html))
        rows = [
            re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)
            for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        ]
        self.rows = [dict(zip(rows[0], map(self._text, row), strict=True)) for row in rows[1:]]
        self.note = self._text(after.partition("</p>")[0])

    @staticmethod
    def _swatches(html: str) -> list[tuple[str, str]]:
        return [(name, colour) for colour, name in re.findall(r'stroke="(#[0-9a-f]+)"[^>]*/></svg>(\w+)', html)]

    @staticmethod
    def _text(html: str) -> str:
        return unescape(re.sub("<[^>]+>", "", re.sub("<mark>", "«", html).replace("</mark>", "»"))).strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of hedged sentences (1) and plain ones, each about something of its own."""
    folder = tmp_path_factory.mktemp("page")
    draw = np.random.default_rng(3)
    rows = []
    for line in range(160):
        subject, thing = draw.choice(WORDS[:12], 2)
        number = int(draw.integers(10, 99))
        hedged = f"Perhaps the {subject} might possibly change the {thing} in {number} cases, we are not sure."
        plain = f"The {subject} changed the {thing} in {number} cases, as the table shows."
        rows.append({"prompt": "", "response": hedged if line % 2 else plain, "label": line % 2, "group": str(line)})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benign = [{"response": row["response"]} for row in rows if not row["label"]]
    (folder / "benign.jsonl").write_text("".join(json.dumps(row) + "\n" for row in benign))
    return folder


def calibrated(folder: Path, out: Path, name: str, *arguments: object, data: str = "data.jsonl") -> MadeOf:
    """Calibrates, and reads the page."""
    command = ["calibrate", folder / data, "--indicator", name, "--max-fpr", "0.2", "--force", *arguments]
    command += ["--work-dir", folder / "work", "--no-fragility", "--out", out, "--html", folder / "page.html"]
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in command])
    assert not left.value.code
    return MadeOf((folder / "page.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def features(folder: Path) -> tuple[Path, MadeOf]:
    """A watchlist with an indicator of features and one of words, and the page of the former."""
    out = folder / "features.yaml"
    made = calibrated(folder, out, "hedging", "--terms", 6)
    calibrated(folder, out, "lexicon", "--kind", "words", "--lexicon", "not sure,perhaps,never said")
    return out, made


@pytest.fixture
def page(folder: Path, features: tuple[Path, MadeOf], tmp_path: Path, logging_as_it_was: None) -> Page:
    """Calibrates another indicator of a watchlist that has these."""
    out = Path(shutil.copy(features[0], tmp_path / "list.yaml"))
    return lambda name, *arguments, **data: calibrated(folder, out, name, *arguments, **data)


def held_out(folder: Path) -> list[LabelledPair]:
    pairs = join_copies(read_pairs(folder / "data.jsonl"), "response").pairs
    return [pairs[row] for row in split(pairs, 0.5, np.ones(len(pairs), bool)).held_out]


def online(watchlist: Path, pairs: list[LabelledPair], *names: str) -> dict[str, IndicatorScores]:
    """What the online scorer says of pairs by indicators that were written, with the pooled values of their terms."""

    async def scores() -> dict[str, IndicatorScores]:
        async with offline(Config(watchlist=(watchlist,), torch_threads=1)) as spine:
            return dict((await score_pairs(pairs, names, "", spine.score, pooled=True)).by_indicator)

    return asyncio.run(scores())


def test_the_terms_of_features_are_those_that_are_written(features: tuple[Path, MadeOf], folder: Path) -> None:
    """Feature, weight, pooling and label as in the watchlist; words of the fitted pairs; shares as the online scorer's."""
    watchlist, found = features
    indicator, _ = load_watchlist(watchlist).indicators
    pairs = held_out(folder)
    fired = online(watchlist, pairs, "hedging")["hedging"].pooled
    labels = labels_of(pairs)
    outside = [pair.pair.response for pair in read_pairs(folder / "data.jsonl").pairs if pair not in pairs]

    assert len(indicator.features) == 6
    assert [(term.feature, term.weight, str(term.pooling), term.label) for term in indicator.features] == [
        (row["feature"], float(row["weight"]), row["pooling"], row["label"]) for row in found.rows
    ]
    for row, term in zip(found.rows, indicator.features, strict=True):
        values = fired.get(term_name(term.key, term.pooling or indicator.pooling), np.zeros(len(pairs)))
        shares = [f"{(values[labels == label] != 0).mean():.1%}" for label in (False, True)]
        assert shares == [row["in label 0"], row["in label 1"]]
        marked = re.findall("«(.*?)»", row["strongest on"])
        assert marked
        assert any(row["strongest on"].replace("«", "").replace("»", "").strip("…") in text for text in outside)
        assert marked[0].lower() in term.label
    assert f"{indicator.bias:.6g}" in found.note


def test_without_descriptions_no_word_of_the_data_is_shown(page: Page, folder: Path) -> None:
    """`--no-describe` leaves labels and examples out, and a bag's words; the terms of features stay."""
    found = page("plain", "--terms", 2, "--no-describe")

    assert ["feature", "weight", "pooling", "in label 0", "in label 1"] == list(found.rows[0])
    assert "erhaps" not in found.html
    with pytest.raises(AssertionError):
        page("bag", "--kind", "words", "--no-describe")
    assert "erhaps" not in (folder / "page.html").read_text(encoding="utf-8")


def test_a_probe_says_that_it_has_no_words(page: Page, tmp_path: Path) -> None:
    """It is one row, of the direction that is written, and a sentence."""
    found = page("direction", "--kind", "probe")
    indicator = load_watchlist(tmp_path / "list.yaml").indicators[-1]

    assert [
        {"feature": "direction_probe/0", "weight": "1", "pooling": str(indicator.features[0].pooling)}
    ] == found.rows
    assert "has no words of its own" in found.note


def test_a_bag_shows_its_heaviest_words(page: Page, folder: Path, tmp_path: Path) -> None:
    """Each with the weight that its score alone shows, the heaviest first, and the share of the held-out texts with it."""
    found = page("bag", "--kind", "words")
    bag = load_watchlist(tmp_path / "list.yaml").words["bag"]
    assert isinstance(bag, Bag)
    pairs = held_out(folder)
    weights = [float(row["weight"]) for row in found.rows]
    single = [row for row in found.rows if " " not in row["word"]]

    assert sorted(weights, key=abs, reverse=True) == weights
    assert [pytest.approx(bag.score([row["word"]]), rel=1e-5) for row in single] == [
        float(row["weight"]) for row in single
    ]
    assert {"perhaps", "might"} <= {row["word"] for row in single}
    for row in found.rows:
        for label in (0, 1):
            said = [" ".join(re.findall(r"\w+", pair.pair.response.lower())) for pair in pairs if pair.label == label]
            share = np.mean([f" {row['word']} " in f" {text} " for text in said])
            assert f"{share:.1%}" == row[f"in label {label}"]


def test_a_lexicon_shows_its_words_that_are_there(page: Page) -> None:
    """The commonest first; words that no pair has are not shown."""
    found = page("words", "--kind", "words", "--lexicon", "not sure,perhaps,never said")

    assert {"perhaps", "not sure"} == {row["word"] for row in found.rows}
    assert {"0.0%"} == {row["in label 0"] for row in found.rows}
    assert {"100.0%"} == {row["in label 1"] for row in found.rows}


def test_a_combination_shows_its_parts(page: Page, folder: Path, tmp_path: Path) -> None:
    """Weights as written, times the standard deviation of the online scores; in the colours of the other table."""
    found = page("both", "--combine", "hedging,lexicon,mean_entropy", "--watchlist", tmp_path / "list.yaml")
    both = next(one for one in load_watchlist(tmp_path / "list.yaml").indicators if one.name == "both")
    scores = online(tmp_path / "list.yaml", held_out(folder), "hedging", "lexicon")

    assert [(term.name, term.weight) for term in both.combines] == [
        (row["part"], float(row["weight"])) for row in found.rows
    ]
    by_part = {row["part"]: row for row in found.rows}
    for term in both.combines:
        if term.indicator:
            moved = term.weight * scores[term.name].scores.std()
            assert float(by_part[term.name]["weight x deviation"].replace(",", "")) == pytest.approx(moved, abs=6e-4)
    assert ("signal of the reader", "words") == (by_part["mean_entropy"]["kind"], by_part["lexicon"]["kind"])
    assert {term.name for term in both.combines} == found.swatches.keys()
    assert len(dict(found.all_swatches)) == len(found.all_swatches), "one colour each on the whole page"


def test_benign_traffic_shows_where_terms_fire(page: Page, tmp_path: Path) -> None:
    """Where no pair has label 1 there is one column; the terms are those of the indicator that is there."""
    before = load_watchlist(tmp_path / "list.yaml").indicators[0].features
    found = page("hedging", "--benign", data="benign.jsonl")

    assert [term.feature for term in before] == [row["feature"] for row in found.rows]
    assert all(re.fullmatch(r"[\d.]+%", row["in benign pairs"]) for row in found.rows)
    assert "in label 1" not in found.rows[0]
