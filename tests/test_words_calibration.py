"""Calibrating words: fitted bags, lexicons, equal weights, and what an indicator adds to words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from scopewatch.calibration.beyond_words import beyond_words
from scopewatch.calibration.combination import weigh
from scopewatch.calibration.hashed_bag import hashed_bag
from scopewatch.calibration.wanted import Wanted
from scopewatch.cli import main
from scopewatch.config import BUNDLED_WATCHLIST
from scopewatch.errors import Unsupported
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.types import Pair
from scopewatch.watch.watchlist import load_watchlist
from scopewatch.words.find import find_words

Bool = NDArray[np.bool_]


def texts_and_labels(n: int, seed: int) -> tuple[list[str], Bool]:
    """Texts of sixty words, of which six are likelier where the label is 1: `may` among them."""
    random = np.random.default_rng(seed)
    labels = random.random(n) < 0.5
    words = ["may", *(f"w{i}" for i in range(59))]
    even, tilted = np.ones(60), np.ones(60)
    tilted[:6] = 4
    return [
        " ".join(random.choice(words, 12, p=(tilted if y else even) / (tilted if y else even).sum())) for y in labels
    ], labels


def in_pairs(texts: list[str], labels: Bool) -> list[LabelledPair]:
    return [
        LabelledPair(Pair("", text), int(label), row, group=str(row), source="made")
        for row, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


def test_a_fitted_bag_finds_the_words_that_tell() -> None:
    """On texts that it did not learn from, about as well as its cross-validation says."""
    texts, labels = texts_and_labels(800, 0)
    fitted = hashed_bag(texts[:400], labels[:400], list(map(str, range(400))))
    scores = [fitted.bag.score(find_words(text).texts) + fitted.bias for text in texts[400:]]
    assert roc_auc_score(labels[400:], scores) > 0.75
    assert roc_auc_score(labels[400:], scores) == pytest.approx(fitted.cv_auroc, abs=0.05)
    assert max(fitted.bag.counted(["may", "w30"]), key=lambda each: each.contribution).text == "may"


def test_words_of_one_group_have_no_weight() -> None:
    """A name that stands in one author's texts alone is not learnt, however often it stands there."""
    texts, labels = texts_and_labels(60, 1)
    texts = [f"{text} miller" if row < 10 else text for row, text in enumerate(texts)]
    groups = ["one" if row < 10 else str(row) for row in range(60)]
    assert not hashed_bag(texts, labels, groups).bag.counted(["miller"])
    with pytest.raises(Unsupported, match="no two groups of texts share a word"):
        hashed_bag([f"x{row}" for row in range(60)], labels, groups)


def test_what_is_added_to_words_is_the_sum_of_standard_scores() -> None:
    """Against scikit-learn's AUROC; the detector of words is the better of the two, and scales do not matter."""
    random = np.random.default_rng(2)
    labels = random.random(400) < 0.4
    own, bag, hedges = (labels * shift + random.normal(size=400) for shift in (1.0, 0.8, 0.3))
    groups = list(map(str, range(400)))

    found = beyond_words(
        labels, own * 50 + 3, {"hedge_words": hedges, "bag_of_words": bag / 9, "dense_probe": own * 2}, groups
    )

    assert found is not None
    together = roc_auc_score(labels, (own - own.mean()) / own.std() + (bag - bag.mean()) / bag.std())
    assert "bag_of_words" == found.words
    assert found.together == pytest.approx(together, abs=1e-4)
    assert found.over_words == pytest.approx(together - roc_auc_score(labels, bag), abs=2e-4)
    assert found.over_own == pytest.approx(together - roc_auc_score(labels, own), abs=2e-4)
    assert 0 < found.over_words_low < found.over_words < found.over_words_high
    assert None is beyond_words(labels, own, {"response_length": bag}, groups)


def test_equal_weights_are_those_of_standard_scores() -> None:
    """On the fitted pairs' scale, with the sign that they show; fitted weights are measured beside them."""
    texts, labels = texts_and_labels(600, 3)
    pairs = in_pairs(texts, labels)
    random = np.random.default_rng(4)
    combined = {
        "up": labels * 300.0 + 200 * random.normal(size=600) + 1000,
        "down": labels * -0.01 + 0.01 * random.normal(size=600),
        "still": np.full(600, 5.0),
    }

    wanted, n_tokens = Wanted(kind="combination", max_fpr=0.1, force=True), np.full(600, 12)

    weighed, evidence = weigh(pairs, combined, n_tokens, replace(wanted, weights="equal"))

    assert weighed.weights["up"] > 0 > weighed.weights["down"]
    parts = {name: weighed.weights[name] * combined[name] for name in ("up", "down")}
    assert parts["up"].std() == pytest.approx(parts["down"].std(), rel=0.15)
    assert "fitted_weights" in evidence.alternatives
    assert evidence.beyond_words is not None
    _, fitted = weigh(pairs, combined, n_tokens, wanted)
    assert fitted.alternatives["equal_weights"].auroc == evidence.auroc


@pytest.mark.parametrize(("options", "kind"), [([], "bag"), (["--lexicon", "may, w1, w2"], "lexicon")])
def test_calibrate_writes_an_indicator_of_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], kind: str
) -> None:
    """With its card, which names what it counts; a watchlist of nothing else is scored without the reader's help."""
    texts, labels = texts_and_labels(300, 5)
    data, out = tmp_path / "data.jsonl", tmp_path / "words.yaml"
    rows = [{"prompt": "", "response": text, "label": int(label)} for text, label in zip(texts, labels, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--indicator", "told", "--kind", "words", *options, "--max-fpr", "0.1"]
    arguments += ["--watchlist", str(BUNDLED_WATCHLIST), "--out", str(out), "--json"]

    document = run(capsys, "calibrate", str(data), *arguments)
    measured = run(capsys, "evaluate", str(data), "--indicator", "told", "--watchlist", str(out), "--json")

    watchlist = load_watchlist(out)
    (indicator,) = watchlist.indicators
    assert indicator.card is not None
    assert indicator.card.made_with is not None
    assert {"told": watchlist.words["told"].digest} == indicator.card.made_with.words
    assert (kind == "bag", "words") == (indicator.bag is not None, indicator.kind)
    assert 0.6 < document["auroc"] <= 1
    assert (None, None, True, "") == (
        document["beyond_words"], measured["beyond_words"], measured["calibrated"], measured["card_warning"]
    )  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)
