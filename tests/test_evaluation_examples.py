"""An evaluation shows what it gets most wrong: which pairs, and the words on which the indicator fired in them."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from browser import PROGRAMS, browser
from conftest import House, need, scored_pair
from scopewatch.app.spine import offline
from scopewatch.calibration.wrong_pairs import Mistakes, WrongPair, WrongPairs, mistakes_of, with_spans
from scopewatch.calibration.wrong_pairs_tables import tables_for_terminal, tables_of
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.pairs.data_files import read_pairs
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.scored import IndicatorScores, score_pairs
from scopewatch.report.excerpts import Place, excerpt
from scopewatch.report.page import html_page
from scopewatch.report.tables import table_as_text
from scopewatch.types import Coverage, Pair, ScoreJob, Segment, Turn
from scopewatch.verdicts import Evidence, IndicatorScore, ScoredPair, Verdict
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import load_watchlist

HOSTILE = "</style></table><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202e\u2066&'"
Terminal = Callable[..., SimpleNamespace]


def scores_of(scores: np.ndarray, thresholds: np.ndarray) -> IndicatorScores:
    return IndicatorScores(
        *("alpha", "clinic", thresholds, np.full(len(scores), 9), True, ""),
        *(scores, scores > thresholds, None, 0),
    )


def drawn(n: int = 300) -> tuple[list[LabelledPair], IndicatorScores]:
    """Pairs with labels that scores know a little of; thresholds differ, and some scores are alike."""
    rng = np.random.default_rng(4)
    labels = rng.random(n) < 0.5
    pairs = [LabelledPair(Pair("", "r"), int(label), row + 1, id=f"p{row}") for row, label in enumerate(labels)]
    return pairs, scores_of(np.round(rng.normal(size=n) + labels, 1), np.round(rng.normal(size=n) / 4, 1))


# Which pairs


def test_the_mistakes_are_those_that_sorting_finds() -> None:
    """The ten of either label furthest on the wrong side of their own thresholds, the furthest first, ties by the file."""
    pairs, scored = drawn()
    found = mistakes_of(pairs, scored)
    rows = [
        (float(s - t), row, pairs[row].label)
        for row, (s, t) in enumerate(zip(scored.scores, scored.thresholds, strict=True))
    ]
    false = sorted((-above, row) for above, row, label in rows if above > 0 and not label)
    missed = sorted((above, row) for above, row, label in rows if above <= 0 and label)

    assert len(false) > 10 < len(missed)
    assert (len(false), [f"p{row}" for _, row in false[:10]]) == told(found.false_positives)
    assert (len(missed), [f"p{row}" for _, row in missed[:10]]) == told(found.false_negatives)


def told(wrong: WrongPairs) -> tuple[int, list[str]]:
    return wrong.n, [one.pair.id for one in wrong.worst]


def test_what_makes_no_mistake_has_no_table() -> None:
    """Where every pair is on its side there is nothing to show."""
    pairs, scored = drawn(20)
    right = np.array([bool(pair.label) for pair in pairs])
    found = mistakes_of(pairs, replace(scored, scores=scored.thresholds + right - 0.5, flagged=right))

    assert (Mistakes(), []) == (found, tables_of(found, Segment.RESPONSE, texts=True))


# Where it fired


async def test_marks_are_where_the_online_scorer_says_that_it_fired(house: House) -> None:
    """The spans are the evidence of the reply for the pair, by the real reader."""
    watchlist = load_watchlist(house.watchlist)
    alpha = next(one for one in watchlist.indicators if one.name == "alpha")
    texts = ["It may rain", "we are not sure", "the lazy dog", "insulin lowers sugar"]
    pairs = [LabelledPair(Pair("hello", text), row % 2, row + 1) for row, text in enumerate(texts)]
    async with offline(Config(watchlist=(house.watchlist,), torch_threads=1)) as spine:
        scored = (await score_pairs(pairs, ["alpha"], "", spine.score)).by_indicator["alpha"]
        found = await with_spans(mistakes_of(pairs, scored), alpha, "", spine.score)
        worst = [*found.false_positives.worst, *found.false_negatives.worst]
        jobs = [ScoreJob(one.pair.pair, "", "", include_evidence=True) for one in worst]
        replies = [one for one in await spine.score(jobs) if isinstance(one, ScoredPair)]

    evidence = [next(one.evidence for one in reply.indicators if one.name == "alpha") for reply in replies]
    assert any(evidence)
    assert evidence == [one.spans for one in worst]
    for one in worst:
        (cell,) = tables_of_one(one)
        for mark in re.findall("<mark>(.*?)</mark>", cell):
            assert mark in one.pair.pair.response


def tables_of_one(one: WrongPair) -> list[str]:
    """The cell that the page shows of the response of a pair."""
    mistakes = Mistakes(WrongPairs(1, (one,)))
    html = html_page("t", [], tables_of(mistakes, Segment.RESPONSE, texts=True), [])
    return re.findall('<td class="excerpt"><bdi>(.*?)</bdi>', html)[-1:]


async def test_a_combination_marks_where_its_parts_raise_it() -> None:
    """The places of parts that weigh more than 0, beside its own; none of a part that lowers it."""
    combination = Indicator.model_validate(
        {
            "name": "both",
            "kind": "combination",
            "threshold": 0,
            "combines": [{"indicator": "up", "weight": 2}, {"indicator": "down", "weight": -1}],
        }
    )
    place = {name: Evidence(n, n + 1, name, 1.0, Segment.RESPONSE, 0) for n, name in enumerate(("up", "down", "other"))}

    async def score(jobs: Sequence[ScoreJob]) -> list[ScoredPair]:
        said = [IndicatorScore(name, 1.0, 0.0, True, "low", False, evidence=(one,)) for name, one in place.items()]
        both = IndicatorScore("both", 1.0, 0.0, True, "low", False)
        assert all(job.include_evidence for job in jobs)
        return [scored_pair(Verdict.FLAG, (*said, both), Coverage(9, 4, 4, 0)) for _ in jobs]

    mistakes = Mistakes(WrongPairs(1, (WrongPair(LabelledPair(Pair("", "abc"), 0, 1), 1.0, 0.0),)))
    found = await with_spans(mistakes, combination, "", score)

    assert (place["up"],) == found.false_positives.worst[0].spans


# Excerpts


WORDS = st.lists(st.sampled_from(["a", "rain", "creatinine", "may", "\n", "it's", "ü" * 30]), max_size=80).map(" ".join)


@given(WORDS, st.lists(st.tuples(st.integers(0, 900), st.integers(1, 40)), max_size=6))
@example("ü" * 30 + " a" * 10 + " rain", [(30, 8), (30, 18), (0, 1)])
def test_an_excerpt_is_of_the_text(text: str, places: list[tuple[int, int]]) -> None:
    """Its pieces stand in the text in this order, whole words are marked, the first place is there, and it is short."""
    spans = [Place(start, min(start + length, len(text))) for start, length in places if start < len(text)]
    found = excerpt(text, spans, around=10, most=60)
    flat, at = text.replace("\n", " "), 0
    for piece in found.pieces:
        if piece.text.strip(" ") != "…":
            at = flat.index(piece.text, at) + len(piece.text)
        if piece.marked:
            assert re.search(rf"(?<![\w']){re.escape(piece.text)}(?![\w'])", flat)
    seen = [span for span in spans if text[span.start : span.end].strip()]

    assert sum(len(piece.text) for piece in found.pieces) < 60 + 2 * (10 + 40) + 40
    assert bool(seen) == any(piece.marked for piece in found.pieces)
    assert seen or flat[:60] == "".join(piece.text for piece in found.pieces)[:60]


def test_an_excerpt_shows_the_places_in_their_surroundings() -> None:
    """What is far from them is left out, and says so."""
    text = "First of all. " + "x " * 50 + "its creatinine is high today, " + "y " * 50 + "perhaps"
    places = [Place(text.index("ine is"), text.index(" is")), Place(len(text) - 7, len(text))]

    assert "…its «creatinine» is … y y «perhaps»" == str(excerpt(text, places, around=6))
    assert "First …" == str(excerpt(text, [], most=6))
    many = [Place(start, start + 4) for start in range(0, 90_000, 300)]
    assert 320 < len(str(excerpt("word " * 20_000, many, around=40, most=320))) < 500


# The page


def hostile_mistakes() -> Mistakes:
    """A false positive all of whose texts are hostile, and one of a million characters."""
    spans = (Evidence(3, 40, "f", 1.0, Segment.RESPONSE, 0), Evidence(0, 8, "f", 0.5, Segment.PROMPT, 0))
    pair = LabelledPair(Pair(HOSTILE, HOSTILE), 0, 1, group=HOSTILE, source=HOSTILE, id=HOSTILE)
    long = replace(pair, pair=Pair("", HOSTILE * 10_000, (Turn("user", HOSTILE),)), source="other")
    return Mistakes(WrongPairs(2, (WrongPair(pair, 2.0, 1.0, spans), WrongPair(long, 1.5, 1.0, spans))))


@pytest.mark.parametrize("judged", [Segment.PROMPT, Segment.RESPONSE])
def test_hostile_texts_make_no_tag(judged: Segment) -> None:
    """They stand on the page letter by letter, what steers letters by its number, and the page stays small."""
    html = html_page("t", [], tables_of(hostile_mistakes(), judged, texts=True), [])

    assert set() == {"script", "img", "style"} & {
        tag.lower() for tag in re.findall("<([a-z]+)", html.split("</style>")[1], re.IGNORECASE)
    }
    assert "&lt;script&gt;" in html
    assert not set("\u202e\u2066") & set(html)
    assert len(html) < 20_000


@pytest.mark.system
def test_a_browser_runs_nothing_of_hostile_texts(tmp_path: Path) -> None:
    """The title stays, nothing is asked of the network, nothing has to be refused, and marked words are there."""
    if not any(map(shutil.which, PROGRAMS)):
        need("chromium")
    file = tmp_path / "page.html"
    file.write_text(
        html_page("safe", [], tables_of(hostile_mistakes(), Segment.RESPONSE, texts=True), []), encoding="utf-8"
    )
    with browser(tmp_path / "profile") as page:
        page.open(file)
        seen = page.value("[document.title, document.scripts.length, document.images.length]")
        marked = page.value("[...document.querySelectorAll('td.excerpt mark')].map(mark => mark.textContent)")
        asked = (page.requests(), page.problems())

    assert (["safe", 0, 0], ([file.as_uri()], [])) == (seen, asked)
    assert marked
    assert all(mark in HOSTILE for mark in marked)


def test_a_history_shows_the_turn_that_fired() -> None:
    """Of a conversation the turn with the strongest place; the last one where there is none."""
    pair = LabelledPair(Pair("p", "r", (Turn("user", "first words"), Turn("assistant", "last words"))), 0, 1)
    fired = WrongPair(pair, 2.0, 1.0, (Evidence(0, 5, "f", 1.0, Segment.HISTORY, 0),))
    (table,) = tables_of(Mistakes(WrongPairs(2, (fired, replace(fired, spans=())))), Segment.HISTORY, texts=True)
    place = list(table.columns).index("history")

    assert ["«first» words", "last words"] == [str(row[place]) for row in table.rows]


# The command


@pytest.fixture
def run(house: House, capsys: pytest.CaptureFixture[str], logging_as_it_was: None) -> Terminal:
    def call(*arguments: object) -> SimpleNamespace:
        command = ["evaluate", *arguments, "--watchlist", house.watchlist, "--indicator", "alpha", "--no-baselines"]
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in command])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=left.value.code, out=out, err=err)

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty-four pairs, whose labels the indicator knows nothing of."""
    words = ["it", "may", "rain", "we", "are", "not", "sure", "the", "lazy", "dog", "insulin", "lowers"]
    rng, file = np.random.default_rng(2), tmp_path / "data.jsonl"
    rows = [
        {"prompt": f"ask {row}?", "response": " ".join(rng.choice(words, 6)), "label": row % 2, "id": f"id-{row}"}
        for row in range(24)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_command_lists_what_numpy_finds(run: Terminal, house: House, data: Path, tmp_path: Path) -> None:
    """JSON, page and terminal have the false positives and negatives that the scores give, by ids of the file."""
    found = json.loads(run(data, "--json", "--html", tmp_path / "page.html").out)
    terminal = run(data).out
    pairs = read_pairs(data).pairs

    async def scores() -> IndicatorScores:
        async with offline(Config(watchlist=(house.watchlist,), torch_threads=1)) as spine:
            return (await score_pairs(pairs, ["alpha"], "", spine.score)).by_indicator["alpha"]

    scored = asyncio.run(scores())
    above = scored.scores - scored.thresholds
    labels = np.array([pair.label for pair in pairs], bool)
    order = np.lexsort((np.arange(24), -above))
    false = [f"id-{row}" for row in order if above[row] > 0 and not labels[row]]
    missed = [f"id-{row}" for row in np.lexsort((np.arange(24), above)) if above[row] <= 0 and labels[row]]

    assert false or missed
    assert false[:10] == [one["id"] for one in found["false_positives"]]
    assert missed[:10] == [one["id"] for one in found["false_negatives"]]
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [*false[:10], *missed[:10]] == re.findall('<th scope="row" class="short">(id-[0-9]+)</th>', html)
    assert [*false[:3], *missed[:3]] == re.findall("^  (id-[0-9]+) ", terminal, re.MULTILINE)
    assert "<mark>" in html
    for one in [*found["false_positives"], *found["false_negatives"]]:
        assert all(0 <= span["start"] < span["end"] and span["segment"] == "response" for span in one["spans"])


def test_texts_can_be_left_out(run: Terminal, data: Path, tmp_path: Path) -> None:
    """With `--no-texts` neither page nor terminal nor JSON has a word of the data; ids and scores stay."""
    file = tmp_path / "page.html"
    found = run(data, "--no-texts", "--json").out
    shown = run(data, "--no-texts", "--html", file).out + found
    html = file.read_text(encoding="utf-8")
    texts = [
        text
        for line in data.read_text().splitlines()
        for text in (json.loads(line)["prompt"], json.loads(line)["response"])
    ]

    assert [] == [text for text in texts if text in shown + html]
    assert "<mark>" not in html
    assert [] == [one for one in json.loads(found)["false_positives"] if one["spans"]]
    assert "id-" in html
    assert "id-" in shown
    run(data, "--html", file)
    with_texts = re.sub("</?mark>", "", file.read_text(encoding="utf-8"))
    assert any(text in with_texts for text in texts)


def test_the_terminal_shows_a_few_shortly() -> None:
    """Three of either, each on a line of a hundred characters, with the words between quotation marks."""
    text = "It may rain, " * 100
    wrong = WrongPair(
        LabelledPair(Pair("", text), 0, 1, id="x"), 2.0, 1.0, (Evidence(3, 6, "f", 1.0, Segment.RESPONSE, 0),)
    )
    (table,) = tables_for_terminal(Mistakes(WrongPairs(12, (wrong,) * 10)), Segment.RESPONSE, texts=True)
    lines = table_as_text(table).splitlines()

    assert ("False positives: the worst 3 of 12", 5) == (lines[0], len(lines))
    assert all("«may»" in line and len(line) < 100 for line in lines[2:])
