"""How many kernels a pass launches, counted on tensors that have shapes only."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from families import FAMILIES, TABLE

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module that counts."""
    monkeypatch.syspath_prepend(str(BENCH))
    import launches

    return launches


def test_a_pass_at_the_shape_of_gemma_2_2b_launches_few_kernels(launches: Any) -> None:
    """At 21 layers at most 250, a fifth of what transformers' own launch, which move a quarter of the bytes or less."""
    plain, fused = (
        launches.pass_of(launches.model_of(launches.GEMMA_2_2B, fused=fused), tokens=16_384) for fused in (False, True)
    )

    assert len(fused) <= 250
    assert len(plain) > 5 * len(fused)
    assert launches.moved_bytes(plain) > 4 * launches.moved_bytes(fused)
    # What norms, rotary and activation of a layer read and write, in bytes of bfloat16; the rest is once a pass.
    a_layer = 2 * (2 + 4 + 3) * 2304 + 2 * (4096 + 3072) + 2 * 3 * 9216
    assert launches.moved_bytes(fused) / (21 * 16_384) == pytest.approx(a_layer, rel=0.03)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_a_layer_in_ten_kernels(family: str, launches: Any) -> None:
    """Norm, product, rotary, attention, product, sum and norm, product, activation, product, and sum."""
    row = TABLE[family]
    config = row.config(**copy.deepcopy(row.settings)).get_text_config()
    counts = []
    for layers in (2, 4):
        config.num_hidden_layers = layers
        counts.append(len(launches.pass_of(launches.model_of(config, fused=True), tokens=64)))

    assert 2 * 10 == counts[1] - counts[0]


def test_a_hook_costs_what_it_cuts_in_two(launches: Any) -> None:
    """Hooks at a layer's ends, or before a part's last product, cost nothing; one between two norms separates them."""
    config = TABLE["gemma2"].config(**TABLE["gemma2"].settings)
    model = launches.model_of(config, fused=True)
    free = len(launches.pass_of(model, tokens=64))
    layer = model.layers[1]
    for module, cost in (
        (layer, 0),
        (layer.self_attn, 0),
        (layer.self_attn.o_proj, 0),
        (layer.mlp, 0),
        (layer.mlp.down_proj, 0),
        (layer.input_layernorm, 0),
        (layer.post_attention_layernorm, 2),
        (layer.pre_feedforward_layernorm, 2),
        (layer.post_feedforward_layernorm, 1),
        (layer.mlp.gate_proj, 2),
    ):
        for hook in (
            module.register_forward_hook(lambda *_: None),
            module.register_forward_pre_hook(lambda *_: None, with_kwargs=True),
        ):
            assert cost == len(launches.pass_of(model, tokens=64)) - free, module
            hook.remove()
    assert free == len(launches.pass_of(model, tokens=64))


def test_a_trace_counts_what_computes_and_what_it_moves(launches: Any) -> None:
    """Views and allocations are no launches; a tensor that is repeated along an axis is moved once."""
    row, table = torch.ones(4), torch.ones(3, 4)

    (added,) = launches.trace(lambda: row.expand(3, 4).add(table).view(12))
    assert ("add", 4 * (4 + 12 + 12)) == (added.operator, added.moved_bytes)
    assert "product" == launches.trace(lambda: table @ row.expand(4, 4).T)[-1].kind
    assert ["norm", "element by element"] == [
        launches.kind_of_kernel(name) for name in ("norm_kernel", "vectorized_elementwise")
    ]
