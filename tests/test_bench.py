"""The benchmark itself, at sizes that take seconds: that contenders are compared, and that its formula is right."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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
    assert subject["max_pooled_difference"] <= 1e-5
    assert 0 == subject["verdicts_changed"]
    assert {*subject["max_difference"], "service"} == set(subject["differences"])
    assert min(found["activations"] for found in subject["differences"].values()) > 0


def _fired(noise: float, *, seed: int = 0, weights: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds, and JumpReLU activations of a dense product, computed with so much relative noise.

    Args:
        noise: The standard deviation of what is added to each pre-activation, as a share of theirs.
        seed: Of the noise.
        weights: The factor of the weights.
    """
    draw, noises = np.random.default_rng(0), np.random.default_rng(seed)
    pre = 3.0 * draw.standard_normal((4000, 16)) + 1.0
    thresholds = np.full(16, 5.0, np.float32)
    pre = weights * pre + 3.0 * noise * noises.standard_normal(pre.shape)
    return thresholds, np.where(pre > thresholds, pre, 0.0).astype(np.float32)


def _broken(found: np.ndarray, dtype: str = "bfloat16", reference: np.ndarray | None = None) -> list[str]:
    """The names of the rules that do not hold between activations and the exact ones."""
    from equality import RULES, Difference, compare

    thresholds, exact = _fired(0.0)
    difference = Difference()
    compare(difference, [exact if reference is None else reference], [found], thresholds)
    return [rule.partition(":")[0] for rule in difference.broken(RULES[dtype])]


@pytest.mark.usefixtures("bench")
def test_what_bfloat16_rounds_is_no_difference() -> None:
    """Rounding that moves activations by 0.5 % and lets features flip at their threshold passes; in float32 it fails."""
    _, rounded = _fired(0.005)
    _, exact = _fired(0.0)

    assert 20 < np.sum((rounded > 0) != (exact > 0))
    assert [] == _broken(rounded)
    assert ["apart", "spread", "scale", "beside_threshold", "flips"] == _broken(rounded, "float32")
    assert [] == _broken(exact, "float32")


@pytest.mark.usefixtures("bench")
def test_one_flip_at_the_threshold_is_counted_and_one_far_from_it_is_a_fault() -> None:
    """Though the first moves a score by the whole threshold."""
    from equality import RULES, Difference, compare

    thresholds = np.full(2, 5.0, np.float32)
    reference = np.full((200, 2), 8.0, np.float32)
    beside, far = reference.copy(), reference.copy()
    reference[0, 1] = 0.0
    beside[0, 1], far[0, 1] = 5.01, 7.0
    outcomes = []
    for found in (beside, far):
        difference = Difference()
        compare(difference, [reference], [found], thresholds)
        outcomes.append((difference.flips, difference.worst, difference.broken(RULES["bfloat16"])))

    assert [(1, 0.0, []), (1, 0.0, ["beside_threshold: 0.25, at most 0.03"])] == outcomes


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        pytest.param("another layer", {"apart", "spread", "flips", "beside_threshold"}, id="another layer"),
        pytest.param("a column of others", {"apart", "spread", "flips", "beside_threshold"}, id="features exchanged"),
        pytest.param("all scaled", {"scale"}, id="weights 1 % too large"),
        pytest.param("nothing fires", {"beside_threshold", "flips"}, id="silence"),
        pytest.param("not a number", {"finite"}, id="NaN"),
        pytest.param("one activation", {"apart"}, id="one activation"),
    ],
)
def test_a_fault_breaks_a_rule_by_its_name(fault: str, named: set[str]) -> None:
    """What rounding in bfloat16 does not do fails, and the rule says what it is."""
    _, exact = _fired(0.0)
    _, rounded = _fired(0.005)
    faulty = {
        "another layer": _fired(1.0)[1],
        "a column of others": np.roll(rounded, 1, axis=1),
        "all scaled": _fired(0.005, weights=1.01)[1],
        "nothing fires": np.zeros_like(rounded),
        "not a number": np.where(rounded == rounded.max(), np.nan, rounded).astype(np.float32),
        "one activation": np.where(exact == exact.max(), 0.9 * exact, rounded).astype(np.float32),
    }

    assert named <= set(_broken(faulty[fault]))
    # Nothing to compare with shows nothing.
    assert "fired" in _broken(faulty[fault], reference=np.zeros_like(exact))


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize(("share", "passes"), [(0.0, True), (0.01, False)])
def test_one_percent_of_wrong_weights_is_a_fault(share: float, passes: bool) -> None:
    """Of two layers in bfloat16 against float32: rounding passes, and a hundredth of the weights exchanged does not."""
    from equality import RULES, Difference, compare

    torch.manual_seed(0)
    layers = [torch.randn(256, 256) / 16 for _ in range(2)]
    encoder, stream = torch.randn(256, 32) / 16, torch.randn(3000, 256)

    def activations(weights: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        x = stream
        for weight in weights:
            x = torch.tanh(x.to(dtype).float() @ weight.to(dtype).float())
        return x.to(dtype).float() @ encoder

    wrong = [torch.where(torch.rand_like(weight) < share, weight.roll(7), weight) for weight in layers]
    pre = activations(layers, torch.float32)
    thresholds = pre.mean(0) + 2 * pre.std(0)
    exact, found = (torch.where(own > thresholds, own, 0).numpy() for own in (pre, activations(wrong, torch.bfloat16)))
    difference = Difference()
    compare(difference, [exact], [found], thresholds.numpy())
    broken = difference.broken(RULES["bfloat16"])

    assert difference.activations > 1000
    assert difference.flips > 0
    assert passes == (not broken), broken


@pytest.mark.usefixtures("bench")
def test_the_service_is_judged_by_what_pooled_features_and_verdicts_say() -> None:
    """Replies of the same activations pass; a pooled feature that flips is counted; verdicts that change have a bound."""
    from equality import RULES, Judged, judge, peaks, scores_of
    from scopewatch.client import pb
    from scopewatch.types import Segment

    draw, keys = np.random.default_rng(0), [f"layer01/{i}" for i in range(8)]
    thresholds = np.full(8, 1.0, np.float32)
    dense = [np.where((raw := draw.gamma(1.0, 1.0, (6, 8))) > 1, raw, 0).astype(np.float32) for _ in range(100)]
    # Only which tokens are of the response counts here.
    segments = np.array([Segment.PROMPT] * 2 + [Segment.RESPONSE] * 4)
    pairs = [SimpleNamespace(segments=segments) for _ in dense]
    pooled = peaks(pairs, dense)
    bounds = np.quantile(scores_of(pooled), 0.8, axis=0)

    def reply(row: np.ndarray, *, against: bool = False) -> pb.ScoreResponse:
        scores = scores_of(row[None])[0]
        flagged = bool((scores > bounds).any()) != against
        found = pb.ScoreResponse(verdict=pb.VERDICT_FLAG if flagged else pb.VERDICT_PASS)
        for i, bound in enumerate(bounds):
            features = [
                pb.FeatureScore(feature=key, pooled=value)
                for key, value in list(zip(keys, row, strict=True))[i::4]
                if value
            ]
            found.indicators.add(name=f"i{i}", threshold=float(bound), features=features)
        return found

    def broken(replies: list[pb.ScoreResponse]) -> list[str]:
        judged = Judged()
        judge(judged, list(zip(pairs, dense, replies, strict=True)), keys, thresholds)
        return judged.broken(RULES["bfloat16"])

    flipped, far = pooled.copy(), pooled.copy()
    row, column = np.argwhere(pooled == 0)[0]
    flipped[row, column], far[row, column] = 1.01, 3.0

    assert [] == broken([reply(row) for row in pooled])
    assert [] == broken([reply(row) for row in flipped])
    assert ["pooled beside_threshold"] == [rule.partition(":")[0] for rule in broken([reply(row) for row in far])]
    assert ["verdicts: 0.06, at most 0.05"] == broken([reply(row, against=i < 6) for i, row in enumerate(pooled)])


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
