"""`scopewatch watchlist`: what a file says, what changed, and what would change."""

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import House, watchlist_document
from scopewatch.app.load import load
from scopewatch.cli import main
from scopewatch.config import Config

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

CARD = {
    "date": "2026-11-22",
    "calibrated_on": "some",
    "n": 400,
    "measurements": [
        {"data": "others", "n": 200, "n_positive": 90, "auroc": 0.9, "auroc_low": 0.85, "auroc_high": 0.95}
        | {"tpr": 0.7, "fpr": 0.01, "fpr_upper": 0.03}
    ],
    "beats_bag_of_words": False,
}
EVIDENCE = (
    "calibrated 2026-11-22, n 200, AUROC 0.900 (0.850 to 0.950), TPR 0.700, FPR 0.010, FPR by groups at most 0.030, "
    "does NOT beat a bag of words"
)
Change = Callable[[dict[str, Any]], object]


class Terminal:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Standard output of a command that must exit with `code`."""
        with pytest.raises(SystemExit) as left:
            main(list(map(str, arguments)))
        out, err = self._capsys.readouterr()
        assert code == left.value.code, out + err
        assert "Traceback" not in err
        return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def written(file: Path, change: Change = lambda _: None) -> Path:
    """The test watchlist after a change, in a file."""
    document: dict[str, Any] = deepcopy(watchlist_document())
    change(document)
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def first(document: dict[str, Any]) -> dict[str, Any]:
    indicator: dict[str, Any] = document["indicators"][0]
    return indicator


# check


def test_check_prints_every_indicator_with_its_evidence(run: Terminal, tmp_path: Path) -> None:
    """What an indicator is made of, where it flags, and the card in one line; without a card it says so."""
    file = written(tmp_path / "w.yaml", lambda it: first(it).update(card=CARD))
    out = run("watchlist", "check", file).splitlines()

    assert out == [
        f"{file}: valid, watchlist test",
        "  alpha: features (3), threshold 1, severity medium",
        f"    {EVIDENCE}",
        "    no drift can be seen: the card keeps no bins; `scopewatch watchlist reference` adds them",
        "  beta: features (1), threshold 0.3, severity high",
        "    uncalibrated",
        "  gamma: features (1), threshold 0.1, severity medium",
        "    uncalibrated",
    ]


def test_check_names_every_mistake_of_every_file(run: Terminal, tmp_path: Path) -> None:
    """Two wrong files and a good one: all mistakes are told, the good one is described, and the exit code is 2."""
    wrong = written(tmp_path / "wrong.yaml", lambda it: first(it).update(threshold="high", bias="low"))
    good, missing = written(tmp_path / "good.yaml"), tmp_path / "missing.yaml"
    out = run("watchlist", "check", wrong, good, missing, code=2)
    reports = json.loads(run("watchlist", "check", wrong, good, missing, "--json", code=2))

    assert f"{wrong}:" in out
    assert all(name in out for name in ("indicators[0].threshold", "indicators[0].bias", f"{good}: valid"))
    assert f"{missing}: cannot be read" in out
    assert [True, False, True] == [bool(report["error"]) for report in reports]
    assert [0, 3, 0] == [len(report["indicators"]) for report in reports]
    assert hashlib.sha256(good.read_bytes()).hexdigest() == reports[1]["digest"]


def test_strict_asks_for_a_card_of_every_indicator(run: Terminal, tmp_path: Path) -> None:
    """With cards for all the exit code is 0, with one missing it is 1."""

    def calibrate(document: dict[str, Any]) -> None:
        for indicator in document["indicators"]:
            indicator["card"] = CARD

    run("watchlist", "check", "--strict", written(tmp_path / "all.yaml", calibrate))
    run(
        "watchlist",
        "check",
        "--strict",
        written(tmp_path / "some.yaml", lambda it: first(it).update(card=CARD)),
        code=1,
    )


def test_load_holds_cards_against_what_runs(run: Terminal, house: House) -> None:
    """A card made with this reader and these SAEs fits; with another dtype it is named, and strict exits with 1."""
    identity = load(Config(watchlist=(house.watchlist,))).engine.identity
    made_with = {
        "scopewatch": "0.1.0",
        "reader": identity.reader.name,
        "reader_digest": identity.reader.digest,
        "dtype": identity.reader.dtype,
        "template_digest": identity.reader.template_digest,
        "rendering_digest": identity.reader.rendering_digest,
        "saes": {sae.name: sae.digest for sae in identity.saes},
    }

    def carded(name: str, **other: str) -> Path:
        def change(document: dict[str, Any]) -> None:
            for indicator in document["indicators"]:
                indicator["card"] = CARD | {"made_with": made_with | other}

        return written(house.folder / name, change)

    fits, other = carded("fits.yaml"), carded("other.yaml", dtype="bfloat16")
    good, bad = json.loads(run("watchlist", "check", fits, other, "--load", "--strict", "--json", code=1))

    assert ["", "", ""] == [row["card_problem"] for row in good["indicators"]]
    assert ["the card was made with dtype bfloat16 (running: float32)"] * 3 == [
        row["card_problem"] for row in bad["indicators"]
    ]
    assert "reader and SAEs load" in run("watchlist", "check", fits, "--load", "--strict")
    assert "card does not fit: the card was made with dtype" in run("watchlist", "check", other, "--load")


def test_load_names_what_cannot_be_loaded(run: Terminal, tmp_path: Path) -> None:
    """A valid file whose reader is not there is wrong all the same."""
    file = written(tmp_path / "w.yaml")

    run("watchlist", "check", file)
    assert "reader" in run("watchlist", "check", file, "--load", code=2)


# diff


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        pytest.param(lambda it: it.update(name="other"), ["name: test -> other"], id="name"),
        pytest.param(
            lambda it: it.update(reader={"id": "a/b", "revision": "main"}),
            ["reader > path: reader -> nothing", "reader > id: nothing -> a/b", "reader > revision: nothing -> main"],
            id="reader",
        ),
        pytest.param(
            lambda it: it["saes"]["mid"].update(norm_factor=2.0), ["saes > mid > norm_factor: nothing -> 2.0"], id="SAE"
        ),
        pytest.param(lambda it: it["saes"].update(more={"path": "x"}), ["saes > more: added: path x"], id="new SAE"),
        pytest.param(
            lambda it: it["indicators"].pop(1),
            [
                "indicators > beta: removed: kind features, segment prompt, severity high, bias 0.0, threshold 0.3, 1 features, card uncalibrated"
            ],
            id="indicator gone",
        ),
        pytest.param(
            lambda it: first(it).update(threshold=1.5, bias=0.25, severity="low", segment="prompt"),
            [
                "indicators > alpha > segment: response -> prompt",
                "indicators > alpha > severity: medium -> low",
                "indicators > alpha > bias: 0.0 -> 0.25",
                "indicators > alpha > threshold: 1.0 -> 1.5",
            ],
            id="numbers",
        ),
        pytest.param(
            lambda it: first(it)["probability"].update(slope=3.0),
            ["indicators > alpha > probability > slope: 2.0 -> 3.0"],
            id="probability map",
        ),
        pytest.param(
            lambda it: first(it)["features"][0].update(weight=0.5),
            ["indicators > alpha > features > mid/3 max > weight: 1.0 -> 0.5"],
            id="weight",
        ),
        pytest.param(
            lambda it: first(it)["features"][1].update(pooling="sum"),
            [
                "indicators > alpha > features > late/7 mean: removed: weight 0.5",
                "indicators > alpha > features > late/7 sum: added: weight 0.5",
            ],
            id="pooling",
        ),
        pytest.param(
            lambda it: first(it)["features"].append({"feature": "late/9", "label": "nine"}),
            ["indicators > alpha > features > late/9 max: added: weight 1.0, label nine"],
            id="new feature",
        ),
    ],
)
def test_diff_tells_what_changed_and_nothing_else(
    run: Terminal, tmp_path: Path, change: Change, lines: list[str]
) -> None:
    """Each kind of change is told with its place and both values; the other way round it is told the other way round."""
    before, after = written(tmp_path / "a.yaml"), written(tmp_path / "b.yaml", change)

    assert lines == run("watchlist", "diff", before, after, code=1).splitlines()
    there, back = (
        json.loads(run("watchlist", "diff", *files, "--json", code=1)) for files in ((before, after), (after, before))
    )
    assert sorted((row["place"], str(row["before"])) for row in there) == sorted(
        (row["place"], str(row["after"])) for row in back
    )


def test_diff_tells_of_any_change_of_a_card(run: Terminal, tmp_path: Path) -> None:
    """A card that is new, gone or different, even if in one line it looks the same."""
    bare, carded = written(tmp_path / "a.yaml"), written(tmp_path / "b.yaml", lambda it: first(it).update(card=CARD))
    noted = written(tmp_path / "c.yaml", lambda it: first(it).update(card=CARD | {"note": "another"}))

    assert run("watchlist", "diff", bare, carded, code=1).startswith(
        f"indicators > alpha > card: uncalibrated -> {EVIDENCE} ["
    )
    assert run("watchlist", "diff", carded, bare, code=1).endswith("] -> uncalibrated\n")
    (row,) = json.loads(run("watchlist", "diff", carded, noted, "--json", code=1))
    assert row["before"] != row["after"]
    assert [row["before"].split(" [")[0]] == [row["after"].split(" [")[0]]


def test_diff_of_what_means_the_same_is_empty(run: Terminal, tmp_path: Path) -> None:
    """Comments, order and defaults that are written out are no change; nor is a copy."""

    def rewrite(document: dict[str, Any]) -> None:
        document["indicators"].reverse()
        document["indicators"][2]["features"].reverse()
        document["indicators"][2] |= {"bias": 0, "severity": "medium", "card": "uncalibrated", "kind": "features"}

    before, after = written(tmp_path / "a.yaml"), written(tmp_path / "b.yaml", rewrite)
    after.write_text("# another\n" + after.read_text())

    assert "" == run("watchlist", "diff", before, after)
    assert "" == run("watchlist", "diff", before, written(tmp_path / "c.yaml"))
    assert [] == json.loads(run("watchlist", "diff", before, after, "--json"))


# replay


def texts(file: Path) -> Path:
    """Twelve pairs, half of label 1."""
    words = ["It may rain.", "hello world", "perhaps tomorrow", "the quick brown fox", "It is so.", "rain"]
    rows = [
        {"prompt": "what", "response": f"{word} {n}", "label": n % 2, "id": f"p{n}"} for n, word in enumerate(words * 2)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_replay_shows_what_a_threshold_changes(run: Terminal, house: House, tmp_path: Path) -> None:
    """Two files of one name, the second with a threshold that nothing passes: what changes is what a scan says the first flags."""
    before = written(house.folder / "before.yaml", lambda it: it.update(indicators=[first(it)]))
    data, out = texts(tmp_path / "data.jsonl"), tmp_path / "scores.jsonl"
    run("scan", data, "--out", out, "--watchlist", before)
    scores = [json.loads(line)["alpha.score"] for line in out.read_text().splitlines()]
    middle, most = sorted(scores)[5], max(scores)

    def at(threshold: float) -> Change:
        return lambda it: it.update(indicators=[first(it) | {"threshold": threshold}])

    low, high = written(house.folder / "low.yaml", at(middle)), written(house.folder / "high.yaml", at(most))
    found = json.loads(run("watchlist", "replay", low, high, data, "--json"))
    expected = [n for n, score in enumerate(scores) if score > middle]

    assert [(f"p{n}", n + 1, "flag", "pass") for n in expected] == [
        (change["id"], change["line"], change["before"], change["after"]) for change in found["changes"]
    ]
    assert [[scores[n], middle, scores[n], most] for n in expected] == [
        list(change["decided_by"][0].values())[1:] for change in found["changes"]
    ]
    assert (12, len(expected) / 12, 0.0) == (found["n"], found["flag_rate_before"], found["flag_rate_after"])
    assert sum(n % 2 for n in expected) / 6 == found["indicators"][0]["rates_before"]["tpr"]
    assert {"tpr": 0.0, "fpr": 0.0} == found["indicators"][0]["rates_after"]
    assert hashlib.sha256(low.read_bytes()).hexdigest() == found["before"]["digest"]


def test_replay_prints_no_text_unless_asked(run: Terminal, house: House, tmp_path: Path) -> None:
    """Lines and ids find the pairs; the texts themselves are shown on request, and no more changes than asked for."""
    silent = written(house.folder / "silent.yaml", lambda it: [one.update(threshold=1e6) for one in it["indicators"]])
    data = texts(tmp_path / "data.jsonl")
    out = run("watchlist", "replay", silent, house.watchlist, data, "--limit-shown", 1)
    shown = run("watchlist", "replay", silent, house.watchlist, data, "--show-text")

    assert "flagged: 0.00% before" in out
    assert 1 == out.count("pass -> flag: ")
    assert "--limit-shown shows them" in out
    assert "response" not in out
    assert "response: 'the quick brown fox 9'" in shown


def test_replay_leaves_out_what_cannot_be_scored(
    run: Terminal, house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that cannot be read, and pairs that are refused, are counted; the others are compared."""
    odd = {"response": "a", "history": [{"role": "<user>", "content": "b"}]}
    data = texts(tmp_path / "data.jsonl")
    data.write_text("\n".join([data.read_text(), json.dumps(odd), "{"]))
    (tmp_path / "more.jsonl").write_text('{"response": "rain"}\n')
    found = json.loads(run("watchlist", "replay", *[house.watchlist] * 2, tmp_path / "*.jsonl", "--json", code=3))

    assert (13, 15, {"unreadable": 1, "invalid_request": 1}) == (found["n"], found["rows"], found["left_out"])
    assert [(str(data), 13)] == [(row["file"], row["line"]) for row in found["failures"]]
    run("watchlist", "replay", *[house.watchlist] * 2, data, "--strict", code=2)


def test_replay_of_a_file_with_itself_changes_nothing(run: Terminal, house: House, tmp_path: Path) -> None:
    """The same watchlist twice: no verdict changes."""
    out = run("watchlist", "replay", house.watchlist, house.watchlist, texts(tmp_path / "data.jsonl"))

    assert "verdicts that change: 0 (0.00%, 95 % interval 0.00% to 26.46%)" in out
