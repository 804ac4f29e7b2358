"""The kernels of fused layers: run in Triton's interpreter, and compiled for a GPU that need not be there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from scopewatch.reader.kernels import gated, norms, rotary

TESTS = Path(__file__).parent
HOPPER = GPUTarget("cuda", 90, 32)
MOST_SHARED_BYTES = 227 << 10
REGISTERS = 65_536
"""Of a multiprocessor, for all threads of a program."""
# The shapes of released readers that are tiled differently: hidden size, and heads of q and k with their head_dim.
HIDDEN = {"Gemma 3 270M": 640, "Gemma 2 2B": 2304, "Llama 8B": 4096, "Gemma 2 27B": 4608, "Llama 70B": 8192}
HEADS = {
    "Gemma 3 270M": (5, 256),
    "Gemma 2 2B": (12, 256),
    "Llama 70B": (72, 128),
    "Qwen 2 0.5B": (16, 64),
    "head_dim 96": (40, 96),
}


@pytest.fixture(scope="module")
def interpreted() -> list[dict[str, Any]]:
    """What `fused_kernels.py` found."""
    run = subprocess.run(
        [sys.executable, TESTS / "fused_kernels.py"],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def of(found: list[dict[str, Any]], dtype: str) -> Iterator[dict[str, Any]]:
    those = [case for case in found if case["dtype"] == dtype]
    kernels = {"rms_norm", "add_norm", "norm_add", "norm_add_norm", "rotary", "gated"}
    assert kernels == {case["case"].split()[0] for case in those} - {"reader"}
    yield from those


def test_in_float32_a_kernel_gives_what_float64_gives(interpreted: list[dict[str, Any]]) -> None:
    """Within rounding, as its plain twin does, also for widths that are no power of two and for one token.

    And so whole readers give with them, after their check, what they gave before.
    """
    for case in of(interpreted, "float32"):
        within = 2e-6 if case["case"].startswith("reader") else 5e-7
        assert case["exact"] < within, case
        assert case["twin"] < within, case
    assert 2 == sum(case["case"].startswith("reader") for case in interpreted)


def test_a_kernel_rounds_where_its_twin_rounds(interpreted: list[dict[str, Any]]) -> None:
    """In float16, which the interpreter rounds as hardware does, hardly a bit differs.

    A sum in another order moves a number over a rounding edge now and then, and gelu is computed another way where it
    is next to nothing.
    """
    for case in of(interpreted, "float16"):
        assert case["exact"] < 2e-3, case
        assert case["twin"] < 1e-3, case
        assert case["differ"] < (0.1 if "gelu" in case["case"] else 0.01), case


def test_in_bfloat16_a_kernel_is_as_near_as_its_roundings(interpreted: list[dict[str, Any]]) -> None:
    """The interpreter cuts off where hardware rounds: within a last bit of the type for each rounding."""
    for case in of(interpreted, "bfloat16"):
        assert case["exact"] < 4 * 2**-7, case
        assert case["twin"] < 4 * 2**-7, case


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))


def compiled(kernel: Any, arguments: dict[str, str], constants: dict[str, Any], dtype: str, **options: Any) -> Any:
    """A kernel compiled for an H100, with pointers and sizes that 16 divides, as a reader's are."""
    signature = {name: f"*{dtype}" if kind == "*" else kind for name, kind in arguments.items()}
    names = kernel.arg_names
    even = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in signature.items() if kind != "fp32"}
    source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants, even)
    return triton.compile(source, target=HOPPER, options=options)


def assert_fits(found: Any, tmp_path: Path, *, warps: int) -> str:
    """No spills, registers and shared memory that a multiprocessor has; gives the assembly."""
    file = tmp_path / "kernel.cubin"
    file.write_bytes(found.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    told = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    usage = dict(item.split(":") for item in told.strip().splitlines()[-1].split() if "[" not in item)
    assert int(usage["LOCAL"]) == int(usage["STACK"]) == 0, usage
    assert int(usage["REG"]) * warps * 32 <= REGISTERS, usage
    assert found.metadata.shared <= MOST_SHARED_BYTES
    return str(found.asm["ptx"])


@pytest.mark.parametrize("width", HIDDEN.values(), ids=HIDDEN)
def test_norms_compile_for_the_widths_of_released_readers(width: int, tmp_path: Path) -> None:
    """Both norms and the sum in one kernel, 16 bytes at a time, within the registers of a multiprocessor."""
    pointers = ("x_in", "residual_in", "first_gain", "second_gain", "sum_out", "normed_out")
    arguments = dict.fromkeys(pointers, "*") | {"width": "i32", "eps": "fp32"}
    tiling = dict(norms.tiling(width))
    warps = tiling.pop("num_warps")
    constants = {"FIRST": True, "ADD": True, "SECOND": True, "FROM_ONE": width < 4096} | tiling
    found = compiled(norms.norm_kernel, arguments, constants, "bf16", num_warps=warps)

    ptx = assert_fits(found, tmp_path, warps=warps)
    assert "cvt.rn.bf16" in ptx
    assert "ld.global.b16" not in ptx


@pytest.mark.parametrize(("heads", "head_dim"), HEADS.values(), ids=HEADS)
def test_rotary_compiles_for_the_heads_of_released_readers(heads: int, head_dim: int, tmp_path: Path) -> None:
    """With the norms of heads, and without a fused multiplication and addition, which would round once instead of twice."""
    pointers = dict.fromkeys(("qkv", "cos", "sin", "q_gain", "k_gain", "out"), "*")
    sizes = dict.fromkeys(("qkv_stride", "period", "q_heads", "all_heads", "half"), "i32")
    tiling = dict(rotary.tiling(heads, head_dim))
    options = {name: tiling.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    constants = {"NORM": True, "FROM_ONE": head_dim == 256} | tiling
    arguments = pointers | sizes | {"eps": "fp32"}
    found = compiled(rotary.rotary_kernel, arguments, constants, "bf16", **options)

    assert "fma" not in assert_fits(found, tmp_path, warps=options["num_warps"])


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("gelu", [True, False], ids=["gelu", "silu"])
def test_the_gated_activation_compiles(dtype: str, gelu: bool, tmp_path: Path) -> None:
    """Whatever the width of the MLP, one kernel, which reads and writes 16 bytes at a time."""
    found = compiled(
        gated.gated_kernel,
        {"both": "*", "out": "*", "width": "i32"},
        {"GELU": gelu, "BLOCK": 1024},
        dtype,
        num_warps=4,
    )

    assert "ld.global.v4" in assert_fits(found, tmp_path, warps=4)
