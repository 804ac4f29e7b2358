"""Attention over tiles: its kernel in Triton's interpreter, its plain twin, and the kernel compiled for a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
from numpy.typing import NDArray
from packaging.version import Version
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import AttentionInterface

from families import FAMILIES, save_weights
from scopewatch.reader import loading
from scopewatch.reader.attention import Packed
from scopewatch.reader.attention_choice import forms
from scopewatch.reader.attention_trials import AttentionShapes
from scopewatch.reader.kernels.tiles import tiles_kernel
from scopewatch.reader.packed_tiles import PackedTiles
from scopewatch.reader.packing import AttentionKind, Room
from scopewatch.reader.tiles import Form
from test_flex import BATCH
from test_fused_kernels import HOPPER, MOST_SHARED_BYTES, REGISTERS, compiled
from test_prefixes import PLENTY, a_reader, a_runner, assert_equal
from tiles_rows import CASES, KINDS, ROW, SCALING, SUBJECT, TAIL, TREE, Case, Text, placed

TESTS = Path(__file__).parent
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1.5e-2}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What the kernel gathered in the interpreter, for each case of `tiles_rows.py`."""
    if Version(triton.__version__) < Version("3.7"):
        pytest.skip("the interpreter of Triton 3.6 cannot count loops with numpy 2.4")
    file = tmp_path_factory.mktemp("tiles") / "gathered.pt"
    run = subprocess.run(
        [sys.executable, TESTS / "tiles_rows.py", file],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return torch.load(file)


def attended(case: Case, kind: AttentionKind, *, meta: bool = False) -> torch.Tensor:
    """What a kind of attention gathers for a case's row, shape (tokens, heads, head_dim)."""
    packing = case.packing()
    plan = kind.plan(packing, case.room if kind.name == "packed_tiles" else None) or {}
    packing.inputs = {name: torch.from_numpy(array) for name, array in plan.items()}
    tensors = case.tensors(packing)
    if meta:
        packing.pool, packing.inputs = None, {name: tensor.to("meta") for name, tensor in packing.inputs.items()}
        tensors = tuple(tensor.to("meta") for tensor in tensors)
    module = type("Layer", (), {"layer_idx": 0})
    rule = {"scaling": SCALING, "sliding_window": case.window, "softcap": case.softcap}
    return kind(module, *tensors, None, packing=packing, **rule)[0][0]


def twin(form: Form) -> PackedTiles:
    return PackedTiles(form, otherwise=Packed())


def formula(case: Case) -> NDArray[np.float64]:
    """The same in float64, text by text, masked densely; shape (tokens of texts, heads, head_dim)."""
    texts: list[Text] = list(case.row)

    def all_keys(text: Text) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a text's ancestors in the row and on pages, and its own."""
        before = all_keys(texts[text.parent]) if text.parent is not None else None
        first = len(before[0]) if before else 0
        own = slice(first, (first or 64 * text.known) + text.own)
        keys, values = (numbers[own].double() for numbers in case.numbers(text)[1:])
        return (torch.cat([before[0], keys]), torch.cat([before[1], values])) if before else (keys, values)

    found = []
    for text in texts:
        keys, values = (numbers.repeat_interleave(case.heads // case.kv_heads, 1) for numbers in all_keys(text))
        total = len(keys)
        queries = case.numbers(text)[0][total - text.own : total].double()
        logits = SCALING * torch.einsum("qhd,khd->hqk", queries, keys)
        if case.softcap:
            logits = case.softcap * torch.tanh(logits / case.softcap)
        distance = torch.arange(total - text.own, total)[:, None] - torch.arange(total)
        hidden = (distance < 0) | (distance >= (case.window or total))
        weights = torch.softmax(logits.masked_fill(hidden, -torch.inf), -1)
        found.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(found).numpy()


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_gives_what_the_formula_gives(name: str, kernel: dict[str, torch.Tensor]) -> None:
    """For texts around a tile's length, windows, caps, groups of heads, and keys in the row, of ancestors and on pages.

    Its twin and the attention for CPUs give the same, and what fills up the row holds numbers too.
    """
    case, found = CASES[name], kernel[name]
    right, plain = formula(case), attended(case, twin(case.form))
    bound = TOLERANCE[case.dtype] * np.abs(right).max()

    for other in (found, plain, attended(case, Packed())):
        np.testing.assert_allclose(other[: len(right)].double(), right, rtol=0, atol=bound)
    assert torch.isfinite(found).all()
    assert len(right) < len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_depends_on_where_a_text_and_its_keys_lie(kind: str, kernel: dict[str, torch.Tensor]) -> None:
    """Alone, among texts whose numbers are none, behind beginnings in the row and on pages: the same bits.

    In the kernel and in its twin, whatever the tiles' size, and with room for more texts than there are.
    """
    for gathered in (
        lambda place, _: kernel[f"{kind}: {place}"],
        lambda _, case: attended(case, twin(case.form)),
    ):
        tails = {}
        for place, case in placed(kind).items():
            text = max(n for n, text in enumerate(case.row) if text.seed == SUBJECT)
            stop = case.packing().texts[text].place.stop
            tails[place] = gathered(place, case)[stop - TAIL : stop]
        assert len(tails) == 7
        for place, tail in tails.items():
            assert torch.equal(tails["alone"], tail), place
        assert torch.isfinite(tail).all()


def test_a_plan_keeps_to_its_room() -> None:
    """Arrays have the room's shapes whatever the texts, spare tiles are unused, and what does not fit has no plan."""
    kind = twin(Form(heads=1, queries=64, warps=4, stages=1))
    for row in (ROW, TREE):
        packing = Case(row=row).packing()
        free = kind.plan(packing, None)
        tiles, keys = (len(free[name]) for name in ("tile_queries", "tile_keys"))
        plan = kind.plan(packing, Room(tiles + 5, keys + 7))
        assert plan["tile_queries"].shape == (tiles + 5, 4)
        assert plan["tile_keys"].shape == (keys + 7,)
        assert not plan["tile_queries"][tiles:].any()
        assert {np.dtype(np.int32)} == {array.dtype for array in plan.values()}
        np.testing.assert_array_equal(plan["tile_queries"][:tiles], free["tile_queries"])
        assert kind.plan(packing, Room(tiles, keys))
        assert kind.plan(packing, Room(tiles - 1, keys)) is None
        assert kind.plan(packing, Room(tiles, keys - 1)) is None


def test_a_plan_covers_each_row_once_and_begins_with_the_most_keys() -> None:
    """Also those that fill up the row; tiles begin at a text's first unread token, and short ones stay in order."""
    packing = Case(row=(*TREE, Text(7, 1200), Text(8, 700))).packing()
    queries = twin(Form(heads=1, queries=64, warps=4, stages=1)).plan(packing, None)["tile_queries"]
    rows = np.concatenate([np.arange(row, row + count) for row, count, *_ in queries])
    ends = queries[:, 1] + queries[:, 2]
    short = queries[ends < 512, 0]

    np.testing.assert_array_equal(np.sort(rows), np.arange(len(packing.ids)))
    assert (ends[:-1] // 512 >= ends[1:] // 512).all()
    assert ends[0] == 1024
    assert (np.diff(short) > 0).all()
    assert (queries[:, 2] % 64 == 0).all()


def test_it_is_one_operator_in_a_trace_and_for_shapes_alone() -> None:
    """A trace of it replays on another row of the same length, and without numbers it has shapes only."""
    kind = twin(Form(heads=2, queries=64, warps=4, stages=1))
    case, other = (
        Case(row=row, room=Room(20, 20)) for row in ((Text(1, 100), Text(2, 60)), (Text(3, 40), Text(4, 120)))
    )
    plans = [kind.plan(one.packing(), one.room) for one in (case, other)]
    packing = case.packing()

    def attend(*tensors: torch.Tensor) -> torch.Tensor:
        packing.inputs = dict(zip(plans[0], tensors[3:], strict=True))
        return kind(type("Layer", (), {"layer_idx": 0}), *tensors[:3], None, scaling=SCALING, packing=packing)[0]

    given, others = (
        [*one.tensors(one.packing()), *map(torch.from_numpy, plan.values())]
        for one, plan in zip((case, other), plans, strict=True)
    )
    traced = make_fx(attend)(*given)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]

    assert [torch.ops.scopewatch.packed_tiles.default] == calls
    assert torch.equal(attended(other, kind), traced(*others)[0])
    assert attended(case, kind, meta=True).shape == (160, 2, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_readers_give_what_they_give_with_attention_text_by_text(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every family, with windows, soft caps, beginnings in the row and on pages, and rows that are filled up."""
    directory = save_weights(family, tmp_path)
    expected = a_runner(directory, 0)(BATCH)
    kind = twin(Form(heads=2, queries=64, warps=4, stages=1))
    AttentionInterface.register(kind.name, kind)
    monkeypatch.setattr(loading, "register_attention", lambda *_: kind)
    reader = a_reader(directory)
    runner = a_runner(reader, PLENTY)

    for _ in range(3):
        found = runner(BATCH)
        assert_equal(expected, found)
    assert found.reused_tokens > 0
    assert reader.identity.attention == "packed_tiles"


def shapes(head_dim: int, dtype: torch.dtype = torch.bfloat16, group: int = 2) -> AttentionShapes:
    return AttentionShapes(2 * group, 2, head_dim, 0.1, None, {None: 1}, dtype)


RELEASED = {
    "Gemma 2": (256, 2, 50.0, 4096, torch.bfloat16),
    "Gemma 3": (256, 4, 0.0, 512, torch.bfloat16),
    "Llama 8B": (128, 4, 0.0, 0, torch.bfloat16),
    "Qwen 2 0.5B": (64, 7, 0.0, 0, torch.bfloat16),
    "Phi 3 mini": (96, 1, 0.0, 2047, torch.bfloat16),
    "Llama 1B in float32": (64, 4, 0.0, 0, torch.float32),
}


@pytest.mark.parametrize(("head_dim", "group", "softcap", "window", "dtype"), RELEASED.values(), ids=RELEASED)
def test_the_kernel_compiles_for_released_readers(  # noqa: PLR0917
    head_dim: int,
    group: int,
    softcap: float,
    window: int,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For an H100: 16 bytes at a time, on tensor cores in bfloat16 and off them in float32, within its memories."""
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    form = forms(shapes(head_dim, dtype, group))[0]
    constants = {
        "SCALING": head_dim**-0.5,
        "WINDOW": window,
        "SOFTCAP": softcap,
        "GROUP": group,
        "HEADS": form.heads,
        "QUERIES": form.queries,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "INTERPRETED": False,
    }
    numbers = dict.fromkeys(("query", "key", "value", "key_pages", "value_pages", "out"), "*")
    steps = [name for name in tiles_kernel.arg_names if name not in constants | numbers]
    arguments = numbers | dict.fromkeys(steps, "i32") | {"queries": "*i32", "keys": "*i32"}
    kind = "fp32" if dtype == torch.float32 else "bf16"
    found = compiled(tiles_kernel, arguments, constants, kind, num_warps=form.warps, num_stages=form.stages)
    ptx, file = found.asm["ptx"], tmp_path / "kernel.cubin"
    file.write_bytes(found.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    told = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    usage = dict(item.split(":") for item in told.strip().splitlines()[-1].split() if "[" not in item)

    assert int(usage["STACK"]) <= 16, usage
    assert int(usage["REG"]) * form.warps * HOPPER.warp_size <= REGISTERS, usage
    assert found.metadata.shared <= MOST_SHARED_BYTES
    assert ("wgmma" in ptx) == (dtype == torch.bfloat16)
    assert "tf32" not in ptx
    assert "ld.global.b16" not in ptx
