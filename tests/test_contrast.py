"""Features that differ between two corpora: that they are found, with the right numbers, and that nothing is found where nothing is."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from conftest import House, watchlist_document
from scopewatch.cli.contrast import add
from scopewatch.config import Config
from scopewatch.contrast.corpora import Partners, partners, swapped
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.errors import ConfigError, DataError, LabelError, NothingUsable, TooLittleData
from scopewatch.pairs.data_files import Reading
from scopewatch.pairs.kept_poolings import POOLINGS
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Pair, Segment, Turn
from scopewatch.verdicts import LABEL_NOTE
from scopewatch.watch.labels import import_file

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

WORDS = ("quick", "brown", "fox", "lazy", "dog", "blood", "sugar", "patient", "world", "answer", "question", "gout")


@pytest.fixture
def contrast(house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command on the small installation's SAE `mid` and gives what it printed."""

    def run(*arguments: object, watchlist: Path = house.watchlist, sae: str = "mid", code: int = 0) -> str:
        parser = argparse.ArgumentParser()

        def command(_name: str, run: Callable[[argparse.Namespace], int], _text: str) -> argparse.ArgumentParser:
            parser.set_defaults(run=run)
            return parser

        add(command)
        fixed = [
            "--work-dir",
            tmp_path / "work",
            "--top",
            4,
            "--watchlist",
            watchlist,
            *(["--sae", sae] if sae else []),
        ]
        args = parser.parse_args([str(argument) for argument in (*arguments, *fixed)])
        assert code == args.run(args)
        return capsys.readouterr().out

    return run


def sentences(n: int, *, seed: int = 0, words: int = 4, extra: str = "") -> list[dict[str, Any]]:
    """Rows whose responses are random words, with another one among them."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        drawn = rng.choice(WORDS, words).tolist()
        drawn.insert(int(rng.integers(1, words)), extra) if extra else None
        rows.append({"prompt": "hello", "response": " ".join(drawn), "id": f"p{number}"})
    return rows


ROWS, ROWS_PERHAPS = sentences(40, seed=1), sentences(40, seed=2, extra="perhaps")


def file_of(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pooled_by_hand(house: House, rows: Sequence[dict[str, Any]], feature: int) -> np.ndarray:
    """The largest activation on each response, one text at a time through the online engine."""
    choice = SaeChoice("mid", SaeSource(path=str(house.saes["mid"])), {feature: "here"})
    engine = build_engine(ReaderSource(path=str(house.reader)), [choice], Config(prefix_cache_bytes=0))
    values = []
    for row in rows:
        (tokens,) = engine.tokeniser.tokenise([Pair(row["prompt"], row["response"])])
        (read,) = engine.runner([tokens.ids]).activations
        on_response = tokens.segments[read.token] == Segment.RESPONSE
        values.append(read.value[on_response].max(initial=0))
    return np.array(values)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def differing(tmp_path: Path) -> tuple[Path, Path]:
    """Two files; in the responses of the second stands one word more."""
    return file_of(tmp_path / "a.jsonl", ROWS), file_of(tmp_path / "b.jsonl", ROWS_PERHAPS)


def test_what_differs_is_found_with_its_numbers(contrast: Callable[..., str], house: House, tmp_path: Path) -> None:
    """A feature's effect, p, means and shares are those of SciPy on the activations of each text read alone."""
    rows_a, rows_b = ROWS, ROWS_PERHAPS[:30]
    found = json.loads(contrast(file_of(tmp_path / "a.jsonl", rows_a), file_of(tmp_path / "b.jsonl", rows_b), "--json"))

    assert found["up_in_b"]
    assert 0 < found["differing"] <= found["tested"] <= found["d_sae"] == 64
    top = found["up_in_b"][0]
    in_a, in_b = (pooled_by_hand(house, rows, int(top["feature"].removeprefix("mid/"))) for rows in (rows_a, rows_b))
    expected = stats.mannwhitneyu(np.round(in_b, 4), np.round(in_a, 4), method="asymptotic")
    assert pytest.approx(expected.statistic / (40 * 30), abs=1e-6) == top["effect"]["value"]
    assert pytest.approx(expected.pvalue, rel=1e-3) == top["p"] <= top["q"] <= 0.05
    assert pytest.approx([in_a.mean(), in_b.mean()], rel=1e-4) == [top["mean_a"], top["mean_b"]]
    assert pytest.approx([(in_a > 0).mean(), (in_b > 0).mean()]) == [top["share_a"], top["share_b"]]
    assert top["effect"]["low"] < top["effect"]["value"] <= top["effect"]["high"]


def test_examples_are_where_the_feature_is_strongest(
    contrast: Callable[..., str], house: House, differing: tuple[Path, Path]
) -> None:
    """An example is the token with the largest activation of a pair of the corpus in which the feature is up."""
    rows = ROWS_PERHAPS
    top = json.loads(contrast(*differing, "--json"))["up_in_b"][0]

    by_hand = pooled_by_hand(house, rows, int(top["feature"].removeprefix("mid/")))
    assert pytest.approx(np.sort(by_hand)[::-1][:3], rel=1e-4) == [example["activation"] for example in top["examples"]]
    for example in top["examples"]:
        text = rows[example["line"] - 1]["response"]
        assert f"p{example['line'] - 1}" == example["id"]
        assert text[example["start"] :].startswith(example["token"] + example["after"])
        assert text[: example["start"]].endswith(example["before"])


@pytest.mark.parametrize("paired", [[], ["--paired"]], ids=["independent", "paired"])
def test_nothing_differs_between_parts_of_one_source(
    contrast: Callable[..., str], tmp_path: Path, paired: list[str]
) -> None:
    """Of two random halves of one corpus it is said that nothing differs, and the command succeeds."""
    a, b = (file_of(tmp_path / f"{seed}.jsonl", sentences(60, seed=seed)) for seed in (1, 2))

    said = contrast(a, b, *paired)

    assert "Nothing differs: no feature passes at a false discovery rate of 0.05." in said
    assert "Up in" not in said
    assert " of 64 features were tested" in said


def test_pairs_of_one_group_count_once(contrast: Callable[..., str], tmp_path: Path) -> None:
    """Copies of pairs in their groups change neither effect nor p: a group has one value, the mean of its pairs."""
    rows_a, rows_b = ([row | {"group": row["id"]} for row in rows] for rows in (ROWS, ROWS_PERHAPS))
    a, b = file_of(tmp_path / "a.jsonl", rows_a), file_of(tmp_path / "b.jsonl", rows_b)
    copied = file_of(tmp_path / "copied.jsonl", rows_b * 3)

    once, thrice = (json.loads(contrast(a, file, "--json")) for file in (b, copied))

    assert (40, 120, 40, 40) == (once["b"]["pairs"], thrice["b"]["pairs"], once["b"]["groups"], thrice["b"]["groups"])
    assert [(up["feature"], up["p"], up["effect"]["value"]) for up in once["up_in_b"]] == [
        (up["feature"], pytest.approx(up["p"]), pytest.approx(up["effect"]["value"])) for up in thrice["up_in_b"]
    ]


def test_swapped_words_move_features(contrast: Callable[..., str], house: House, tmp_path: Path) -> None:
    """With --swap only pairs with the word are compared, and the paired numbers are SciPy's on each text read alone."""
    after = [row | {"response": row["response"].replace("perhaps", "Insulin")} for row in ROWS_PERHAPS]
    a = file_of(tmp_path / "a.jsonl", [*ROWS_PERHAPS, *ROWS])

    found = json.loads(contrast(a, "--swap", "perhaps=Insulin", "--json"))

    assert (40, 40, "rank_biserial") == (found["a"]["pairs"], found["b"]["pairs"], found["effect"])
    assert "a.jsonl with perhaps=Insulin" == found["files"]["b"]
    top = found["up_in_b"][0]
    feature = int(top["feature"].removeprefix("mid/"))
    moved = pooled_by_hand(house, after, feature) - pooled_by_hand(house, ROWS_PERHAPS, feature)
    moved = moved[np.abs(moved) > 1e-3]
    ranks = stats.rankdata(np.abs(moved))
    assert pytest.approx((ranks @ np.sign(moved)) / ranks.sum()) == top["effect"]["value"]
    assert pytest.approx(stats.wilcoxon(moved, method="asymptotic").pvalue, rel=1e-3) == top["p"]
    assert len(moved) == top["groups"]


def test_a_swap_is_what_pairing_two_files_is(contrast: Callable[..., str], tmp_path: Path) -> None:
    """Two files paired by id, whatever the order of their lines, give what --swap gives."""
    after = [row | {"response": row["response"].replace("perhaps", "Insulin")} for row in ROWS_PERHAPS]
    a, b = file_of(tmp_path / "a.jsonl", ROWS_PERHAPS), file_of(tmp_path / "b.jsonl", after[::-1])

    by_swap = json.loads(contrast(a, "--swap", "perhaps=Insulin", "--json"))
    by_id = json.loads(contrast(a, b, "--paired", "--json"))

    assert [(up["feature"], up["p"], up["effect"]) for up in by_swap["up_in_a"]] == [
        (up["feature"], up["p"], up["effect"]) for up in by_id["up_in_a"]
    ]
    assert by_swap["up_in_a"]


def test_a_difference_in_length_is_said(contrast: Callable[..., str], tmp_path: Path) -> None:
    """Corpora of clearly different length are reported as such, with what to do about it."""
    a, b = (file_of(tmp_path / f"{n}.jsonl", sentences(20, seed=n, words=n)) for n in (6, 12))

    largest, mean = contrast(a, b), contrast(a, b, "--pooling", "mean")

    assert "Warning: the corpora differ in length" in largest
    assert "compare with --pooling mean" in largest
    assert "Warning: the corpora differ in length" in mean
    assert "--pooling mean" not in mean


def test_pairs_without_the_segment_are_left_out(contrast: Callable[..., str], tmp_path: Path) -> None:
    """A pair whose prompt is empty has no place in a comparison of prompts; how many there are is said."""
    rows = [row | {"prompt": row["response"]} for row in sentences(14, seed=1)]
    without = [row | {"prompt": "", "id": f"w{number}"} for number, row in enumerate(rows[:3])]
    a, b = file_of(tmp_path / "a.jsonl", [*rows, *without]), file_of(tmp_path / "b.jsonl", rows)

    found = json.loads(contrast(a, b, "--segment", "prompt", "--json", code=3))

    assert {"empty_segment": 3} == found["tally"]["reasons"]
    assert (14, 3, 14, 0) == tuple(found[side][key] for side in "ab" for key in ("pairs", "left_out"))


def test_corpora_of_several_files_lose_only_odd_rows(contrast: Callable[..., str], tmp_path: Path) -> None:
    """A pattern names the files of a corpus; rows that cannot be read are counted, the rest is compared as ever."""
    a, b = file_of(tmp_path / "a.jsonl", sentences(20)), file_of(tmp_path / "b.jsonl", sentences(20, extra="perhaps"))
    plain = json.loads(contrast(a, b, "--json"))
    file_of(tmp_path / "b-1.jsonl", [*sentences(20, extra="perhaps")[:9], {}])
    file_of(tmp_path / "b-2.jsonl", sentences(20, extra="perhaps")[9:])
    found = json.loads(contrast(a, tmp_path / "b-*.jsonl", "--json", code=3))

    assert {"b": "b-*.jsonl"} == {"b": found.pop("files")["b"]}
    assert {"no_text": 1} == found["tally"]["reasons"]
    assert (41, 40) == (found.pop("tally")["read"], plain.pop("tally")["read"])
    names = [(side, up["feature"]) for side in ("up_in_a", "up_in_b") for up in plain[side]]
    assert names
    assert names == [(side, up["feature"]) for side in ("up_in_a", "up_in_b") for up in found[side]]


def test_few_pairs_tell_nothing(contrast: Callable[..., str], tmp_path: Path) -> None:
    """Fewer than ten groups are refused with their number, however many pairs they have."""
    rows = [row | {"group": str(number % 9)} for number, row in enumerate(sentences(40))]
    a, b = file_of(tmp_path / "a.jsonl", sentences(20)), file_of(tmp_path / "b.jsonl", rows)

    with pytest.raises(
        TooLittleData, match=r"^B: 9 groups of pairs with a response to compare; .* at least 10$"
    ) as caught:
        contrast(a, b)

    assert (9, 10) == (caught.value.n, caught.value.needed)


def test_features_carry_labels(
    contrast: Callable[..., str], house: House, tmp_path: Path, differing: tuple[Path, Path]
) -> None:
    """A watchlist's own label is shown, else the label index's, and then with the note on what that is worth."""
    up = [int(up["feature"].removeprefix("mid/")) for up in json.loads(contrast(*differing, "--json"))["up_in_b"]]
    assert len(up) > 1
    document = watchlist_document()
    document["saes"]["mid"] = {"path": str(house.saes["mid"]), "neuronpedia": "small/1-res-64"}
    document["reader"] = {"path": str(house.reader)}
    document["saes"]["late"] = {"path": str(house.saes["late"])}
    document["indicators"][0]["features"].append(
        {"feature": f"mid/{up[0]}", "pooling": "sum", "label": "our own words"}
    )
    watchlist = tmp_path / "labelled.yaml"
    watchlist.write_text(yaml.safe_dump(document))
    described = {"modelId": "small", "layer": "1-res-64", "description": "said of it", "typeName": "method"}
    export = file_of(tmp_path / "export.jsonl", [described | {"index": str(index)} for index in up])
    import_file(tmp_path / "labels.db", export)

    said = contrast(*differing, "--labels", tmp_path / "labels.db", watchlist=watchlist)

    lines = {line.split()[0]: line for line in reversed(said.splitlines()) if line.startswith("  mid/")}
    assert lines[f"mid/{up[0]}"].endswith("our own words")
    assert lines[f"mid/{up[1]}"].endswith("said of it")
    assert LABEL_NOTE in said
    assert LABEL_NOTE not in contrast(*differing, watchlist=watchlist)


def test_the_page_has_the_result(contrast: Callable[..., str], tmp_path: Path) -> None:
    """--html writes a page with the same features, in which the text of a file is text, not markup."""
    rows = sentences(20, seed=2, extra="<b>perhaps</b>")
    a, b = file_of(tmp_path / "a.jsonl", sentences(20, seed=1)), file_of(tmp_path / "b.jsonl", rows)

    found = json.loads(contrast(a, b, "--json", "--html", tmp_path / "page.html"))

    page = (tmp_path / "page.html").read_text()
    assert all(up["feature"] in page for up in [*found["up_in_a"], *found["up_in_b"]])
    assert "&lt;" in page
    assert "<b>" not in page


def test_reader_and_sae_by_name(contrast: Callable[..., str], house: House, differing: tuple[Path, Path]) -> None:
    """A reader and an SAE of no watchlist give the same numbers, under the name that SAEs without one get."""
    by_watchlist = json.loads(contrast(*differing, "--json"))
    by_hand = json.loads(contrast(*differing, "--json", "--reader", house.reader, sae=str(house.saes["mid"])))

    assert [up["feature"].replace("mid/", "sae/") for up in by_watchlist["up_in_b"]] == [
        up["feature"] for up in by_hand["up_in_b"]
    ]
    assert by_hand["up_in_b"]


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_every_pooling_can_be_asked_for(contrast: Callable[..., str], tmp_path: Path, pooling: object) -> None:
    """Each kind of pooling that is kept can be compared, and the result names it with its arguments."""
    a, b = (file_of(tmp_path / f"{seed}.jsonl", sentences(12, seed=seed)) for seed in (1, 2))

    assert str(pooling) == json.loads(contrast(a, b, "--pooling", pooling.kind, "--json"))["pooling"]


@pytest.mark.parametrize(
    ("arguments", "sae", "said"),
    [
        (["a.jsonl"], "mid", "second file, or --swap"),
        (["a.jsonl", "a.jsonl", "--swap", "he=she"], "mid", "not both"),
        (["a.jsonl", "a.jsonl"], "", r"--sae: .*watchlist.yaml has 2 SAEs \(late, mid\); say which"),
        (["a.jsonl", "a.jsonl", "--reader", "r"], "", "--reader: say with --sae"),
        (["a.jsonl", "a.jsonl", "--pooling", "median"], "mid", "--pooling: expected one of max, mean, .* not 'median'"),
        (["a.jsonl", "--swap", "zebra=horse"], "mid", "none of the 3 pairs has one of the words zebra"),
        (["a.jsonl", "a.jsonl", "--html", "nowhere/page.html"], "mid", "there is no folder"),
        (["a.jsonl", "a.jsonl", "--labels", "no.db"], "mid", "no such label index"),
    ],
)
def test_mistakes_are_named(
    contrast: Callable[..., str], in_folder: Path, arguments: list[str], sae: str, said: str
) -> None:
    """What is asked for wrongly is refused before anything is read, in a sentence that names the flag or file."""
    file_of(in_folder / "a.jsonl", sentences(3))

    with pytest.raises((ConfigError, DataError, LabelError), match=said):
        contrast(*arguments, sae=sae)


@pytest.mark.parametrize(
    "flags", [["--swap", "he"], ["--swap", "he=she,He=it"], ["--swap", "=x"], ["--fdr", "1"], ["--top", "0"]]
)
def test_wrong_flags_are_refused(
    contrast: Callable[..., str], flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag that cannot be read ends with its name and what is expected of it."""
    with pytest.raises(SystemExit):
        contrast("a.jsonl", *flags)

    assert f"argument {flags[0]}:" in capsys.readouterr().err


# Pairs beside pairs


def pair(
    response: str, *, prompt: str = "", line: int = 1, name: str = "", history: tuple[Turn, ...] = ()
) -> LabelledPair:
    return LabelledPair(Pair(prompt, response, history), None, line, group="g", id=name)


@pytest.mark.parametrize(
    ("words", "before", "after"),
    [
        ({"he": "she", "his": "her"}, "He said he lost his hat; HIS HAT!", "She said she lost her hat; HER HAT!"),
        ({"he": "she"}, "the he-man, he's here. They: he", "the she-man, she's here. They: she"),
        ({"he": "she", "she": "he"}, "he and she", "she and he"),
        ({"black man": "white man", "black": "green"}, "a black man, black", "a white man, green"),
        ({"I": "we"}, "I am, i am", "We am, we am"),
        ({"a+b": "c"}, "a+b, aab", "c, aab"),
    ],
    ids=["case", "whole words", "one pass", "longest first", "one letter", "no pattern"],
)
def test_words_are_swapped_whole(words: dict[str, str], before: str, after: str) -> None:
    """Whole words are replaced in one pass, the longest first, and keep their case."""
    assert [after] == [item.pair.response for item in swapped([pair(before)], words)[1]]


def test_swaps_reach_every_text() -> None:
    """Prompt, response and history are swapped; a pair in which nothing stands is left out, and the rest of it stays."""
    first = pair("yes", prompt="does he?", line=3, name="x", history=(Turn("user", "he"), Turn("assistant", "who?")))

    before, after = swapped([first, pair("no")], {"he": "she"})

    assert [first] == before
    assert [
        pair("yes", prompt="does she?", line=3, name="x", history=(Turn("user", "she"), Turn("assistant", "who?")))
    ] == after


def test_partners_have_the_same_id() -> None:
    """The partners stand in the order of the first corpus."""
    a, b = [pair("a", name="1"), pair("b", name="2")], [pair("c", name="2"), pair("d", name="1")]

    assert Partners(a, [b[1], b[0]], []) == partners(a, b, Reading())


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["1", "2", "3"], ["no partner has the id '3'"]),
        (["1", "x"], ["no partner has the id '2'", "no partner has the id 'x'"]),
        (["2", "1", "1"], ["id '1' stands twice"] * 3),
    ],
)
def test_pairs_without_partner_are_left_out(ids: list[str], said: list[str]) -> None:
    """An id that stands twice, or in one corpus only, is named; where every row has to be used it is refused."""
    a = [pair("a", name="1"), pair("a", name="2")]
    b = [pair("b", line=number, name=name) for number, name in enumerate(ids, 1)]
    found = partners(a, b, Reading())

    assert said == [row.detail.partition(";")[0] for row in found.left_out]
    assert [one.id for one in found.a] == [one.id for one in found.b]
    assert len(a) + len(b) == len(found.a) + len(found.b) + len(found.left_out)
    with pytest.raises(DataError, match=said[0]):
        partners(a, b, Reading(strict=True))
    with pytest.raises(NothingUsable, match="pairs of the same id: none of 2 rows can be used"):
        partners(a[:1], [pair("b", name="x")], Reading())
