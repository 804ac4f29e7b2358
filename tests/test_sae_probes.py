"""The benchmark of the literature: which texts it draws, its probes, its table; at sizes that take seconds."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from scopewatch.config import BUNDLED_WATCHLIST

BENCH = Path(__file__).parents[1] / "bench"
LIST = "probing_datasets_MASTER.csv"
STRENGTHS = np.logspace(5, -5, 10)


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the benchmark's modules importable."""
    monkeypatch.syspath_prepend(str(BENCH))


def write(folder: Path, name: str, lines: Sequence[str]) -> None:
    file = folder / f"{name}.zst"
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.output_stream(str(file), compression="zstd") as stream:
        stream.write("\n".join(lines).encode())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files as the package lays them: a task of two words, one of three classes, and what no task is."""
    kinds = {"7_mood": "Binary Classification", "8_year": "Continuous Data", "9_tide": "Binary Classification"}
    listed = [f"{name.partition('_')[2]},cleaned_data/{name}.csv,{kind}" for name, kind in kinds.items()]
    write(tmp_path, LIST, ["Dataset Tag,Dataset save name,Data type", *listed])
    texts = [f'"It is {word}, said\nnumber {number}.",{word}' for number in range(60) for word in ("good", "bad")]
    write(
        tmp_path,
        "cleaned_data/7_mood.csv",
        ["prompt,target", *texts, *texts, "It may be either,good", "It may be either,bad"],
    )
    write(tmp_path, "cleaned_data/9_tide.csv", ["prompt,target", "a,1", "b,2", "c,3"])
    return tmp_path


def test_the_tasks_are_the_binary_ones(data: Path) -> None:
    """Others in the list are no task, and the order does not depend on theirs."""
    from probing_tasks import tasks

    assert {"7_mood", "9_tide"} == set(tasks(data))


def test_a_text_is_drawn_once_and_with_one_label(data: Path) -> None:
    """Copies are one text, contradictory ones none, the target that sorts last is 1, labels come in equal numbers."""
    from probing_tasks import examples

    drawn = examples(data, "7_mood", 1000)

    assert 120 == len(drawn) == len({example.text for example in drawn})
    assert {("good", 1), ("bad", 0)} == {(example.text.split()[2].strip(","), example.label) for example in drawn}
    few = examples(data, "7_mood", 20)
    assert 10 == sum(example.label for example in few)
    assert [example for example in drawn if example in few] == few


def test_a_rarer_label_does_not_stand_at_the_end(data: Path) -> None:
    """The last fifth of the texts, by which the paper's probes choose their penalty, has both labels about equally."""
    from probing_tasks import examples

    texts = [f"rare {number},1" for number in range(50)] + [f"common {number},2" for number in range(1000)]
    write(data, "cleaned_data/9_tide.csv", ["prompt,target", *texts])

    labels = [example.label for example in examples(data, "9_tide", 100)]

    assert 5 <= sum(labels[-20:]) <= 15


def test_what_is_no_binary_task_is_refused_by_name(data: Path) -> None:
    """Three targets, no file, no package: one line that says what to do."""
    from probing_tasks import examples, find_data

    with pytest.raises(SystemExit, match="9_tide: has 3 targets"):
        examples(data, "9_tide", 10)
    with pytest.raises(SystemExit, match=r"8_year.csv.zst: cannot be read"):
        examples(data, "8_year", 10)
    with pytest.raises(SystemExit, match="pip install --no-deps sae-probes"):
        find_data(data / "cleaned_data")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_sparse_probe_weighs_the_features_that_differ_most() -> None:
    """Features are ranked by the package's formula, written out here, and a plain L1 regression weighs the first 128."""
    from published_probes import FEATURES, sparse_regression

    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2 == 1
    dense = rng.exponential(size=(60, 150)) * (rng.random((60, 150)) < 0.3)
    dense[:, 7] += labels * 3.0
    scaled = dense / [column[column > 0].mean() for column in dense.T]
    gap = np.abs(scaled[labels].mean(axis=0) - scaled[~labels].mean(axis=0))
    x = dense[:, np.argsort(-gap)[:FEATURES]]

    scores = sparse_regression(csr_array(dense), labels, csr_array(dense))

    plain = [LogisticRegression(C=c, l1_ratio=1, solver="saga", max_iter=1000, random_state=42) for c in STRENGTHS]
    assert any(np.allclose(scores, model.fit(x, labels).decision_function(x), atol=1e-6) for model in plain)
    assert scores[labels].mean() > scores[~labels].mean()


def test_a_run_goes_on_where_it_stopped_and_fills_the_page(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole run on the bundled reader leaves results and a table; the same run again reads nothing."""
    import sae_probes

    demo, page, out = BUNDLED_WATCHLIST.parent, tmp_path / "page.md", tmp_path / "out.json"
    page.write_text("Above\n<!-- bench/sae_probes.py writes from here -->\nold\n<!-- to here -->\nbelow\n")
    (sae,) = (demo / "sae").rglob("params.npz")
    command = ["sae_probes.py", "--data", str(data), "--reader", str(demo / "reader"), "--sae", str(sae)]
    command += [
        "--hookpoint",
        "layers.2.resid_post",
        "--name",
        "tiny",
        "--workers",
        "1",
        "--rows",
        "100",
        "--out",
        str(out),
    ]
    monkeypatch.setattr("sys.argv", [*command, "--work-dir", str(tmp_path / "work"), "--page", str(page)])
    monkeypatch.setattr(sae_probes, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers))
    write(data, "cleaned_data/9_tide.csv", ["prompt,target", *(f"low {n},1\nhigh {n},2" for n in range(50))])

    sae_probes.main()
    first, written = capsys.readouterr().out, page.read_text()
    sae_probes.main()

    assert "2/2" in first
    assert first.partition("| detector")[2] == capsys.readouterr().out.partition("| detector")[2]
    assert written.startswith("Above\n<!--")
    assert written.endswith("<!-- to here -->\nbelow\n")
    assert "| bag of words | 1.000 (1.000 to 1.000)" in written
    task = json.loads(out.read_text())["tiny"]["tasks"]["7_mood"]
    assert 100 == task["fitted"] + task["held_out"]
    assert {"sae_features", "dense_probe", "single_feature", "last_token", "sae_probe"} <= set(task["auroc"])


def test_a_lead_is_of_the_same_tasks() -> None:
    """Means and leads are over tasks; what has no scores counts as chance."""
    from sae_probes import table

    tasks = [{"sae_features": 0.9, "dense_probe": 0.8}, {"sae_features": 0.7, "dense_probe": 0.6}, {}]
    told = {str(n): {"auroc": task, "refused": "" if task else "no signal"} for n, task in enumerate(tasks)}
    run = {"hookpoint": "layers.1", "features": 8, "tasks": told}
    found = {line.split(" | ")[0]: line for line in table({"tiny": run}).splitlines()}

    assert "| 0.700 (0.500 to 0.900)" in found["| features, combined by `calibrate`"]
    assert "| 0.633 (0.500 to 0.800) | +0.067 (+0.000 to +0.100) |" in found["| dense probe"]
    assert "| 1 |" in found["| tasks in which the features gave no signal"]
    assert found["| bag of words"].endswith("| 0.500 (0.500 to 0.500) | +0.200 (+0.000 to +0.400) |  |")
