"""One colour and dash for each detector, on every page, that everybody can tell from the others."""

import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from scopewatch.report import figures
from scopewatch.report.looks import INDICATOR, Look, looks_of
from scopewatch.report.page import beside, html_page
from scopewatch.report.tables import Table

TEXT = ["bag_of_words", "response_length", "hedge_words"]
DENSE = ["difference_of_means", "single_feature", "random_features"]
CALIBRATE = [*TEXT, *DENSE, "dense_probe"]
PARTS = ["bias", "medical_knowledge", "mean_logprob", "surprising_assertion", "hedge_share"]
MACHADO = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What linear sRGB becomes to eyes that lack a cone (Machado et al. 2009, severity 1)."""


def drawn(detectors: Sequence[str]) -> dict[str, Look]:
    """How the lines of a ROC figure are drawn, by the detector that the legend names."""
    rng = np.random.default_rng(0)
    canvas = Canvas()
    figures._draw_roc(canvas, np.arange(40) % 2 == 0, {name: rng.normal(size=40) for name in detectors}, 0.0)
    lines = [line for line in canvas.axes[0].lines if " " in str(line.get_label())]
    return {str(line.get_label()).split()[0]: Look(line.get_color(), line.get_linestyle()) for line in lines}  # type: ignore[arg-type]


def linear(colour: str) -> np.ndarray:
    share = np.array(list(bytes.fromhex(colour[1:]))) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, by WCAG 2.1."""
    low, high = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, eyes: str) -> np.ndarray:
    """A colour in CIELAB, as some eyes see it."""
    seen = np.clip(np.array(MACHADO[eyes]) @ linear(colour), 0, 1) if eyes in MACHADO else linear(colour)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ seen / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", [*CALIBRATE, "sae_features", "equal_weights", *PARTS])
def test_a_detector_looks_the_same_whatever_stands_beside_it(name: str) -> None:
    """In the figures of a calibration, an evaluation and a combination, in any order, for indicators of any name."""
    calibration, evaluation = drawn(["speculation", *CALIBRATE, name]), drawn(["bias_2", name, *TEXT[::-1]])
    alone, combination = drawn(["zeal", name]), drawn(["confidence", *TEXT, "equal_weights", name])

    assert 1 == len({found[name] for found in (calibration, evaluation, alone, combination)})
    assert INDICATOR == calibration["speculation"] == evaluation["bias_2"] == alone["zeal"]


def test_parts_keep_their_looks_beside_each_other() -> None:
    """What calibration does not know looks as its name says, unless another stands there that looks so by its own."""
    alone = {name: drawn(["confidence", name])[name] for name in PARTS}
    apart = [pair for pair in combinations(PARTS, 2) if alone[pair[0]].colour != alone[pair[1]].colour]

    assert len(apart) > 2
    for pair in apart:
        assert {name: alone[name] for name in pair}.items() <= drawn(["confidence", *pair, *TEXT]).items()


@pytest.mark.parametrize("others", [[*CALIBRATE, *PARTS], [*TEXT, "fitted_weights", *(f"part_{n}" for n in range(15))]])
def test_no_two_detectors_of_a_figure_look_alike(others: list[str]) -> None:
    """Nor has another the colour of the indicator, even where it has its name."""
    found = drawn(["speculation", *others])

    assert len(others) + 1 == len(set(found.values()))
    assert INDICATOR.colour not in {look.colour for name, look in found.items() if name != "speculation"}
    assert INDICATOR == looks_of(["hedge_words", "bag_of_words"])["hedge_words"]


def test_what_calibration_knows_and_few_parts_have_colours_of_their_own() -> None:
    """Of eight detectors no two share a colour, nor of a combination and two parts."""
    for beside_it in (CALIBRATE, [*TEXT, "equal_weights", *PARTS[:2]]):
        found = drawn(["speculation", *beside_it])
        assert len(found) == len({look.colour for look in found.values()})


def test_colours_can_be_seen_on_either_ground() -> None:
    """Each has a contrast of 3, which WCAG asks of graphics, with the pages' white and with their dark."""
    papers = re.findall(r"--paper: (#[0-9a-f]+)", beside("look.css"))
    full = ["#" + "".join(2 * digit for digit in paper[1:]) if len(paper) == 4 else paper for paper in papers]
    looks = looks_of(["speculation", *CALIBRATE, "equal_weights", *(f"part_{n}" for n in range(20))])

    assert 2 == len(full)
    assert [] == [(look, paper) for look in looks.values() for paper in full if contrast(look.colour, paper) < 3]


@pytest.mark.parametrize("others", [CALIBRATE, [*TEXT, "equal_weights"], [*TEXT, "fitted_weights"]])
@pytest.mark.parametrize("eyes", ["usual", *MACHADO])
def test_eyes_that_lack_a_cone_tell_them_apart(eyes: str, others: list[str]) -> None:
    """What has dashes of one kind differs clearly in colour, to such eyes too; what is close in colour, in its dashes."""
    found = looks_of(["speculation", *others])
    close = [
        (one, other)
        for one, other in combinations(found, 2)
        if found[one].dash == found[other].dash
        and np.linalg.norm(lab(found[one].colour, eyes) - lab(found[other].colour, eyes)) < 30
    ]

    assert [] == close


def test_a_table_shows_the_colours_of_the_figure() -> None:
    """Beside each detector stands a line as its curve is drawn; a row that is no detector has none."""
    names = ["speculation", "bag_of_words", "medical_knowledge"]
    table = Table(
        "Detectors", ("detector", "AUROC"), [(name, 0.5) for name in (*names, "other")], looks=looks_of(names)
    )
    html = html_page("t", [], [table], [])
    swatches = re.findall(r'<path [^>]*stroke="([^"]+)"[^>]*stroke-dasharray="([^"]+)"/></svg>([a-z_]+)', html)

    assert [(look.colour, look.dashes, name) for name, look in drawn(names).items()] == swatches


def test_histograms_and_reliability_are_in_the_indicators_colour() -> None:
    """What is drawn of the indicator alone borrows no colour of another detector."""
    labels, scores = np.arange(40) % 2 == 0, np.random.default_rng(1).normal(size=40)
    others = {look.colour for name, look in looks_of(["x", *CALIBRATE]).items() if name != "x"}
    svg = figures.distributions(labels, scores, 0.0)

    assert INDICATOR.colour in svg
    assert set() == others & set(re.findall("#[0-9a-f]{6}", svg))


def test_pages_have_captions_row_headers_and_one_main_part() -> None:
    """A screen reader tells what a table is of, and of which row a number is."""
    named = Table("Parts", ("part", "n"), [("a", 1), ("b", 2)])
    html = html_page("t", [], [named, Table("Numbers", ("x", "y"), [(1, 2)])], [])

    assert ["<main>", "</main>"] == re.findall("</?main>", html)
    assert ["Parts", "Numbers"] == re.findall("<caption><h2>(.*?)</h2></caption>", html)
    assert ["a", "b"] == re.findall('<th scope="row"[^>]*>(.*?)</th>', html)
    assert ["part", "n", "x", "y"] == re.findall('<th scope="col"[^>]*>(.*?)</th>', html)
