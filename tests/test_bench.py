"""The benchmark itself, at sizes that take seconds: that contenders are compared, and that its formula is right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

BENCH = Path(__file__).parents[1] / "bench"
_SIZES = (
    *("vocab_size=4096", "hidden_size=64", "intermediate_size=128", "num_hidden_layers=4", "head_dim=16"),
    *("query_pre_attn_scalar=16", "sliding_window=32"),
)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the benchmark's modules importable."""
    monkeypatch.syspath_prepend(str(BENCH))


def test_every_contender_finds_the_same_activations(tmp_path: Path) -> None:
    """A whole run on a small reader: SAELens, transformers, hand-written code, the engine and the service agree."""
    command = [sys.executable, str(BENCH / "run.py"), "--subjects", "gemma-3-270m", "--pairs", "4", "--rounds", "1"]
    command += ["--torch-threads", "1", "--max-tokens", "128", "--max-batch-tokens", "256", "--layers", "1", "2"]
    command += ["--d-sae", "512", "--watched", "8", "--cached-pairs", "8", "--no-width", "--device", "cpu"]
    command += ["--shape", *_SIZES, "--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path)]

    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    subject = json.loads((tmp_path / "cpu.json").read_text())["subjects"]["gemma-3-270m"]
    assert subject["equal"]
    assert {"saelens", "transformers", "expert", "engine"} == set(subject["max_difference"])
    assert max(subject["max_difference"].values()) <= 1e-5
    assert subject["max_score_difference"] <= 1e-5
    assert min(found["activations"] for found in subject["at_threshold"].values()) > 0


@pytest.mark.usefixtures("bench")
def test_another_activation_is_a_difference() -> None:
    """One changed activation shows, and one that only rounding put beside its threshold is counted apart."""
    from equality import Difference, compare

    thresholds = np.array([1.0, 1.0], np.float32)
    reference = np.array([[4.0, 0.0], [0.0, 2.0]], np.float32)
    changed, rounded = reference.copy(), reference.copy()
    changed[0, 1] = 2.0
    rounded[0, 1] = 1.00001
    outcomes = []
    for found in (changed, rounded):
        difference = Difference()
        compare(difference, [reference], [found], thresholds, 1e-5)
        outcomes.append((difference.worst, difference.flips))

    assert [(0.5, 0), (0.0, 1)] == outcomes


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize("shape", ["gemma3_270m", "gemma2_2b"])
def test_needed_flops_are_what_torch_counts(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one token, where no attention is masked, torch counts the same in the released shape."""
    import ceilings
    import subjects

    config = getattr(subjects, shape)()
    config.num_hidden_layers = 2
    config.layer_types = config.layer_types[:2]
    config._attn_implementation = "eager"
    subject = subjects.Subject(shape, Path(), {1: Path()}, tuple(range(32)), Path())
    monkeypatch.setattr(subjects.Subject, "config", config)
    with torch.device("meta"):
        model = AutoModel.from_config(config, attn_implementation="eager")
        with FlopCounterMode(display=False) as counter:
            # Given masks, the model does not look at values, which tensors on this device lack.
            masks = {"full_attention": None, "sliding_attention": None}
            model(input_ids=torch.zeros((1, 1), dtype=torch.long), attention_mask=masks, use_cache=False)
    encode = 2 * config.hidden_size * 32

    assert counter.get_total_flops() + encode == pytest.approx(ceilings.needed_flops(subject, [1]), rel=1e-3)
