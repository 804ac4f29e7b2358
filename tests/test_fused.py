"""Layers in few kernels give what transformers' own give, in every family, whoever listens and wherever."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from families import FAMILIES, LAYERS, TABLE, save_weights
from scopewatch.config import Config
from scopewatch.engine import build
from scopewatch.engine.passes import Passes, untouched
from scopewatch.reader import loading
from scopewatch.reader.fused import fusing, parts
from scopewatch.reader.fused.fusing import fuse
from scopewatch.reader.hookpoints import Change, Hookpoint
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.prefixes import Reading
from scopewatch.sources import ReaderSource
from test_families import NAMED, ON_GEMMA
from test_flex import BATCH
from test_prefixes import PLENTY, a_runner, assert_equal

TOLERANCE = 2e-5
"""Of the largest number: joined products of float32 add up in another order, which four layers make of the order of 1e-6,
and 1e-5 on CPUs without AVX-512."""
INSIDE = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.act_fn", "self_attn.o_proj")
PLACES = tuple(
    dict.fromkeys(
        [
            *NAMED,
            *ON_GEMMA,
            "input_layernorm.output",
            *(f"{path}.{end}" for path in INSIDE for end in ("input", "output")),
        ]
    )
)
READINGS = [Reading(np.arange(5, 5 + n, dtype=np.int32) * 7 % 450, ()) for n in (37, 1, 20)]


def load(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader whose linear layers are torch's own, as on a GPU."""
    monkeypatch.setattr(loading, "pack_linears", lambda *_: None)
    return load_reader(directory, name="r", revision="", deepest_layer=LAYERS - 1, device="cpu", dtype="float32")


@dataclass(frozen=True)
class Both:
    """The same reader twice."""

    directory: Path
    plain: Reader
    fused: Reader


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = save_weights(request.param, tmp_path_factory.mktemp(request.param))
    with pytest.MonkeyPatch.context() as patch:
        plain, fused = load(directory, patch), load(directory, patch)
    assert fuse(fused.model, fused.family)
    return Both(directory, plain, fused)


def read(reader: Reader, *sites: str, edits: dict[Hookpoint, Change] | None = None) -> dict[Hookpoint, torch.Tensor]:
    """What every layer gives at some sites, and what the last one gives, under edits."""
    taps = {Hookpoint(layer, site): untouched for layer in range(LAYERS) for site in sites}
    with torch.inference_mode():
        row = Passes(reader).read(READINGS, taps, edits=edits, whole=True)
    return {**row.tapped, Hookpoint(LAYERS): row.states}


def assert_same(
    expected: dict[Hookpoint, torch.Tensor], found: dict[Hookpoint, torch.Tensor], *, within: float
) -> None:
    assert list(expected) == list(found)
    for place, one in expected.items():
        assert one.shape == found[place].shape
        assert (one - found[place]).abs().max() <= within * one.abs().max(), place


def test_every_place_gives_what_it_gives_without(both: Both) -> None:
    """Tapped alone, so that only what it cuts runs part by part, or together with all others."""
    expected = read(both.plain, *PLACES)

    assert_same(expected, read(both.fused, *PLACES), within=TOLERANCE)
    assert_same(read(both.plain), read(both.fused), within=TOLERANCE)
    for site in PLACES:
        of_site = {place: one for place, one in expected.items() if place.site == site or place.layer == LAYERS}
        assert_same(of_site, read(both.fused, site), within=TOLERANCE)


def test_the_norms_of_heads_are_heard(both: Both) -> None:
    """As often as without, and with the same numbers, where a family has them."""
    heard: dict[str, list[torch.Tensor]] = {"plain": [], "fused": []}
    for reader, into in ((both.plain, heard["plain"]), (both.fused, heard["fused"])):
        attention: Any = reader.layers[1].self_attn
        for norm in (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)):
            if norm is not None:
                norm.register_forward_hook(lambda _m, given, out, into=into: into.extend([given[0], out]))
        read(reader)
        for module in attention.modules():
            module._forward_hooks.clear()

    assert (4 if hasattr(both.plain.layers[1].self_attn, "q_norm") else 0) == len(heard["plain"]) == len(heard["fused"])
    for one, other in zip(heard["plain"], heard["fused"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_what_is_replaced_at_a_place_flows_on(both: Both) -> None:
    """As in the reader without, at every site, also where the stream itself runs past the module."""
    for site in (*(site for site in PLACES if site != "mlp_in_unit"), "post_attention_layernorm.input"):
        edits = {Hookpoint(1, site): lambda x: x * 0.5 + 0.25}
        expected = read(both.plain, edits=edits)

        assert (expected[Hookpoint(LAYERS)] - read(both.plain)[Hookpoint(LAYERS)]).abs().max() > 0.01
        assert_same(expected, read(both.fused, edits=edits), within=5 * TOLERANCE)
    assert_same(read(both.plain), read(both.fused), within=TOLERANCE)


def test_in_bfloat16_everything_is_rounded_where_it_is_without(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """So next to nothing differs at any place: only what the joined products of floats add up in another order."""
    plain, fused = (load(both.directory, monkeypatch) for _ in range(2))
    for reader in (plain, fused):
        reader.model.to(torch.bfloat16)
    assert fuse(fused.model, fused.family)

    assert_same(read(plain, *PLACES), read(fused, *PLACES), within=2**-7)
    assert_same(read(plain), read(fused), within=2**-7)
    for site in ("resid_mid", "attn_out", "mlp_in", "mlp_out"):
        assert_same(read(plain, site), read(fused, site), within=2**-7)


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "mistral", "qwen3"])
def test_packed_rows_and_known_beginnings_are_read_as_without(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several texts, longer than windows, whose beginnings are kept and come back."""
    reader = load(save_weights(family, tmp_path), monkeypatch)
    expected = a_runner(reader, 0)(BATCH)
    assert fuse(reader.model, reader.family)
    runner = a_runner(reader, PLENTY)

    for _ in range(3):
        found = runner(BATCH)
        assert_equal(expected, found)
    assert found.reused_tokens > 0


def test_the_attention_is_told_what_it_is_told_without(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaling, windows, soft caps and everything that a pass hands down, layer by layer."""
    told: list[dict[str, Any]] = []
    inner = both.plain.attention

    def listening(module: Any, *tensors: Any, **named: Any) -> Any:
        told.append({"layer": module.layer_idx, "mask": tensors[3], **named})
        return inner(module, *tensors, **named)

    monkeypatch.setitem(AttentionInterface._global_mapping, "packed", listening)
    for reader in (both.plain, both.fused):
        reader.model(input_ids=torch.arange(5, 30)[None], use_cache=False)
    expected, found = told[:LAYERS], told[LAYERS:]

    assert LAYERS == len(found)
    for one, other in zip(expected, found, strict=True):
        without = {name: value for name, value in one.items() if value is not None}
        assert torch.equal(without.pop("position_ids"), other["position_ids"])
        assert without.items() <= other.items()
        assert all(value is None for name, value in other.items() if name not in one)


def test_weights_are_there_once(both: Both) -> None:
    """What is multiplied together is one tensor, of which the modules' own weights and biases are parts."""
    model = both.fused.model
    parameters = list(model.parameters())
    storages = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes() for parameter in parameters
    }

    assert sum(parameter.nbytes for parameter in parameters) == sum(storages.values())
    for layer in both.fused.layers:
        assert layer.self_attn.attending.joined.weight.untyped_storage().data_ptr() in storages
        assert layer.self_attn.v_proj.weight.data_ptr() > layer.self_attn.q_proj.weight.data_ptr()
    assert [name for name, _ in both.plain.model.named_modules()] == [name for name, _ in model.named_modules()]


# What is checked before it runs.


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    return load(save_weights("gemma3_text", tmp_path), monkeypatch)


def missing(*_: object) -> torch.Tensor:
    raise ModuleNotFoundError("No module named 'triton'")


@pytest.mark.parametrize(
    ("operator", "instead", "said"),
    [
        ("rotary", lambda *given: torch.ops.scopewatch.rotary(*given) * 1.001, "_DeviationError: part 0 is off by"),
        ("gated", lambda both, _: torch.ops.scopewatch.gated(both, "silu"), "_DeviationError: part 0 is off by"),
        (
            "norm_add",
            lambda *given: torch.ops.scopewatch.norm_add(*given) * torch.nan,
            "_DeviationError: part 0 is off by nan",
        ),
        ("norm_add_norm", missing, "ModuleNotFoundError: No module named 'triton'"),
    ],
    ids=["a little off", "another activation", "NaN", "does not compile"],
)
def test_what_deviates_or_fails_is_left_out(  # noqa: PLR0917
    operator: str,
    instead: Any,
    said: str,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reader then runs as transformers wrote it, to the last bit, and the log says why, once."""
    expected = read(reader)
    kinds = [type(module) for module in reader.model.modules()]
    monkeypatch.setattr(parts, operator, instead)

    assert not fuse(reader.model, reader.family)
    (record,) = (record for record in caplog.records if record.name == fusing.__name__)
    assert logging.WARNING == record.levelno
    assert record.getMessage().startswith(f"the reader runs without fused kernels: {said}")
    assert kinds == [type(module) for module in reader.model.modules()]
    assert_same(expected, read(reader), within=0)


def test_only_a_gpu_runs_them_and_only_if_it_may(reader: Reader) -> None:
    """A CPU stays as it is, and so does a GPU whose operator says so."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")

    assert "plain" == reader.identity.kernels
    assert "plain" == loading._kernels(reader.model, reader.family, cpu, fused=True)
    assert "plain" == loading._kernels(reader.model, reader.family, gpu, fused=False)
    assert "fused" == loading._kernels(reader.model, reader.family, gpu, fused=True)


@pytest.mark.parametrize(("setting", "asked"), [("auto", True), ("off", False)])
def test_the_setting_decides(setting: Any, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator sets is what a reader is loaded with."""
    told: list[bool] = []
    monkeypatch.setattr(build, "load_reader", lambda *_, fused, **__: told.append(fused))
    monkeypatch.setattr(build, "confirmed", lambda reader: reader)
    build.load_found(tmp_path, ReaderSource(path=str(tmp_path)), Config(fused=setting), deepest_layer=0)

    assert [asked] == told


def test_another_activation_function_stays_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLP whose activation has no kernel runs as transformers wrote it, between fused parts."""
    config = LlamaConfig(**TABLE["llama"].settings | {"hidden_act": "relu"})
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    reader = load(tmp_path, monkeypatch)
    expected = read(reader, "mlp_out")

    assert fuse(reader.model, reader.family)
    assert not isinstance(reader.layers[0].mlp, parts.FusedMlp)
    assert isinstance(reader.layers[0], parts.FusedLayer)
    assert_same(expected, read(reader, "mlp_out"), within=TOLERANCE)
