"""The chaos matrix itself, at sizes that take seconds: that it runs real servers, and that a broken bound is broken."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import conftest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the benchmark's modules importable."""
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the command with these arguments; its exit code, and the file that it wrote."""
    import chaos

    def run(*arguments: str):
        file = tmp_path / "chaos.json"
        monkeypatch.setattr("sys.argv", ["chaos.py", "--out", str(file), *arguments])
        code = chaos.main()
        return code, json.loads(file.read_text("utf-8"))

    return run


@pytest.mark.parametrize("name", ["bursts", "engines"])
def test_scenarios_run(name: str, chaos) -> None:
    """A scenario starts real servers, holds what it finds to bounds, and says on what it was measured."""
    code, results = chaos("--only", name, "--scale", "0.005")

    assert (code, results[name]["held"], results[name]["failure"]) == (0, True, "")
    assert all(case["checks"] for case in results[name]["cases"].values())
    assert results["machine"]["cores"] >= 1


@pytest.mark.system
def test_mixed_traffic_is_judged(chaos) -> None:
    """Answers to mixed traffic are those known beforehand, and the file has how many there are by now."""
    conftest.need("redis-server")
    code, results = chaos("--only", "mixing", "--mixing-s", "2")
    (case,) = results["mixing"]["cases"].values()

    assert (code, results["mixing"]["total"]["items"]) == (0, case["numbers"]["items"])
    assert results["mixing"]["total"]["wrong"] == 0


def test_runs_of_one_code_add_up() -> None:
    """Runs of the same code have one total; items that another version answered do not count for this one."""
    from scenarios.mixing import with_total

    found = {"cases": {"a": {"numbers": {"items": 5, "answered": 4, "wrong": 1}}}}
    earlier = {"total": {"code_digest": "another", "runs": 9, "items": 99, "answered": 99, "wrong": 0, "towards": 1}}
    once = with_total(found, earlier)
    twice = with_total(found, once)
    totals = [[each["total"][name] for name in ("runs", "items", "answered", "wrong")] for each in (once, twice)]

    assert totals == [[1, 5, 4, 1], [2, 10, 8, 2]]


@pytest.mark.parametrize(
    ("measured", "held"),
    [({}, True), ({"forged_lines": 1}, False), ({"resident_mib": {"rest": 400, "most": 1121}}, False)],
)
def test_a_broken_bound_is_broken(measured, held: bool, chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one number breaks its bound the row says so, the file says so, and the exit code is 1."""
    import chaos as matrix
    from scenarios import attacked

    at_rest = {"rest": 400, "most": 1120, "last": 410}
    counts = {name: {"rest": 20, "most": 90, "last": 24} for name in ("threads", "descriptors")}
    good = {
        "resident_mib": at_rest,
        **counts,
        "liveness": {"longest_silence_s": 1.0},
        "forged_lines": 0,
        "lines_not_json": 0,
    }
    monkeypatch.setattr(attacked, "attacked", lambda *_: good | measured)
    monkeypatch.setitem(matrix.SCENARIOS, "attacks", (lambda scale: attacked.attacks(scale, ("gzip_batch",)), 60))
    code, results = chaos("--only", "attacks")

    assert (code, results["attacks"]["held"]) == (int(not held), held)
    assert results["attacks"]["cases"]["gzip_batch"]["before"]["resident_mib"]["most"] == 4905


def test_a_scenario_that_breaks_or_does_not_end_has_failed(chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are run all the same, and the exit code is 1."""
    import time

    import chaos as matrix

    def breaks(_: float):
        raise ValueError("a part is missing")

    monkeypatch.setitem(matrix.SCENARIOS, "bursts", (breaks, 60))
    monkeypatch.setitem(matrix.SCENARIOS, "reloads", (lambda _: time.sleep(60), 0.05))
    code, results = chaos("--only", "bursts", "reloads")

    assert code == 1
    assert "a part is missing" in results["bursts"]["failure"]
    assert "not done after" in results["reloads"]["failure"]


@pytest.mark.parametrize("wrong", ["text", "request_id"])
async def test_another_callers_answer_is_wrong(wrong: str) -> None:
    """An answer to another text, or with another id, counts; the right one does not."""
    from scenarios.known import Known
    from scopewatch.v1 import monitor_pb2 as pb

    def answer(request: pb.ScoreRequest) -> pb.ScoreResponse:
        scores = [pb.IndicatorScore(score=len(request.response))]
        return pb.ScoreResponse(request_id=request.request_id, indicators=scores)

    async def ask(requests):
        return pb.BatchScoreResponse(results=[pb.BatchScoreResult(response=answer(one)) for one in requests])

    known = Known()
    await known.learn(ask, iter(["a", "of two"]))
    mine = pb.ScoreRequest(request_id="1", response="a")
    other = pb.ScoreRequest(request_id="1", response="of two")
    if wrong == "request_id":
        other = pb.ScoreRequest(request_id="2", response="a")

    assert not known.is_wrong(mine, answer(mine))
    assert known.is_wrong(mine, answer(other))


def test_growth_is_told_from_noise() -> None:
    """Memory that grows breaks a bound, by much in little time or little but surely; what goes up and down does not."""

    from scenarios.soak import judged

    def samples(memory):
        return [{"resident_mib": int(value), "descriptors": 20, "threads": 16} for value in memory]

    noise = 500 + 4 * np.random.default_rng(0).standard_normal(240)
    flat = judged(samples(noise), Counter(OK=1), alive=True, code=0)
    growing = judged(samples(noise + np.arange(240) / 2), Counter(OK=1), alive=True, code=0)
    creeping = judged(samples(500 + np.arange(240) / 20), Counter(OK=1), alive=True, code=0)

    assert (flat.held, growing.held) == (True, False)
    assert [check.held for check in creeping.checks[:2]] == [True, False]


def test_refusals_and_goodput_are_held_to_their_bounds() -> None:
    """An overload of which too little is answered, or refused too late, is broken."""
    from scenarios.overload import judged

    numbers = {
        "goodput_per_s": 45.0,
        "refused_p99_ms": 50.0,
        "unwanted_pairs": 0.0,
        "answered": 100,
        "deadline_s": 2.0,
        "liveness": {"longest_silence_s": 0.2},
    }
    held = [
        judged(numbers | changed, 40.0, 60.0).held
        for changed in ({}, {"goodput_per_s": 44.0}, {"refused_p99_ms": 51.0}, {"refused_p99_ms": float("nan")})
    ]

    assert held == [True, False, False, False]
