"""The benchmark for GPUs: its parts are given up one by one, and the whole of it runs on a CPU with tiny sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"
_SECTIONS = """
import json, os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from on_gpu.sections import Section, run_sections

def good(stage, told):
    told.figures(stage=stage, process=os.getpid())

def raises(stage, told):
    told.figures(before=1)
    raise ValueError("of no use")

def hangs(stage, told):
    told.figures(started=subprocess.Popen(["sleep", "60"]).pid)
    time.sleep(60)

def dies(stage, told):
    os.kill(os.getpid(), 9)

def wrong(stage, told):
    told.broken(["one is two"])

lanes = [
    [Section("first", 20, good), Section("second", 20, good), Section("raises", 20, raises), Section("third", 20, good)],
    [Section("hangs", 0.5, hangs), Section("dies", 20, dies), Section("wrong", 20, wrong)],
]
lines = []
began = time.monotonic()
found = run_sections(lanes, "all", at_once=2, until_s=began + 30, heard=lambda *line: lines.append(line))
late = run_sections([[Section("late", 20, good)]], "all", at_once=1, until_s=time.monotonic(), heard=lambda *_: None)
out = {name: [one.figures, one.broken, one.failure] for name, one in (found | late).items()}
print(json.dumps({"found": out, "lines": lines, "seconds": time.monotonic() - began}))
"""


@pytest.fixture(scope="module")
def heard() -> dict[str, Any]:
    """What came of sections that go well, raise, hang, die, find something wrong and come too late."""
    command = [sys.executable, "-c", _SECTIONS, str(BENCH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_a_section_that_fails_takes_no_other_along(heard: dict[str, Any]) -> None:
    """Those behind one that raises, hangs or dies run in a new process; what it told before is kept."""
    found = heard["found"]

    assert found["first"][0]["process"] == found["second"][0]["process"] != found["third"][0]["process"]
    assert ["all", ""] == [found["third"][0]["stage"], found["third"][2]]
    assert [{"before": 1}, [], "ValueError: of no use"] == found["raises"]
    assert "its process ended with exit code -9" == found["dies"][2]
    assert [{}, ["one is two"], ""] == found["wrong"]
    assert ["wrong", "NOT RIGHT: one is two"] in heard["lines"]


def test_a_section_that_hangs_is_given_up_with_all_it_started(heard: dict[str, Any]) -> None:
    """It is left after its time and not much later, and what it started does not live on."""
    figures, _, failure = heard["found"]["hangs"]

    assert failure.startswith("given up after")
    assert 10 > heard["seconds"]
    started = Path(f"/proc/{figures['started']}/stat")
    # Nobody may have taken notice of its end yet.
    assert not started.exists() or started.read_text().split()[2] == "Z"


def test_what_would_begin_too_late_is_left_out(heard: dict[str, Any]) -> None:
    assert [{}, [], "not begun"] == heard["found"]["late"]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """What a run on the CPU with tiny sizes wrote, as JSON and as a table, and what it printed."""
    out = tmp_path_factory.mktemp("gpu")
    some = "families/gemma2_96,engines,passes,lone,shared,invariance,kernels,contests,trace"
    command = [sys.executable, str(BENCH / "gpu.py"), "--device", "cpu", "--tiny", "--threads", "1", "--only", some]
    command += ["--scratch", str(out), "--at-once", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text(), done.stdout


def test_every_section_tells_what_it_is_for(rehearsal: tuple[dict[str, Any], str, str]) -> None:
    """On a CPU too: differences in every way that the engine runs, rates, shares, kernels by kind, contests."""
    report, table, printed = rehearsal
    sections = report["sections"]
    figures = {name: section["figures"] for name, section in sections.items()}

    assert not [name for name, section in sections.items() if section["failure"] or section["broken"]], printed
    ways = figures["families/gemma2_96"]["float32, by way"]
    assert {"as served", "nothing kept", "layers plain", "no graphs", "all plain"} == set(ways)
    assert min(found["activations"] for found in ways.values()) > 100
    assert max(found["worst"] for found in ways.values()) <= 1e-5
    assert 0 < figures["passes"]["256 tokens"]["of_peak"] < 1
    assert 0 < figures["lone"]["p50_ms"] <= figures["lone"]["p99_ms"]
    assert min(figures["shared"]["in_one_batch"], figures["shared"]["known_before"]) > 0
    assert figures["invariance"]["reused_tokens"] > 0
    assert figures["invariance"]["in_batches"]["of"] == 30
    taken_apart = figures["kernels"]["256 tokens"]["ms"]
    assert {"products", "element-wise", "copies"} <= set(taken_apart)
    assert taken_apart.get("other", 0) < sum(taken_apart.values()) / 2
    assert 0 == figures["contests"]["wrongly_decided"]
    plain, fused = (figures["trace"][f"{way}, 16384 tokens"] for way in ("plain", "fused"))
    assert fused["launches"] <= 250 < plain["launches"] / 4
    assert fused["moved_GB"] < plain["moved_GB"] / 4
    assert "| passes | 256 tokens | ms " in table
    assert "All that was compared is right." in printed


@pytest.mark.parametrize(
    ("only", "said"),
    [("families,nothing", "no section nothing; there are: beside, "), ("Lone,peak", "no section Lone")],
)
def test_an_unknown_section_is_refused(only: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu

    with pytest.raises(SystemExit, match=said):
        gpu.chosen(gpu.timed(), only, "")


def test_what_is_wrong_or_not_shown_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken rule anywhere, or a comparison that did not come to its end; a section that only times may fail."""
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu
    from on_gpu.sections import Outcome

    assert gpu.right("families/llama_64", Outcome())
    assert not gpu.right("families/llama_64", Outcome(failure="given up after 100 s"))
    assert not gpu.right("beside", Outcome(broken=["spread: 0.2, at most 0.025"]))
    assert gpu.right("served", Outcome(failure="SetupError: the server did not start"))


def test_goals_are_judged_by_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reached at the bound, not reached beyond it, and not measured where a section did not run."""
    monkeypatch.syspath_prepend(str(BENCH))
    from on_gpu.goals import GOALS
    from on_gpu.sections import Outcome

    outcomes = {
        "passes": Outcome({"16384 tokens": {"of_peak": 0.7}}),
        "lone": Outcome({"p50_ms": 9.01}),
        "beside": Outcome({"saelens": {"engine_is_faster": 11.0}}),
    }
    said = {goal.what: goal.judged(outcomes).said for goal in GOALS}

    assert "reached" == said["16,384 tokens in a pass, of the GEMM peak"]
    assert "not reached" == said["lone pair of 512 tokens in the engine, p50"]
    assert "reached" == said["faster than SAELens"]
    assert "not measured" == said["faster than by hand, sorted by length"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", "products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16>", "products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "products"),
        ("triton_tem_fused_flex_attention_0", "attention"),
        ("triton_poi_fused_cat_mul_neg_1", "element-wise"),
        ("void at::native::vectorized_elementwise_kernel<4, BinaryFunctor<MulFunctor<float>>>", "element-wise"),
        ("void at::native::unrolled_elementwise_kernel<direct_copy_kernel_cuda(TensorIteratorBase&)>", "copies"),
        ("void at::native::reduce_kernel<512, 1, ReduceOp<float, MeanOps>>", "element-wise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("norm_kernel", "element-wise"),
        ("rotary_kernel", "element-wise"),
        ("gated_kernel", "element-wise"),
        ("something_new", "other"),
    ],
)
def test_kernels_are_sorted_by_their_names(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from on_gpu.kernels import kind_of

    assert kind == kind_of(name)
