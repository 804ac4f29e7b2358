"""Tables, figures and pages: they say what was measured, need nothing else, and no text of a file gets out of its place."""

import json
import random
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from sklearn.metrics import roc_curve

from browser import PROGRAMS, browser
from conftest import House, need
from scopewatch.calibration import evaluation_report
from scopewatch.calibration.baselines import measure_baselines
from scopewatch.calibration.evaluation import Baselines, Evaluation, evaluate
from scopewatch.calibration.simple_detectors import trained_on
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.engine.choices import choices
from scopewatch.engine.dictionary import build_dictionary
from scopewatch.errors import DataError
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.pairs.pooled import encode_pairs
from scopewatch.pairs.scored import IndicatorScores
from scopewatch.report import figures
from scopewatch.report.figures import Figure
from scopewatch.report.page import Number, html_page
from scopewatch.report.tables import Table, table_as_text
from scopewatch.statistics.calibration_error import reliability
from scopewatch.statistics.scores import Interval
from scopewatch.types import Pair
from scopewatch.watch.cards import Card
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist, load_watchlist

HOSTILE = "</title></svg><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'&$x_1$"
RNG_SEED = 7


def drawn_pairs(n: int = 400) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels, and scores of two detectors, with ties."""
    rng = np.random.default_rng(RNG_SEED)
    labels = rng.random(n) < 0.4
    return labels, {"alpha": np.round(rng.normal(size=n) + labels, 1), "words": rng.normal(size=n) + 2 * labels}


def probabilities(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


def every_figure() -> list[str]:
    labels, detectors = drawn_pairs()
    bins = reliability(labels, probabilities(detectors["alpha"]))
    return [
        figures.roc(labels, detectors, 0.5),
        figures.distributions(labels, detectors["alpha"], 0.5),
        figures.reliability_diagram(bins),
        figures.plot(labels, detectors, 0.5),
    ]


class Tags(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


# Tables


def test_a_table_is_aligned() -> None:
    """Text stands to the left, numbers to the right, shares have three decimals and what is missing is a dash."""
    table = Table("Rows", ("name", "n", "rate"), [("a", 1200, 0.5), ("longer", 3, None)], "A note.")

    assert "Rows\n  name        n   rate\n  a       1,200  0.500\n  longer      3      -\n  A note." == table_as_text(
        table
    )


def test_text_of_a_file_is_cut_and_steers_no_terminal() -> None:
    """Control characters are replaced and long text is cut, so that a group's name cannot spoil what is printed."""
    table = Table("Rows", ("name",), [("\x1b[31mred\nline\u202e" + "x" * 100,)], longest=20)

    assert (
        "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}line\N{REPLACEMENT CHARACTER}xxxxx…"
        == table_as_text(table).splitlines()[-1].strip()
    )


# Figures


def test_the_roc_curve_is_scikit_learns() -> None:
    """With ties, the curve has scikit-learn's points."""
    labels, detectors = drawn_pairs()
    fpr, tpr, _ = roc_curve(labels, detectors["alpha"], drop_intermediate=False)

    assert [pytest.approx(fpr), pytest.approx(tpr)] == list(figures._curve(labels, detectors["alpha"]))


def test_the_roc_shows_where_the_threshold_operates() -> None:
    """The dot stands at the rates of what scores above the threshold; the legend has each detector's AUROC."""
    labels, detectors = drawn_pairs()
    canvas = Canvas()
    figures._draw_roc(canvas, labels, detectors, 0.5)
    (dot,) = [line for line in canvas.axes[0].lines if line.get_marker() == "o"]
    flagged = detectors["alpha"] > 0.5
    names = [text.get_text().split()[0] for text in canvas.axes[0].get_legend().get_texts()]

    assert ([flagged[~labels].mean()], [flagged[labels].mean()]) == (list(dot.get_xdata()), list(dot.get_ydata()))
    assert list(detectors) == names


@pytest.mark.parametrize("detectors", [*range(1, 12), 40])
def test_the_legend_is_whole(detectors: int) -> None:
    """As many detectors as calibrate compares, and as a combination has parts, are all named inside the figure."""
    labels, (first, *_) = drawn_pairs()[0], drawn_pairs()[1].values()
    with mpl.rc_context(figures._STYLE):
        canvas = Canvas(figsize=figures._size(1, detectors))
        figures._draw_roc(canvas, labels, dict.fromkeys([f"difference_{n}" for n in range(detectors)], first), 0.5)
        legend = canvas.axes[0].get_legend().get_window_extent()

    assert canvas.bbox.contains(legend.x0, legend.y0)


def test_the_distributions_hold_every_pair() -> None:
    """The bars of a label sum to 1, far scores included, and the threshold is in sight."""
    labels, detectors = drawn_pairs()
    scores = detectors["words"].copy()
    scores[:3] = 1e6, -1e6, 50
    canvas = Canvas()
    figures._draw_distributions(canvas, labels, scores, 9.0)
    axes = canvas.axes[0]

    assert 9.0 <= axes.get_xlim()[1] < 1e6
    tops = [polygon.get_xy()[1:81:2, 1] for polygon in axes.patches]
    assert [pytest.approx(1.0)] * 2 == [top.sum() for top in tops]


@pytest.mark.parametrize("scores", [np.zeros(4), np.array([1.0, 1.0, 1.0, 2.0])], ids=["constant", "two values"])
def test_what_hardly_varies_is_drawn_too(scores: np.ndarray) -> None:
    """Scores that are all alike give figures, not warnings."""
    labels = np.array([True, False, True, False])

    for svg in (figures.plot(labels, {"alpha": scores}, 0.0), figures.distributions(labels, scores, 0.0)):
        assert ET.fromstring(svg).tag.endswith("svg")


def test_figures_are_the_same_bytes_each_time() -> None:
    """No date, version or random name is in a figure, and names that repeat on a page are left out."""
    first, second = every_figure(), every_figure()

    assert first == second
    for svg in first:
        assert [] == re.findall(r"20\d\d-\d\d|matplotlib v|Matplotlib v|<g id=", svg)


def test_figures_take_the_colour_of_the_text_around_them() -> None:
    """Axes and letters are of the page's own colour, on no ground of their own, and letters stay letters."""
    *inline, file = every_figure()
    for svg in inline:
        assert "currentColor" in svg
        assert "#ffffff" not in svg
        assert "<text" in svg
    assert 'style="fill: #ffffff"' in file
    assert file.startswith("<?xml")


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    """Settings are put back, and pyplot, which keeps figures for ever, is not loaded."""
    before = [mpl.rcParams[name] for name in figures._STYLE]
    every_figure()
    program = "import sys; from scopewatch.report import figures; import numpy as np\n"
    program += "figures.roc(np.array([True, False]), {'a': np.zeros(2)}); print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert before == [mpl.rcParams[name] for name in figures._STYLE]
    assert "False" == done.stdout.strip()


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib a figure is a data error that names what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DataError) as caught:
        figures.roc(*drawn_pairs())

    assert "figures need matplotlib: pip install 'scopewatch[calibration]'" == str(caught.value)


# Pages


def hostile_page() -> str:
    """A page all of whose texts are hostile."""
    labels, detectors = drawn_pairs()
    svg = figures.roc(labels, {HOSTILE: detectors["alpha"], "words": detectors["words"]}, 0.5)
    return html_page(
        HOSTILE,
        [HOSTILE],
        [Table(HOSTILE, (HOSTILE, "n"), [(HOSTILE, 1)], HOSTILE, longest=500)],
        [Figure(HOSTILE, svg, HOSTILE)],
        [Number(HOSTILE, HOSTILE, HOSTILE)],
    )


def test_no_text_gets_out_of_its_place() -> None:
    """Titles, sentences, names of groups and of detectors stand on the page letter by letter, and make no tag."""
    html = hostile_page()
    found = Tags(html)

    assert set() == {"script", "img", "iframe", "link", "object"} & set(found.tags)
    assert [] == [name for name, _ in found.attributes if name.startswith("on")]
    assert 1 == found.tags.count("svg")
    assert 13 == sum(HOSTILE in text for text in found.text)
    assert HOSTILE in {value for _, value in found.attributes}


def test_a_page_needs_nothing_else() -> None:
    """No script, and no address that a browser would open: the page is whole wherever it is mailed."""
    html = html_page("t", [], [], [Figure("f", svg) for svg in every_figure()[:3]])
    loaded = {value for name, value in Tags(html).attributes if name in {"src", "href", "xlink:href", "action"}}

    assert {"#"} == {str(value)[0] for value in loaded}
    assert {"#"} == set(re.findall(r"url\((.)", html))
    assert "default-src 'none'" in html


# An evaluation in words


def made(n_groups: int = 200, **changes: object) -> tuple[Evaluation, list[LabelledPair], IndicatorScores, Baselines]:
    """An evaluation of 400 pairs."""
    labels, detectors = drawn_pairs()
    pairs = [
        LabelledPair(Pair("", "r"), int(label), n + 1, f"<b>g{n % n_groups}", f"s{n % 3}")
        for n, label in enumerate(labels)
    ]
    scored = IndicatorScores(
        *("alpha", "clinic", np.full(400, 0.5), np.full(400, 20), True, ""),
        scores=detectors["alpha"],
        flagged=detectors["alpha"] > 0.5,
        probabilities=probabilities(detectors["alpha"]),
        truncated=0,
    )
    scored = replace(scored, **changes)
    baselines = Baselines({"bag_of_words": detectors["words"]}, "Learnt elsewhere.")
    return evaluate(pairs, scored, baselines), pairs, scored, baselines


def test_the_terminal_is_told_what_matters() -> None:
    """Numbers with intervals, detectors best first, sources, at most five groups, and who wins."""
    found, *_ = made()
    text = evaluation_report.as_text(found)
    blocks = [block.splitlines() for block in text.split("\n\n")]

    assert "alpha of watchlist clinic on 400 pairs" in blocks[0][0]
    assert ["AUROC", f"{found.auroc:.3f}", f"{found.auroc_low:.3f}"] == blocks[1][0].split()[:3]
    assert ["bag_of_words", "alpha"] == [line.split()[0] for line in blocks[2][2:]]
    assert ["s0", "s1", "s2"] == [line.split()[0] for line in blocks[3][2:]]
    assert ["Groups with the most false positives", 7] == [blocks[4][0], len(blocks[4])]
    assert "bag_of_words clearly beats alpha" == blocks[5][0].partition(",")[0]
    assert blocks[5][1].startswith("Together with bag_of_words, at equal weights, its AUROC is ")
    assert blocks[5][2] == "Learnt elsewhere."
    assert [] == [line for line in text.splitlines() if line != line.rstrip()]


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (Interval(0.05, 0.01, 0.09), "alpha clearly beats words, by 0.050 (0.010 to 0.090)."),
        (Interval(-0.05, -0.09, -0.01), "words clearly beats alpha, by 0.050 (0.010 to 0.090)."),
        (
            Interval(0.01, -0.02, 0.04),
            "alpha and words cannot be told apart on these pairs: the difference is +0.010 (-0.020 to +0.040).",
        ),
    ],
    ids=["wins", "loses", "undecided"],
)
def test_who_wins_is_said_plainly(difference: Interval, said: str) -> None:
    """A difference counts as one only where its interval leaves out 0."""
    assert said == evaluation_report._versus("alpha", "words", difference)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_groups": 8}, "Only 8 groups: intervals drawn over so few are rough."),
        ({"truncated": 12}, "12 pairs did not fit the reader whole."),
        ({"calibrated": False}, "Warning: the indicator is uncalibrated."),
        (
            {"calibrated": False, "card_warning": "the card was made with dtype x"},
            "Warning: the card was made with dtype x.",
        ),
    ],
    ids=["few groups", "truncated", "uncalibrated", "card"],
)
def test_what_weakens_the_numbers_is_said(changes: dict[str, object], said: str) -> None:
    """Few groups, cut texts and cards that do not fit stand below the numbers."""
    assert said in evaluation_report.as_text(made(**changes)[0]).splitlines()
    assert said not in evaluation_report.as_text(made()[0]).splitlines()


CARD = Card.model_validate(
    {
        "date": "2026-11-22",
        "calibrated_on": "halves of x",
        "n": 10,
        "max_fpr": 0.05,
        "beats_bag_of_words": False,
        "leaks": ["length"],
        "measurements": [{"data": "other half", "n": 5, "n_positive": 2, "auroc": 0.75}],
        "made_with": {"scopewatch": "1", "reader": "r", "reader_digest": "0" * 64, "dtype": "float32"},
    }
)


def evaluation_page(card: Card | None = CARD) -> str:
    found, pairs, scored, baselines = made()
    detectors = {"alpha": scored.scores} | dict(baselines.scores)
    return evaluation_report.as_page(
        found, ["data<i>.jsonl"], labels_of(pairs), detectors, thresholds=scored.thresholds, card=card
    )


def test_the_page_has_the_evidence_and_the_card() -> None:
    """Headline numbers, three figures, every table, and what the card says of itself."""
    html = evaluation_page()
    found = Tags(html)

    assert [3, 2] == [html.count('<div role="img"'), html.count('<svg class="swatch"')]
    for text in ("halves of x", "length", "other half", "0.750", "float32", "alpha (clinic)", "Learnt elsewhere."):
        assert text in found.text
    assert "i" not in found.tags
    assert "Its card" not in Tags(evaluation_page(None)).text
    assert html == evaluation_page()


# Baselines on a real reader


TEXTS = ["It may rain", "we are not sure", "the lazy dog", "insulin lowers sugar", "perhaps gout", "hello world"]


def labelled_texts(n: int = 48, salt: str = "") -> list[LabelledPair]:
    """Pairs of both labels, two in a group."""
    return [
        LabelledPair(
            Pair("hello", f"{TEXTS[k % 6]} {TEXTS[(k // 6 + salt.count('x')) % 6]}"), k % 2, k + 1, f"{salt}{k // 4}"
        )
        for k in range(n)
    ]


def of_other_words(pairs: list[LabelledPair]) -> list[LabelledPair]:
    """The same labels and groups with texts that are copies of none."""
    letters = random.Random(5)
    return [
        replace(one, pair=Pair("hello", f"{one.pair.response} {''.join(letters.choices('abcdefg hijk', k=200))}"))
        for one in pairs
    ]


def config_for(house: House) -> Config:
    return Config(watchlist=(house.watchlist,), torch_threads=1)


def indicator_of(house: House, name: str) -> tuple[Watchlist, Indicator]:
    watchlist = load_watchlist(house.watchlist)
    return watchlist, next(one for one in watchlist.indicators if one.name == name)


def test_baselines_learn_from_the_training_pairs(house: House) -> None:
    """With training pairs, the dense ones read where the indicator's first SAE does, shared groups and what the text ones read are told."""
    watchlist, beta = indicator_of(house, "beta")
    pairs, train = labelled_texts(24), labelled_texts(48, "x") + labelled_texts(4)
    found = measure_baselines(watchlist, beta, pairs, train, config_for(house))

    reader, saes = choices([watchlist])
    late = next(choice.source for choice in saes if choice.name == "late")
    dictionary = build_dictionary(reader, late, config_for(house))
    read = [
        encode_pairs(part, dictionary, segment=beta.read_segment, folder=house.folder / "store")
        for part in (train, pairs)
    ]
    expected = trained_on(train, read[0].dense, pairs, read[1].dense)
    assert {name: pytest.approx(scores) for name, scores in expected.items()} == found.scores
    assert (
        "The baselines that learn did so from the 52 pairs of --train; groups in both: 1, which flatters whatever "
        "learnt from them. The dense probe chose its pooling there too, of mean, last, sentence_end(over=mean). Words and length are those of the response, though the indicator reads the prompt."
        == found.fitted_on
    )


def test_without_training_pairs_baselines_are_cross_fitted(house: House) -> None:
    """Every pair gets a score of all five, and it is said that they had the advantage."""
    watchlist, alpha = indicator_of(house, "alpha")
    pairs = labelled_texts()
    found = measure_baselines(watchlist, alpha, pairs, [], config_for(house))

    names = {"bag_of_words", "dense_probe", "difference_of_means", "hedge_words", "response_length"}
    assert dict.fromkeys(names, (48,)) == {name: scores.shape for name, scores in found.scores.items()}
    assert [len(pair.pair.response) for pair in pairs] == found.scores["response_length"].tolist()
    assert "from these same pairs" in found.fitted_on


def test_a_combination_is_measured_beside_text(house: House) -> None:
    """It reads no SAE of its own, so the dense detectors have no place to read; the text ones stay."""
    watchlist, _ = indicator_of(house, "alpha")
    combination = Indicator.model_validate(
        {"name": "c", "kind": "combination", "combines": [{"indicator": "alpha", "weight": 1}], "threshold": 0}
    )
    found = measure_baselines(watchlist, combination, labelled_texts(), [], config_for(house))

    assert {"bag_of_words", "hedge_words", "response_length"} == set(found.scores)
    assert found.fitted_on.endswith("There is no dense baseline: an indicator of kind combination reads no SAE.")


def test_too_little_to_learn_from_is_said(house: House) -> None:
    """From two groups nothing can be cross-fitted: what needs no fitting is measured, and why no more."""
    watchlist, alpha = indicator_of(house, "alpha")
    found = measure_baselines(watchlist, alpha, labelled_texts(8), [], config_for(house))

    assert {"hedge_words", "response_length"} == set(found.scores)
    assert found.fitted_on.startswith("No baseline learnt from these pairs: label 1 is in 2 groups")


# The command


Terminal = Callable[..., SimpleNamespace]


@pytest.fixture
def run(house: House, capsys: pytest.CaptureFixture[str], logging_as_it_was: None) -> Terminal:
    def call(*arguments: object, watchlists: Sequence[Path] = (house.watchlist,)) -> SimpleNamespace:
        command = ["evaluate", *arguments, "--watchlist", *watchlists, "--indicator", "alpha"]
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in command])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=left.value.code, out=out, err=err)

    return call


def data_file(file: Path, pairs: list[LabelledPair], source: str) -> Path:
    rows = [
        {"prompt": p.pair.prompt, "response": p.pair.response, "label": p.label, "group": p.group, "source": source}
        for p in pairs
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_command_writes_what_it_prints(run: Terminal, tmp_path: Path) -> None:
    """Several files are measured together, with training pairs, into JSON, a page and a figure that agree."""
    first = data_file(tmp_path / "a.jsonl", labelled_texts(24), "one")
    second = data_file(tmp_path / "b.jsonl", labelled_texts(24, "xx"), "two")
    train = data_file(tmp_path / "t.jsonl", of_other_words(labelled_texts(48, "x")), "three")
    html, svg = tmp_path / "page.html", tmp_path / "figure.svg"
    done = run(first, second, "--train", train, "--json", "--html", html, "--plot", svg)
    found = json.loads(done.out)

    assert (0, 48, ["one", "two"]) == (done.code, found["n"], [row["source"] for row in found["sources"]])
    assert 5 == len(found["baselines"])
    assert found["ece"] is not None
    assert "from the 48 pairs of --train" in found["baselines_fitted_on"]
    assert f"{found['auroc']:.3f}" in Tags(html.read_text(encoding="utf-8")).text
    assert ET.parse(svg).getroot().tag.endswith("svg")


def test_the_indicator_can_be_measured_alone(run: Terminal, tmp_path: Path) -> None:
    """`--no-baselines` leaves the numbers of the indicator."""
    done = run(data_file(tmp_path / "a.jsonl", labelled_texts(8), "one"), "--no-baselines", "--json")
    found = json.loads(done.out)

    assert ({}, {}, None) == (found["baselines"], found["differences"], found["beats_bag_of_words"])


def test_a_page_without_a_place_is_said_before_the_work(run: Terminal, tmp_path: Path) -> None:
    """A folder that is not there is an error at once, in one line."""
    done = run(data_file(tmp_path / "a.jsonl", labelled_texts(8), "one"), "--html", tmp_path / "no" / "page.html")

    assert (2, "") == (done.code, done.out)
    assert f"scopewatch: {tmp_path}/no/page.html: there is no folder {tmp_path}/no\n" == done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--html", "."], ".: is a folder; name a file to write"),
        (["--plot", "plot.png"], "plot.png: expected a name that ends in .svg"),
        (["--html", "x.svg", "--plot", "x.svg"], "--html and --plot both name x.svg"),
        (["--train", "one.jsonl"], "one.jsonl: 4 pairs, all of label 0; both labels, 0 and 1, are needed"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(
    run: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """A page or training pairs that cannot be used are an error before anything is read."""
    monkeypatch.chdir(tmp_path)
    data_file(tmp_path / "a.jsonl", labelled_texts(8), "one")
    data_file(tmp_path / "one.jsonl", labelled_texts(8)[::2], "one")
    done = run("a.jsonl", *arguments)

    assert (2, "", f"scopewatch: {said}\n") == (done.code, done.out, done.err)


def test_each_label_may_have_a_file_of_its_own(run: Terminal, tmp_path: Path) -> None:
    """Files are measured together: one of them may hold label 0 and another label 1."""
    files = [data_file(tmp_path / f"{n}.jsonl", labelled_texts(8)[n::2], "one") for n in range(2)]
    found = json.loads(run(*files, "--no-baselines", "--json").out)

    assert (8, 4) == (found["n"], found["n_positive"])


def test_several_watchlists_are_refused(run: Terminal, house: House, tmp_path: Path) -> None:
    """One watchlist is measured at a time: a second one is not passed over silently."""
    done = run(data_file(tmp_path / "a.jsonl", labelled_texts(8), "one"), watchlists=[house.watchlist] * 2)

    assert (2, "scopewatch: evaluate measures one watchlist, not 2; run it once for each\n") == (done.code, done.err)


def test_too_few_training_pairs_are_said(run: Terminal, tmp_path: Path) -> None:
    """Where nothing can be learnt from `--train` the error names the flag."""
    data = data_file(tmp_path / "a.jsonl", labelled_texts(8), "one")
    done = run(data, "--train", data_file(tmp_path / "t.jsonl", of_other_words(labelled_texts(4)), "one"))

    assert (2, True) == (done.code, done.err.startswith("scopewatch: --train: label 1 is in 1 groups"))


@pytest.mark.parametrize("library", ["scipy", "sklearn"])
def test_a_missing_library_is_said(tmp_path: Path, library: str) -> None:
    """Without what the extra brings, `evaluate` is one line that says what to install."""
    file = data_file(tmp_path / "a.jsonl", labelled_texts(8), "one")
    program = f"import sys; sys.modules[{library!r}] = None; from scopewatch.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "evaluate", str(file), "--indicator", "speculation"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert "pip install 'scopewatch[calibration]'" in done.stderr


def test_many_sources_are_counted() -> None:
    """A file that names thousands of sources still prints on one screen: the largest are shown."""
    found, *_ = made()
    many = replace(found, sources=[replace(found.sources[0], name=f"s{n}", n=n + 1) for n in range(50)])
    block = next(part for part in evaluation_report.as_text(many).split("\n\n") if part.startswith("Sources"))

    assert ["s49", "and 30 smaller ones"] == [block.splitlines()[2].split()[0], block.splitlines()[-1].strip()]


# A browser


@pytest.mark.system
def test_a_browser_runs_nothing_of_a_hostile_page(tmp_path: Path) -> None:
    """What a browser makes of the page has its figure and texts, and no script or handler of theirs has run."""
    if not any(map(shutil.which, PROGRAMS)):
        need("chromium")
    file = tmp_path / "page.html"
    file.write_text(hostile_page(), encoding="utf-8")
    with browser(tmp_path / "profile") as page:
        page.open(file)
        found = Tags(page.value("document.documentElement.outerHTML"))

    assert "owned" not in found.text
    assert (1, 0, 0) == tuple(found.tags.count(tag) for tag in ("svg", "script", "img"))
    assert HOSTILE in found.text
