"""Pages of what was measured are for everybody: screen readers, keyboards, phones, printers, and eyes in the dark."""

import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from browser import PROGRAMS, Page, browser
from conftest import need
from scopewatch.report import figures
from scopewatch.report.excerpts import Place, excerpt
from scopewatch.report.figures import Figure
from scopewatch.report.looks import INDICATOR, looks_of
from scopewatch.report.page import Number, html_page
from scopewatch.report.tables import Table
from scopewatch.statistics.calibration_error import reliability

pytestmark = pytest.mark.system
NAMES = ["hedging", "bag_of_words", "response_length"]


def whole_page() -> str:
    """A page that has all that a page may have."""
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.5
    detectors = {name: rng.normal(size=200) + labels for name in NAMES}
    bins = reliability(labels, 1 / (1 + np.exp(-detectors["hedging"])))
    text = "Perhaps the creatinine is high, we are not sure. " * 20
    shown = excerpt(text, [Place(0, 7), Place(text.index("not"), text.index("not") + 8)])
    rows = [(name, 0.7, 0.6) for name in detectors]
    return html_page(
        "hedging (clinic)",
        ["A sentence about it.", "And another."],
        [
            Table("Detectors", ("detector", "AUROC", "low"), rows, "A note.", looks=looks_of(list(detectors))),
            Table(
                "False positives", ("id", "score", "prompt", "response", "group"), [("1", 2.5, shown, shown, "g" * 60)]
            ),
            Table("Its card", ("", ""), [("date", "2026-11-30"), ("note", text[:200])], longest=1000),
            Table("Only numbers", ("n", "rate"), [(1, 0.5)]),
        ],
        [
            Figure("ROC", figures.roc(labels, detectors, 0.5), "With the AUROC."),
            Figure("Scores", figures.distributions(labels, detectors["hedging"], 0.5)),
            Figure("Reliability", figures.reliability_diagram(bins)),
        ],
        [Number("AUROC", "0.7", "0.6 to 0.8"), Number("precision", "-")],
    )


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if not any(map(shutil.which, PROGRAMS)):
        need("chromium")
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


def opened(tab: Page, folder: Path, html: str, width: int = 1100, *, dark: bool = False) -> Page:
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    tab.look(width, dark=dark)
    tab.open(file)
    return tab


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(tab: Page, tmp_path: Path, dark: bool) -> None:
    """Contrast, names, headings, tables, landmarks, and what is scrolled being in reach of the keyboard."""
    assert [] == opened(tab, tmp_path, whole_page(), dark=dark).violations()
    assert [] == opened(tab, tmp_path, whole_page(), width=360, dark=dark).violations()


def test_axe_would_find_it(tab: Page, tmp_path: Path) -> None:
    """Without names of figures, reach of the keyboard and contrast it complains."""
    worse = (
        whole_page()
        .replace(' aria-label="ROC"', "")
        .replace(' tabindex="0"', "")
        .replace("--faint: #5b6670", "--faint: #c5cbd0")
    )
    found = {one.split()[0] for one in opened(tab, tmp_path, worse, width=360).violations()}

    assert {"color-contrast", "role-img-alt", "scrollable-region-focusable"} <= found


@pytest.mark.parametrize("width", [360, 1100])
def test_only_wide_tables_are_scrolled(tab: Page, tmp_path: Path, width: int) -> None:
    """On a phone the page itself is as wide as the screen."""
    page = opened(tab, tmp_path, whole_page(), width=width)

    assert width >= page.value("document.documentElement.scrollWidth")
    assert page.value("document.querySelector('td.excerpt').clientWidth") >= 200


@pytest.mark.parametrize(("dark", "paper"), [(False, (255, 255, 255)), (True, (20, 24, 28))], ids=["light", "dark"])
def test_curves_can_be_seen(tab: Page, tmp_path: Path, dark: bool, paper: tuple[int, ...]) -> None:
    """Curves and text stand on the page's own ground, in both colour schemes."""
    shot = opened(tab, tmp_path, whole_page(), dark=dark).screenshot()
    pixels = (imread(BytesIO(shot), "png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
    curve = tuple(bytes.fromhex(INDICATOR.colour[1:]))

    assert 0.6 < (pixels == paper).all(axis=1).mean() < 0.98
    assert (pixels == curve).all(axis=1).sum() > 200


def test_marks_and_swatches_can_be_told_from_the_ground(tab: Page, tmp_path: Path) -> None:
    """Marked words have another ground than the page, in light and in dark; a swatch is a line of its detector's colour."""
    grounds = []
    for dark in (False, True):
        page = opened(tab, tmp_path, whole_page(), dark=dark)
        grounds.append(page.value("getComputedStyle(document.querySelector('mark')).backgroundColor"))
        strokes = page.value("[...document.querySelectorAll('.swatch path')].map(one => getComputedStyle(one).stroke)")
        looks = looks_of(NAMES)
        told = [", ".join(map(str, bytes.fromhex(looks[name].colour[1:]))) for name in NAMES]
        assert [f"rgb({colour})" for colour in told] == strokes
    assert grounds == ["rgb(255, 224, 138)", "rgb(107, 83, 18)"]
