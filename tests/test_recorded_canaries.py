"""Canary files: what is recorded, and that a reader that computes something else does not pass."""

import asyncio
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from canary_files import WRONG, changed, config_of, copied, perturb_layer, recorded
from conftest import House, save_sae, watchlist_document
from families import save_family
from scopewatch.app.canaries.comparing import Verdict
from scopewatch.app.canaries.pairs import PAIRS, PASS_TOKENS, PASSES
from scopewatch.app.spine import offline
from scopewatch.cli import main
from scopewatch.config import BUNDLED_WATCHLIST, WATCHLISTS_BY_NAME
from scopewatch.engine.runner import Runner
from scopewatch.errors import DataError
from scopewatch.lifecycle.canary_record import check
from scopewatch.reader.linear import multiplies_bfloat16
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Activations, Cleaning, ScoreJob, Segment, TokenisedPair
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.canary_file import MOST_PAIRS, load_canaries


@pytest.fixture(scope="module")
def canaries(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Canaries of the small installation."""
    return recorded(house.watchlist, tmp_path_factory.mktemp("canaries") / "canaries.json")


def judged(file: Path, watchlist: Path, **settings: Any) -> Verdict:
    return asyncio.run(check(load_canaries(file), config_of(watchlist, **settings)))


async def test_scores_are_those_that_callers_get(house: House, canaries: Path) -> None:
    """A canary's recorded scores are what Score says of the same pair, where it reads in the same passes."""
    document = load_canaries(canaries).document
    async with offline(config_of(house.watchlist, max_tokens=PASS_TOKENS, max_windows=PASSES)) as spine:
        outcomes = await spine.score([ScoreJob(pair, "", "id") for pair in PAIRS])
    for outcome, pair in zip(outcomes, document.pairs, strict=True):
        assert isinstance(outcome, ScoredPair)
        said = {f"test/{one.name}": one for one in outcome.indicators}
        assert {name for name, score in pair.scores.items() if score is None} == {
            name for name, one in said.items() if one.skipped_reason
        }
        assert [score or 0.0 for score in pair.scores.values()] == pytest.approx(
            [said[name].score for name in pair.scores], rel=1e-5
        )


def test_what_scores_are_made_of_is_recorded(house: House, canaries: Path) -> None:
    """From the recorded activations alone, by numpy, follows the recorded score: here the largest mean of three."""
    document = load_canaries(canaries).document
    (reading,) = document.pairs[0].readings[Cleaning.NONE]
    assert set(reading.activations) == {"mid/3", "mid/11", "late/0", "late/7"}
    (tokens,) = Tokeniser(house.reader, max_tokens=PASS_TOKENS).tokenise([PAIRS[0]])
    assert isinstance(tokens, TokenisedPair)
    dense = np.zeros(reading.n_tokens)
    dense[list(reading.activations["late/0"].tokens)] = reading.activations["late/0"].values
    of_prompt = dense[tokens.segments == Segment.PROMPT]
    means = np.convolve(of_prompt, np.ones(3) / 3, "valid")
    assert document.pairs[0].scores["test/beta"] == pytest.approx(means.max(), rel=1e-5)
    assert means.max() > 0
    assert document.made_with.watchlists == {"test": load_digest(house.watchlist)}


def load_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_runs_as_it_did_passes(house: House, canaries: Path) -> None:
    """The same files, read again: every indicator is covered, and nothing deviates or differs."""
    verdict = judged(canaries, house.watchlist)
    assert (verdict.ok, verdict.differs, verdict.not_covered) == (True, (), ())
    assert set(verdict.deviations) == {("test", "alpha"), ("test", "beta"), ("test", "gamma")}
    assert max(*verdict.deviations.values(), verdict.activations) < 1e-5


def test_settings_of_how_much_is_read_change_nothing(house: House, canaries: Path) -> None:
    """Canaries are read in the same passes where a service reads less of a pair, or in fewer passes."""
    verdict = judged(canaries, house.watchlist, max_tokens=16, max_windows=1)
    assert (verdict.ok, verdict.differs) == (True, ())


@pytest.mark.parametrize("wrong", list(WRONG))
def test_what_computes_something_else_deviates(wrong: str, house: House, canaries: Path, tmp_path: Path) -> None:
    """Wrong weights, a wrong template, SAE or threshold do not pass, and what is another is named."""
    spoil, differs = WRONG[wrong]
    other = copied(house, tmp_path / "house")
    spoil(other)
    verdict = judged(canaries, other.watchlist)
    assert not verdict.ok
    assert verdict.differs == (differs,)
    expected = "is rendered otherwise" if "template" in wrong else "off by"
    assert any(expected in problem for problem in verdict.problems)


in_bfloat16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU does not multiply bfloat16")


@in_bfloat16
def test_another_dtype_deviates_unless_it_is_allowed(house: House, canaries: Path, tmp_path: Path) -> None:
    """A file for float32 alone passes no reader in bfloat16, however near its scores; one for both does."""
    near = changed(canaries, tmp_path / "near.json", tolerances={"float32": {"scores": 1.0, "activations": 1.0}})
    verdict = judged(near, house.watchlist, dtype="bfloat16")
    assert "the reader runs in bfloat16, and the canaries are for float32 alone" in verdict.problems[0]
    assert verdict.differs == ("dtype float32 (now bfloat16)",)

    both = recorded(house.watchlist, tmp_path / "both.json", "bfloat16")
    allowed = load_canaries(both).document.tolerances
    apart = judged(both, house.watchlist, dtype="bfloat16")
    assert apart.ok
    assert 1e-4 < apart.scores <= allowed["bfloat16"].scores / 3 + 1e-3
    assert allowed["float32"].scores < allowed["bfloat16"].scores


@pytest.mark.parametrize("flip", [-1.0, 1.01])
def test_a_device_that_computes_wrong_deviates(
    house: House, canaries: Path, flip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and settings are right, every digest is the recorded one, and the values are not."""
    forward = Runner._forward

    def wrong(runner: Runner, *batch: Any, **more: Any) -> list[Activations]:
        right = forward(runner, *batch, **more)
        return [Activations(one.n_tokens, one.token, one.column, one.value * np.float32(flip)) for one in right]  # type: ignore[union-attr]

    monkeypatch.setattr(Runner, "_forward", wrong)
    verdict = judged(canaries, house.watchlist)
    assert (verdict.ok, verdict.differs) == (False, ())


def test_what_no_score_shows_still_deviates(house: House, canaries: Path, tmp_path: Path) -> None:
    """A feature that decides no score of these pairs may hide nothing: its activations are compared, too."""
    document = json.loads(canaries.read_text())
    fired = document["pairs"][3]["readings"]["none"][0]["activations"]["mid/11"]
    fired["values"] = [value * 1.5 for value in fired["values"]]
    (verdict,) = [judged(changed(canaries, tmp_path / "other.json", pairs=document["pairs"]), house.watchlist)]
    assert verdict.scores == pytest.approx(0, abs=1e-5)
    assert [problem.split(",")[-1] for problem in verdict.problems] == [" most of all those of mid/11"]


@pytest.mark.parametrize("family", ["qwen3"])
def test_other_families_are_seen_through_alike(family: str, tmp_path: Path) -> None:
    """Recorded with a reader of another family, canaries pass it and do not pass one whose layer is off."""
    reader = save_family(family, tmp_path / "house" / "reader")
    saes = {name: save_sae(tmp_path / "house" / "sae", layer) for layer, name in ((1, "mid"), (2, "late"))}
    watchlist = tmp_path / "house" / "watchlist.yaml"
    document = watchlist_document()
    for sae in document["saes"].values():  # type: ignore[attr-defined]
        sae["hookpoint"] = f"layers.{1 if 'layer_1' in sae['path'] else 2}.resid_post"
    watchlist.write_text(yaml.safe_dump(document, sort_keys=False))
    house = House(tmp_path / "house", reader, saes, watchlist)
    file = recorded(watchlist, tmp_path / "canaries.json")
    assert judged(file, watchlist).ok
    perturb_layer(house)
    assert not judged(file, watchlist).ok


def test_indicators_that_the_file_does_not_know_are_told_of(house: House, canaries: Path, tmp_path: Path) -> None:
    """A new indicator, or one with another weight, is not covered; the rest is judged, and passes."""
    other = copied(house, tmp_path / "house")
    document = watchlist_document()
    indicators = document["indicators"]
    indicators[1] = indicators[1] | {"bias": 0.5}  # type: ignore[index]
    new = {"name": "delta", "features": [{"feature": "late/5"}], "threshold": 0.0}
    other.watchlist.write_text(yaml.safe_dump(document | {"indicators": [*indicators, new]}))  # type: ignore[misc]
    verdict = judged(canaries, other.watchlist)
    assert (verdict.ok, verdict.not_covered) == (True, ("test/beta", "test/delta"))
    assert set(verdict.deviations) == {("test", "alpha"), ("test", "gamma")}


def test_canaries_of_other_watchlists_are_refused(house: House, canaries: Path, tmp_path: Path) -> None:
    """A file that knows no indicator vouches for nothing, and so it is an error."""
    other = copied(house, tmp_path / "house")
    new = {"name": "delta", "features": [{"feature": "late/5"}], "threshold": 0.0}
    other.watchlist.write_text(yaml.safe_dump(watchlist_document(indicators=[new])))
    with pytest.raises(DataError, match=r"canaries.json: indicators: holds none .*\(test\)"):
        judged(canaries, other.watchlist)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"version": 2}, ["version: Input should be 1"]),
        ({"extra": 1}, ["extra: no such key here"]),
        ({"tolerances": {}}, ["tolerances: needs at least one entry"]),
        ({"tolerances": {"float32": {"scores": 0, "activations": 9}}}, ["tolerances.float32.scores: ", "tolerances.float32.activations: "]),
        ({"pairs": []}, ["pairs: needs at least one entry"]),
        ({"pairs": [{"prompt": 1}]}, ["pairs[0].prompt: Input should be text", "pairs[0].response: missing"]),
        ({"indicators": {"test/alpha": "0" * 64}}, ["pairs[0].scores and indicators differ in test/beta, test/gamma"]),
        ({"made_with": "me"}, ["made_with: Input should be a mapping"]),
    ],
)  # fmt: skip
def test_mistakes_are_named(parts: dict[str, Any], said: list[str], canaries: Path, tmp_path: Path) -> None:
    """Every mistake of a file is one line with the file, the field and the problem."""
    file = changed(canaries, tmp_path / "wrong.json", **parts)
    with pytest.raises(DataError) as refused:
        load_canaries(file)
    lines = str(refused.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert all(any(problem in line for line in lines) for problem in said)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "no JSON"), (b"\xff", "no JSON"), (b"[]", "the file: "), (b"[" * 100_000, "no JSON"), (None, "cannot be read")],
)  # fmt: skip
def test_what_is_no_canary_file_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    """Whatever it holds instead, the file is named."""
    file = tmp_path / "canaries.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=f"^{file}: .*{said}" if said != "the file: " else f"^{file}: {said}"):
        load_canaries(file)


@pytest.mark.parametrize("watchlist", [BUNDLED_WATCHLIST, *WATCHLISTS_BY_NAME.values()], ids=["bundled", "smollm2"])
def test_canaries_come_with_the_watchlists_of_the_package(watchlist: Path) -> None:
    """They are of the watchlist as it is, allow both dtypes, and leave float32 a margin for other processors."""
    document = load_canaries(watchlist.with_name("canaries.json")).document
    assert list(document.made_with.watchlists.values()) == [load_digest(watchlist)]
    assert document.tolerances["float32"].scores >= 1e-4
    assert set(document.tolerances) == {"float32", "bfloat16"}
    assert [pair.pair for pair in document.pairs] == list(PAIRS)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=in_bfloat16)])
def test_the_bundled_reader_passes_its_canaries(dtype: str) -> None:
    """Here, too, and in both dtypes."""
    assert judged(BUNDLED_WATCHLIST.with_name("canaries.json"), BUNDLED_WATCHLIST, dtype=dtype).problems == ()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Runs the command in this process; its exit code and what it printed."""
    with pytest.raises(SystemExit) as left:
        main(["canary", *map(str, arguments)])
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


@pytest.mark.usefixtures("logging_as_it_was")
def test_the_commands(house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs of one's own are recorded and checked: exit code 0 as recorded, 1 where it deviates, 2 for a wrong file."""
    rows = [{"prompt": "Is it gout?", "response": f"It may be {name}."} for name in ("gout", "rain")]
    data, file = tmp_path / "pairs.jsonl", tmp_path / "canaries.json"
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = ("--watchlist", house.watchlist, "--device", "cpu", "--pack-dir", "")
    code, out, _ = run(capsys, "record", "--out", file, "--pairs", data, *settings)
    assert (code, "2 pairs, 3 indicators of test" in out) == (0, True)
    assert "the texts of the pairs stand in the file" in out
    assert [pair.response for pair in load_canaries(file).document.pairs] == ["It may be gout.", "It may be rain."]
    assert run(capsys, "record", "--out", file, *settings)[::2] == (
        2, f"scopewatch: {file}: is there already; name another file, or give --overwrite\n",
    )  # fmt: skip

    assert run(capsys, "check", file, *settings)[:2][0] == 0
    wrong = json.loads(file.read_text())
    wrong["pairs"][1]["scores"]["test/alpha"] += 0.25
    changed(file, file, pairs=wrong["pairs"])
    code, out, _ = run(capsys, "check", file, *settings)
    assert (code, out.splitlines()[0]) == (1, f"{file}: deviates")
    assert "test/alpha on pair 1: expected " in out
    code, out, _ = run(capsys, "check", file, "--json", *settings)
    assert (code, json.loads(out)["ok"], len(json.loads(out)["problems"])) == (1, False, 1)


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a", "response": f"b {row}"} for row in range(MOST_PAIRS + 1)], f"at most {MOST_PAIRS}"),
        ([{"prompt": "a", "response": "b"}, {"prompt": "a"}], "data.jsonl:2"),
    ],
    ids=["too many", "a row without a response"],
)
def test_pairs_that_cannot_become_canaries_are_refused(
    rows: list[dict[str, str]], said: str, house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left out silently, and no data set becomes a canary file."""
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "out.json"
    code, _, told = run(capsys, "record", "--out", file, "--pairs", data, "--watchlist", house.watchlist)
    assert (code, said in told, file.exists()) == (2, True, False)


def test_shipped_canaries_are_found_beside_their_watchlist(tmp_path: Path) -> None:
    """A copy of the bundled watchlist elsewhere has none, unless a setting names them."""
    from scopewatch.app.canaries.judging import recorded_canaries
    from scopewatch.watch.watchlist import load_watchlist

    shutil.copy(BUNDLED_WATCHLIST, tmp_path / "watchlist.yaml")
    copy, own = load_watchlist(tmp_path / "watchlist.yaml"), load_watchlist(BUNDLED_WATCHLIST)
    named = BUNDLED_WATCHLIST.with_name("canaries.json")
    found = [
        recorded_canaries(config_of(BUNDLED_WATCHLIST, canaries=name), watchlists)
        for name, watchlists in (("", [copy]), ("", [copy, own]), (str(named), [copy]))
    ]
    assert [one and one.file for one in found] == [None, named, named]
