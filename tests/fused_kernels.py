"""Runs the kernels of fused layers in Triton's interpreter and prints, as JSON, how far each is from two other ways.

A process of its own, since Triton decides when it is imported whether it interprets: `TRITON_INTERPRET=1 python
tests/fused_kernels.py`.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from families import save_weights
from scopewatch.reader import loading
from scopewatch.reader.fused import fusing, operators, parts
from scopewatch.reader.kernels import interpreted

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KERNELS = ("rms_norm", "add_norm", "norm_add", "norm_add_norm", "rotary", "gated")
EPS = 1e-3
# Vectors of a width that is no power of two, and one token alone.
WIDTHS = ((3, 5, 200), (1, 1, 96))
# Heads of queries, heads of keys, head_dim, tokens.
HEADS = ((4, 2, 96, 3), (3, 1, 12, 1), (2, 2, 64, 5))

# What an operator does on CUDA, of tensors that are not there, which the interpreter does not mind.
ON_CUDA: Any = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
random = torch.Generator().manual_seed(0)


def both_ways(name: str, *arguments: Any) -> tuple[Any, Any]:
    """What an operator's kernel gives, and what its twin gives."""
    operator = getattr(torch.ops.scopewatch, name).default
    assert operator is getattr(operators, name)
    return operator.redispatch(ON_CUDA, *arguments), operator(*arguments)


def numbers(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=random) * scale).to(dtype)


def wide(tensor: torch.Tensor) -> Any:
    return tensor.double().numpy()


def norm64(x: Any, gain: Any, from_one: bool) -> Any:
    """Arithmetic of float64, from the paper: nothing is rounded in between."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * (gain + from_one)


def of_norms(dtype: torch.dtype, from_one: bool) -> Iterator[tuple[str, Any, Any, Any]]:
    for shape in WIDTHS:
        x, residual = numbers(*shape, dtype=dtype, scale=3), numbers(*shape, dtype=dtype, scale=9)
        first, second = numbers(shape[-1], dtype=dtype, scale=0.5), numbers(shape[-1], dtype=dtype, scale=0.5)
        x64, residual64, first64, second64 = map(wide, (x, residual, first, second))
        behind, added = norm64(x64, first64, from_one) + residual64, x64 + residual64
        for name, given, exact in (
            ("rms_norm", (x, first), [norm64(x64, first64, from_one)]),
            ("add_norm", (x, residual, first), [added, norm64(added, first64, from_one)]),
            ("norm_add", (x, residual, first), [behind]),
            ("norm_add_norm", (x, residual, first, second), [behind, norm64(behind, second64, from_one)]),
        ):
            yield f"{name} {shape}", *both_ways(name, *given, EPS, from_one), exact


def of_rotary(dtype: torch.dtype, from_one: bool) -> Iterator[tuple[str, Any, Any, Any]]:
    for q_heads, kv_heads, head_dim, tokens in HEADS:
        for rows, normed in ((1, False), (2, True)):
            qkv = numbers(rows, tokens, (q_heads + 2 * kv_heads) * head_dim, dtype=dtype)
            cos, sin, q_gain, k_gain = (
                numbers(*s, dtype=dtype) for s in [(1, tokens, head_dim)] * 2 + [(head_dim,)] * 2
            )
            gains = (q_gain, k_gain) if normed else (None, None)
            x = wide(qkv).reshape(rows, tokens, -1, head_dim)[:, :, : q_heads + kv_heads]
            if normed:
                gain = np.concatenate([[wide(q_gain)] * q_heads, [wide(k_gain)] * kv_heads])
                x = norm64(x, gain, from_one)
            left, right = np.split(x, 2, axis=-1)
            exact = x * wide(cos)[:, :, None] + np.concatenate([-right, left], -1) * wide(sin)[:, :, None]
            name = f"rotary {q_heads} {kv_heads} {head_dim} {tokens}{' normed' * normed}"
            yield name, *both_ways("rotary", qkv, cos, sin, q_heads, kv_heads, *gains, EPS, from_one), [exact]


def of_gated(dtype: torch.dtype) -> Iterator[tuple[str, Any, Any, Any]]:
    for shape in ((2, 3, 2 * 1100), (1, 1, 2 * 96)):
        both = numbers(*shape, dtype=dtype, scale=3)
        gate, up = np.split(wide(both), 2, axis=-1)
        tanh = np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))
        for name, active in (("gelu_pytorch_tanh", gate * (1 + tanh) / 2), ("silu", gate / (1 + np.exp(-gate)))):
            yield f"gated {name} {shape}", *both_ways("gated", both, name), [active * up]


def of_readers() -> Iterator[tuple[str, Any, Any, Any]]:
    """Whole readers, which decide with these kernels whether they run in them."""
    loading.pack_linears = lambda *_: None
    fusing._TOKENS = 2
    ids = torch.randint(3, 450, (2, 3), generator=random)
    for family in ("gemma3_text", "qwen2"):
        with tempfile.TemporaryDirectory() as folder:
            reader = loading.load_reader(
                save_weights(family, Path(folder)),
                name="r",
                revision="",
                deepest_layer=1,
                device="cpu",
                dtype="float32",
            )
        ways = []
        for kernels in ("plain", "twins", "own"):
            if kernels != "plain":
                for name in KERNELS:
                    operator = getattr(operators, name)
                    setattr(parts, name, partial(operator.redispatch, ON_CUDA) if kernels == "own" else operator)
                fusing._remove(reader.model)
                assert fusing.fuse(reader.model, reader.family)
            with torch.inference_mode():
                ways.append(reader.model(input_ids=ids, use_cache=False).last_hidden_state)
        plain, twins, own = ways
        yield f"reader {family}", own, twins, [wide(plain)]


def deviations(found: Any, twin: Any, exact: list[Any]) -> dict[str, float]:
    """The largest deviations, as shares of the largest number, and the share of numbers that differ from the twin's."""
    found, twin = ([each] if isinstance(each, torch.Tensor) else each for each in (found, twin))
    worst = {"twin": 0.0, "exact": 0.0, "differ": 0.0}
    for ours, plain, right in zip(found, twin, exact, strict=True):
        assert ours.shape == plain.shape == right.shape, (ours.shape, plain.shape, right.shape)
        assert ours.dtype == plain.dtype
        size = np.abs(right).max()
        for name, other in (("twin", wide(plain)), ("exact", right)):
            worst[name] = max(worst[name], float(np.abs(wide(ours) - other).max() / size))
        worst["differ"] = max(worst["differ"], float((ours != plain).float().mean()))
    return worst


def main() -> None:
    assert interpreted.interpreted()
    for dtype in DTYPES:
        cases = [*of_gated(dtype), *(of_readers() if dtype == torch.float32 else [])]
        for from_one in (False, True):
            cases += [*of_norms(dtype, from_one), *of_rotary(dtype, from_one)]
        for name, *three in cases:
            sys.stdout.write(
                json.dumps({"dtype": str(dtype).removeprefix("torch."), "case": name, **deviations(*three)}) + "\n"
            )


if __name__ == "__main__":
    main()
